"""States of a run to continue from: weights, optimiser, step; read back exactly.

Random numbers need no state: they follow from the seed and the step (`steps.py`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors.torch import load_file

from .control_file import save_tensors
from .errors import TrainError
from .reading import read_mapping

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger(__name__)

FOLDER: Final = "states"
ABOUT: Final = "state.json"


@dataclass(frozen=True)
class Parts:
    """What a state holds.

    Attributes:
        networks: by the name of their file; keys inside are the networks' own.
        optimizer: its state belongs to the parameters of `trained`, by name.
        scaler: state of fp16's loss scale, None without one.
    """

    networks: Mapping[str, nn.Module]
    optimizer: torch.optim.Optimizer
    trained: Mapping[str, nn.Parameter]
    scaler: torch.amp.GradScaler | None = None


def save(run: Path, step: int, parts: Parts, keep: int) -> None:
    """Write a state; older ones beyond the number to keep are removed afterwards."""
    final = run / FOLDER / f"{step:08d}"
    partial = run / FOLDER / f"{final.name}.{os.getpid()}.part"
    partial.mkdir(parents=True, exist_ok=True)
    for name, module in parts.networks.items():
        tensors = {key: value.detach().cpu() for key, value in module.state_dict().items()}
        _save(tensors, partial / f"{name}.safetensors")
    _save(_optimizer_tensors(parts), partial / "optimizer.safetensors")
    about = {"step": step, "scaler": parts.scaler.state_dict() if parts.scaler else None}
    (partial / ABOUT).write_text(json.dumps(about), encoding="utf-8")
    partial.replace(final)
    for old in _complete(run)[:-keep]:
        shutil.rmtree(old)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _optimizer_tensors(parts: Parts) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in parts.trained.items():
        for key, value in parts.optimizer.state.get(parameter, {}).items():
            value = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.tensor(value)
            tensors[f"{name}|{key}"] = value
    return tensors


def _complete(run: Path) -> list[Path]:
    """Complete states, oldest first."""
    if not (run / FOLDER).is_dir():
        return []
    return sorted(
        path for path in (run / FOLDER).iterdir() if path.name.isdigit() and path.is_dir()
    )


def latest(run: Path) -> Path | None:
    """The newest complete state of a run, None without one."""
    return next(iter(reversed(_complete(run))), None)


def remove_partial(run: Path) -> None:
    """Remove what a killed process has left behind."""
    for path in (run / FOLDER).glob("*.part"):
        shutil.rmtree(path, ignore_errors=True)


def about(state: Path) -> dict[str, Any]:
    """Step and loss scale of a state.

    Raises:
        TrainError: it cannot be read.
    """
    try:
        return read_mapping(state / ABOUT)
    except TrainError as error:
        msg = f"{error}; remove the state {state} to continue from an older one"
        raise TrainError(msg) from error


def load(state: Path, parts: Parts) -> int:
    """Bring everything to a state.

    Returns:
        Steps that were done.
    """
    known = about(state)
    for name, module in parts.networks.items():
        module.load_state_dict(load_file(state / f"{name}.safetensors"))
    own = load_file(state / "optimizer.safetensors")
    # Copied: a file that tensors are mapped from cannot be removed on Windows.
    for name, parameter in parts.trained.items():
        found = {
            key.split("|")[1]: value for key, value in own.items() if key.split("|")[0] == name
        }
        parts.optimizer.state[parameter] = {
            key: value.to("cpu" if key == "step" else parameter.device, copy=True)
            for key, value in found.items()
        }
    if parts.scaler is not None and known["scaler"]:
        parts.scaler.load_state_dict(known["scaler"])
    return int(known["step"])
