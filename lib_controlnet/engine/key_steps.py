"""Residuals kept from one evaluation of a network to later ones, for units that ask for speed.

What a control network returns changes little from step to step, most of it early (Faster Diffusion,
arXiv:2312.09608). It is reused only where the network would read the same hint, text and vector
condition, and a latent that is the same picture with less noise; each U-Net call of an evaluation
has residuals of its own. Whatever is in doubt is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from lib_controlnet.enums import Speed

if TYPE_CHECKING:
    from lib_controlnet.engine.memory import Memory
    from lib_controlnet.engine.step import StepContext

Layers = tuple["Tensor | None", ...]

SAME_PICTURE: Final = 0.2
"""Least cosine of two latents of one row that are taken for the same picture at two moments.

Pieces of a picture share neither noise nor content: theirs is about 0 while there is noise. What
fresh noise of an ancestral sampler leaves in a few steps is more.
"""
SAME_MOMENT: Final = 0.5
"""Timesteps, of 1000, that lie no further apart are one noise level."""
UNCHANGED: Final = 0.99
"""Least cosine of two latents of one noise level that need not both be evaluated."""
LEAST: Final = 2
"""Key steps of the shortest pass: what is computed of noise alone does not hold to the end."""
MOST_OF_ROOM: Final = 0.25
"""How large what is kept may be, of the memory that is free on its device."""
UNUSED_FOR: Final = 2
"""Evaluations after which what was not asked for is let go of; hosts skip every other one."""


@dataclass(frozen=True)
class Pace:
    """Which evaluations of a pass are key steps.

    Attributes:
        share: of the evaluations that are made; 1 leaves the choice to `drift`.
        most: key steps of a pass, however many evaluations there are.
        crowding: 1 spreads them evenly, more moves them to the beginning.
        drift: relative change of the latent since the last one that makes a key step.
    """

    share: float = 1.0
    most: int = 1000
    crowding: float = 1.0
    drift: float | None = None

    def level(self, step: StepContext) -> int:
        """Key steps that are due up to a call, its own included; at least 1."""
        keys = float(self.most)
        if step.schedule is not None:
            keys = min(max(int(self.share * step.schedule.evaluations + 1e-6), LEAST), keys)
        return int(keys * step.walked ** (1.0 / self.crowding) + 1e-6) + 1


PACES: Final[Mapping[Speed, Pace]] = {
    Speed.FAST: Pace(share=0.35, most=10, crowding=1.25),
    Speed.FASTEST: Pace(share=0.2, most=6, crowding=1.25),
    Speed.ADAPTIVE: Pace(drift=0.25),
}


@dataclass(frozen=True, eq=False)
class Read:
    """What a network reads in a call.

    Attributes:
        x: (n, 4, h, w), the latent.
        timesteps: (n,), 0 to 999.
        texts: tokens (n, t, c), and the vector condition (n, adm) if there is one.
        guides: encoded hints, the same as long as they are the same tensors; None for one that is
            still to be made.
    """

    x: Tensor
    timesteps: Tensor
    texts: tuple[Tensor, ...]
    guides: tuple[Tensor | None, ...]

    def copy(self) -> Read:
        """With copies of what others may overwrite."""
        texts = tuple(text.clone() for text in self.texts)
        return Read(self.x.clone(), self.timesteps.clone(), texts, self.guides)


@dataclass(frozen=True)
class Change:
    """How a call differs from an earlier one.

    Attributes:
        likeness: least cosine between the latents of a row.
        drift: greatest change of the latent of a row, relative to what it was.
        later: timesteps by which it lies nearer to the finished picture, at least.
    """

    likeness: float
    drift: float
    later: float


def compare(before: Read, now: Read) -> Change | None:
    """How far the latent has come; None where anything else differs."""
    pairs = [(before.x, now.x), (before.timesteps, now.timesteps)]
    if len(before.texts) != len(now.texts) or len(before.guides) != len(now.guides):
        return None
    pairs += zip(before.texts, now.texts, strict=True)
    if any(a.shape != b.shape or a.device != b.device for a, b in pairs):
        return None
    if any(a is not b for a, b in zip(before.guides, now.guides, strict=True)):
        return None
    was, is_now = (x.flatten(1).float() for x in pairs[0])
    times = before.timesteps.float() - now.timesteps.float()
    facts = [
        F.cosine_similarity(was, is_now).min(),
        ((is_now - was).norm(dim=1) / was.norm(dim=1)).max(),
        times.min(),
        *((a == b).all().float() for a, b in pairs[2:]),
    ]
    likeness, drift, later, *same = torch.stack(facts).tolist()  # the device is waited for once
    return Change(likeness, drift, later) if all(same) else None


@dataclass(eq=False)
class _Kept:
    """Residuals, and what they were computed of.

    Attributes:
        level: see `Pace.level`.
        asked: number of the evaluation in which they were used last.
    """

    read: Read
    layers: Layers
    level: int
    asked: int


class KeySteps:
    """What is kept in one run of the sampler, as long as there is memory for it.

    Args:
        memory: tells how much is free, and has it let go of where it runs out.
    """

    def __init__(self, memory: Memory) -> None:
        self._kept: dict[Hashable, _Kept] = {}
        self._is_off = False
        self._memory = memory
        memory.spare(self)

    @property
    def nbytes(self) -> int:
        """Bytes of the residuals."""
        layers = [layer for kept in self._kept.values() for layer in kept.layers]
        return sum(one.nelement() * one.element_size() for one in layers if one is not None)

    def drop(self) -> bool:
        """Let go of it, see `Derived`; what is evaluated from now on is kept again."""
        kept, self._kept = self._kept, {}  # another thread may be reading it
        return bool(kept)

    def begin(self, step: StepContext) -> None:
        """A U-Net call begins: let go of what earlier ones of its kind no longer ask for."""
        oldest = step.evaluation - UNUSED_FOR
        self._kept = {key: kept for key, kept in self._kept.items() if kept.asked >= oldest}

    def stop(self) -> None:
        """Keep nothing, and nothing more in this run."""
        self._kept.clear()
        self._is_off = True

    def find(
        self, key: Hashable, speed: Speed, step: StepContext, read: Callable[[], Read]
    ) -> Layers | None:
        """Residuals that a call may reuse; None where the network is to be evaluated.

        Args:
            key: equal for calls that stand for the same part of an evaluation.
            speed: what the units ask for.
            step: the call.
            read: gives what the network would read; only called where something is kept.
        """
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept.asked == step.evaluation:
            # Twice in one evaluation: a neighbour calls the U-Net with pieces of the picture, and
            # what is kept of one of them is not another's.
            self.stop()
            return None
        kept.asked = step.evaluation
        change = compare(kept.read, read())
        if change is None or not change.likeness >= SAME_PICTURE or not change.later > -SAME_MOMENT:
            return None
        return None if _is_due(PACES[speed], step, kept, change) else kept.layers

    def keep(
        self, key: Hashable, speed: Speed, step: StepContext, read: Read, layers: Layers
    ) -> None:
        """Keep what a call has evaluated, in the place of what was kept under its key."""
        if self._is_off:
            return
        level = PACES[speed].level(step)
        self._kept[key] = _Kept(read.copy(), layers, level, step.evaluation)
        room = self._memory.find_room(read.x.device)
        if room is not None and self.nbytes > MOST_OF_ROOM * room:
            self.stop()


def _is_due(pace: Pace, step: StepContext, kept: _Kept, change: Change) -> bool:
    """Whether a call is a key step."""
    if abs(change.later) <= SAME_MOMENT and change.likeness >= UNCHANGED:
        return False  # the second evaluation of a noise level (Heun)
    if pace.drift is not None:
        return not change.drift <= pace.drift  # also where it is no number
    return pace.level(step) > kept.level
