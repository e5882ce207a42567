"""A checkpoint of the Forge family: an engine of parts, each behind a patcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modules import devices

from lib_controlnet.host.forge import features, row_effects, vae
from lib_controlnet.host.forge.originals import PatcherOriginals
from lib_controlnet.host.forge.rows import ROWS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lib_controlnet.engine.ports import RowSource
    from lib_controlnet.engine.session import ControlSession
    from lib_controlnet.engine.unet import Originals


class Forge:
    """Answers `members.Member`."""

    rows: RowSource = ROWS
    shows_rows: bool = False

    def find_unet(self, model: Any) -> nn.Module | None:
        """See `members.Member`."""
        return features.find(model, "the U-Net")

    def find_originals(self, model: Any) -> Originals:
        """See `members.Member`."""
        return PatcherOriginals(model)

    def find_dtype(self, model: Any) -> torch.dtype:
        """See `members.Member`."""
        return features.require(model, "the dtype that the U-Net computes in")

    def find_alphas(self, model: Any) -> Tensor | None:
        """See `members.Member`."""
        sigmas = features.find(model, "the table of noise levels")
        return None if sigmas is None else 1.0 / (sigmas.float() ** 2 + 1.0)

    def encode(self, model: Any, image: Tensor) -> Tensor:
        """See `members.Member`.

        Raises:
            HostError: the VAE cannot be asked, or its answer is not finite.
        """
        return vae.encode(model, image.to(devices.device))

    def measure_coming(self, model: Any, device: torch.device, takes_turns: bool) -> int:
        """Nothing: the host's manager has brought what it brings before the sampler runs."""
        return 0

    def reserve(self, model: Any, measure: Callable[[], int]) -> None:
        """See `members.Member`."""
        size = measure()
        if size > 0:
            patcher = model.forge_objects.unet.clone()
            patcher.add_extra_preserved_memory_during_sampling(size)
            model.forge_objects.unet = patcher

    def watch_rows(self, model: Any, find_session: Callable[[], ControlSession | None]) -> None:
        """See `members.Member`."""
        row_effects.put(model, find_session)
