"""T2I-Adapter, style, for SD1 (Mou et al., arXiv:2302.08453).

A picture, as CLIP sees it, becomes tokens that cond rows read behind those of the text.
"""

from __future__ import annotations

import dataclasses
import math
from functools import partial, reduce
from typing import TYPE_CHECKING, Final

import torch
from einops import rearrange

from lib_controlnet.engine.network import ControlNetwork, Guide, GuideKind
from lib_controlnet.enums import BaseModel
from lib_controlnet.errors import WrongBaseModelError
from lib_controlnet.families.attention import AttentionControl, count_transformers, token_size
from lib_controlnet.families.base import ControlFamily, randomize
from lib_controlnet.families.filling import fill, read_structure
from lib_controlnet.gate import own_module
from lib_controlnet.nets.style_adapter import StyleAdapter, StyleParams, read_style_params

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from torch import Tensor

    from lib_controlnet.engine.injection import Rows
    from lib_controlnet.engine.network import ActiveControl, Embeddings, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Call, Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.families.attention import CrossAttention
    from lib_controlnet.files.checkpoint import Checkpoint

LAST_STATES: Final = own_module("embedding").LAST
"""What is read of an embedding."""

PREPROCESSOR: Final = "clip_vision"

AT_ONCE: Final = 4096
"""Tokens of the picture whose attention to the text is looked at together."""


class StyleNetwork(ControlNetwork):
    """A loaded style adapter: its tokens are multiplied by the strength, modes mean nothing."""

    family = "T2I-Adapter (style)"
    layers = 1
    cond_only = True
    has_modes = False
    is_additive = False
    module: StyleAdapter

    def __init__(self, name: str, module: StyleAdapter, base: BaseModel) -> None:
        self.name = name
        self.module = module
        self.base = base
        read = ((LAST_STATES, module.params.width),)
        self.wants = Guide(GuideKind.EMBEDDING, tensors=read, preprocessor=PREPROCESSOR)

    def bind(self, terms: Terms, guide: Embeddings, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`."""
        return StyleControl(self, terms, guide, info)


class StyleControl(AttentionControl):
    """One unit in one pass.

    The text's tokens are not touched, so rows without style are as they were. What the host's
    attention to the text gives is mixed with that to the style's tokens in the proportion that both
    have in one softmax over all. Tokens of several units stand one behind the other, as in the
    authors' code: each unit's are mixed in the proportion that they have among all.
    """

    network: StyleNetwork

    def __init__(
        self, network: StyleNetwork, terms: Terms, embeddings: Embeddings, info: PassInfo
    ) -> None:
        everywhere = (1.0,) * count_transformers(info.base)
        terms, strength = dataclasses.replace(terms, strengths=everywhere), terms.strengths[0]
        super().__init__(network, terms, embeddings, info)
        self._strength = strength
        self._places: Places | None = None
        self._text_keys: dict[str, Tensor] = {}
        self._others: list[StyleControl] = []
        self._step: StepContext | None = None

    @classmethod
    def attach_all(cls, controls: Sequence[ActiveControl], places: Places) -> None:
        """Attach them, each knowing of the others; see `ActiveControl.attach_all`."""
        every = [control for control in controls if isinstance(control, cls)]
        for control in every:
            control._others = [other for other in every if other is not control]
        super().attach_all(controls, places)

    @property
    def sort_key(self) -> tuple[object, ...]:
        """See `ActiveControl.sort_key`."""
        return (*super().sort_key, self._strength)

    def attach(self, places: Places) -> None:
        """Ask for the text's keys, too."""
        super().attach(places)
        self._places = places
        for layer in self.layers:
            places.module(f"{layer.path}.to_k", after=partial(self._note_keys, layer.path))

    @property
    def made_of(self) -> tuple[Hashable, ...]:
        """The strength, see `AttentionControl.made_of`."""
        return (self._strength,)

    def strengths_in(self, step: StepContext) -> tuple[float, ...]:
        """The same in all layers and calls: the strength is the tokens'."""
        del step
        return self.terms.strengths

    def make_tokens(self) -> tuple[Tensor, Tensor]:
        """Tokens of the style, and none for uncond rows; see `AttentionControl.make_tokens`."""
        device, dtype = self.network.device, self.network.dtype
        made = []
        for frame in self._embeddings:
            states = torch.cat([one.tensors[LAST_STATES] for one in frame])
            tokens = self.network.module(states.to(device, dtype))
            made.append(tokens.mean(0, keepdim=True) * self._strength)
        return torch.cat(made), torch.zeros_like(made[0])

    def make_keys_values(self, layer: CrossAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Nothing yet: the host's own layers make them, see `_begin`."""
        del layer
        return tokens, tokens

    @torch.no_grad()
    def _begin(self, step: StepContext, call: Call) -> None:
        """Keys and values of a few tokens, by the layers of the present U-Net with its LoRAs."""
        super()._begin(step, call)
        self._text_keys.clear()
        self._step = step
        if not self._rows or step.context is None:
            return
        assert self._places is not None
        tokens, factor = torch.cat(self._make()).to(step.context), self.factor_in(step)
        tokens = tokens if factor == 1.0 else tokens * factor
        for layer in self.layers:
            attention = self._places.unet.get_submodule(layer.path)
            made = [attention.get_submodule(name)(tokens) for name in ("to_k", "to_v")]
            self._made[layer.path] = made[0], made[1]

    def _note_keys(self, path: str, output: Tensor, step: StepContext, again: object) -> None:
        """Keep the text's keys of the rows that the unit acts on."""
        del again
        if self._rows:
            whole = len(self._rows) == len(step.rows)
            self._text_keys[path] = output if whole else output[list(self._rows)]

    def attend(
        self, layer: CrossAttention, query: Tensor, text: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """What the style's tokens change, see `AttentionControl.attend`."""
        theirs = self._text_keys.pop(layer.path)
        theirs = theirs.repeat_interleave(len(query) // len(theirs), dim=0)
        parts, first = [], 0
        for some, seen in zip(query.split(AT_ONCE, 1), text.split(AT_ONCE, 1), strict=True):
            part = slice(first, first + some.shape[1])
            first = part.stop
            beside = [
                other.weigh(layer, self._rows, some, part, query.shape[1]) for other in self._others
            ]
            parts.append(_mix(some, seen, theirs, keys, values, beside, layer.heads))
        return torch.cat(parts, dim=1)

    def weigh(
        self, layer: CrossAttention, rows: Rows, query: Tensor, part: slice, tokens: int
    ) -> Tensor:
        """How much the style is looked at beside another unit's.

        Args:
            layer: the layer.
            rows: of the call, that the other one acts on.
            query: theirs (n, m, width).
            part: which of the picture's tokens these are.
            tokens: of the whole picture.

        Returns:
            Logarithm of the sum of the exponents of its scores, (n, heads, m); -inf where the unit
            does not act.
        """
        step, tiles = self._step, len(query) // len(rows)
        found = query.new_full((len(query), layer.heads, query.shape[1]), -math.inf).float()
        mine = [number for number, row in enumerate(rows) if row in self._rows]
        if not mine or step is None:
            return found
        places = [number * tiles + tile for number in mine for tile in range(tiles)]
        owners = self._owners_of(step, tuple(rows[number] for number in mine))
        keys = self._made[layer.path][0].to(query)[owners.repeat_interleave(tiles)]
        q, k = (_split_heads(x, layer.heads) for x in (query[places], keys))
        weighed = (q * q.shape[-1] ** -0.5 @ k.mT).logsumexp(-1)
        if self.terms.region is not None:
            mask = self.terms.region.at(token_size(step.x, tokens, self.terms.name), weighed)
            weighed = weighed + mask.flatten()[part].log()
        found[places] = weighed
        return found

    def release(self) -> None:
        """Forget what was made for the pass."""
        super().release()
        self._text_keys.clear()
        self._others, self._step = [], None


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    return rearrange(tokens.float(), "n t (h d) -> n h t d", h=heads)


def _mix(
    query: Tensor,
    text: Tensor,
    theirs: Tensor,
    keys: Tensor,
    values: Tensor,
    beside: Sequence[Tensor],
    heads: int,
) -> Tensor:
    """The difference that further tokens make to an attention.

    Args:
        query: (n, m, width).
        text: the attention to the present tokens, as `query`.
        theirs: keys of the present tokens (n, t, width).
        keys: of the further ones, (n, s, width).
        values: the same.
        beside: see `StyleControl.weigh`, of units that do the same.
        heads: of the attention.
    """
    q, seen, there, k, v = (_split_heads(x, heads) for x in (query, text, theirs, keys, values))
    q = q * q.shape[-1] ** -0.5
    own = q @ k.mT
    rest = reduce(torch.logaddexp, beside, (q @ there.mT).logsumexp(-1))
    share = torch.sigmoid(own.logsumexp(-1) - rest)
    change = (own.softmax(-1) @ v - seen) * share[..., None]
    return rearrange(change, "n h t d -> n t (h d)").to(text)


class StyleFamily(ControlFamily):
    """Loads style adapters."""

    name = "T2I-Adapter (style)"
    kinds = ("t2i_style",)
    bases = (BaseModel.SD1,)
    networks = StyleNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> StyleNetwork:
        """See `ControlFamily.tiny`."""
        module = randomize(StyleAdapter(StyleParams(16, base.shape.context_dim, 4, 1)), seed)
        return StyleNetwork("tiny", module, base.shape.kind)

    def preprocessor_for(self, ckpt: Checkpoint) -> str:
        """See `ControlFamily.preprocessor_for`."""
        del ckpt
        return PREPROCESSOR

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Compare the text's width with the base's, see `ControlFamily.check`."""
        _check_base(ckpt, _read(ckpt), base)

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> StyleNetwork:
        """Build the network and fill it, see `ControlFamily.load`."""
        params = _read(ckpt)
        _check_base(ckpt, params, base)
        with torch.device("meta"):
            module = StyleAdapter(params)
        fill(ckpt, module, dtype, device)
        return StyleNetwork(ckpt.name, module, base.shape.kind)


def _read(ckpt: Checkpoint) -> StyleParams:
    return read_structure(ckpt, lambda: read_style_params(ckpt.shapes))


def _check_base(ckpt: Checkpoint, params: StyleParams, base: BaseUNet) -> None:
    if (base.shape.kind, base.shape.context_dim) == (BaseModel.SD1, params.context):
        return
    msg = (
        f"control model {ckpt.name} is made for SD1 (context {params.context}), the loaded "
        f"checkpoint {base.name} is {base.shape}; choose a control model made for "
        f"{base.shape.kind}"
    )
    raise WrongBaseModelError(msg)
