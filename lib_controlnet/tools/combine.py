"""`diff` and `transfer`: a control model as a change to its base, and that change on another base.

A difference file holds "control minus base" for the layers that began as a copy of the base's
encoder, and a scalar named `difference`; the loader adds the checkpoint it meets.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lib_controlnet.enums import LATENT_CHANNELS
from lib_controlnet.families.base_weights import FIRST_BLOCK, SHARED_WITH_BASE
from lib_controlnet.tools.errors import ToolError
from lib_controlnet.tools.source import (
    RENAMED_KINDS,
    BaseFile,
    ControlFile,
    cast,
    facts,
    open_control,
    pieces,
    plan_of,
    read_all,
    require_fit,
)
from lib_controlnet.tools.writer import Plan, nbytes, refuse_to_overwrite, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@dataclass
class Rounding:
    """How far a control model rebuilt from its difference is from the original."""

    values: int = 0
    changed: int = 0
    largest: float = 0.0
    advice: str = ""

    def note(self, original: Tensor, rebuilt: Tensor) -> None:
        """Compare a tensor with itself after the way through the file."""
        error = (rebuilt.float() - original.float()).abs()
        if not error.numel():
            return
        self.values += error.numel()
        self.changed += int(error.count_nonzero())
        self.largest = max(self.largest, float(error.max()))

    def __str__(self) -> str:
        """A sentence."""
        if not self.changed:
            return f"added to the base again, all {self.values} values are the original's"
        return (
            f"added to the base again, {self.changed} of {self.values} values differ from the "
            f"original's, by up to {self.largest:.2g}{self.advice}"
        )


def make_difference(
    source: Path, base: Path, out: Path, dtype: torch.dtype | None = None, force: bool = False
) -> Rounding:
    """Write "control minus base".

    Args:
        source: a full ControlNet.
        base: the checkpoint it was trained from.
        out: the file to write.
        dtype: precision of the file; None keeps the ControlNet's.
        force: replace what is there.

    Returns:
        What the precision costs.

    Raises:
        ControlNetError: the files cannot be used or do not fit, or the target not be written.
    """
    refuse_to_overwrite(out, force)
    control, original = open_control(source, {"controlnet"}), BaseFile(base)
    if control.is_difference:
        msg = f"{control.name} is a difference ControlNet already"
        raise ToolError(msg)
    require_fit(control, original)
    lacking = sorted(set(original.shapes).difference(control.ckpt.keys))
    if lacking:
        msg = (
            f"{control.name} is a reduced ControlNet: {len(lacking)} of the base's tensors "
            f"({lacking[0]}, ...) have no counterpart, and a difference file cannot say so"
        )
        raise ToolError(msg)
    rounding = Rounding()
    plan = {**plan_of(control, dtype), "difference": ((), torch.float32)}
    metadata = facts(control, f"diff {control.name} - {original.name}")
    write_safetensors(out, plan, _differences(control, original, dtype, rounding), metadata)
    log.info("wrote %s: %d tensors, %.1f MB", out, len(plan), nbytes(plan) / 1e6)
    log.info("%s", rounding)
    return rounding


def transfer(
    source: Path,
    old: Path | None,
    new: Path,
    out: Path,
    dtype: torch.dtype | None = None,
    force: bool = False,
) -> float:
    """Write a full control model for another base.

    Args:
        source: a ControlNet, or a difference file.
        old: the checkpoint it was trained from; not needed for a difference file.
        new: the checkpoint to make it for.
        out: the file to write.
        dtype: precision of the file; None keeps the source's.
        force: replace what is there.

    Returns:
        How far the bases' encoders are apart, as a share of the old one's norm; 0 for a
        difference file, where the old one is unknown.

    Raises:
        ControlNetError: the files cannot be used or do not fit, or the target not be written.
    """
    refuse_to_overwrite(out, force)
    control, target = open_control(source, RENAMED_KINDS), BaseFile(new)
    if old is None and not control.is_difference:
        msg = f"{control.name} is a full control model: name the base it was made from with --from"
        raise ToolError(msg)
    origin = None if control.is_difference or old is None else BaseFile(old)
    if control.is_difference and old is not None:
        log.info("%s is a difference file: --from is not needed", control.name)
    for base in filter(None, (origin, target)):
        require_fit(control, base)
    squares = [0.0, 0.0]
    plan = plan_of(control, dtype)
    plan.pop("difference", None)
    if control.is_difference:  # those left out are the base's own
        kept = dtype or next(own for _shape, own in plan.values() if own.is_floating_point)
        plan |= {name: (shape, kept) for name, shape in _find_left_out(control, target).items()}
        tensors = _complete(control, target, plan)
    else:
        assert origin is not None  # asked for above
        tensors = _move(control, origin, target, dtype, squares)
    step = f"transfer {control.name} to {target.name}"
    write_safetensors(out, plan, tensors, facts(control, step))
    log.info("wrote %s: %d tensors, %.1f MB", out, len(plan), nbytes(plan) / 1e6)
    share = (squares[0] / squares[1]) ** 0.5 if squares[1] else 0.0
    if origin is not None:
        log.info("the encoders of the two bases differ by %.3f of their size", share)
    return share


def _differences(
    control: ControlFile, base: BaseFile, dtype: torch.dtype | None, rounding: Rounding
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in read_all(control):
        if not name.startswith(SHARED_WITH_BASE):
            yield name, cast(name, tensor, dtype)
            continue
        stored = torch.empty_like(tensor, dtype=dtype)
        original = base.tensor(name, tensor.shape)
        for whole, part, out in pieces(tensor, original, stored):
            out.copy_(cast(name, whole.float() - part.float(), stored.dtype))
            rounding.note(whole, (part.float() + out.float()).to(whole.dtype))
        rounding.advice = "" if stored.dtype is torch.float32 else "; --dtype fp32 keeps more"
        yield name, stored
    yield "difference", torch.ones(())


def _move(
    control: ControlFile,
    old: BaseFile,
    new: BaseFile,
    dtype: torch.dtype | None,
    squares: list[float],
) -> Iterator[tuple[str, Tensor]]:
    """Yield control + (new - old), in this order, so that equal bases change no bit."""
    for name, tensor in read_all(control):
        if not name.startswith(SHARED_WITH_BASE):
            yield name, cast(name, tensor, dtype)
            continue
        moved = torch.empty_like(tensor, dtype=dtype)
        bases = (base.tensor(name, tensor.shape) for base in (old, new))
        for whole, before, after, out in pieces(tensor, *bases, moved):
            change = after.float() - before.float()
            squares[0] += float(change.double().square().sum())
            squares[1] += float(before.double().square().sum())
            out.copy_(cast(name, whole.float() + change, moved.dtype))
        yield name, moved


def _find_left_out(control: ControlFile, base: BaseFile) -> dict[str, tuple[int, ...]]:
    """Shapes of base tensors that a difference file does not mention: they did not change."""
    shapes = {name: shape for name, shape in base.shapes.items() if name not in control.ckpt}
    if FIRST_BLOCK in shapes:  # an inpainting checkpoint's has more channels
        width, _channels, *kernel = shapes[FIRST_BLOCK]
        shapes[FIRST_BLOCK] = (width, LATENT_CHANNELS, *kernel)
    return shapes


def _complete(control: ControlFile, base: BaseFile, plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """Yield difference + base."""
    for name, tensor in read_all(control):
        if name == "difference":
            continue
        if not name.startswith(SHARED_WITH_BASE):
            yield name, cast(name, tensor, plan[name][1])
            continue
        total = torch.empty_like(tensor, dtype=plan[name][1])
        for change, part, out in pieces(tensor, base.tensor(name, tensor.shape), total):
            out.copy_(cast(name, part.float() + change.float(), total.dtype))
        yield name, total
    for name, shape in _find_left_out(control, base).items():
        yield name, cast(name, base.tensor(name, shape), plan[name][1])
