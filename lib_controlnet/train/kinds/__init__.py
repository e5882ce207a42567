"""Kinds of controls that can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.train.errors import NOT_TRAINED, TrainError

from .base import Begin, Call, Kind, put_hooks
from .controlnet import ControlNetKind
from .lllite import LLLiteKind
from .t2i_adapter import LightT2IAdapterKind, T2IAdapterKind
from .union import UnionKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

__all__ = ["KINDS", "Begin", "Call", "Kind", "kind_of", "kind_of_file", "put_hooks"]

KINDS: Final[Mapping[str, Kind]] = {
    kind.key: kind
    for kind in (
        *(UnionKind(), T2IAdapterKind(), LightT2IAdapterKind()),
        *(LLLiteKind(), ControlNetKind()),
    )
}
"""The last one's networks are of any class."""


def kind_of_file(path: Path) -> Kind:
    """The kind of a file, told by its tensors.

    Raises:
        TrainError: it is of a kind that cannot be trained here.
    """
    signature = open_checkpoint(path).kind
    if signature is None or signature.key not in KINDS:
        what = f"seems to be {signature.title}" if signature else "is of no known kind"
        msg = f"{path.name} {what}, which cannot be trained here. {NOT_TRAINED}"
        raise TrainError(msg)
    return KINDS[signature.key]


def kind_of(control: nn.Module) -> Kind:
    """The kind of an opened network."""
    return next(kind for kind in KINDS.values() if isinstance(control, kind.network))
