"""The three networks of OpenPose: joints of bodies, of a hand, of a face.

Cao et al., "OpenPose: Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields",
arXiv:1812.08008; hands and faces: Simon et al., arXiv:1704.07809. The published files are
conversions of the Caffe models, whose layer names they keep. Each network is a VGG-19 trunk that
shrinks the picture eight times, and stages that look at the trunk and at the maps before them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ._load import fill

PAIRS = 38
"""Channels of the fields that point from joint to joint: x and y of 19 limbs."""
BODY_MAPS = 19
"""18 joints and the background."""
HAND_MAPS = 22
"""21 joints and the background."""
FACE_MAPS = 71
"""70 points and the background."""

_STAGES = range(2, 7)
_FEATURES = 128


class Conv(NamedTuple):
    """A convolution by its name in the file; it keeps the size."""

    name: str
    inputs: int
    outputs: int
    kernel: int = 3


class Pool(NamedTuple):
    """Halves the size by maxima."""


Chain = tuple[Conv, ...]


class PointNet(nn.Module):
    """A trunk and stages of parallel chains; returns what the last stage's chains give.

    Args:
        trunk: what the picture goes through, each convolution rectified.
        stages: chains of the first stage, which see the trunk's output, and of the later ones,
            which see the maps of the stage before and the trunk's output. Their last convolution
            is not rectified.
        rectified: the last convolution of the last chain of all is, too.
    """

    def __init__(
        self,
        trunk: Sequence[Conv | Pool],
        stages: Sequence[Sequence[Chain]],
        *,
        rectified: bool = False,
    ) -> None:
        super().__init__()
        self.trunk, self.stages, self.rectified = tuple(trunk), tuple(stages), rectified
        chains = (conv for stage in stages for chain in stage for conv in chain)
        for conv in (*trunk, *chains):
            if isinstance(conv, Conv):
                module = nn.Conv2d(*conv[1:], padding=conv.kernel // 2)
                self.add_module(conv.name, module)

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Maps of an eighth of the picture's size.

        Args:
            picture: (b, 3, h, w), BGR, -0.5 to 0.5; sides are multiples of 8.
        """
        features = picture
        for layer in self.trunk:
            if isinstance(layer, Pool):
                features = functional.max_pool2d(features, 2)
            else:
                features = functional.relu(self.get_submodule(layer.name)(features))
        maps: list[Tensor] = []
        for stage in self.stages:
            seen = torch.cat([*maps, features], dim=1)
            maps = [self._chain(chain, seen) for chain in stage]
        if self.rectified:
            maps[-1] = functional.relu(maps[-1])
        return maps

    def _chain(self, chain: Chain, x: Tensor) -> Tensor:
        for conv in chain[:-1]:
            x = functional.relu(self.get_submodule(conv.name)(x))
        return self.get_submodule(chain[-1].name)(x)


def _vgg(*tail: Conv) -> list[Conv | Pool]:
    """VGG-19 up to its tenth convolution, and what comes after it."""
    blocks = ((3, 64, 2), (64, 128, 2), (128, 256, 4))
    layers: list[Conv | Pool] = []
    for block, (inputs, outputs, count) in enumerate(blocks, 1):
        widths = pairwise([inputs] + [outputs] * count)
        layers += [Conv(f"conv{block}_{i}", *width) for i, width in enumerate(widths, 1)]
        layers.append(Pool())
    return [*layers, Conv("conv4_1", 256, 512), Conv("conv4_2", 512, 512), *tail]


def _refine(stage: int, branch: str, inputs: int, outputs: int) -> Chain:
    """The chain of a later stage."""
    widths = pairwise([inputs] + [_FEATURES] * 6 + [outputs])
    kernels = (7, 7, 7, 7, 7, 1, 1)
    return tuple(
        Conv(f"Mconv{i}_stage{stage}{branch}", *width, kernel)
        for i, (width, kernel) in enumerate(zip(widths, kernels, strict=True), 1)
    )


def body_net() -> PointNet:
    """Gives (b, PAIRS, h/8, w/8) fields between joints and (b, BODY_MAPS, h/8, w/8) joints.

    The published network was trained with the joints' maps rectified; they are never negative.
    """
    trunk = _vgg(Conv("conv4_3_CPM", 512, 256), Conv("conv4_4_CPM", 256, _FEATURES))
    branches = (("_L1", PAIRS), ("_L2", BODY_MAPS))
    first = [
        (
            *(Conv(f"conv5_{i}_CPM{branch}", _FEATURES, _FEATURES) for i in (1, 2, 3)),
            Conv(f"conv5_4_CPM{branch}", _FEATURES, 512, 1),
            Conv(f"conv5_5_CPM{branch}", 512, outputs, 1),
        )
        for branch, outputs in branches
    ]
    inputs = PAIRS + BODY_MAPS + _FEATURES
    later = [
        [_refine(stage, branch, inputs, outputs) for branch, outputs in branches]
        for stage in _STAGES
    ]
    return PointNet(trunk, [first, *later], rectified=True)


def _part_net(maps: int) -> PointNet:
    """The network of a hand or a face, which differ in their number of points."""
    trunk = _vgg(
        *(Conv(f"conv{name}", 512, 512) for name in ("4_3", "4_4", "5_1", "5_2")),
        Conv("conv5_3_CPM", 512, _FEATURES),
    )
    first = (Conv("conv6_1_CPM", _FEATURES, 512, 1), Conv("conv6_2_CPM", 512, maps, 1))
    later = [[_refine(stage, "", maps + _FEATURES, maps)] for stage in _STAGES]
    return PointNet(trunk, [[first], *later])


def hand_net() -> PointNet:
    """Gives (b, HAND_MAPS, h/8, w/8)."""
    return _part_net(HAND_MAPS)


def face_net() -> PointNet:
    """Gives (b, FACE_MAPS, h/8, w/8)."""
    return _part_net(FACE_MAPS)


def _flat_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the module that some conversions put before the layer's name."""
    return {".".join(key.split(".")[-2:]): tensor for key, tensor in state.items()}


def build_body(state: Mapping[str, Tensor]) -> PointNet:
    """`body_net` with the weights of body_pose_model.pth."""
    return fill(body_net, _flat_names(state))


def build_hand(state: Mapping[str, Tensor]) -> PointNet:
    """`hand_net` with the weights of hand_pose_model.pth."""
    return fill(hand_net, _flat_names(state))


def build_face(state: Mapping[str, Tensor]) -> PointNet:
    """`face_net` with the weights of facenet.pth."""
    return fill(face_net, _flat_names(state))
