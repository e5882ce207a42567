"""T2I-Adapter, full and light: a small network on the hint (Mou et al., arXiv:2302.08453).

It gives one feature map for each level of the U-Net's encoder. It sees neither noise, nor time,
nor text, so it runs once for a picture. Module names follow the original checkpoints (full:
`body.<two a level>.block1`, light: `body.<level>.body.<block>.block1`, ...). Feature maps are
(b, c, h, w). Nothing here draws random numbers: networks are built on the meta device and filled
from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lib_controlnet.nets.padding import pad_to_cells

Shapes = Mapping[str, Sequence[int]]

BLOCKS_PER_LEVEL: Final = 2
SD_PATCH: Final = 8
SDXL_PATCH: Final = 16
SDXL_HALVED_LEVEL: Final = 2
"""The one level of SDXL's adapter that halves the size."""


@dataclass(frozen=True)
class AdapterBlockParams:
    """One block.

    Attributes:
        kernel: size of its second convolution.
        down: how it halves the size before: "mean", "conv", or "" for not at all.
    """

    width_in: int
    width_out: int
    kernel: int
    down: str


@dataclass(frozen=True)
class AdapterParams:
    """Hyper-parameters of a full T2I-Adapter, all of them read from tensor shapes.

    Attributes:
        hint_channels: 3 for colour hints, 1 for grey ones.
        patch: side of the squares of pixels that make one cell: 8, for SDXL 16.
        blocks: two for each level, shallowest first.
    """

    hint_channels: int
    patch: int
    blocks: tuple[AdapterBlockParams, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level's feature map."""
        return tuple(block.width_out for block in self.blocks[1::BLOCKS_PER_LEVEL])


def read_adapter_params(shapes: Shapes) -> AdapterParams:
    """Derive every hyper-parameter from the shapes of a file's tensors.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    cells = shapes["conv_in.weight"][1]
    is_sdxl = cells % SDXL_PATCH**2 == 0
    patch = SDXL_PATCH if is_sdxl else SD_PATCH
    blocks: list[AdapterBlockParams] = []
    while len(blocks) % BLOCKS_PER_LEVEL or f"body.{len(blocks)}.block1.weight" in shapes:
        name = f"body.{len(blocks)}"
        level, part = divmod(len(blocks), BLOCKS_PER_LEVEL)
        width = shapes[f"{name}.block1.weight"][0]
        halves = part == 0 and (level == SDXL_HALVED_LEVEL if is_sdxl else level > 0)
        strided = f"{name}.down_opt.op.weight" in shapes
        blocks.append(
            AdapterBlockParams(
                width_in=shapes.get(f"{name}.in_conv.weight", (width, width))[1],
                width_out=width,
                kernel=shapes[f"{name}.block2.weight"][2],
                down=("conv" if strided else "mean") if halves else "",
            )
        )
    return AdapterParams(cells // patch**2, patch, tuple(blocks))


def cut_into_cells(hint: Tensor, patch: int) -> Tensor:
    """A hint (b, c, H, W) as (b, c * patch * patch, h, w), one place for each square of pixels."""
    hint = pad_to_cells(hint, patch)
    return rearrange(hint, "b c (h p) (w q) -> b (c p q) h w", p=patch, q=patch)


class AdapterBlock(nn.Module):
    """Two convolutions with a residual; the first block of a level may halve and widen before."""

    def __init__(self, params: AdapterBlockParams) -> None:
        super().__init__()
        self.halves = params.down == "mean"
        narrow, width, kernel = params.width_in, params.width_out, params.kernel
        self.down_opt = nn.Sequential()
        if params.down == "conv":
            self.down_opt.add_module("op", nn.Conv2d(narrow, narrow, 3, stride=2, padding=1))
        self.in_conv = nn.Identity() if narrow == width else nn.Conv2d(narrow, width, 1)
        self.block1 = nn.Conv2d(width, width, 3, padding=1)
        self.block2 = nn.Conv2d(width, width, kernel, padding=kernel // 2)

    def forward(self, h: Tensor) -> Tensor:
        """Map h (b, width_in, h, w) to (b, width_out, ...), half the size where it halves.

        An odd size is rounded up, as the U-Net's strided convolutions do.
        """
        if self.halves:
            h = F.avg_pool2d(h, 2, ceil_mode=True)
        h = self.in_conv(self.down_opt(h))
        return h + self.block2(F.relu(self.block1(h)))


class T2IAdapter(nn.Module):
    """A full T2I-Adapter for SD1, SD2 or SDXL."""

    def __init__(self, params: AdapterParams) -> None:
        """Build the layers; use inside `torch.device("meta")` to allocate nothing."""
        super().__init__()
        self.params = params
        cells = params.hint_channels * params.patch**2
        self.conv_in = nn.Conv2d(cells, params.blocks[0].width_in, 3, padding=1)
        self.body = nn.ModuleList(AdapterBlock(block) for block in params.blocks)

    def forward(self, hint: Tensor) -> list[Tensor]:
        """Compute one feature map for each level.

        Args:
            hint: (b, hint_channels, H, W) in [0, 1]; sides that are no multiple of the patch are
                continued with their last pixels.

        Returns:
            (b, width, h, w) for each level: H / 8 and its halves; for SDXL two of H / 16, then
            two of H / 32.
        """
        h = self.conv_in(cut_into_cells(hint, self.params.patch))
        features = []
        for position, block in enumerate(self.body):
            h = block(h)
            if position % BLOCKS_PER_LEVEL == BLOCKS_PER_LEVEL - 1:
                features.append(h)
        return features


@dataclass(frozen=True)
class LightLevelParams:
    """One level of a light adapter.

    Attributes:
        inner: channels between its first and its last convolution.
        depth: number of blocks between them.
    """

    width_in: int
    inner: int
    width_out: int
    depth: int


@dataclass(frozen=True)
class LightParams:
    """Hyper-parameters of a light T2I-Adapter, all of them read from tensor shapes.

    Attributes:
        levels: shallowest first; the first reads the cells of the hint.
    """

    levels: tuple[LightLevelParams, ...]
    patch: int = SD_PATCH

    @property
    def hint_channels(self) -> int:
        """3 for colour hints, 1 for grey ones."""
        return self.levels[0].width_in // self.patch**2

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level's feature map."""
        return tuple(level.width_out for level in self.levels)


def read_light_params(shapes: Shapes) -> LightParams:
    """Derive every hyper-parameter from the shapes of a file's tensors.

    Raises:
        KeyError: a tensor that decides the structure is missing; its name is the argument.
    """
    levels: list[LightLevelParams] = []
    while not levels or f"body.{len(levels)}.in_conv.weight" in shapes:
        name = f"body.{len(levels)}"
        inner, width_in = shapes[f"{name}.in_conv.weight"][:2]
        depth = 0
        while f"{name}.body.{depth}.block1.weight" in shapes:
            depth += 1
        width_out = shapes[f"{name}.out_conv.weight"][0]
        levels.append(LightLevelParams(width_in, inner, width_out, depth))
    return LightParams(tuple(levels))


class LightLevel(nn.Module):
    """Blocks of few channels between two convolutions of 1x1."""

    def __init__(self, params: LightLevelParams) -> None:
        super().__init__()
        inner = params.inner
        block = AdapterBlockParams(inner, inner, 3, "")
        self.in_conv = nn.Conv2d(params.width_in, inner, 1)
        self.body = nn.Sequential(*(AdapterBlock(block) for _ in range(params.depth)))
        self.out_conv = nn.Conv2d(inner, params.width_out, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map h (b, width_in, h, w) to (b, width_out, h, w)."""
        return self.out_conv(self.body(self.in_conv(h)))


class LightAdapter(nn.Module):
    """A light T2I-Adapter (colour) for SD1 or SD2."""

    def __init__(self, params: LightParams) -> None:
        """Build the layers; use inside `torch.device("meta")` to allocate nothing."""
        super().__init__()
        self.params = params
        self.body = nn.ModuleList(LightLevel(level) for level in params.levels)

    def forward(self, hint: Tensor) -> list[Tensor]:
        """Compute one feature map for each level, see `T2IAdapter.forward`."""
        h = cut_into_cells(hint, self.params.patch)
        features: list[Tensor] = []
        for level in self.body:
            h = level(F.avg_pool2d(h, 2, ceil_mode=True) if features else h)
            features.append(h)
        return features
