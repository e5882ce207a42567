"""Which tokens reach the layers of an attention, where neighbours change them on the way.

A transformer block calls `attention(norm(x))`. Token merging (Bolya and Hoffman, 2023,
arXiv:2303.17604) averages tokens between the two; hypertile cuts the picture into tiles inside the
attention. What belongs to the tokens of a picture (a control's conditions, a region) has to be
averaged and cut alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from lib_controlnet.engine.step import StepContext

Give = Callable[[StepContext, int], "Tensor | None"]
"""Is told the call, and how many tokens the norm gave of each row."""

_ATTENTION: Final = re.compile(r"^.*\.attn[12](?=\.)")

MERGING: Final = "ToMeBlock"
"""The class that token merging gives to a block for as long as it acts (`tomesd`)."""

COMPARED: Final = 64
"""Channels by which tokens are told apart."""

BITS: Final = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}
"""Whole numbers by the bytes they have."""


class Road:
    """The way of a picture's tokens from a block's norm to the layers of one attention.

    Args:
        attention: its name in the U-Net, such as `(...).transformer_blocks.0.attn1`.
        step: tells the present call.
    """

    def __init__(self, attention: str, step: Callable[[], StepContext | None]) -> None:
        self._attention = attention
        self._step = step
        self._carried: list[Carried] = []
        self._block: nn.Module | None = None
        self._widths: list[int] = []
        self._read: Tensor | None = None
        self._orders: dict[tuple[int, ...], Tensor] = {}

    def carry(self, give: Give) -> Carried:
        """Have something go with the tokens, see `Carried`."""
        self._carried.append(Carried(self, give))
        return self._carried[-1]

    def hook(self, unet: nn.Module, keep: Callable[[Callable[[], None]], object]) -> None:
        """Put hooks on a U-Net, behind those of all that changes the norm or the attention.

        Args:
            unet: of the structure that the attention's name is of.
            keep: is given what takes each off.
        """
        path, _, name = self._attention.rpartition(".")
        self._block, attention = unet.get_submodule(path), unet.get_submodule(self._attention)
        norm = getattr(self._block, name.replace("attn", "norm"), None)
        if isinstance(norm, nn.Module) and norm is not attention:
            keep(norm.register_forward_hook(self._widen).remove)
        keep(attention.register_forward_pre_hook(self._narrow, prepend=True).remove)
        keep(attention.register_forward_pre_hook(self._arrive).remove)
        keep(attention.register_forward_hook(self._leave).remove)
        keep(self._leave)

    def _widen(self, _norm: nn.Module, _args: object, output: Tensor) -> Tensor | None:
        """Where tokens are about to be merged, put what they carry beside their channels."""
        step = self._step()
        self._widths = []
        if step is None or type(self._block).__name__ != MERGING:
            return None
        parts = [one.give(step, output.shape[1]) for one in self._carried]
        self._widths = [0 if part is None else part.shape[-1] for part in parts]
        beside = [part.to(output) for part in parts if part is not None]
        return torch.cat([output, *beside], dim=-1) if beside else None

    def _narrow(self, _attention: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        """Take it off again, before anything else sees the attention's input."""
        self._leave()
        if not any(self._widths):
            return None
        tokens, *rest = args
        own = tokens.shape[-1] - sum(self._widths)
        tokens, *parts = tokens.split([own, *self._widths], dim=-1)
        for one, part in zip(self._carried, parts, strict=True):
            one.merged = part if part.shape[-1] else None
        self._widths = []
        return (tokens.contiguous(), *rest)

    def _arrive(self, _attention: nn.Module, args: tuple[Tensor, ...]) -> None:
        """The attention is called with these tokens (n, m, c)."""
        self._read = args[0] if self._step() is not None else None

    def _leave(self, *_call: object) -> None:
        """The attention has ended, or the hooks go."""
        self._read, self._orders = None, {}
        for one in self._carried:
            one.merged = None

    def order_of(self, tokens: Tensor) -> Tensor:
        """Which of the attention's tokens stand where in a layer's, see `find_order`.

        Raises:
            LookupError: they are not the same tokens.
        """
        shape = tuple(tokens.shape[:2])
        if shape not in self._orders:
            if self._read is None:
                msg = f"{self._attention} was not called as a module"
                raise LookupError(msg)
            self._orders[shape] = find_order(self._read, tokens)
        return self._orders[shape]


class Carried:
    """What goes with the tokens of an attention.

    Args:
        road: theirs.
        give: what goes with the tokens of a call, (n, tokens, c) for its rows; None for nothing.
            Asked where tokens are merged only.

    Attributes:
        merged: what was given, merged like the tokens that the attention reads; None where they
            are as the norm gave them.
    """

    def __init__(self, road: Road, give: Give) -> None:
        self.give = give
        self.merged: Tensor | None = None
        self._road = road

    def follow(self, own: Tensor, tokens: Tensor, rows: int) -> Tensor:
        """What goes with the tokens of a layer of the attention.

        Args:
            own: what goes with those that the norm gave, (1 or rows, m, c).
            tokens: what the layer reads, (k, l, width), all of a row before those of the next.
            rows: of the U-Net call.

        Returns:
            (1 or rows, m, c), for `tokens.reshape(rows, m, width)`.

        Raises:
            LookupError: they are others than the attention reads.
        """
        found = own if self.merged is None else self.merged
        if tokens.shape[:2] == (rows, found.shape[1]):
            return found
        order = self._road.order_of(tokens)
        if order.shape != (rows, found.shape[1]):
            msg = f"{tuple(order.shape)} tokens, and something for {rows} x {found.shape[1]}"
            raise LookupError(msg)
        index = order[..., None].expand(-1, -1, found.shape[-1])
        return found.expand(rows, -1, -1).gather(1, index)


def find_attention(path: str) -> str:
    """The attention that a layer of a U-Net is of; "" if none."""
    found = _ATTENTION.match(path)
    return found[0] if found else ""


def find_order(given: Tensor, tokens: Tensor) -> Tensor:
    """Which of some tokens stand where in others that hold the same ones in another order.

    Args:
        given: (n, m, c).
        tokens: of as many numbers, all of a row before those of the next.

    Returns:
        (n, m), where `tokens.reshape(n, m, c)[i, j]` is `given[i, order[i, j]]`.

    Raises:
        LookupError: a row holds others than the given ones.
    """
    msg = f"tokens {tuple(tokens.shape)} are not those of {tuple(given.shape)}"
    if tokens.numel() != given.numel() or tokens.shape[-1] != given.shape[-1]:
        raise LookupError(msg)
    here, here_at = _digest(given).sort(dim=1, stable=True)
    there, there_at = _digest(tokens.reshape(given.shape)).sort(dim=1, stable=True)
    if not torch.equal(here, there):
        raise LookupError(msg)
    return torch.empty_like(here_at).scatter_(1, there_at, here_at)


def _digest(tokens: Tensor) -> Tensor:
    """A number for each token (n, m), of its first channels' bits: exact, whatever their layout."""
    bits = tokens[..., :COMPARED].contiguous().view(BITS[tokens.element_size()]).long()
    odd = torch.arange(1, 1 + bits.shape[-1], device=tokens.device) * 0x9E3779B97F4A7C1 | 1
    return (bits * odd).sum(dim=-1)
