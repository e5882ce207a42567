"""DensePose: every pixel of a person by the part of the body's surface that it shows.

Güler et al., "DensePose", arXiv:1802.00434. The published file is a whole detector that runs by
itself (TorchScript); it calls operators of torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

import cv2
import numpy as np

from .networks import Place, lend_opened
from .registry import Detector, Requirement, register
from .weights import WeightFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCRIPT: Final = WeightFile(
    "densepose_r50_fpn_dl.torchscript",
    "densepose",
    170_000_000,
    "detectron2, Apache-2.0",
    exact=False,
    repo="LayerNorm/DensePose-TorchScript-with-hint-image",
)
TORCHVISION: Final = Requirement(
    "torchvision", note="The WebUI ships it; its version has to fit that of torch"
)
PARTS: Final = 24
"""Labels are 1 to 24, from the torso's two sides to the head's."""

Colour = tuple[int, int, int]


def open_script(path: Path, place: Place) -> torch.jit.ScriptModule:
    """Load the detector."""
    import torch

    TORCHVISION.load()
    return torch.jit.load(str(path), map_location=place.device).eval()


def read_labels(found: Sequence[Tensor], width: int, height: int) -> np.ndarray:
    """Which part each pixel shows, 0 for none; of overlapping people the last one is seen.

    Args:
        found: boxes (n, 4) by their corners in pixels; scores of person or not (n, 2, h, w);
            scores of none and the parts (n, 25, h, w), both over the boxes.
        width, height: of the picture.

    Returns:
        uint8 (height, width).
    """
    from torch.nn import functional

    labels = np.zeros((height, width), np.uint8)
    for box, coarse, fine in zip(*found, strict=True):
        left, top, wide, tall = (int(x) for x in (*box[:2].tolist(), *(box[2:] - box[:2]).tolist()))
        if wide <= 0 or tall <= 0:
            continue
        person, part = (
            functional.interpolate(scores[None].float(), (tall, wide), mode="bilinear").argmax(1)[0]
            for scores in (coarse, fine)
        )
        seen = (part * (person > 0)).byte().cpu().numpy()
        first, above = max(left, 0), max(top, 0)
        target = labels[above : top + tall, first : left + wide]
        seen = seen[above - top :, first - left :][: target.shape[0], : target.shape[1]]
        target[seen > 0] = seen[seen > 0]
    return labels


def paint(labels: np.ndarray, colours: int, background: Colour) -> np.ndarray:
    """The picture of labels: parts spread over one of OpenCV's colour maps.

    Args:
        labels: uint8 (h, w), 0 to 24.
        colours: the map's number.
        background: colour of label 0.
    """
    levels = (np.arange(PARTS + 1) * 255 / PARTS).astype(np.uint8)
    palette = cv2.applyColorMap(levels[:, None], colours)[:, 0, ::-1].copy()
    palette[0] = background
    return palette[labels]


@register
class DensePose(Detector):
    """Parts in the colours of Viridis, on its darkest."""

    name = "densepose"
    label = "densepose (pruple bg & purple torso)"
    aliases: ClassVar[tuple[str, ...]] = ("densepose (purple bg & purple torso)",)
    tags = ("OpenPose",)
    weights = (SCRIPT,)
    requires = (TORCHVISION,)
    colours: ClassVar[int] = cv2.COLORMAP_VIRIDIS
    background: ClassVar[Colour] = (68, 1, 84)

    def detect(self, image: np.ndarray) -> np.ndarray:
        import torch

        with lend_opened(SCRIPT, open_script) as network:
            device = next((p.device for p in network.parameters()), torch.device("cpu"))
            planes = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            boxes, coarse, fine, *_ = network(planes.to(device))
        height, width = image.shape[:2]
        return paint(
            read_labels((boxes, coarse, fine), width, height), self.colours, self.background
        )


@register
class DenseParula(DensePose):
    """Parts in the colours of Parula, on black."""

    name = "densepose_parula"
    label = "densepose_parula (black bg & blue torso)"
    aliases = ()
    colours = cv2.COLORMAP_PARULA
    background = (0, 0, 0)
