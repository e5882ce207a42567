"""Controls that put a second attention beside that of the text ("decoupled cross-attention").

The host's attention stays as it is, whatever computes it: what its layer `to_q` gives is looked at,
and what the second attention gives is added to the input of its last layer. All optimisers that
hosts offer call these two layers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from einops import rearrange

from lib_controlnet.engine.network import ActiveControl, ControlNetwork
from lib_controlnet.engine.unet import widths_of
from lib_controlnet.errors import HostError
from lib_controlnet.families.controlnet import own_precision
from lib_controlnet.units.weight_types import OF_PROMPTS, Parts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lib_controlnet.engine.injection import Rows
    from lib_controlnet.engine.kept import Kept
    from lib_controlnet.engine.network import Embeddings, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Call, Memory, Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.enums import ControlMode

QUERY: Final = "to_q"
LAST: Final = "to_out.0"
"""Layers of an attention that are called by every optimiser: its projection, not the sequence."""

CROSS: Final = ".attn2"


@dataclass(frozen=True)
class CrossAttention:
    """One attention to the text in a U-Net.

    Attributes:
        path: among the U-Net's modules, such as `input_blocks.1.1.transformer_blocks.0.attn2`.
        number: in the order of files: down, up, middle, from 0.
        transformer: number of its spatial transformer in the order in which they run; strengths go
            by it.
        heads: attention heads.
        width: of queries, keys and values, all heads together.
        context: width of the text's tokens.
    """

    path: str
    number: int
    transformer: int
    heads: int
    width: int
    context: int


def cross_attentions(base: BaseUNet) -> tuple[CrossAttention, ...]:
    """Every attention to the text, in the order in which files of adapters number them."""
    found = [(path, module) for path, module in base.module.named_modules() if path.endswith(CROSS)]
    runs = list(dict.fromkeys(_transformer(path) for path, _module in found))
    runs.sort(key=lambda block: ("input", "middle", "output").index(block.split("_")[0]))
    found.sort(key=lambda one: ("input", "output", "middle").index(one[0].split("_")[0]))
    return tuple(
        CrossAttention(
            path=path,
            number=number,
            transformer=runs.index(_transformer(path)),
            heads=base.shape.heads[_transformer(path)],
            width=widths_of(module.to_q)[1],
            context=widths_of(module.to_k)[0],
        )
        for number, (path, module) in enumerate(found)
    )


def _transformer(path: str) -> str:
    return path.partition(".transformer_blocks.")[0]


def count_transformers(base: BaseUNet) -> int:
    """Spatial transformers of a U-Net: 16 in SD1, 11 in SDXL."""
    return len(base.shape.heads)


class PromptNetwork(ControlNetwork):
    """Weights of what a picture or a face says beside the text; the control mode means nothing.

    Args:
        name: file stem.
        module: its weights.
        base: the U-Net that it is loaded for.
    """

    has_modes = False
    weight_types = OF_PROMPTS

    @classmethod
    def parts_of(cls, base: BaseUNet) -> Parts:
        """One for each spatial transformer, see `ControlNetwork.parts_of`."""
        blocks = [path.partition("_")[0] for path in base.shape.heads]
        return (blocks.count("input"), blocks.count("middle"), blocks.count("output"))

    def __init__(self, name: str, module: nn.Module, base: BaseUNet) -> None:
        self.name = name
        self.module = module
        self.base = base.shape.kind
        self.layers = count_transformers(base)

    def curve(self, strength: float, mode: ControlMode) -> tuple[float, ...]:
        """The same strength everywhere, see `ControlNetwork.curve`."""
        del mode
        return (strength,) * self.layers


class AttentionControl(ActiveControl):
    """One unit in one pass. Tokens, keys and values are made once, in its first evaluation.

    Args:
        network: loaded weights.
        terms: how, when and where it acts; a strength for each spatial transformer.
        embeddings: what it is steered by.
        info: the pass.
    """

    def __init__(
        self, network: ControlNetwork, terms: Terms, embeddings: Embeddings, info: PassInfo
    ) -> None:
        super().__init__(network, terms)
        self._embeddings = embeddings
        self._kept: Kept | None = None
        every = cross_attentions(info.base)
        self.layers = tuple(one for one in every if terms.strengths[one.transformer] != 0.0)
        self._memory: Memory | None = None
        self._tokens: tuple[Tensor, Tensor] | None = None
        self._made: dict[str, tuple[Tensor, Tensor]] = {}
        self._queries: dict[str, Tensor] = {}
        self._rows: Rows = ()
        self._owners: Tensor | None = None

    @property
    def made_of(self) -> tuple[Hashable, ...]:
        """What tokens, keys and values depend on beside the pictures and the network."""
        return ()

    @abstractmethod
    def make_tokens(self) -> tuple[Tensor, Tensor]:
        """What the layers attend to; called once, with the network on its device.

        Returns:
            For cond rows (frames, t, c), one or as many as the animation has; for uncond rows
            (1, t, c).
        """

    @abstractmethod
    def make_keys_values(self, layer: CrossAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (n, t, width) of a layer for tokens (n, t, c), made once."""

    def attend(
        self, layer: CrossAttention, query: Tensor, text: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """What is added to a layer's output at strength 1, (n, tokens, width).

        Args:
            layer: the layer.
            query: (n, tokens, width).
            text: the host's attention to the text, as `query`.
            keys: (n, t, width).
            values: (n, t, width).
        """
        del text
        q, k, v = (
            rearrange(x, "n t (h d) -> n h t d", h=layer.heads) for x in (query, keys, values)
        )
        return rearrange(F.scaled_dot_product_attention(q, k, v), "n h t d -> n t (h d)")

    def attach(self, places: Places) -> None:
        """Ask for the layers in which the unit has a strength."""
        self._memory, self._kept = places.memory, places.kept
        places.call(self._begin)
        for layer in self.layers:
            places.module(f"{layer.path}.{QUERY}", after=partial(self._note, layer.path))
            places.module(f"{layer.path}.{LAST}", before=partial(self._addition, layer))

    def tokens(self, step: StepContext, rows: Rows) -> Tensor:
        """The tokens of some rows of a call, (len(rows), t, c); made if they are not there."""
        cond, uncond = self._make()
        return torch.cat([cond, uncond])[self._owners_of(step, rows)]

    def _make(self) -> tuple[Tensor, Tensor]:
        if self._tokens is None:
            assert self._memory is not None
            network = self.network
            with self._memory.on_device(network), own_precision(network.device), torch.no_grad():
                self._tokens, made = self._find()
                for layer in self.layers:
                    if layer.path not in made:
                        made[layer.path] = self.make_keys_values(layer, torch.cat(self._tokens))
                    self._made[layer.path] = made[layer.path]
        return self._tokens

    def _find(self) -> tuple[tuple[Tensor, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """Tokens, and the keys and values that units and passes have made of them so far."""
        # Pictures in the user's order, which the key of a guide does not tell.
        pictures = tuple(tuple(one.digest for one in frame) for frame in self._embeddings)
        if self._kept is None:
            return self.make_tokens(), {}
        key = (pictures, self.made_of)
        return self._kept.find(self.network, key, lambda: (self.make_tokens(), {}))

    def _owners_of(self, step: StepContext, rows: Rows) -> Tensor:
        """Which of the cond and uncond tokens each row has."""
        frames = len(self._make()[0])
        owners = [
            min(step.rows[row].image, frames - 1) if step.rows[row].is_cond else frames
            for row in rows
        ]
        return torch.tensor(owners, device=self._make()[0].device)

    def _begin(self, step: StepContext, call: Call) -> None:
        del call
        self._queries.clear()
        self._rows = self.rows_in(step) if self.layers else ()
        self._owners = self._owners_of(step, self._rows) if self._rows else None

    def _note(self, path: str, output: Tensor, step: StepContext, again: object) -> None:
        """Keep the queries until the attention ends."""
        del step, again
        if self._rows:
            self._queries[path] = output

    @torch.no_grad()
    def _addition(self, layer: CrossAttention, text: Tensor, step: StepContext) -> Tensor | None:
        """What the unit adds to the attention to the text, (n, tokens, width)."""
        query = self._queries.pop(layer.path, None)
        if query is None or self._owners is None:
            return None
        count, rows = len(step.rows), self._rows
        tiles = query.shape[0] // count
        index = None
        owners = self._owners.repeat_interleave(tiles)
        if len(rows) < count:
            index = torch.tensor(
                [row * tiles + tile for row in rows for tile in range(tiles)], device=query.device
            )
        mine = (query, text) if index is None else (query[index], text[index])
        keys, values = (made.to(query) for made in self._made[layer.path])
        self._made[layer.path] = keys, values
        added = self.attend(layer, *mine, keys[owners], values[owners])
        added = added * self.strengths_in(step)[layer.transformer]
        if self.terms.region is not None:
            size = token_size(step.x, added.shape[1], self.terms.name)
            mask = self.terms.region.at(size, added)
            added = added * rearrange(mask, "b c h w -> b (h w) c")
        self.acted = True
        added = added.to(text)
        return added if index is None else torch.zeros_like(text).index_copy(0, index, added)

    def release(self) -> None:
        """Forget what was made for the pass."""
        self._tokens = None
        self._rows, self._owners = (), None
        self._made.clear()
        self._queries.clear()


def token_size(x: Tensor, tokens: int, unit: str) -> tuple[int, int]:
    """Height and width of the tokens of a level of the U-Net, for a latent (n, c, h, w).

    Raises:
        HostError: there are more or fewer; something merges or tiles them.
    """
    h, w = x.shape[-2:]
    while h * w > tokens and (h, w) != (1, 1):
        h, w = -(-h // 2), -(-w // 2)
    if h * w != tokens:
        msg = (
            f"{unit}: its region cannot be placed on {tokens} tokens; switch off what merges or "
            "tiles the tokens of the U-Net's cross-attention, or leave out the region"
        )
        raise HostError(msg)
    return h, w
