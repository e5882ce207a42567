"""A checkpoint of A1111: a module whose `model.diffusion_model` is the U-Net."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from modules import devices

from lib_controlnet.errors import HostError
from lib_controlnet.host.a1111 import vae
from lib_controlnet.host.a1111.originals import ModuleOriginals
from lib_controlnet.host.a1111.rows import ROWS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lib_controlnet.engine.ports import RowSource
    from lib_controlnet.engine.unet import Originals


class A1111:
    """Answers `members.Member`."""

    rows: RowSource = ROWS
    shows_rows: bool = True

    def find_unet(self, model: Any) -> nn.Module | None:
        """See `members.Member`.

        Raises:
            HostError: a compiled U-Net (TensorRT) that never calls the blocks has been selected in
                the settings.
        """
        # Not every WebUI has the module; one that has it has imported it.
        chosen = getattr(sys.modules.get("modules.sd_unet"), "current_unet", None)
        if chosen is not None:
            msg = (
                f"the U-Net option {type(chosen).__name__!r} bypasses the blocks "
                'that controls act on: choose "None" under Settings > Stable Diffusion > SD Unet'
            )
            raise HostError(msg)
        return getattr(getattr(model, "model", None), "diffusion_model", None)

    def find_originals(self, model: Any) -> Originals:
        """See `members.Member`."""
        return ModuleOriginals(model.model.diffusion_model)

    def find_dtype(self, model: Any) -> torch.dtype:
        """See `members.Member`."""
        unet = getattr(getattr(model, "model", None), "diffusion_model", None)
        return devices.dtype if unet is None else next(unet.parameters()).dtype

    def find_alphas(self, model: Any) -> Tensor | None:
        """See `members.Member`."""
        return getattr(model, "alphas_cumprod", None)

    def encode(self, model: Any, image: Tensor) -> Tensor:
        """See `members.Member`.

        Raises:
            HostError: the VAE's answer holds numbers that are not finite.
        """
        return vae.encode(model, image.to(devices.device, devices.dtype_vae), devices.autocast())

    def measure_coming(self, model: Any, device: torch.device, takes_turns: bool) -> int:
        """See `members.Member`.

        With `--medvram` one part of the model takes the place of another; with `--lowvram`, which
        is not asked here, the U-Net comes in pieces, which are small.
        """
        unet = {id(one) for one in model.model.diffusion_model.parameters()}
        coming = 0
        for one in model.parameters():
            lies, size = one.device.type == device.type, one.nelement() * one.element_size()
            if id(one) in unet:
                coming += 0 if lies else size
            elif lies and takes_turns:
                coming -= size
        return coming

    def reserve(self, model: Any, measure: Any) -> None:
        """Nothing: `Residency` finds the room, or says that there is none."""

    def watch_rows(self, model: Any, find_session: Any) -> None:
        """Nothing: there is a callback for it."""
