"""RetinaFace: boxes of faces and their eyes, nose and mouth.

Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", arXiv:1905.00641.
Key names of the file that the project facexlib publishes; its encoder is a ResNet-50.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ._load import fill, without_prefix
from .resnet import ResNet, StageParams

_STAGES = (
    StageParams(3, 64, 256, 1),
    StageParams(4, 128, 512, 1),
    StageParams(6, 256, 1024, 1),
    StageParams(3, 512, 2048, 1),
)
_WIDTH = 256
_PER_CELL = 2


def _conv(inputs: int, outputs: int, kernel: int = 3) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def _rectify(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(*_conv(inputs, outputs, kernel), nn.ReLU())


class Pyramid(nn.Module):
    """Brings the maps to one width and adds each coarser one to the next finer one."""

    def __init__(self) -> None:
        super().__init__()
        for number, stage in enumerate(_STAGES[1:], 1):
            self.add_module(f"output{number}", _rectify(stage.outputs, _WIDTH, 1))
        self.merge1 = _rectify(_WIDTH, _WIDTH)
        self.merge2 = _rectify(_WIDTH, _WIDTH)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = (
            self.get_submodule(f"output{number}")(level) for number, level in enumerate(maps, 1)
        )
        middle = self.merge2(middle + F.interpolate(coarse, middle.shape[2:]))
        fine = self.merge1(fine + F.interpolate(middle, fine.shape[2:]))
        return [fine, middle, coarse]


class Context(nn.Module):
    """Looks at a map through windows of 3, 5 and 7 cells."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = _WIDTH // 2, _WIDTH // 4
        self.conv3X3 = nn.Sequential(*_conv(_WIDTH, half))
        self.conv5X5_1 = _rectify(_WIDTH, quarter)
        self.conv5X5_2 = nn.Sequential(*_conv(quarter, quarter))
        self.conv7X7_2 = _rectify(quarter, quarter)
        self.conv7x7_3 = nn.Sequential(*_conv(quarter, quarter))

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        wide = self.conv7x7_3(self.conv7X7_2(shared))
        return F.relu(torch.cat([self.conv3X3(x), self.conv5X5_2(shared), wide], dim=1))


class Head(nn.Module):
    """Some numbers for each of the two faces that a cell may show."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(_WIDTH, _PER_CELL * numbers, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 256, h, w) -> (b, 2 h w, numbers)."""
        return rearrange(self.conv1x1(x), "b (n k) h w -> b (h w n) k", k=self.numbers)


class RetinaFace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet(64, _STAGES)
        self.fpn = Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = Context(), Context(), Context()
        self.ClassHead = nn.ModuleList(Head(2) for _ in range(3))
        self.BboxHead = nn.ModuleList(Head(4) for _ in range(3))
        self.LandmarkHead = nn.ModuleList(Head(10) for _ in range(3))

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (b, n, 4), scores of nothing and a face (b, n, 2), points (b, n, 10).

        Args:
            picture: (b, 3, h, w), BGR in 0 to 255 minus 104, 117, 123.
        """
        pyramid = self.fpn(self.body(picture)[1:])
        contexts = zip((self.ssh1, self.ssh2, self.ssh3), pyramid, strict=True)
        features = [context(x) for context, x in contexts]
        boxes, scores, points = (
            torch.cat([head(x) for head, x in zip(heads, features, strict=True)], dim=1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return boxes, scores.softmax(dim=-1), points


def build(state: Mapping[str, Tensor]) -> RetinaFace:
    """The network with the weights of detection_Resnet50_Final.pth."""
    return fill(RetinaFace, without_prefix(state))
