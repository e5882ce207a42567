"""A control family: recognises its files and loads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch

    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.files.checkpoint import Checkpoint


class ControlFamily(ABC):
    """One way of steering a U-Net; one subclass per file in `families/`."""

    name: ClassVar[str]

    @abstractmethod
    def matches(self, ckpt: Checkpoint) -> bool:
        """Whether the file's keys and shapes are of this family."""

    @abstractmethod
    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Refuse a file for another base model, by its names and shapes alone.

        Raises:
            WrongBaseModelError: the file is for another base model.
            BrokenCheckpointError: tensors are missing.
        """

    @abstractmethod
    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> ControlNetwork:
        """Build the network and fill it from the file.

        Raises:
            WrongBaseModelError: the file is for another base model.
            BrokenCheckpointError: tensors are missing, unexpected or of a wrong shape.
        """
