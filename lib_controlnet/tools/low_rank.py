"""`to-lora`: a ControlNet as a low-rank change to its base, in the Control-LoRA layout.

The layout is that of stabilityai/control-lora: every weight of the encoder becomes `up` and
`down` with W = W_base + up @ down; biases, norms and the parts that the base does not have are
kept as they are. By Eckart and Young (1936) the truncated singular value decomposition is the
best such pair of its rank.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.families.base_weights import SHARED_WITH_BASE
from lib_controlnet.families.control_lora import MARK
from lib_controlnet.tools.errors import ToolError
from lib_controlnet.tools.source import (
    BaseFile,
    ControlFile,
    all_finite,
    cast,
    facts,
    open_control,
    plan_of,
    read_all,
    require_fit,
)
from lib_controlnet.tools.writer import Entry, Plan, nbytes, refuse_to_overwrite, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

COLUMNS: Final = 1024
"""Columns that are turned into double precision at a time."""


@dataclass(frozen=True)
class LayerError:
    """What a layer loses: Frobenius norms of its change to the base, and of what is left out."""

    layer: str
    rank: int
    change: float
    lost: float

    @property
    def share(self) -> float:
        """Lost part of the change, 0 to 1."""
        return self.lost / self.change if self.change else 0.0


@dataclass
class LowRankReport:
    """What all layers lose."""

    layers: list[LayerError] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Lost part of the whole change, 0 to 1."""
        change = sum(layer.change**2 for layer in self.layers)
        return (sum(layer.lost**2 for layer in self.layers) / change) ** 0.5 if change else 0.0

    def table(self) -> str:
        """One line for each layer, and one for all."""
        width = max(len(layer.layer) for layer in self.layers)
        lines = [f"{'layer':{width}}  rank    change      lost   share"]
        lines += [
            f"{one.layer:{width}}  {one.rank:4}  {one.change:8.4g}  {one.lost:8.4g}  "
            f"{one.share:6.3f}"
            for one in self.layers
        ]
        lines.append(f"{'all':{width}}  {'':4}  {'':8}  {'':8}  {self.share:6.3f}")
        return "\n".join(lines)


def rank_of(shape: Sequence[int], rank: int) -> int:
    """Rank for a layer: no more than its input or output channels, as in the published files."""
    return min(rank, shape[0], shape[1])


def to_low_rank(
    source: Path,
    base: Path,
    out: Path,
    rank: int,
    dtype: torch.dtype | None = None,
    force: bool = False,
) -> LowRankReport:
    """Write a Control-LoRA.

    Args:
        source: a ControlNet, full or difference.
        base: the checkpoint it was trained from.
        out: the file to write.
        rank: columns of `up`, at least 1; smaller where a layer is.
        dtype: precision of the file; None keeps the ControlNet's.
        force: replace what is there.

    Raises:
        ControlNetError: the files cannot be used or do not fit, or the target not be written.
    """
    refuse_to_overwrite(out, force)
    if rank < 1:
        msg = f"rank is {rank}, must be at least 1"
        raise ToolError(msg)
    control, original = open_control(source, {"controlnet"}), BaseFile(base)
    require_fit(control, original)
    plan = _plan(control, rank, dtype)
    report = LowRankReport([LayerError(layer, 0, 0.0, 0.0) for layer in _layers(control)])
    step = facts(control, f"to-lora {control.name} - {original.name}")

    def metadata() -> dict[str, str]:
        """Of one length before and after, because the header comes first."""
        shares = ", ".join(f'"{one.layer}": {one.share:.6f}' for one in report.layers)
        total = {"lora_rank": str(rank), "lora_error": f"{report.share:.6f}"}
        return {**step, **total, "lora_errors": f"{{{shares}}}"}

    tensors = _factors(control, original, plan, report)
    write_safetensors(out, plan, tensors, metadata(), metadata)
    log.info("wrote %s: %d tensors, %.1f MB", out, len(plan), nbytes(plan) / 1e6)
    return report


def _is_factored(control: ControlFile, name: str) -> bool:
    return (
        name.startswith(SHARED_WITH_BASE)
        and name.endswith(".weight")
        and len(control.ckpt.shape(name)) > 1
    )


def _layers(control: ControlFile) -> list[str]:
    keys = control.ckpt.keys
    return [key.removesuffix(".weight") for key in keys if _is_factored(control, key)]


def _plan(control: ControlFile, rank: int, dtype: torch.dtype | None) -> dict[str, Entry]:
    plan: dict[str, Entry] = {}
    for name, (shape, kept) in plan_of(control, dtype).items():
        if _is_factored(control, name):
            layer, r = name.removesuffix(".weight"), rank_of(shape, rank)
            plan[f"{layer}.up"] = ((shape[0], r, *[1] * (len(shape) - 2)), kept)
            plan[f"{layer}.down"] = ((r, *shape[1:]), kept)
        elif name != "difference":
            plan[name] = (shape, kept)
    return {**plan, MARK: ((0,), torch.float32)}


def _factors(
    control: ControlFile, base: BaseFile, plan: Plan, report: LowRankReport
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the plan and note in the report what they lose."""
    places = {one.layer: i for i, one in enumerate(report.layers)}
    for name, tensor in read_all(control):
        if name == "difference":
            continue
        if not _is_factored(control, name):
            if control.is_difference and name.startswith(SHARED_WITH_BASE):
                tensor = base.tensor(name, tensor.shape).float() + tensor.float()
            yield name, cast(name, tensor, plan[name][1])
            continue
        layer = name.removesuffix(".weight")
        (up_shape, dtype), (down_shape, _) = plan[f"{layer}.up"], plan[f"{layer}.down"]
        up, down, error = _layer(control, base, name, tensor, (up_shape[1], dtype))
        report.layers[places[layer]] = error
        yield f"{layer}.up", up.reshape(up_shape)
        yield f"{layer}.down", down.reshape(down_shape)
    yield MARK, torch.zeros(0)


def _layer(
    control: ControlFile,
    base: BaseFile,
    name: str,
    tensor: Tensor,
    target: tuple[int, torch.dtype],
) -> tuple[Tensor, Tensor, LayerError]:
    """A layer's factors (o, rank) and (rank, n) in a rank and precision, and what they lose."""
    rank, dtype = target
    change = tensor.float()
    if not control.is_difference:
        change = base.tensor(name, tensor.shape).float().neg_().add_(tensor)
    change = change.flatten(1)
    if not all_finite(change):
        msg = f"{control.name} or {base.name} holds NaN or infinite values in {name}"
        raise ToolError(msg)
    up, down = (cast(name, factor, dtype) for factor in factorise(change, rank))
    norm = float(change.norm())
    lost = float(change.addmm_(up.float(), down.float(), alpha=-1).norm())
    return up, down, LayerError(name.removesuffix(".weight"), rank, norm, lost)


def factorise(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best pair (o, rank), (rank, n) whose product is near a matrix (o, n), in float32.

    From the eigenvectors of the smaller Gram matrix in double precision, which needs no second
    copy of the matrix. Both factors get the square root of the singular values.
    """
    wide = change.shape[0] <= change.shape[1]
    vectors = change if wide else change.T
    gram = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for part in vectors.split(COLUMNS, dim=1):
        part = part.double()
        gram.addmm_(part, part.T)
    values, basis = torch.linalg.eigh(gram)  # ascending
    values, basis = values[-rank:].flip(0), basis[:, -rank:].flip(1).float()
    other = basis.T @ vectors  # (rank, m), rows of the singular values' lengths
    roots = values.clamp(min=0).sqrt().sqrt().float()
    inverse = torch.where(roots > 0, 1 / roots, 0.0)
    left, right = basis * roots, other * inverse[:, None]
    return (left, right) if wide else (right.T, left.T)
