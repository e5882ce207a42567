"""`check`: whether a control model file is whole, sound and trained.

A fault is what makes a model useless; a remark is what its owner may want to know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.engine.unet import read_shape
from lib_controlnet.errors import BrokenCheckpointError
from lib_controlnet.families.base_weights import SHARED_WITH_BASE
from lib_controlnet.families.control_lora import PARTNER, full_shapes
from lib_controlnet.files.published import describe_size, describe_sum
from lib_controlnet.nets.cldm import ControlNet, read_params
from lib_controlnet.tools.source import ControlFile, all_finite, open_control, pieces, read_all

if TYPE_CHECKING:
    pass

KNOWN_KEYS: Final = frozenset({"controlnet", "control_lora"})
"""Kinds whose tensors' names follow from their shapes."""

OUTPUTS: Final = ("zero_convs.", "middle_block_out.")


@dataclass
class Verdict:
    """What was found in a file."""

    path: Path
    title: str
    tensors: int
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(path: Path, with_sum: bool = False) -> Verdict:
    """Look at every name and every value of a control model.

    Args:
        path: the file.
        with_sum: compare its SHA-256 with that of the published file.

    Raises:
        ControlNetError: the file cannot be opened, or is no control model.
    """
    size = path.stat().st_size if path.is_file() else 0
    note = describe_size(path.name, size)
    try:
        control = open_control(path)
    except BrokenCheckpointError as error:
        if not note:
            raise
        msg = f"{error}; it has {note}"
        raise BrokenCheckpointError(msg) from error
    verdict = Verdict(path, control.title, len(control.ckpt.keys))
    _check_names(control, verdict)
    _check_dtypes(control, verdict)
    _check_values(control, verdict)
    if note:
        verdict.remarks.append(note)
    if with_sum:
        is_other, said = describe_sum(path)
        (verdict.remarks if is_other else verdict.notes).append(said)
    if control.others:
        verdict.remarks.append(f"{control.others} tensors beside the control model; extract it")
    if control.is_pickle:
        verdict.remarks.append("a pickle; convert makes it a .safetensors file")
    return verdict


def _check_names(control: ControlFile, verdict: Verdict) -> None:
    if control.key not in KNOWN_KEYS:
        verdict.remarks.append("names and shapes are not checked for this kind of model")
        return
    found = dict(control.ckpt.shapes)
    found.pop("difference", None)
    if control.key == "control_lora":
        found = full_shapes(found)
        halves = [name for name in found if name.rpartition(".")[2] in PARTNER]
        if halves:
            verdict.faults.append(f"{_count(halves, 'tensor')} without the other half of a pair")
        found = {name: shape for name, shape in found.items() if name not in halves}
    try:
        read_shape(found)
        with torch.device("meta"):
            state = ControlNet(read_params(found, lambda _block, _width: 1)).state_dict()
    except (KeyError, IndexError, ValueError) as error:
        verdict.faults.append(f"incomplete: {error.args[0]} is missing")
        return
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    left_out = SHARED_WITH_BASE if control.is_difference else ()
    missing = [
        name for name in expected if name not in found and not name.startswith(tuple(left_out))
    ]
    unexpected = [name for name in found if name not in expected]
    wrong = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in expected.items()
        if name in found and not _fits(found[name], shape)
    ]
    for names, what in ((missing, "missing"), (unexpected, "unexpected"), (wrong, "misshapen")):
        if names:
            verdict.faults.append(f"{what}: {_count(names, 'tensor')}")


def _fits(found: Sequence[int], expected: Sequence[int]) -> bool:
    """Equal shapes, a linear layer standing for a 1x1 convolution."""
    ones = [1] * abs(len(found) - len(expected))
    longer, shorter = sorted((tuple(found), tuple(expected)), key=len, reverse=True)
    return longer == (*shorter, *ones)


def _check_dtypes(control: ControlFile, verdict: Verdict) -> None:
    marks = ("difference", "lora_controlnet")
    counts = Counter(
        str(control.ckpt.dtype(key)).removeprefix("torch.")
        for key in control.ckpt.keys
        if key not in marks
    )
    if len(counts) > 1:
        parts = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        verdict.remarks.append(f"several precisions: {parts}")


def _check_values(control: ControlFile, verdict: Verdict) -> None:
    nan: list[str] = []
    infinite: list[str] = []
    silent: list[str] = []
    outputs: list[str] = []
    last_hint = _last_hint(control.ckpt.keys)
    for name, tensor in read_all(control):
        if not tensor.is_floating_point() or not tensor.nelement():
            continue
        if not all_finite(tensor):
            has_nan = any(part.float().isnan().any() for (part,) in pieces(tensor))
            (nan if has_nan else infinite).append(name)
        is_output = name.startswith(OUTPUTS) and name.endswith(".weight")
        if is_output:
            outputs.append(name)
        if (is_output or name == last_hint) and not tensor.float().any():
            silent.append(name)
    for names, what in ((nan, "NaN"), (infinite, "infinite values")):
        if names:
            verdict.faults.append(f"{what} in {_count(names, 'tensor')}")
    if last_hint in silent:
        silent.remove(last_hint)
        verdict.faults.append(f"never trained: {last_hint} is zero, so the picture has no effect")
    if silent and len(silent) == len(outputs):
        verdict.faults.append("never trained: every zero convolution is zero")
    elif silent:
        verdict.remarks.append(f"without effect, being zero: {_count(silent, 'zero convolution')}")


def _last_hint(names: Iterable[str]) -> str | None:
    """The hint block's last convolution, which starts as a zero convolution too."""
    start, end = "input_hint_block.", ".weight"
    hints = [name for name in names if name.startswith(start) and name.endswith(end)]
    return max(hints, key=lambda name: int(name.split(".")[1]), default=None)


def _count(names: Sequence[str], noun: str) -> str:
    first = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} ({first})"
