"""Layers of low rank beside those of the U-Net's attention (LoRA), while a unit acts.

No weight of the U-Net is changed: what the host, its LoRAs and other units make of a layer stays
theirs, and there is nothing to undo.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from einops import rearrange

from lib_controlnet.errors import HostError
from lib_controlnet.families.attention import token_size
from lib_controlnet.families.controlnet import own_precision

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lib_controlnet.engine.network import ActiveControl
    from lib_controlnet.engine.places import Places
    from lib_controlnet.engine.step import StepContext


FEATURE_MAP: Final = 4
"""Axes of what a layer reads that is no list of tokens."""


class Beside(NamedTuple):
    """One layer.

    Attributes:
        module: what it is.
        strength: factor of what it adds.
        is_placed: it reads tokens of the picture, else those of the text.
    """

    module: nn.Module
    strength: float
    is_placed: bool


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
        self._layers = {
            path: layer
            for path, layer in layers.items()
            if layer.strength and (layer.is_placed or not has_region)
        }

    def attach(self, places: Places) -> None:
        """Ask for the layers of the U-Net; the network is on the device when it is called."""
        for path in self._layers:
            places.module(path, beside=partial(self._add, path))

    @torch.no_grad()
    def _add(self, path: str, tokens: Tensor, step: StepContext) -> Tensor | None:
        """What is added to a layer's output, of the tokens (n, t, width) that it reads."""
        rows = self._control.rows_in(step)
        if not rows:
            return None
        layer, network = self._layers[path], self._control.network
        count, tiles = len(step.rows), tokens.shape[0] // len(step.rows)
        # Hosts that tile the attention make several rows of one.
        index = [row * tiles + tile for row in rows for tile in range(tiles)]
        given = tokens if len(rows) == count else tokens[torch.tensor(index, device=tokens.device)]
        with own_precision(network.device):
            added = layer.module(given.to(network.device, network.dtype)) * layer.strength
        added = added.to(tokens)
        region = self._control.terms.region
        if region is not None:
            if added.dim() == FEATURE_MAP:
                added = added * region.at(added.shape[-2:], added)
            else:
                size = self._size(step, tokens)
                added = added * rearrange(region.at(size, added), "b c h w -> b (h w) c")
        self._control.acted = True
        if len(rows) == count:
            return added
        whole = added.new_zeros(tokens.shape[0], *added.shape[1:])
        return whole.index_copy(0, torch.tensor(index, device=tokens.device), added)

    def _size(self, step: StepContext, tokens: Tensor) -> tuple[int, int]:
        """Height and width of the picture's tokens (n, t, width) that a layer reads.

        Raises:
            HostError: they are not those of a level of the U-Net.
        """
        unit = self._control.terms.name
        if tokens.shape[0] != len(step.rows):
            msg = (
                f"{unit}: its region cannot be placed in pieces of the picture; switch off what "
                "tiles the attention of the U-Net (hypertile), or leave out the region"
            )
            raise HostError(msg)
        return token_size(step.x, tokens.shape[1], unit)
