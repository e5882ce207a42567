"""Layers beside those of the U-Net, of low rank (LoRA) or as large as these, while a unit acts.

No weight of the U-Net is written to: what the host, its LoRAs and other units make of a layer stays
theirs, and there is nothing to undo.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from einops import rearrange

from lib_controlnet.engine.tokens import find_attention
from lib_controlnet.engine.weights import WeightChange
from lib_controlnet.errors import HostError
from lib_controlnet.families.attention import QUERY, token_size
from lib_controlnet.families.controlnet import own_precision

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lib_controlnet.engine.network import ActiveControl
    from lib_controlnet.engine.places import Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.tokens import Carried


log = logging.getLogger(__name__)

FEATURE_MAP: Final = 4
"""Axes of what a layer reads that is no list of tokens."""


class Beside(NamedTuple):
    """One layer.

    Attributes:
        module: what it is.
        strength: factor of what it adds.
        is_placed: it reads tokens of the picture, else those of the text.
        readers: what gives the changes that it stands for, by the names of the tensors in the
            U-Net's layer, in a precision: it then acts in these where it can, which takes their
            memory once more, and no time. None: it always acts beside.
    """

    module: nn.Module
    strength: float
    is_placed: bool
    readers: Mapping[str, Callable[[torch.dtype], Tensor]] = MappingProxyType({})


class LowRankLayers:
    """A unit's layers in one pass, on the rows that it acts on.

    In a region, layers that read the text add nothing: what they make has no place.

    Args:
        control: the unit.
        layers: by the path of the U-Net's layer.
    """

    def __init__(self, control: ActiveControl, layers: Mapping[str, Beside]) -> None:
        self._control = control
        has_region = control.terms.region is not None
        acting = {path: layer for path, layer in layers.items() if layer.strength}
        self._layers = {
            path: layer for path, layer in acting.items() if layer.is_placed or not has_region
        }
        self._silent = len(acting) - len(self._layers)
        self._carried: dict[str, Carried] = {}

    def tell(self, say: Callable[[str], None]) -> None:
        """Say what a region leaves out."""
        if self._silent:
            control = self._control
            say(
                f"ControlNet {control.terms.name}: {self._silent} of the "
                f"{self._silent + len(self._layers)} layers of {control.network.name} read no part "
                "of the picture (but the text or the time); they add nothing, because the unit "
                "has a region"
            )

    def attach(self, places: Places, say: Callable[[str], None] = log.warning) -> None:
        """Ask for the layers of the U-Net; the network is on the device when it is called.

        Args:
            places: of the U-Net.
            say: is told why layers act beside that could act in the weights.
        """
        is_everywhere = self._control.terms.region is None
        for path, layer in self._layers.items():
            if not (layer.readers and is_everywhere):
                places.module(path, beside=partial(self._add, path))
        if is_everywhere:
            self._attach_merged(places, say)
            return
        for attention in {find_attention(path) for path in self._layers} - {""}:
            self._carried[attention] = places.carry(attention, self._give)
            if f"{attention}.{QUERY}" not in self._layers:
                # Tiles are known by the tokens that the first layer reads; the last one's differ.
                places.module(f"{attention}.{QUERY}", beside=partial(self._look, attention))

    def _attach_merged(self, places: Places, say: Callable[[str], None]) -> None:
        """Ask for the weights that layers can act in."""
        merged = {path: layer for path, layer in self._layers.items() if layer.readers}
        if not merged:
            return
        places.weights(
            WeightChange(
                name=self._control.terms.name,
                network=self._control.network,
                rows=self._control.rows_in,
                places=tuple((path, name) for path in merged for name in merged[path].readers),
                read=self._read,
                beside={path: partial(self._add, path) for path in merged},
                say=say,
                factor=self._control.factor_in,
            )
        )

    def _read(self, place: tuple[str, str], factor: float) -> Tensor:
        """What is added to a tensor of the U-Net."""
        path, name = place
        layer = self._layers[path]
        return layer.readers[name](torch.float32) * (layer.strength * factor)

    @torch.no_grad()
    def _add(self, path: str, tokens: Tensor, step: StepContext) -> Tensor | None:
        """What is added to a layer's output, of the tokens (n, t, width) that it reads."""
        rows = self._control.rows_in(step)
        if not rows:
            return None
        layer, network = self._layers[path], self._control.network
        strength = layer.strength * self._control.factor_in(step)
        count, tiles = len(step.rows), tokens.shape[0] // len(step.rows)
        # Hosts that tile the attention make several rows of one.
        index = [row * tiles + tile for row in rows for tile in range(tiles)]
        given = tokens if len(rows) == count else tokens[torch.tensor(index, device=tokens.device)]
        with own_precision(network.device):
            added = layer.module(given.to(network.device, network.dtype)) * strength
        added = added.to(tokens)
        region = self._control.terms.region
        if region is not None:
            if added.dim() == FEATURE_MAP:
                added = added * region.at(added.shape[-2:], added)
            else:
                share = self._share(find_attention(path), tokens, step)
                added = added * (share if len(rows) == count else share[index])
        self._control.acted = True
        if len(rows) == count:
            return added
        whole = added.new_zeros(tokens.shape[0], *added.shape[1:])
        return whole.index_copy(0, torch.tensor(index, device=tokens.device), added)

    def _give(self, step: StepContext, tokens: int) -> Tensor | None:
        """The region's share of the tokens that a norm gave, (rows, tokens, 1)."""
        if not self._control.rows_in(step):
            return None
        return self._place(step, tokens).expand(len(step.rows), -1, -1)

    def _place(self, step: StepContext, tokens: int) -> Tensor:
        """The region's share of the tokens of a level of the U-Net, (1, tokens, 1)."""
        region = self._control.terms.region
        assert region is not None
        size = token_size(step.x, tokens, self._control.terms.name)
        return rearrange(region.at(size, step.x), "b c h w -> b (h w) c")

    def _look(self, attention: str, tokens: Tensor, step: StepContext) -> None:
        """See how an attention's tokens have been cut."""
        if self._control.rows_in(step):
            self._share(attention, tokens, step)

    def _share(self, attention: str, tokens: Tensor, step: StepContext) -> Tensor:
        """The region's share of the tokens (n, t, width) that a layer reads, (n, t, 1).

        Raises:
            HostError: it cannot be told what became of the picture's tokens.
        """
        count, carried = len(step.rows), self._carried.get(attention)
        found = None if carried is None else carried.merged
        if found is None:
            found = self._place(step, tokens.shape[0] * tokens.shape[1] // count)
        if tokens.shape[:2] != (count, found.shape[1]):
            try:
                found = self._carried[attention].follow(found, tokens, count)
            except LookupError as error:
                msg = (
                    f"{self._control.terms.name}: its region cannot be placed on "
                    f"{tokens.shape[0]} x {tokens.shape[1]} tokens, as it cannot be told which is "
                    "which; switch off what merges or tiles the tokens of the U-Net, or leave out "
                    "the region"
                )
                raise HostError(msg) from error
        return found.expand(count, -1, -1).reshape(*tokens.shape[:2], 1).to(tokens)
