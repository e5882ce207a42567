"""Latent diffusion U-Net with the block structure and key names of SD1.x, SD2.x and SDXL.

Constructor arguments carry the names of the published YAML files. Feature maps are
(b, c, h, w), the time embedding `emb` is (b, 4 * model_channels).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import SpatialTransformer
from .shared import cldm

timestep_embedding = cldm.timestep_embedding
ResBlock = cldm.ResBlock


class Upsample(nn.Module):
    """Double the size by nearest neighbour, then a convolution `conv`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class TimestepEmbedSequential(nn.Sequential):
    """Sequential that hands the time embedding and the context to the layers wanting them."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None = None) -> Tensor:
        """Run the layers on x (b, c, h, w)."""
        return call_layers(self, x, emb, context)


def call_layers(
    layers: Iterable[nn.Module], x: Tensor, emb: Tensor, context: Tensor | None = None
) -> Tensor:
    """Run layers on x (b, c, h, w), each with what it wants."""
    for layer in layers:
        if isinstance(layer, ResBlock):
            x = layer(x, emb)
        elif isinstance(layer, SpatialTransformer):
            x = layer(x, context)
        else:
            x = layer(x)
    return x


def call_block(block: nn.Module, *args: Tensor | None) -> Tensor:
    """Run a block as a module."""
    return block(*args)


class UNetModel(nn.Module):
    """Noise predictor: encoder `input_blocks`, `middle_block`, decoder `output_blocks`."""

    def __init__(
        self,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        image_size: int = 32,
        num_heads: int = -1,
        num_head_channels: int = -1,
        use_spatial_transformer: bool = True,
        transformer_depth: int | Sequence[int] = 1,
        context_dim: int | None = None,
        use_linear_in_transformer: bool = False,
        num_classes: int | str | None = None,
        adm_in_channels: int | None = None,
        legacy: bool = False,
        **ignored: object,
    ) -> None:
        """Build the network; names as in the YAML of a checkpoint.

        Args:
            attention_resolutions: downsampling factors whose levels have transformers.
            transformer_depth: blocks per transformer, one number or one for each level.
            num_heads, num_head_channels: exactly one is given, the other is -1.
            num_classes: None, a count (SD class labels), or "sequential" (SDXL vector `y`).
            legacy, ignored: accepted because published YAML files set them
                (`use_checkpoint`, `use_fp16`, ...); they change nothing here.
        """
        super().__init__()
        self.call_block = call_block
        if not use_spatial_transformer:
            msg = "only U-Nets with use_spatial_transformer: True are supported"
            raise ValueError(msg)
        if (num_heads == -1) == (num_head_channels == -1):
            msg = f"give num_heads or num_head_channels, got {num_heads} and {num_head_channels}"
            raise ValueError(msg)
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.num_res_blocks = model_channels, num_res_blocks
        self.channel_mult, self.context_dim = tuple(channel_mult), context_dim
        self.num_heads, self.num_head_channels = num_heads, num_head_channels
        self.use_linear = use_linear_in_transformer
        self.attention_resolutions = tuple(attention_resolutions)
        self.num_classes = num_classes
        self.depths = _depth_per_level(transformer_depth, len(self.channel_mult))
        self.emb_channels = model_channels * 4
        self.time_embed = cldm._two_layers(model_channels, self.emb_channels)
        if num_classes is not None:
            self.label_emb = _label_embedding(num_classes, adm_in_channels, self.emb_channels)
        skips = self._build_encoder()
        width = skips[-1]
        middle = [ResBlock(width, width, self.emb_channels)]
        if self.depths[-1]:
            middle.append(self._transformer(width, self.depths[-1]))
        middle.append(ResBlock(width, width, self.emb_channels))
        self.middle_block = TimestepEmbedSequential(*middle)
        self._build_decoder(skips)
        self.out = nn.Sequential(
            nn.GroupNorm(32, model_channels),
            nn.SiLU(),
            nn.Conv2d(model_channels, out_channels, 3, padding=1),
        )
        blocks = [block for block in self.modules() if isinstance(block, ResBlock)]
        for layer in (self.out[2], *(block.out_layers[3] for block in blocks)):
            for p in layer.parameters():
                nn.init.zeros_(p)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, to which the input is cast."""
        return next(self.input_blocks.parameters()).dtype

    def _transformer(self, width: int, depth: int) -> SpatialTransformer:
        heads = self.num_heads if self.num_heads != -1 else width // self.num_head_channels
        return SpatialTransformer(width, heads, depth, self.context_dim, self.use_linear)

    def _layers(self, width_in: int, width_out: int, level: int) -> list[nn.Module]:
        layers: list[nn.Module] = [ResBlock(width_in, width_out, self.emb_channels)]
        if 2**level in self.attention_resolutions and self.depths[level]:
            layers.append(self._transformer(width_out, self.depths[level]))
        return layers

    def _build_encoder(self) -> list[int]:
        """Fill `input_blocks`; the width of every skip, in order."""
        width = self.model_channels
        first = nn.Conv2d(self.in_channels, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(first)])
        skips = [width]
        for level, mult in enumerate(self.channel_mult):
            for _ in range(self.num_res_blocks):
                out = mult * self.model_channels
                layers = self._layers(width, out, level)
                self.input_blocks.append(TimestepEmbedSequential(*layers))
                width = out
                skips.append(width)
            if level != len(self.channel_mult) - 1:
                self.input_blocks.append(TimestepEmbedSequential(cldm.Downsample(width, width)))
                skips.append(width)
        return skips

    def _build_decoder(self, skips: list[int]) -> None:
        """Fill `output_blocks`, consuming the skip widths from the end."""
        skips = list(skips)
        width = skips[-1]
        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            out = mult * self.model_channels
            for i in range(self.num_res_blocks + 1):
                layers = self._layers(width + skips.pop(), out, level)
                width = out
                if level and i == self.num_res_blocks:
                    layers.append(Upsample(width))
                self.output_blocks.append(TimestepEmbedSequential(*layers))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None = None,
        context: Tensor | None = None,
        y: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        """Predict the noise in x.

        Args:
            x: noisy latent (b, in_channels, h, w), already scaled for the model.
            timesteps: (b,), 0 to 999, may be fractional.
            context: text tokens (b, n, context_dim).
            y: vector condition (b, adm_in_channels), or class labels (b,).

        Returns:
            (b, out_channels, h, w) in x's type.
        """
        emb = timestep_embedding(timesteps, self.model_channels).to(self.dtype)
        emb = self.time_embed(emb)
        if self.num_classes is not None:
            emb = emb + self.label_emb(y if y.dtype == torch.long else y.to(self.dtype))
        h = x.type(self.dtype)
        context = None if context is None else context.type(self.dtype)
        hs = []
        for block in self.input_blocks:
            h = self.call_block(block, h, emb, context)
            hs.append(h)
        h = self.call_block(self.middle_block, h, emb, context)
        for block in self.output_blocks:
            skip = hs.pop()
            if h.shape[-2:] != skip.shape[-2:]:
                h = F.interpolate(h, skip.shape[-2:], mode="nearest")
            h = self.call_block(block, torch.cat([h, skip], dim=1), emb, context)
        return self.out(h).type(x.dtype)


def _label_embedding(num_classes: int | str, adm: int | None, width: int) -> nn.Module:
    if isinstance(num_classes, int):
        return nn.Embedding(num_classes, width)
    if num_classes != "sequential" or adm is None:
        msg = f"num_classes {num_classes!r} with adm_in_channels {adm} is not supported"
        raise ValueError(msg)
    return nn.Sequential(cldm._two_layers(adm, width))


def _depth_per_level(depth: int | Sequence[int], levels: int) -> list[int]:
    depths = [depth] * levels if isinstance(depth, int) else list(depth)
    if len(depths) != levels:
        msg = f"transformer_depth has {len(depths)} entries, channel_mult has {levels}"
        raise ValueError(msg)
    return depths
