"""A control family: recognises its files and loads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch

from lib_controlnet.enums import BaseModel
from lib_controlnet.pictures.placement import MASKED

if TYPE_CHECKING:
    from torch import nn

    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.enums import ControlNetUnionControlType
    from lib_controlnet.files.checkpoint import Checkpoint
    from lib_controlnet.units.weight_types import WeightType


Module = TypeVar("Module", bound="nn.Module")


@dataclass(frozen=True)
class FileFacts:
    """What a file's header and name tell of how it is to be used, before it is loaded.

    Attributes:
        picture_types: what it may be told that a picture shows, by number; none where it is not
            told.
        masked: value of masked pixels in its hints, in all channels.
        family: name of the control family that loads it; "" where none does.
        base: the base model that it is for, None where nothing tells.
        made_on: the checkpoint that it is a change to, where its name tells.
        preprocessor: name of that whose embedding it reads; "" where it reads a map, or nothing
            tells.
        heeds: fields of a unit that mean nothing to some families, and something to it.
        weight_types: those that spread over its layers.
        precision: in which most of it is kept, such as "fp16"; "" where that was not read.
        size: bytes of the file; 0 where it could not be opened when it was looked at.
        unread: a sentence that says why nothing is known; "" where something is.
    """

    picture_types: tuple[ControlNetUnionControlType, ...] = ()
    masked: float = MASKED
    family: str = ""
    base: BaseModel | None = None
    made_on: str = ""
    preprocessor: str = ""
    heeds: frozenset[str] = frozenset()
    weight_types: tuple[WeightType, ...] = ()
    precision: str = ""
    size: int = 0
    unread: str = ""

    def __str__(self) -> str:
        if not self.family:
            return ""
        kind = f"{self.family} for {self.base}" if self.base else self.family
        made_on = f"made on {self.made_on} by its name" if self.made_on else ""
        size = describe_size(self.size) if self.size else ""
        return ", ".join(part for part in (kind, made_on, self.precision, size) if part)


def describe_size(count: int) -> str:
    """A number of bytes as file lists show it: three digits at most before the unit."""
    for unit, name, digits in ((10**9, "GB", 1), (10**6, "MB", 0), (10**3, "kB", 0)):
        if count >= unit:
            return f"{count / unit:.{digits}f} {name}"
    return f"{count} bytes"


class ControlFamily(ABC):
    """One way of steering a U-Net; one subclass per file in `families/`.

    Attributes:
        name: what messages and lists call it.
        kinds: keys of the signatures of its files (`files/signatures.py`).
        preprocessors: those that steer in this way without a model's file.
        bases: those that it has networks for.
        networks: their class, which says what they heed before one is loaded.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ()
    preprocessors: ClassVar[tuple[str, ...]] = ()
    bases: ClassVar[tuple[BaseModel, ...]] = (BaseModel.SD1, BaseModel.SD2, BaseModel.SDXL)
    networks: ClassVar[type[ControlNetwork]]

    @abstractmethod
    def tiny(self, base: BaseUNet, seed: int = 0) -> ControlNetwork:
        """A small random network for one of `bases`, strong enough to be seen in the output.

        What is promised of every family is tried on it.
        """

    def matches(self, ckpt: Checkpoint) -> bool:
        """Whether the file's keys and shapes are of this family."""
        kind = ckpt.kind
        return kind is not None and kind.key in self.kinds

    def describe(self, ckpt: Checkpoint) -> FileFacts:
        """What there is to know of a file of this family before it is loaded."""
        del ckpt
        return FileFacts()

    def preprocessor_for(self, ckpt: Checkpoint) -> str:
        """Name of the preprocessor whose embedding the file reads; "" where it reads none."""
        del ckpt
        return ""

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Refuse a file for another base model, by its names and shapes alone.

        Raises:
            WrongBaseModelError: the file is for another base model.
            BrokenCheckpointError: tensors are missing.
        """
        raise NotImplementedError

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> ControlNetwork:
        """Build the network and fill it from the file.

        Raises:
            WrongBaseModelError: the file is for another base model.
            BrokenCheckpointError: tensors are missing, unexpected or of a wrong shape.
        """
        raise NotImplementedError

    def make(self, base: BaseUNet, preprocessor: str) -> ControlNetwork:
        """The network of a family without files, for one of its preprocessors.

        Raises:
            ControlNetError: the base cannot be steered so.
        """
        raise NotImplementedError


@torch.no_grad()
def randomize(module: Module, seed: int, scale: float = 1.0) -> Module:
    """Give every tensor of a module random values that keep activations at their size.

    Zero convolutions too, so a network that starts without effect has one.
    """
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        spread = scale * (fan_in**-0.5 if parameter.dim() > 1 else 0.02)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return module.eval().requires_grad_(False)
