"""KL autoencoder of latent diffusion with the key names of the published checkpoints.

Pictures are (b, 3, H, W) in [-1, 1]; latents (b, embed_dim, H/8, W/8) for four levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions with group norm and swish."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut: nn.Module | None = None
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, in, h, w) to (b, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class AttnBlock(nn.Module):
    """Single-head self attention over pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to the same shape."""
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(out[:, 0].transpose(1, 2).reshape(x.shape))


class Downsample(nn.Module):
    """Halve the size; pads right and below only, as the published weights expect."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, h // 2, w // 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the size by nearest neighbour, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (b, c, h, w) to (b, c, 2h, 2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    """One resolution: `block`, empty `attn`, and optionally `downsample` or `upsample`."""

    def __init__(self, width_in: int, width: int, blocks: int) -> None:
        super().__init__()
        widths = [width_in] + [width] * blocks
        self.block = nn.ModuleList(
            ResnetBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.attn = nn.ModuleList()

    def run_blocks(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class _Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(width, width)
        self.attn_1 = AttnBlock(width)
        self.block_2 = ResnetBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Encoder(nn.Module):
    """Picture (b, 3, H, W) to moments (b, 2 * z_channels, H/f, W/f)."""

    def __init__(
        self, ch: int, ch_mult: Sequence[int], num_res_blocks: int, in_channels: int, out: int
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList()
        width = ch
        for i, mult in enumerate(ch_mult):
            level = _Level(width, ch * mult, num_res_blocks)
            width = ch * mult
            if i != len(ch_mult) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = _Middle(width)
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x (b, 3, H, W)."""
        h = self.conv_in(x)
        for level in self.down:
            h = level.run_blocks(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latent (b, z_channels, h, w) to picture (b, 3, H, W)."""

    def __init__(
        self, ch: int, ch_mult: Sequence[int], num_res_blocks: int, out_ch: int, z_channels: int
    ) -> None:
        super().__init__()
        width = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z_channels, width, 3, padding=1)
        self.mid = _Middle(width)
        levels = []
        for i, mult in reversed(list(enumerate(ch_mult))):
            level = _Level(width, ch * mult, num_res_blocks + 1)
            width = ch * mult
            if i != 0:
                level.upsample = Upsample(width)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, out_ch, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Decode z (b, z_channels, h, w)."""
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level.run_blocks(h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


@dataclass(frozen=True)
class DiagonalGaussian:
    """Posterior of the latent: `mean` and `logvar`, each (b, c, h, w)."""

    mean: Tensor
    logvar: Tensor

    def mode(self) -> Tensor:
        """The mean (b, c, h, w)."""
        return self.mean

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Mean plus standard deviation times noise (drawn globally when not given)."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """Divergence from the unit Gaussian for each picture (b,), summed over elements."""
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).flatten(1).sum(1)


class AutoencoderKL(nn.Module):
    """Encoder, decoder and the two 1x1 convolutions round the latent."""

    def __init__(
        self,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        in_channels: int = 3,
        out_ch: int = 3,
        z_channels: int = 4,
        embed_dim: int = 4,
        double_z: bool = True,
        **ignored: object,
    ) -> None:
        """Build from the names of `first_stage_config.params.ddconfig`, plus `embed_dim`.

        Args:
            ignored: `resolution`, `dropout`, `attn_resolutions` (always empty), accepted
                because published YAML files set them.
        """
        super().__init__()
        moments = 2 if double_z else 1
        self.encoder = Encoder(ch, ch_mult, num_res_blocks, in_channels, moments * z_channels)
        self.decoder = Decoder(ch, ch_mult, num_res_blocks, out_ch, z_channels)
        self.quant_conv = nn.Conv2d(moments * z_channels, moments * embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)
        self.embed_dim = embed_dim
        self.factor = 2 ** (len(ch_mult) - 1)

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """Posterior of pictures x (b, 3, H, W) in [-1, 1]; unscaled latents."""
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return DiagonalGaussian(mean, logvar.clamp(-30.0, 20.0))

    def decode(self, z: Tensor) -> Tensor:
        """Pictures (b, 3, H, W), about [-1, 1], of unscaled latents z (b, embed_dim, h, w)."""
        return self.decoder(self.post_quant_conv(z))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct x through the mean of its latent."""
        return self.decode(self.encode(x).mode())


class SampledAutoencoderKL(AutoencoderKL):
    """SDXL's: `encode` gives no posterior, but a latent drawn from it."""

    def encode(self, x: Tensor) -> Tensor:
        """Unscaled latent (b, c, h, w) of pictures x (b, 3, H, W) in [-1, 1], drawn globally."""
        return super().encode(x).sample()

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruct x through the mean of its latent."""
        return self.decode(super().encode(x).mode())
