"""Make the demo's light T2I-Adapter: it learns the features of the full one, which needs no U-Net.

A light adapter trained by `python -m lib_controlnet.train` would need as long as the full one. To
give what that gives (Hinton et al., arXiv 1503.02531) takes a minute.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.train import control_file
from lib_controlnet.train.base import open_base
from lib_controlnet.train.dataset import read_control, read_items
from lib_controlnet.train.kinds import KINDS, Begin

from .assets import CHECKPOINT, RUNS
from .loop import Plan, fit

PLAN: Final = Plan(500, 4e-3, 50, 0.3, average=0.99)
BATCH: Final = 32


def train(teacher: Path, data: Path, out: Path, plan: Plan = PLAN) -> None:
    """Train or resume, and write the light adapter's file.

    Args:
        teacher: the full adapter's file.
        data: the data set whose hints are read.
    """
    base, ckpt = open_base(CHECKPOINT), open_checkpoint(teacher)
    full = KINDS["t2i"].open(base, ckpt).eval().requires_grad_(False)
    begin = RUNS / "light_new.safetensors"
    tensors = dict(KINDS["t2i_light"].new_tensors(base, Begin(seed=3)))
    control_file.write(tensors, begin, force=True)
    light = KINDS["t2i_light"].open(base, open_checkpoint(begin)).requires_grad_(True)
    hints = _read(data)

    def loss_of(_step: int) -> Tensor:
        hint = hints[torch.randint(len(hints), (BATCH,))].float() / 255
        hint = hint.flip(-1) if torch.rand(()) < 0.5 else hint
        hint = hint[:, None].expand(-1, 3, -1, -1)
        return compare(light, full, hint)

    fit("light", light, list(light.parameters()), loss_of, plan)
    known = {"distilled_from": teacher.name, "steps": plan.steps, "examples": len(hints)}
    facts = {**ckpt.metadata, "training": json.dumps(known, sort_keys=True)}
    control_file.write(light.state_dict(), out, "fp16", facts, force=True)


def shorten(effort: float) -> Plan:
    """The plan with a factor of all steps."""
    return replace(PLAN, steps=max(1, round(PLAN.steps * effort)))


def compare(light: nn.Module, full: nn.Module, hint: Tensor) -> Tensor:
    """Squared error of the features, level by level as a share of their size."""
    pairs = zip(light(hint), full(hint), strict=True)
    return torch.stack([F.mse_loss(ours, theirs) / theirs.var() for ours, theirs in pairs]).sum()


def _read(folder: Path) -> Tensor:
    """The hints of a data set, whose channels are alike: uint8 (n, s, s)."""
    items, _faults = read_items(folder)
    planes = [read_control(folder / item.source)[0][:, :, 0] for item in items]
    return torch.from_numpy(np.stack(planes))
