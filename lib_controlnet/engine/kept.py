"""What networks make of a unit's picture alone: made once in a generation, whatever asks for it.

Encoded hints, features, tokens, keys and values know nothing of the latent, the text and the time.
They stay from pass to pass (batch count, hires), and units that show a network the same picture
share them. So do the keys and values of the text, which are looked at before they are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

from torch import Tensor

from lib_controlnet.nets.read_text import ReadTexts

T = TypeVar("T")

UNUSED_FOR: Final = 2
"""Passes after which what was not asked for is let go of: a first and a hires pass take turns."""


@dataclass(eq=False)
class _Made:
    """Something that was made, and the number of the pass that asked for it last."""

    value: Any
    asked: int


class Kept:
    """What a generation has made of its units' pictures, by network and key.

    It lies where the networks compute, and goes where memory runs out, see `Derived`.
    """

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Any, dict[Hashable, _Made]] = WeakKeyDictionary()
        self._passes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in it."""
        made = [one.value for found in self._made.values() for one in found.values()]
        tensors = {id(tensor): tensor for tensor in _tensors_of(made)}
        return sum(tensor.nelement() * tensor.element_size() for tensor in tensors.values())

    def begin(self) -> None:
        """A pass begins: let go of what the last ones did not ask for."""
        self._passes += 1
        oldest = self._passes - UNUSED_FOR
        for network, found in list(self._made.items()):
            self._made[network] = {key: one for key, one in found.items() if one.asked >= oldest}

    def find(self, network: Any, key: Hashable, make: Callable[[], T]) -> T:
        """What a network has made of something, made now where it is not there.

        Args:
            network: whose weights it is made with; it is not held.
            key: equal for what is made of equal things in the same way.
            make: makes it; not to be changed afterwards, other than what is collected in it.
        """
        made = self._made.get(network, {}).get(key)
        if made is None:
            made = _Made(make(), self._passes)
            self._made.setdefault(network, {})[key] = made
        made.asked = self._passes
        return cast("T", made.value)

    def drop(self) -> bool:
        """Let go of everything, it can be made again; whether there was anything."""
        made, self._made = self._made, WeakKeyDictionary()  # another thread may be reading it
        return any(made.values())


def _tensors_of(value: object) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists, mappings and texts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, ReadTexts):
        yield from value.tensors()
    elif isinstance(value, (tuple, list, Mapping)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors_of(inner)
