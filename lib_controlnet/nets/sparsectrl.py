"""SparseCtrl: a ControlNet with motion modules (Guo et al., arXiv:2311.16933).

A motion module lets each pixel of a frame see the same pixel of the clip's other frames. Names in
it follow the original checkpoints. Feature maps are (clips times frames, c, h, w), the frames of a
clip side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from einops import rearrange
from torch import Tensor, nn

from lib_controlnet.nets.cldm import Attention, ControlNet, ControlNetParams, FeedForward, Shapes
from lib_controlnet.nets.layout import GroupNorm
from lib_controlnet.nets.read_text import ReadText

HEADS: Final = 8
"""Heads of the published models' attention over frames, which no shape tells."""

PIXELS_AT_ONCE: Final = 2**12
"""Sequences of an attention; graphics cards' own kernels take 2**16 at most, times the heads."""


@dataclass(frozen=True)
class MotionParams:
    """One motion module, read from tensor shapes.

    Attributes:
        width: channels of the block that it follows.
        blocks: its transformer blocks.
        attentions: of each block.
        frames: positions that it knows.
    """

    width: int
    blocks: int
    attentions: int
    frames: int


def read_motion(shapes: Shapes) -> dict[int, MotionParams]:
    """Hyper-parameters of the motion modules, by the number of the input block before them.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    numbers = {name.split(".")[1] for name in shapes if name.startswith("motion_modules.")}
    return {int(number): _read_one(shapes, number) for number in sorted(numbers, key=int)}


def _read_one(shapes: Shapes, number: str) -> MotionParams:
    start = f"motion_modules.{number}."
    inner = [name[len(start) :].split(".") for name in shapes if name.startswith(start)]
    blocks = {parts[1] for parts in inner if parts[0] == "transformer_blocks"}
    attentions = {parts[3] for parts in inner if parts[2:3] == ["attention_blocks"]}
    position = "transformer_blocks.0.attention_blocks.0.pos_encoder.pe"
    return MotionParams(
        width=shapes[f"{start}proj_in.weight"][0],
        blocks=len(blocks),
        attentions=len(attentions),
        frames=shapes[f"{start}{position}"][1],
    )


class Positions(nn.Module):
    """A vector for each position in a clip; published files hold sinusoids."""

    def __init__(self, frames: int, width: int) -> None:
        super().__init__()
        steps = torch.arange(0, width, 2, dtype=torch.float32) / width
        angles = torch.arange(frames, dtype=torch.float32)[:, None] * 10000.0**-steps
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        self.register_buffer("pe", table[None, :, :width])

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the positions to tokens (n, frames, width)."""
        return tokens + self.get_buffer("pe")[:, : tokens.shape[1]]


class TemporalAttention(Attention):
    """Attention among the frames of a clip, which know their places."""

    def __init__(self, params: MotionParams) -> None:
        super().__init__(params.width, params.width, HEADS)
        self.pos_encoder = Positions(params.frames, params.width)

    def forward(  # type: ignore[override]  # its context is itself
        self, tokens: Tensor
    ) -> Tensor:
        """Attend from tokens (n, frames, width) to themselves."""
        placed = self.pos_encoder(tokens)
        return super().forward(placed, placed)


class MotionBlock(nn.Module):
    """Attentions among frames and a feed forward, each with a residual."""

    def __init__(self, params: MotionParams) -> None:
        super().__init__()
        count, width = params.attentions, params.width
        self.attention_blocks = nn.ModuleList(TemporalAttention(params) for _ in range(count))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(count))
        self.ff = FeedForward(width)
        self.ff_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, frames, width) to the same shape."""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = attention(norm(tokens)) + tokens
        return self.ff(self.ff_norm(tokens)) + tokens


class MotionModule(nn.Module):
    """Transformer blocks over the frames of a clip, pixel by pixel, with an outer residual."""

    def __init__(self, params: MotionParams) -> None:
        super().__init__()
        self.norm = GroupNorm(32, params.width, eps=1e-6)
        self.proj_in = nn.Linear(params.width, params.width)
        self.transformer_blocks = nn.ModuleList(MotionBlock(params) for _ in range(params.blocks))
        self.proj_out = nn.Linear(params.width, params.width)

    def forward(self, h: Tensor, frames: int) -> Tensor:
        """Map h (clips times frames, c, h, w) to the same shape.

        As in the authors' code the norm sees one frame at a time; diffusers' sees all of a clip.
        """
        height, width = h.shape[-2:]
        tokens = rearrange(self.norm(h), "(n f) c h w -> (n h w) f c", f=frames)
        parts = [self._attend(part) for part in tokens.split(PIXELS_AT_ONCE)]
        moved = rearrange(torch.cat(parts), "(n h w) f c -> (n f) c h w", h=height, w=width)
        return moved + h

    def _attend(self, tokens: Tensor) -> Tensor:
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        return self.proj_out(tokens)


class SparseControlNet(ControlNet):
    """A ControlNet whose input blocks are followed by motion modules; it does not see the latent.

    A hint block of one convolution reads latents, a longer one pictures; both read one channel
    more, which is 1 for frames that have a hint.
    """

    def __init__(self, params: ControlNetParams, motion: Mapping[int, MotionParams]) -> None:
        super().__init__(params)
        self.motion_modules = nn.ModuleDict(
            {str(block): MotionModule(one) for block, one in motion.items()}
        )
        self.frames = min((one.frames for one in motion.values()), default=1)

    @property
    def reads_latents(self) -> bool:
        """Whether hints are latents."""
        return len(self.params.hint_widths) == 2  # what the one convolution reads and gives

    def evaluate_clips(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | ReadText,
        guided_hint: Tensor,
        wanted: Sequence[bool],
        frames: int,
    ) -> list[Tensor | None]:
        """Compute the wanted residuals of clips of `frames` rows each, see `ControlNet.forward`."""
        return self(
            *(torch.zeros_like(x), timesteps, context, None, guided_hint, wanted),
            between=partial(self._move, frames),
        )

    def _move(self, frames: int, block: int, h: Tensor) -> Tensor:
        name = str(block)
        return self.motion_modules[name](h, frames) if name in self.motion_modules else h
