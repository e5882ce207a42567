"""What a kind of control is to the trainer: new weights, a network that learns, a way to steer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from lib_controlnet.train.errors import TrainError

if TYPE_CHECKING:
    from diffusers.models import UNet2DConditionModel
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle

    from lib_controlnet.files.checkpoint import Checkpoint
    from lib_controlnet.train.base import Base
    from lib_controlnet.train.dataset import Item

HOOKS: Final = "_hooks_of_control"
PUBLISHED_TYPES: Final = 6
SPECIAL: Final = {
    "gaussian": "--gaussian",
    "start": "--start",
    "types": "--types",
    "only_middle": "--only-middle",
    "everywhere": "--everywhere",
}
"""Options of `init` and `run` that mean something for some kinds only."""


@dataclass(frozen=True)
class Begin:
    """How a new control begins.

    Attributes:
        seed: decides what is random.
        gaussian: the paper's ablation: random numbers where zeros should be.
        start: a trained ControlNet to begin with.
        types: of hints that a Union tells apart; None for the published number.
        everywhere: an LLLite acts in the decoder and on convolutions too.
    """

    seed: int = 0
    gaussian: bool = False
    start: Path | None = None
    types: int | None = None
    everywhere: bool = False


@dataclass(frozen=True, eq=False)
class Call:
    """What the U-Net is about to be called with.

    Attributes:
        noisy: (b, 4, h, w).
        timesteps: (b,).
        context: (b, 77, c).
        added: diffusers' `text_embeds` and `time_ids` of SDXL, else empty.
        hint: (b, 3, 8h, 8w) in [0, 1], -1 where it is masked.
        types: (b,), numbers of a Union's types; -1 where the data do not tell.
    """

    noisy: Tensor
    timesteps: Tensor
    context: Tensor
    added: Mapping[str, Tensor]
    hint: Tensor
    types: Tensor | None


class Kind(ABC):
    """One kind of control file.

    Attributes:
        key: that of its signature, and of `init --kind`.
        title: what it is called in sentences.
        network: the class of its networks.
        special: options of `SPECIAL` that mean something for it.
        has_one_type: whether a file follows one type of hints, which its metadata then tell.
    """

    key: str
    title: str
    network: type[nn.Module]
    special: frozenset[str] = frozenset()
    has_one_type: bool = True

    def refuse_options(self, given: object) -> None:
        """Stop where an option is given that means nothing for this kind.

        Raises:
            TrainError: names it.
        """
        for name in sorted(SPECIAL.keys() - self.special):
            if getattr(given, name, None):
                msg = f"{SPECIAL[name]} means nothing for a {self.title}; leave it out"
                raise TrainError(msg)

    def refuse_data(  # noqa: B027 - most kinds ask for nothing
        self, control: nn.Module, folder: Path, items: Sequence[Item]
    ) -> None:
        """Stop where a data set does not tell what this kind must know.

        Raises:
            TrainError: says what.
        """

    @abstractmethod
    def new_tensors(self, base: Base, begin: Begin) -> Iterator[tuple[str, Tensor]]:
        """Tensors of a new control, by the names of its files, that changes nothing of the base.

        Raises:
            TrainError: what it should begin with does not fit.
        """

    @abstractmethod
    def open(self, base: Base, ckpt: Checkpoint) -> nn.Module:
        """The network of a file, float32, on the CPU.

        Raises:
            TrainError: it does not fit the base.
        """

    @abstractmethod
    def steer(self, control: nn.Module, unet: UNet2DConditionModel, call: Call) -> dict[str, Any]:
        """Let a network of this kind act on the coming call of the U-Net.

        Returns:
            Further arguments of the U-Net.
        """

    def tensors(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A network's tensors by the names of files."""
        return dict(weights)


def fill(module: nn.Module, ckpt: Checkpoint, base: Base, title: str) -> nn.Module:
    """Fill a network built on the meta device with a file's tensors, in float32.

    Raises:
        TrainError: names or shapes differ.
    """
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(shape) for name, shape in ckpt.shapes.items()}
    names = wanted.keys() | given.keys()
    different = sorted(name for name in names if wanted.get(name) != given.get(name))
    if different:
        msg = (
            f"{ckpt.name} is no {title} for {base.name} ({base.shape}): {len(different)} tensors "
            f"differ, such as {different[0]}"
        )
        raise TrainError(msg)
    module.load_state_dict(dict(ckpt.tensors(wanted, torch.float32)), assign=True)
    return module


def put_hooks(unet: nn.Module, hooks: Iterable[RemovableHandle] = ()) -> None:
    """Take off what hung on the U-Net since the last call, and note what hangs there now.

    Hooks stay on until the next call: with checkpointing, the backward pass computes again.
    """
    for handle in vars(unet).pop(HOOKS, ()):
        handle.remove()
    vars(unet)[HOOKS] = list(hooks)


def add_to_output(feature: Tensor) -> Callable[..., Any]:
    """A forward hook that adds a feature to what a module gives, alone or first in a tuple."""

    def hook(_module: nn.Module, _inputs: Sequence[Any], output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + feature.to(output[0].dtype), *output[1:])
        return output + feature.to(output.dtype)

    return hook
