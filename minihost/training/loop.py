"""One way of training for all parts of the base model: steps with a schedule, resumed from disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lib_controlnet.train.model import Average

from .assets import RUNS, load_state, save_state

SAVE_EVERY = 50


@dataclass(frozen=True)
class Plan:
    """How something is trained.

    Attributes:
        rate: learning rate, reached after `warmup` steps, left after the share `hold` of all.
        average: decay of the averaged weights, which are the result; 0 for none.
    """

    steps: int
    rate: float
    warmup: int
    hold: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-4
    average: float = 0.0


def cosine(step: int, total: int, warmup: int, hold: float = 0.0) -> float:
    """Learning rate factor: linear warm-up, constant until `hold * total`, cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, int(hold * total))
    if step < start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min((step - start) / max(total - start, 1), 1.0)))


def fit(
    name: str,
    module: nn.Module,
    trained: Sequence[nn.Parameter],
    loss_of: Callable[[int], Tensor],
    plan: Plan,
) -> None:
    """Train some parameters of a module, which has the result afterwards, in eval mode.

    A run that was stopped goes on where it was last saved, one that is finished is only read.

    Args:
        name: of the state's file.
        loss_of: from the number of the step, from 0, to the loss; draws from torch's generator,
            which is seeded by the step.
    """
    file = RUNS / f"{name}.pt"
    optimizer = torch.optim.AdamW(
        trained, plan.rate, betas=plan.betas, weight_decay=plan.weight_decay
    )
    state = load_state(file) or {"step": 0}
    if state["step"]:
        module.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    average = Average(module, plan.average) if plan.average else None
    if average and state["step"]:
        average.module.load_state_dict(state["average"])
    bar = tqdm(range(state["step"], plan.steps), name, initial=state["step"], total=plan.steps)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * cosine(step, plan.steps, plan.warmup, plan.hold)
        torch.manual_seed(step)
        loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if average:
            average.update(module, step)
        bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == plan.steps:
            state = {"step": step + 1, "model": module.state_dict()}
            state |= {"average": average.module.state_dict()} if average else {}
            save_state(file, {**state, "optimizer": optimizer.state_dict()})
    if average:
        module.load_state_dict(average.module.state_dict())
    module.eval()


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (b, s, s, 3) pictures as float (b, 3, s, s) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
