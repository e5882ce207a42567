"""What the core asks of a host; `host/adapter.py` answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lib_controlnet.engine.memory import Between
    from lib_controlnet.engine.residency import Residency
    from lib_controlnet.engine.step import RowLayout


class Host(Protocol):
    """The narrow view of a WebUI that the engine needs.

    Attributes:
        residency: what owns the device's memory on our side.
    """

    residency: Residency

    @property
    def device(self) -> torch.device:
        """Where the U-Net computes."""
        ...

    @property
    def between(self) -> Between:
        """When control networks leave that device."""
        ...

    @property
    def network_dtype(self) -> torch.dtype:
        """dtype in which control networks keep their weights."""
        ...

    def measure_coming(self, device: torch.device) -> int:
        """Bytes that the host will put on a device for the U-Net, less what it takes off for that.

        What is asked for before a pass.
        """
        ...

    def option(self, key: str) -> object:
        """A setting's present value; `lib_controlnet.settings` has the keys and types."""
        ...

    @property
    def alphas(self) -> Tensor:
        """Cumulative product of alphas of the model that is sampled, (1000,), float32."""
        ...

    def vae_encode(self, image: Tensor) -> Tensor:
        """Encode (b, 3, H, W) pixels in [0, 1] to scaled latents (b, 4, H/8, W/8).

        Uses the mode of the posterior: the user's random numbers are left untouched.
        """
        ...

    def model_folders(self) -> list[Path]:
        """Folders to scan for control models, first wins."""
        ...

    def is_interrupted(self) -> bool:
        """Whether the user asked to stop."""
        ...

    def report(self, text: str | None) -> None:
        """Show one line beside the progress bar; None takes it away."""
        ...


class RowSource(Protocol):
    """How a host lays out the rows of an evaluation."""

    def read(self, params: Any, needs_texts: bool) -> RowLayout:
        """The rows of the evaluation that is announced.

        Args:
            params: what the host announces it with.
            needs_texts: whether the rows of a foreign call have to be told by texts and latents.
        """
        ...
