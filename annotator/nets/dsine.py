"""DSINE: normals that know the camera, refined by looking at their neighbours.

Bae, Davison (2024), arXiv:2403.00712, on an EfficientNet-B5. Computes in single precision or
better: some of its thresholds do not exist in half.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from . import efficientnet
from ._load import fill, without_prefix

GROUPS = 8
STANDARD_EPS = 1e-5
LEAST_FACING = 0.01
"""Cosine of the steepest angle to the ray at which a surface is still seen."""
TINY = 1e-8


@dataclass(frozen=True)
class Params:
    """Sizes of the network; the published file has those of the comments.

    Attributes:
        encoder: of the encoder.
        widths: channels of the decoder at 1/16 and 1/8, 1024 and 512.
        hidden: channels within the decoder's heads, 128.
        state: channels of what is carried along while refining, 64.
        inner: channels within the refinement's heads, 64.
        patch: side of the neighbourhood, 5.
        scale: how much the result is enlarged, 8.
    """

    encoder: efficientnet.Params
    widths: Sequence[int]
    hidden: int
    state: int
    inner: int
    patch: int
    scale: int


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. All numbers in pixels, (0, 0) is the picture's top left corner.

    Attributes:
        focal: distance of the picture from the pinhole.
        x, y: where the axis meets the picture.
    """

    focal: float
    x: float
    y: float

    @classmethod
    def from_angle(cls, degrees: float, height: int, width: int) -> Camera:
        """One that looks straight ahead and sees so many degrees along the longer side."""
        focal = max(height, width) / 2 / math.tan(math.radians(degrees) / 2)
        return cls(focal, width / 2, height / 2)

    def slopes(self, like: Tensor, scale: int) -> Tensor:
        """Rays through every pixel, as (x / z, y / z).

        Args:
            like: (b, c, h, w), the map whose pixels are meant.
            scale: how many pixels of the picture one of the map's has.

        Returns:
            (b, 2, h, w).
        """
        batch, _, height, width = like.shape
        x = (_centres(width, like) * scale - self.x) / self.focal
        y = (_centres(height, like) * scale - self.y) / self.focal
        grid = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)])
        return grid.expand(batch, -1, -1, -1)


def _centres(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device, dtype=like.dtype) + 0.5


class Up(nn.Module):
    """Brings a level to the size of a finer one and mixes both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self._net = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.GroupNorm(GROUPS, outputs),
            nn.LeakyReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.GroupNorm(GROUPS, outputs),
            nn.LeakyReLU(),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        large = F.interpolate(x, skip.shape[2:], mode="bilinear")
        return self._net(torch.cat([large, skip], dim=1))

    def standardise(self) -> None:
        """Give every kernel mean 0 and deviation 1, once; the network was trained that way."""
        for number in (0, 3):
            conv = self._net[number]
            assert isinstance(conv, nn.Conv2d)
            kernel = conv.weight.detach().double()
            std, mean = torch.std_mean(kernel, dim=(1, 2, 3), keepdim=True)
            kernel = (kernel - mean) / (std + STANDARD_EPS)
            conv.weight = nn.Parameter(kernel.to(conv.weight.dtype))


def head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A 3x3 and two 1x1 convolutions."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(),
        nn.Conv2d(hidden, outputs, 1),
    )


class Decoder(nn.Module):
    """Every level sees the rays, too."""

    def __init__(self, params: Params) -> None:
        super().__init__()
        _, _, middle, coarse, top = params.encoder.taps
        first, second = params.widths
        self.conv2 = nn.Conv2d(top + 2, top, 1)
        self.up1 = Up(top + coarse + 2, first)
        self.up2 = Up(first + middle + 2, second)
        self.normal_head = head(second + 2, params.hidden, 3)
        self.feature_head = head(second + 2, params.hidden, params.state)
        self.hidden_head = head(second + 2, params.hidden, params.state)

    def forward(self, maps: Sequence[Tensor], camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
        """Normals (b, 3, h / 8, w / 8), features and the first state, same size."""
        middle, coarse, top = (
            torch.cat([level, camera.slopes(level, scale)], dim=1)
            for level, scale in zip(maps[2:], (8, 16, 32), strict=True)
        )
        x = self.up2(self.up1(self.conv2(top), coarse), middle)
        x = torch.cat([x, middle[:, -2:]], dim=1)
        return unit(self.normal_head(x)), self.feature_head(x), self.hidden_head(x)


class ConvGru(nn.Module):
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) of convolutions."""

    def __init__(self, state: int, inputs: int, kernel: int) -> None:
        super().__init__()
        make = partial(nn.Conv2d, state + inputs, state, kernel, padding=kernel // 2)
        self.convz, self.convr, self.convq = make(), make(), make()

    def forward(self, state: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([state, x], dim=1)
        update, reset = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        fresh = self.convq(torch.cat([reset * state, x], dim=1)).tanh()
        return (1 - update) * state + update * fresh


class Dsine(nn.Module):
    def __init__(self, params: Params) -> None:
        super().__init__()
        self.patch, self.scale = params.patch, params.scale
        neighbours = params.patch**2
        inputs, inner = params.state + 2, params.inner
        self.encoder = efficientnet.Encoder(params.encoder)
        self.decoder = Decoder(params)
        self.gru = ConvGru(params.state, inputs, params.patch)
        self.prob_head = head(inputs, inner, neighbours)
        self.xy_head = head(inputs, inner, 2 * neighbours)
        self.angle_head = head(inputs, inner, neighbours)
        self.up_prob_head = head(inputs, inner, 9 * params.scale**2)

    def forward(self, x: Tensor, camera: Camera, iterations: int = 5) -> Tensor:
        """Surface directions.

        Args:
            x: (b, 3, h, w), ImageNet-normalised RGB; sides are multiples of 32.
            camera: that the picture was taken with.
            iterations: how often the normals are refined; the network was trained with 5.

        Returns:
            (b, 3, h, w), unit vectors.
        """
        normals, features, state = self.decoder(self.encoder(x), camera)
        slopes = camera.slopes(normals, self.scale)
        rays = unit(torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=1))
        normals = face(normals, rays)
        features = torch.cat([features, slopes], dim=1)
        for _ in range(iterations):
            state = self.gru(state, features)
            normals = self.refine(torch.cat([state, slopes], dim=1), normals, camera, rays)
        choice = self.up_prob_head(torch.cat([state, slopes], dim=1))
        return unit(enlarge_by_choice(normals, choice, self.scale))

    def refine(self, state: Tensor, normals: Tensor, camera: Camera, rays: Tensor) -> Tensor:
        """Every normal anew, as a mean of its neighbours', each turned about an own axis.

        Args:
            state: (b, c, h, w).
            normals: (b, 3, h, w).
            camera: that the picture was taken with.
            rays: (b, 3, h, w), unit vectors.
        """
        weights = self.prob_head(state).sigmoid()[:, None]
        steps = unit(rearrange(self.xy_head(state), "b (axes n) h w -> b axes n h w", axes=2))
        angles = self.angle_head(state).sigmoid()[:, None] * math.pi
        around = neighbours(normals, self.patch)
        slopes = neighbours(camera.slopes(normals, self.scale), self.patch)
        axes = axes_of_steps(around, slopes, steps * (self.scale / camera.focal))
        turned = face(unit(turn(around, axes, angles)), rays[:, :, None])
        return unit((weights * turned).sum(dim=2))


def neighbours(x: Tensor, patch: int) -> Tensor:
    """(b, c, h, w) -> (b, c, patch * patch, h, w), row by row; the border repeats itself."""
    rim = patch // 2
    padded = F.pad(x, (rim, rim, rim, rim), mode="replicate")
    found = F.unfold(padded, patch)
    return rearrange(found, "b (c n) (h w) -> b c n h w", c=x.shape[1], h=x.shape[2])


def axes_of_steps(normals: Tensor, slopes: Tensor, steps: Tensor) -> Tensor:
    """The direction in which a step within the picture goes along a surface.

    Args:
        normals: (b, 3, n, h, w).
        slopes: (b, 2, n, h, w), where the steps begin.
        steps: (b, 2, n, h, w), in slopes.

    Returns:
        (b, 3, n, h, w), unit vectors; 0 where the surface is seen from its edge.
    """
    there = slopes + steps
    sideways, depth = normals[:, :2], normals[:, 2:]
    slant = (there * sideways).sum(dim=1, keepdim=True) + depth
    slant = torch.where(slant.abs() < TINY, slant.sign() * TINY, slant)
    deeper = -(steps * sideways).sum(dim=1, keepdim=True) / slant
    axes = unit(torch.cat([steps + deeper * there, deeper], dim=1))
    return torch.where(axes.isfinite().all(dim=1, keepdim=True), axes, 0)


def turn(vectors: Tensor, axes: Tensor, angles: Tensor) -> Tensor:
    """Rotate vectors about axes (Rodrigues' formula); those without an axis stay.

    Args:
        vectors: (b, 3, n, h, w).
        axes: (b, 3, n, h, w), unit vectors or 0.
        angles: (b, 1, n, h, w), radians, anticlockwise as seen against the axis.
    """
    angles = torch.where((axes == 0).all(dim=1, keepdim=True), 0, angles)
    along = (axes * vectors).sum(dim=1, keepdim=True)
    cos, sin = angles.cos(), angles.sin()
    across = torch.linalg.cross(axes, vectors, dim=1)
    return vectors * cos + across * sin + axes * along * (1 - cos)


def face(normals: Tensor, rays: Tensor) -> Tensor:
    """Normals bent until the camera sees the side they stand on; both unit vectors."""
    along = (normals * rays).sum(dim=1, keepdim=True)
    return unit(normals + rays * (along.clamp(min=LEAST_FACING) - along))


def enlarge_by_choice(x: Tensor, choice: Tensor, scale: int) -> Tensor:
    """Enlarge so that every pixel is a weighted mean of the nine around it.

    Args:
        x: (b, c, h, w).
        choice: (b, 9 * scale * scale, h, w), logits of the weights.
        scale: how much.

    Returns:
        (b, c, scale * h, scale * w).
    """
    cells = rearrange(choice, "b (n r s) h w -> b 1 n r s h w", r=scale, s=scale)
    weights = cells.softmax(dim=2)
    around = neighbours(x, 3)[:, :, :, None, None]
    mixed = (weights * around).sum(dim=2)
    return rearrange(mixed, "b c r s h w -> b c (h r) (w s)")


def unit(x: Tensor) -> Tensor:
    """Vectors along dimension 1 brought to length 1."""
    return F.normalize(x, dim=1)


def build(state: Mapping[str, Mapping[str, Tensor]]) -> Dsine:
    """The network of a published file, a training checkpoint."""
    tensors = without_prefix(state["model"])
    params = Params(
        encoder=efficientnet.read_params(tensors),
        widths=[len(tensors[f"decoder.up{number}._net.0.bias"]) for number in (1, 2)],
        hidden=len(tensors["decoder.normal_head.0.bias"]),
        state=len(tensors["gru.convz.bias"]),
        inner=len(tensors["prob_head.0.bias"]),
        patch=math.isqrt(len(tensors["prob_head.4.bias"])),
        scale=math.isqrt(len(tensors["up_prob_head.4.bias"]) // 9),
    )
    network = fill(lambda: Dsine(params), tensors)
    network.decoder.up1.standardise()
    network.decoder.up2.standardise()
    return network
