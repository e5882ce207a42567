"""What a unit does beside its control: one class per file, with the moments that it answers."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.step import Row
    from lib_controlnet.engine.unit_pass import UnitPass
    from lib_controlnet.engine.window import Window


class Effect:
    """Base of all effects. A subclass answers the moments whose methods it defines.

    Attributes:
        names: members of the preprocessors' `Effect` that ask for it; none where it follows from
            something else.
        window: when it acts during sampling; None means always.
        images: pictures of the batch it acts on; None means all.
    """

    names: ClassVar[frozenset[str]] = frozenset()
    window: Window | None = None
    images: frozenset[int] | None = None

    @classmethod
    def bind(cls, part: UnitPass, host: Host) -> Effect | None:
        """The effect of a unit in a pass; None where the unit does not have it."""
        raise NotImplementedError

    @classmethod
    def bind_all(cls, part: UnitPass, host: Host) -> list[Effect]:
        """The effects of this class that a unit has in a pass."""
        if cls.names and part.prepared.effect not in cls.names:
            return []
        effect = cls.bind(part, host)
        return [] if effect is None else [effect]

    def answers(self, moment: str) -> bool:
        """Whether the class defines a moment's method."""
        return getattr(type(self), moment) is not getattr(Effect, moment)

    def under_noise(self, noise: Tensor, alpha_bar: float) -> None:
        """Before the first step: change the unit noise (b, 4, h, w) in place.

        Args:
            noise: what the host drew, before it is scaled for the sampler.
            alpha_bar: cumulative product of alphas at the last timestep.
        """

    def condition(self, given: Tensor, rows: Sequence[Row]) -> Tensor:
        """Before a step: what an inpainting checkpoint is told, (n, 5, h, w)."""
        return given

    def before_guidance(self, x0: Tensor, rows: Sequence[Row]) -> Tensor:
        """After a step: every row's predicted clean latent (n, 4, h, w)."""
        return x0

    def after_guidance(self, x0: Tensor) -> Tensor:
        """After a step: every picture's predicted clean latent (b, 4, h, w)."""
        return x0

    def finish(self, image: Tensor, placed: np.ndarray) -> Tensor:
        """After decoding.

        Args:
            image: (3, H, W) in [0, 1], the generated picture.
            placed: uint8 (H, W, 3 or 4), the unit's map at the size of the last pass.
        """
        return image


@cache
def discover() -> tuple[type[Effect], ...]:
    """Import every module of this package and find the effect in it."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _name, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ == module.__name__ and issubclass(value, Effect):
                found.append(value)
    return tuple(found)
