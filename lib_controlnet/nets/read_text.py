"""Text as control networks read it in every step of a pass."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Protocol

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


class Reader(Protocol):
    """A layer that reads text."""

    def read(self, context: Tensor) -> Pair:
        """Keys and values (b, heads, m, c) of a context (b, m, context_width)."""
        ...


class ReadText:
    """Text tokens, and the keys and values that the layers of one network made of them.

    Stands where the tokens would stand. Made anew where the tokens or the weights change.

    Attributes:
        tokens: (b, m, context_width), as the network wants them.
    """

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self._made_of = tokens.clone()  # others may overwrite theirs
        self._pairs: dict[Reader, Pair] = {}

    def __len__(self) -> int:
        """Rows."""
        return len(self.tokens)

    def is_of(self, tokens: Tensor) -> bool:
        """Whether it was made of the same tokens."""
        made_of = self._made_of
        return made_of.dtype == tokens.dtype and torch.equal(made_of, tokens)

    def to(self, device: torch.device, dtype: torch.dtype) -> ReadText:
        """Itself, with tokens in that place and precision."""
        placed = self.tokens.to(device, dtype)
        if placed is not self.tokens:
            self.tokens, self._pairs = placed, {}
        return self

    def pair(self, layer: Reader) -> Pair:
        """Keys and values that a layer makes of it, made once."""
        pair = self._pairs.get(layer)
        if pair is None:
            pair = self._pairs[layer] = layer.read(self.tokens)
        return pair


class ReadTexts:
    """The texts of a network in a generation, from one U-Net call to the next.

    On the CPU alone: elsewhere the device would have to be waited for to compare them.
    """

    def __init__(self) -> None:
        self._texts: dict[Hashable, ReadText] = {}

    def tensors(self) -> Iterator[Tensor]:
        """All that is kept of them."""
        for text in self._texts.values():
            yield from (text.tokens, text._made_of)
            for pair in text._pairs.values():
                yield from pair

    def find(self, key: Hashable, tokens: Tensor) -> Tensor | ReadText:
        """The tokens, with what was made of them in an earlier call.

        Args:
            key: equal for the same part of two evaluations.
            tokens: of this call (b, m, context_width).
        """
        if tokens.device.type != "cpu":
            return tokens
        text = self._texts.get(key)
        if text is None or not text.is_of(tokens):
            text = self._texts[key] = ReadText(tokens)
        return text
