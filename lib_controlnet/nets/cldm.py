"""ControlNet: a copy of the U-Net's encoder that reads the hint (Zhang et al., arXiv:2302.05543).

Module names follow the original checkpoints (`input_blocks`, `zero_convs`, ...). Feature maps are
(b, c, h, w), tokens (b, n, c). Nothing here draws random numbers: networks are built on the meta
device and filled from a file, see `families/controlnet.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .layout import Conv3x3, GroupNorm  # relative: the small WebUI takes all of them by path
from .read_text import ReadText
from .strips import run_in_strips

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class BlockParams:
    """One input block, or one part of the middle block.

    Attributes:
        kind: `conv` (the first block), `res` or `down`.
        depth: transformer blocks after the res block; 0 for none.
        heads: attention heads of that transformer.
        linear: it projects with linear layers instead of 1x1 convolutions.
    """

    kind: str
    width_in: int
    width_out: int
    depth: int = 0
    heads: int = 1
    linear: bool = False


@dataclass(frozen=True)
class ControlNetParams:
    """Hyper-parameters of a ControlNet, all of them read from tensor shapes.

    Attributes:
        blocks: the input blocks, shallowest first.
        middle: parts of the middle block by position: 0 res, 1 transformer, 2 res. SDXL "small"
            has only part 0; an absent part is the identity.
        hint_widths: channels between the hint block's convolutions, picture channels first.
    """

    model_channels: int
    in_channels: int
    context_dim: int
    adm_channels: int | None
    blocks: tuple[BlockParams, ...]
    middle: Mapping[int, BlockParams]
    hint_widths: tuple[int, ...]


_MAX_BLOCKS: Final = 100
"""Real networks have 12; a file with more has tensors too many, and each is looked for in all."""


def read_params(shapes: Shapes, heads: Callable[[str, int], int]) -> ControlNetParams:
    """Derive every hyper-parameter from the shapes of a file's tensors.

    Args:
        shapes: tensor shapes by LDM name.
        heads: from block name and width to the number of attention heads.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    names = list(shapes)
    text = [shapes[name][1] for name in names if name.endswith("attn2.to_k.weight")]
    label = shapes.get("label_emb.0.0.weight")
    blocks: list[BlockParams] = []
    while len(blocks) < _MAX_BLOCKS and any(
        name.startswith(f"input_blocks.{len(blocks)}.") for name in names
    ):
        blocks.append(_read_block(shapes, f"input_blocks.{len(blocks)}", heads))
    middle = {}
    for part in range(3):
        if any(name.startswith(f"middle_block.{part}.") for name in names):
            middle[part] = _read_middle(shapes, part, heads)
    hint = [
        name for name in names if name.startswith("input_hint_block.") and name.endswith(".weight")
    ]
    hint.sort(key=lambda name: int(name.split(".")[1]))
    return ControlNetParams(
        model_channels=shapes["input_blocks.0.0.weight"][0],
        in_channels=shapes["input_blocks.0.0.weight"][1],
        context_dim=text[0] if text else 0,
        adm_channels=None if label is None else label[1],
        blocks=tuple(blocks),
        middle=middle,
        hint_widths=(shapes["input_hint_block.0.weight"][1], *(shapes[name][0] for name in hint)),
    )


def _read_block(shapes: Shapes, name: str, heads: Callable[[str, int], int]) -> BlockParams:
    if f"{name}.0.weight" in shapes:
        width_out, width_in = shapes[f"{name}.0.weight"][:2]
        return BlockParams("conv", width_in, width_out)
    if f"{name}.0.op.weight" in shapes:
        width_out, width_in = shapes[f"{name}.0.op.weight"][:2]
        return BlockParams("down", width_in, width_out)
    width_out, width_in = shapes[f"{name}.0.in_layers.2.weight"][:2]
    depth, linear = _read_transformer(shapes, f"{name}.1")
    count = heads(f"{name}.1", width_out) if depth else 1
    return BlockParams("res", width_in, width_out, depth, count, linear)


def _read_middle(shapes: Shapes, part: int, heads: Callable[[str, int], int]) -> BlockParams:
    name = f"middle_block.{part}"
    if part != 1:
        width_out, width_in = shapes[f"{name}.in_layers.2.weight"][:2]
        return BlockParams("res", width_in, width_out)
    width = shapes[f"{name}.norm.weight"][0]
    depth, linear = _read_transformer(shapes, name)
    return BlockParams("transformer", width, width, depth, heads(name, width), linear)


def _read_transformer(shapes: Shapes, name: str) -> tuple[int, bool]:
    """Depth of the transformer of that name (0 without one), and whether it projects linearly."""
    start = f"{name}.transformer_blocks."
    depth = len({key[len(start) :].split(".")[0] for key in shapes if key.startswith(start)})
    return depth, len(shapes.get(f"{name}.proj_in.weight", ())) == 2


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoids (b, width) of fractional timesteps (b,), cosines first; always float32.

    Half precision would round timesteps above 512 by up to 0.25.
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000.0) * steps / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions; the time embedding is added between them."""

    def __init__(self, width_in: int, width_out: int, emb_width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            GroupNorm(32, width_in), nn.SiLU(), Conv3x3(width_in, width_out)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_width, width_out))
        self.out_layers = nn.Sequential(
            GroupNorm(32, width_out),
            nn.SiLU(),
            nn.Identity(),  # dropout in training; keeps the published numbering
            Conv3x3(width_out, width_out),
        )
        self.skip_connection: nn.Module = nn.Identity()
        if width_in != width_out:
            self.skip_connection = nn.Conv2d(width_in, width_out, 1)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Map h (b, width_in, h, w) to (b, width_out, h, w), given emb (b, emb_width)."""
        inner = self.in_layers(h) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(h) + self.out_layers(inner)


class Attention(nn.Module):
    """Multi-head attention from tokens to a context."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: Tensor, context: Tensor | ReadText) -> Tensor:
        """Attend from tokens (b, n, width) to context (b, m, context_width)."""
        q = self._split(self.to_q(tokens))
        k, v = context.pair(self) if isinstance(context, ReadText) else self.read(context)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b heads n c -> b n (heads c)"))

    def read(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (b, heads, m, c) of a context (b, m, context_width)."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def _split(self, tokens: Tensor) -> Tensor:
        return rearrange(tokens, "b n (heads c) -> b heads n c", heads=self.heads)


class GatedLinear(nn.Module):
    """GEGLU: value times the exact GELU of a gate; the value is the first half."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width_in, width_out * 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (b, n, width_in) to (b, n, width_out)."""
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """Gated linear unit, four times wider inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GatedLinear(width, width * 4), nn.Identity(), nn.Linear(width * 4, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, n, width) to the same shape."""
        return self.net(tokens)


class TransformerBlock(nn.Module):
    """Self attention, attention to the text, feed forward; each with a residual."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.attn2 = Attention(width, context_width, heads)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: Tensor, context: Tensor | ReadText) -> Tensor:
        """Map tokens (b or fewer, n, width) to (b, n, width), given the text (b, m, ...).

        Fewer: see `count_distinct`.
        """
        normed = self.norm1(tokens)
        tokens = repeat_rows(self.attn1(normed, normed) + tokens, len(context))
        tokens = self.attn2(self.norm2(tokens), context) + tokens
        return self.ff(self.norm3(tokens)) + tokens


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, with an outer residual."""

    def __init__(self, params: BlockParams, context_width: int) -> None:
        super().__init__()
        width = params.width_out
        self.linear = params.linear
        self.norm = GroupNorm(32, width, eps=1e-6)
        self.proj_in: nn.Module = nn.Linear(width, width)
        self.proj_out: nn.Module = nn.Linear(width, width)
        if not self.linear:
            self.proj_in, self.proj_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, context_width, params.heads) for _ in range(params.depth)
        )

    def forward(self, h: Tensor, context: Tensor | ReadText) -> Tensor:
        """Map h (b or fewer, c, h, w) to (b, c, h, w), given the text (b, m, context_width)."""
        height = h.shape[-2]
        tokens = self.norm(h)
        if self.linear:
            tokens = self.proj_in(rearrange(tokens, "b c h w -> b (h w) c"))
        else:
            tokens = rearrange(self.proj_in(tokens), "b c h w -> b (h w) c")
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        h = repeat_rows(h, len(tokens))
        if self.linear:
            return rearrange(self.proj_out(tokens), "b (h w) c -> b c h w", h=height) + h
        return self.proj_out(rearrange(tokens, "b (h w) c -> b c h w", h=height)) + h


class Downsample(nn.Module):
    """Halve the size with a strided convolution."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.op = Conv3x3(width_in, width_out, stride=2)

    def forward(self, h: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, ceil(h / 2), ceil(w / 2))."""
        return self.op(h)


class ControlBlock(nn.Sequential):
    """Layers of one level; hands each the time embedding or the text it wants."""

    def forward(  # type: ignore[override]  # its layers differ in what they want
        self, h: Tensor, emb: Tensor, context: Tensor | ReadText
    ) -> Tensor:
        """Run the layers on h (b or fewer, c, h, w)."""
        for layer in self:
            if isinstance(layer, ResBlock):
                h = layer(h, emb[: len(h)])
            elif isinstance(layer, SpatialTransformer):
                h = layer(h, context)
            else:
                h = layer(h)
        return h


def count_distinct(given: Sequence[Tensor | None]) -> int:
    """Rows that differ before they read the text: half of them, or all.

    A cond and an uncond row are of one latent. Asked on the CPU alone: a graphics card would have
    to be waited for.

    Args:
        given: all that they read until then, each (1 or n, ...), the first (n, ...).
    """
    tensors = [tensor for tensor in given if tensor is not None]
    rows = len(tensors[0])
    half, rest = divmod(rows, 2)
    if rest or tensors[0].device.type != "cpu":
        return rows
    pairs = ((one[:half], one[half:]) for one in tensors if len(one) > 1)
    return half if all(torch.equal(first, second) for first, second in pairs) else rows


def repeat_rows(tensor: Tensor, rows: int) -> Tensor:
    """The tensor with as many rows, see `count_distinct`; in the layout that it has."""
    return tensor if len(tensor) == rows else torch.cat([tensor] * (rows // len(tensor)))


class ControlNet(nn.Module):
    """Encoder copy, hint block and zero convolutions of one ControlNet."""

    def __init__(self, params: ControlNetParams) -> None:
        """Build the layers; use inside `torch.device("meta")` to allocate nothing."""
        super().__init__()
        self.params = params
        width, self.emb_width = params.model_channels, params.model_channels * 4
        self.time_embed = _two_layers(width, self.emb_width)
        if params.adm_channels is not None:
            self.label_emb = nn.Sequential(_two_layers(params.adm_channels, self.emb_width))
        self.input_hint_block = _hint_block(params.hint_widths)
        self.input_blocks = nn.ModuleList(self._block(block) for block in params.blocks)
        self.zero_convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(block.width_out, block.width_out, 1)) for block in params.blocks
        )
        self.middle_block = ControlBlock(
            *(
                self._part(params.middle[i]) if i in params.middle else nn.Identity()
                for i in range(3)
            )
        )
        middle = params.blocks[-1].width_out
        self.middle_block_out = nn.Sequential(nn.Conv2d(middle, middle, 1))

    def _part(self, params: BlockParams) -> nn.Module:
        if params.kind == "transformer":
            return SpatialTransformer(params, self.params.context_dim)
        return ResBlock(params.width_in, params.width_out, self.emb_width)

    def _block(self, params: BlockParams) -> ControlBlock:
        if params.kind == "conv":
            return ControlBlock(nn.Conv2d(params.width_in, params.width_out, 3, padding=1))
        if params.kind == "down":
            return ControlBlock(Downsample(params.width_in, params.width_out))
        layers: list[nn.Module] = [self._part(params)]
        if params.depth:
            layers.append(SpatialTransformer(params, self.params.context_dim))
        return ControlBlock(*layers)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights, in which the network computes."""
        return next(self.time_embed.parameters()).dtype

    def encode_hint(self, hint: Tensor, strips: int = 1) -> Tensor:
        """Map the hint (b, 3, H, W) to the guided hint (b, model_channels, H / 8, W / 8)."""
        return run_in_strips(self.input_hint_block, hint.to(self.dtype), strips)

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | ReadText,
        y: Tensor | None,
        guided_hint: Tensor,
        wanted: Sequence[bool],
        extra: Tensor | None = None,
        between: Callable[[int, Tensor], Tensor] | None = None,
    ) -> list[Tensor | None]:
        """Compute the wanted residuals, see `ControlNetNetwork.evaluate`; in the own precision.

        What a network has beside its blocks is `between`: it gets the number of each input block
        and its output, and gives what goes on.
        """
        outs: list[Tensor | None] = [None] * len(wanted)
        if not any(wanted):
            return outs
        deepest = max(i for i, want in enumerate(wanted) if want)
        emb = self.time_embed(timestep_embedding(timesteps, self.params.model_channels).to(x.dtype))
        if self.params.adm_channels is not None:
            emb = emb + self.label_emb(y)
        if extra is not None:
            emb = emb + extra
        rows = len(x)
        given = (x, timesteps, y, guided_hint, extra)
        h = x[: count_distinct(given) if between is None else rows]
        for i, (block, zero_conv) in enumerate(
            zip(self.input_blocks, self.zero_convs, strict=True)
        ):
            h = block(h, emb, context)
            if i == 0:
                h = h + guided_hint[: len(h)]
            h = h if between is None else between(i, h)
            if wanted[i]:
                outs[i] = repeat_rows(zero_conv(h), rows)
            if i == deepest:
                return outs
        h = self.middle_block(h, emb, context)
        outs[-1] = repeat_rows(self.middle_block_out(h), rows)
        return outs


def _two_layers(width_in: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, width), nn.SiLU(), nn.Linear(width, width))


def _hint_block(widths: Sequence[int]) -> nn.Sequential:
    """Convolutions between the given widths; every second one, but the last, halves the size."""
    layers: list[nn.Module] = []
    count = len(widths) - 1
    for i, (width_in, width_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        stride = 2 if i % 2 == 0 and 0 < i < count - 1 else 1
        layers += [nn.Conv2d(width_in, width_out, 3, stride=stride, padding=1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
