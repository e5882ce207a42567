"""The two ways in which WebUIs hold a checkpoint and sample it, told apart by what is there.

Names and versions of programs decide nothing: a checkpoint made of `forge_objects` is sampled as
the Forge family does, any other as A1111 does. Until one is loaded nothing has to be decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from modules import sd_models

from lib_controlnet.host.a1111.member import A1111
from lib_controlnet.host.forge.member import Forge

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lib_controlnet.engine.ports import RowSource
    from lib_controlnet.engine.session import ControlSession
    from lib_controlnet.engine.unet import Originals

FindSession = Callable[[], "ControlSession | None"]


class Member(Protocol):
    """What is asked of either way; `model` is always the checkpoint that is loaded.

    Attributes:
        rows: how it lays out the rows of an evaluation.
        shows_rows: a callback shows the predictions of all rows before guidance.
    """

    rows: RowSource
    shows_rows: bool

    def find_unet(self, model: Any) -> nn.Module | None:
        """The U-Net, None while there is none.

        Raises:
            HostError: something else is called in its place.
        """
        ...

    def find_originals(self, model: Any) -> Originals:
        """The U-Net's parameters without LoRA."""
        ...

    def find_dtype(self, model: Any) -> torch.dtype:
        """In which the U-Net computes."""
        ...

    def find_alphas(self, model: Any) -> Tensor | None:
        """Cumulative product of alphas, (timesteps,)."""
        ...

    def encode(self, model: Any, image: Tensor) -> Tensor:
        """Scaled latent of pictures (b, 3, H, W) in [-1, 1], without random numbers."""
        ...

    def measure_coming(self, model: Any, device: torch.device, takes_turns: bool) -> int:
        """Bytes that will be put on a device for the U-Net, less what it takes off for that.

        Args:
            model: the checkpoint.
            device: where it computes.
            takes_turns: parts of the model leave the device for each other.
        """
        ...

    def reserve(self, model: Any, measure: Callable[[], int]) -> None:
        """Keep bytes free on the device in the sampling that is about to begin.

        Args:
            model: the checkpoint.
            measure: counts how many.
        """
        ...

    def watch_rows(self, model: Any, find_session: FindSession) -> None:
        """See to it that the session is shown the rows of the evaluation that is announced."""
        ...


_A1111: Final[Member] = A1111()
_FORGE: Final[Member] = Forge()


def find_model() -> Any:
    """The checkpoint that is in memory, without loading one; None without one."""
    return getattr(sd_models.model_data, "sd_model", None)


def find_sampled(denoiser: Any) -> Any:
    """The checkpoint that a denoiser samples.

    The Forge family's img2img keeps the sampler of the batch before, and with it a refiner that
    switched in there, while another checkpoint has been loaded since.
    """
    model = getattr(getattr(denoiser, "inner_model", None), "inner_model", None)
    return model if hasattr(model, "forge_objects") else find_model()


def member_of(model: Any) -> Member:
    """How a checkpoint is held and sampled."""
    return _FORGE if hasattr(model, "forge_objects") else _A1111
