"""The Script base class and the argument objects of its methods."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

AlwaysVisible = object()


@dataclass(eq=False)
class MaskBlendArgs:
    """A blend of repainted and kept latents; `blended_latent` may be replaced."""

    current_latent: Any
    nmask: Any
    init_latent: Any
    mask: Any
    blended_latent: Any
    denoiser: Any = None
    sigma: Any = None

    @property
    def is_final_blend(self) -> bool:
        """Whether it is the one after sampling."""
        return self.denoiser is None


@dataclass(eq=False)
class PostSampleArgs:
    """Latents, or already decoded pictures, of one batch."""

    samples: Any


@dataclass(eq=False)
class PostprocessImageArgs:
    """One picture; `image` may be replaced."""

    image: Any


@dataclass(eq=False)
class PostProcessMaskOverlayArgs:
    """Mask and overlay of one picture."""

    index: int
    mask_for_overlay: Any
    overlay_image: Any


@dataclass(eq=False)
class PostprocessBatchListArgs:
    """Pictures of one batch; the list may change its length."""

    images: list


@dataclass(eq=False)
class OnComponent:
    """Argument of `on_before_component` and `on_after_component` callbacks."""

    component: Any


class Script:
    """Base class of scripts; a method runs only if the subclass overrides it."""

    name: str | None = None
    section: str | None = None
    filename: str | None = None
    args_from: int | None = None
    args_to: int | None = None
    alwayson = False
    is_txt2img = False
    is_img2img = False
    tabname: str | None = None
    group: Any = None
    create_group = True
    infotext_fields: list | None = None
    paste_field_names: list[str] | None = None
    api_info: Any = None
    setup_for_ui_only = False
    controls: list | None = None
    on_before_component_elem_id: list[tuple[str, Callable]] | None = None
    on_after_component_elem_id: list[tuple[str, Callable]] | None = None

    def title(self) -> str:
        """Name in the script list and, lower-cased, key of the API."""
        raise NotImplementedError

    def ui(self, is_img2img: bool) -> list | None:
        """Build the components and return those whose values become the arguments."""

    def show(self, is_img2img: bool) -> Any:
        """False: not on this tab; True: in the script list; `AlwaysVisible`: always."""
        return True

    def run(self, p: Any, *args: Any) -> Any:
        """Generate in place of the host, and return a Processed; for scripts of the list."""

    def setup(self, p: Any, *args: Any) -> None:
        """`p` knows its scripts and their arguments."""

    def before_process(self, p: Any, *args: Any) -> None:
        """First event of a generation."""

    def process(self, p: Any, *args: Any) -> None:
        """Seeds and prompts are known, `p.init()` has not run."""

    def before_process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Start of a batch; prompts may still be edited."""

    def after_extra_networks_activate(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Extra networks of the prompt are activated."""

    def process_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Before the prompts of a batch are encoded."""

    def before_hr(self, p: Any, *args: Any) -> None:
        """Before the hires pass."""

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Right before each run of a sampler."""

    def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """Pictures of a batch as a tensor."""

    def postprocess_batch_list(
        self, p: Any, pp: PostprocessBatchListArgs, *args: Any, **kwargs: Any
    ) -> None:
        """Pictures of a batch as a list."""

    def on_mask_blend(self, p: Any, mba: MaskBlendArgs, *args: Any) -> None:
        """Kept and repainted latents are blended."""

    def post_sample(self, p: Any, ps: PostSampleArgs, *args: Any) -> None:
        """Sampling of a batch ended."""

    def postprocess_image(self, p: Any, pp: PostprocessImageArgs, *args: Any) -> None:
        """One picture, before colour correction and overlay."""

    def postprocess_maskoverlay(self, p: Any, ppmo: PostProcessMaskOverlayArgs, *args: Any) -> None:
        """Mask and overlay of one picture."""

    def postprocess_image_after_composite(
        self, p: Any, pp: PostprocessImageArgs, *args: Any
    ) -> None:
        """One picture, after the overlay."""

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        """The generation ended normally."""

    def before_component(self, component: Any, **kwargs: Any) -> None:
        """A component of this tab is about to be made."""

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """A component of this tab was made."""

    def on_before_component(self, callback: Callable, *, elem_id: str) -> None:
        """Call `callback(OnComponent)` before the component with this id is made."""
        known = self.on_before_component_elem_id or []
        self.on_before_component_elem_id = [*known, (elem_id, callback)]

    def on_after_component(self, callback: Callable, *, elem_id: str) -> None:
        """Call `callback(OnComponent)` after the component with this id was made."""
        known = self.on_after_component_elem_id or []
        self.on_after_component_elem_id = [*known, (elem_id, callback)]

    def elem_id(self, item_id: str) -> str:
        """Element id `script_[<tab>_]<title>_<item>`; the tab appears if shown alike on both."""
        title = re.sub(r"[^a-z_0-9]", "", re.sub(r"\s", "_", self.title().lower()))
        return f"script_{_tab_prefix(self)}{title}_{item_id}"


class ScriptBuiltinUI(Script):
    """Script of the host that provides part of the page itself."""

    setup_for_ui_only = True

    def elem_id(self, item_id: str) -> str:
        """Element id `<tab>_<item>`."""
        return f"{_tab_prefix(self)}{item_id}"

    def show(self, is_img2img: bool) -> Any:
        """Always there."""
        return AlwaysVisible


def _tab_prefix(script: Script) -> str:
    tab = "img2img" if script.is_img2img else "txt2img"
    return f"{tab}_" if script.show(True) == script.show(False) else ""
