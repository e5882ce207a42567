"""Whether a file's tensors are those that a network of its kind is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from lib_controlnet.errors import SHOWN_CHARACTERS, BrokenCheckpointError
from lib_controlnet.files.layouts import MARKERS

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lib_controlnet.files.checkpoint import Checkpoint

T = TypeVar("T")

Shapes = Mapping[str, Sequence[int]]


def title(ckpt: Checkpoint) -> str:
    """The file and its kind, such as `x.safetensors is a ControlNet`."""
    kind = ckpt.kind
    return f"{ckpt.path.name} is {'a control model' if kind is None else kind.title}"


def read_structure(ckpt: Checkpoint, reader: Callable[[], T]) -> T:
    """Run a reader of shapes; a missing tensor becomes a sentence.

    Raises:
        BrokenCheckpointError: the reader asked for a tensor that is not there.
    """
    try:
        return reader()
    except (KeyError, IndexError) as error:
        msg = f"{title(ckpt)}, but incomplete: {error.args[0]} is missing"
        raise BrokenCheckpointError(msg) from None


def check_tensors(ckpt: Checkpoint, expected: Shapes, found: Shapes) -> None:
    """Require exactly the expected names, shapes that differ only in 1x1 axes, and real numbers.

    Raises:
        BrokenCheckpointError: tensors are missing, unexpected, of a wrong shape, or kept as whole
            numbers.
    """
    missing = expected.keys() - found.keys()
    unexpected = found.keys() - expected.keys()
    wrong = {
        f"{key} {tuple(found[key])} instead of {tuple(shape)}"
        for key, shape in expected.items()
        if key in found and without_1x1(found[key]) != without_1x1(shape)
    }
    groups = (("missing", missing), ("unexpected", unexpected), ("of wrong shape", wrong))
    complaints = [f"{len(keys)} {what} ({first_names(keys)})" for what, keys in groups if keys]
    if complaints:
        msg = (
            f"{title(ckpt)}, but damaged or of an unknown variant: of {len(expected)} tensors, "
            f"{', '.join(complaints)}"
        )
        raise BrokenCheckpointError(msg)
    kept = (key for key in ckpt.keys if key not in MARKERS)
    whole = [key for key in kept if not ckpt.dtype(key).is_floating_point]
    if whole:
        msg = (
            f"{title(ckpt)}, but its weights are kept as whole numbers ({first_names(whole)}), "
            "which cannot be read here; get an fp16 version of it"
        )
        raise BrokenCheckpointError(msg)


def fill(
    ckpt: Checkpoint, module: nn.Module, dtype: torch.dtype, device: torch.device | str
) -> None:
    """Give a network on the meta device the weights of a file, which must hold exactly these.

    Raises:
        BrokenCheckpointError: see `check_tensors`.
    """
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    check_tensors(ckpt, expected, ckpt.shapes)
    tensors = {
        key: tensor.reshape(expected[key]) for key, tensor in ckpt.tensors(expected, dtype, device)
    }
    module.load_state_dict(tensors, strict=True, assign=True)
    module.eval().requires_grad_(False)


def without_1x1(shape: Sequence[int]) -> tuple[int, ...]:
    """A 1x1 convolution's shape as that of the equal linear layer."""
    return tuple(shape[:2]) if len(shape) == 4 and tuple(shape[2:]) == (1, 1) else tuple(shape)


def first_names(keys: Iterable[str], count: int = 3) -> str:
    """The first of some tensors' names, for messages."""
    keys = sorted(keys)
    some = (key if len(key) <= SHOWN_CHARACTERS else f"{key[:SHOWN_CHARACTERS]}..." for key in keys)
    return ", ".join(islice(some, count)) + (", ..." if len(keys) > count else "")
