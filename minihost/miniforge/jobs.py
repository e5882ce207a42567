"""The two kinds of jobs, where they differ from A1111's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modules import processing
from PIL import Image

_TXT2IMG = processing.StableDiffusionProcessingTxt2Img
_IMG2IMG = processing.StableDiffusionProcessingImg2Img


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(_TXT2IMG):
    """txt2img: the hires pass has a guidance of its own, and 1 needs no negative prompt."""

    hr_cfg: float = 1.0

    def setup_conds(self) -> None:
        """See the base class."""
        super().setup_conds()
        if self.cfg_scale == 1:
            self.uc = None

    def calculate_hr_conds(self) -> None:
        """See the base class."""
        super().calculate_hr_conds()
        if self.hr_cfg == 1:
            self.hr_uc = None

    def sample_hr_pass(self, *args: Any, **kwargs: Any) -> Any:
        """See the base class."""
        first, self.cfg_scale = self.cfg_scale, self.hr_cfg
        try:
            return super().sample_hr_pass(*args, **kwargs)
        finally:
            self.cfg_scale = first


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(_IMG2IMG):
    """img2img: scripts may change mask and crop before the pictures are encoded."""

    def setup_conds(self) -> None:
        """See the base class."""
        super().setup_conds()
        if self.cfg_scale == 1:
            self.uc = None

    def _prepare_mask(self) -> tuple[Any, Image.Image | None]:
        region, mask = super()._prepare_mask()
        given = {"crop_region": None if region is None else list(region), "image_mask": mask}
        if self.scripts is not None:
            self.scripts.before_process_init_images(self, given)
        changed = given["crop_region"]
        return None if changed is None else tuple(changed), given["image_mask"]
