"""LaMa: fills holes of any shape, seeing the whole picture in its frequencies.

Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions", WACV 2022,
arXiv:2109.07161; the convolution is Chi, Jiang, Mu, "Fast Fourier Convolution", NeurIPS 2020.
Key names of the published generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._load import fill

Split = tuple[Tensor, "Tensor | None"]
"""Local and global channels of a signal, each (b, c, h, w); early layers have local ones only."""


@dataclass(frozen=True)
class LamaParams:
    """Sizes of the generator; the defaults are those of the published file.

    Attributes:
        base: channels of the first layer, doubled by each of the three halvings.
        blocks: residual blocks between the halvings and the doublings.
        spectral: share of the channels that are global, in the blocks.
    """

    base: int = 64
    blocks: int = 18
    spectral: float = 0.75


class FourierUnit(nn.Module):
    """A 1 x 1 convolution of the spectrum, so that every output pixel sees every input pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer = nn.Conv2d(channels * 2, channels * 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels * 2)

    def forward(self, x: Tensor) -> Tensor:
        # Half precision knows only spectra whose sides are powers of two.
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")
        parts = torch.stack((spectrum.real, spectrum.imag), dim=2)
        parts = rearrange(parts, "b c parts h w -> b (c parts) h w").to(x.dtype)
        parts = F.relu(self.bn(self.conv_layer(parts))).float()
        real, imaginary = rearrange(parts, "b (c parts) h w -> parts b c h w", parts=2)
        mixed = torch.complex(real, imaginary)
        return torch.fft.irfft2(mixed, s=x.shape[-2:], norm="ortho").to(x.dtype)


class SpectralTransform(nn.Module):
    """The way from global to global channels: a Fourier unit with a residual, at half width."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.conv1 = nn.Sequential(
            nn.Conv2d(channels_in, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU()
        )
        self.fu = FourierUnit(half)
        self.conv2 = nn.Conv2d(half, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        return self.conv2(x + self.fu(x))


class FastFourierConv(nn.Module):
    """Convolutions between the local and global parts, except global to global (spectral)."""

    def __init__(self, given: tuple[int, int], made: tuple[int, int], **form: int) -> None:
        super().__init__()

        def conv(channels_in: int, channels_out: int) -> nn.Conv2d:
            return nn.Conv2d(channels_in, channels_out, bias=False, padding_mode="reflect", **form)

        (local_in, global_in), (local_out, global_out) = given, made
        self.convl2l = conv(local_in, local_out)
        self.convl2g = conv(local_in, global_out) if global_out else None
        self.convg2l = conv(global_in, local_out) if global_in else None
        both = global_in and global_out
        self.convg2g = SpectralTransform(global_in, global_out) if both else None

    def forward(self, x: Split) -> Split:
        x_local, x_global = x
        local = self.convl2l(x_local)
        if self.convg2l is not None:
            local = local + self.convg2l(x_global)
        if self.convl2g is None:
            return local, None
        overall = self.convl2g(x_local)
        if self.convg2g is not None:
            overall = overall + self.convg2g(x_global)
        return local, overall


class FourierLayer(nn.Module):
    """Fast Fourier convolution, batch normalisation and ReLU of both parts."""

    def __init__(self, given: tuple[int, int], made: tuple[int, int], **form: int) -> None:
        super().__init__()
        self.ffc = FastFourierConv(given, made, **form)
        self.bn_l = nn.BatchNorm2d(made[0])
        self.bn_g = nn.BatchNorm2d(made[1]) if made[1] else None

    def forward(self, x: Tensor | Split) -> Split:
        local, overall = self.ffc((x, None) if isinstance(x, Tensor) else x)
        local = F.relu(self.bn_l(local))
        return local, None if self.bn_g is None else F.relu(self.bn_g(overall))


class FourierBlock(nn.Module):
    """Two Fourier layers with a residual."""

    def __init__(self, channels: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = FourierLayer(channels, channels, kernel_size=3, padding=1)
        self.conv2 = FourierLayer(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Split) -> Split:
        local, overall = self.conv2(self.conv1(x))
        return x[0] + local, x[1] + overall


class Concat(nn.Module):
    """Local and global channels in one tensor."""

    def forward(self, x: Split) -> Tensor:
        return torch.cat([part for part in x if part is not None], dim=1)


class Lama(nn.Module):
    """Picture whose holes are black, and the holes, to the whole picture.

    Input (b, 4, h, w): RGB in [0, 1], 0 in the holes, and 1 where a hole is. Output (b, 3, h, w)
    in [0, 1]. Sides are multiples of 8, at least 16.
    """

    def __init__(self, params: LamaParams) -> None:
        super().__init__()
        base, widest = params.base, params.base * 8
        overall = int(widest * params.spectral)
        split = widest - overall, overall
        halve = {"kernel_size": 3, "stride": 2, "padding": 1}
        layers: list[nn.Module] = [
            nn.ReflectionPad2d(3),
            FourierLayer((4, 0), (base, 0), kernel_size=7),
            FourierLayer((base, 0), (base * 2, 0), **halve),
            FourierLayer((base * 2, 0), (base * 4, 0), **halve),
            FourierLayer((base * 4, 0), split, **halve),
            *(FourierBlock(split) for _ in range(params.blocks)),
            Concat(),
        ]
        for width in (widest, widest // 2, widest // 4):
            layers += [
                nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1),
                nn.BatchNorm2d(width // 2),
                nn.ReLU(),
            ]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(base, 3, 7), nn.Sigmoid()]
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def build(state: Mapping[str, Tensor]) -> Lama:
    """The network of a published file; the number of channels and blocks is read from its keys."""
    blocks = sum(key.endswith(".conv2.bn_l.bias") for key in state)
    params = LamaParams(base=len(state["model.1.bn_l.bias"]), blocks=blocks)
    return fill(lambda: Lama(params), state)
