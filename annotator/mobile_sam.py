"""Every part of a picture in a colour of its own, whatever it is, with MobileSAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from ._sizes import within_box
from ._tensors import as_input
from .networks import lend, place_of
from .registry import Detector, Frame, register
from .weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

    from .nets.mobile_sam import MobileSam

MOBILE_SAM = WeightFile(
    name="mobile_sam.pt",
    folder="mobile_sam",
    size=40_728_226,
    sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    licence="Apache-2.0 (its page says MIT)",
    repo="dhkim2810/MobileSAM",
    variable="CONTROLNET_MOBILE_SAM_MODEL_URL",
)

# The square that the network sees, and the points that are asked in it: so many in a row, and so
# many at a time (0.3 GB; more at a time is no faster on a CPU).
SIDE = 1024
POINTS = 32
AT_ONCE = 16
ENLARGED_AT_ONCE = 16

# Which masks count: how good the network thinks they are; how little they change when the
# threshold moves by this margin either way; how far their boxes may overlap.
QUALITY = 0.88
STABILITY = 0.95
MARGIN = 1.0
OVERLAP = 0.7


class Mask(NamedTuple):
    """A part of the picture.

    Attributes:
        bits: uint8, the mask's pixels row by row, eight in one number.
        area: how many pixels are set.
        box: left, top, right and bottom, the last pixels included.
        quality: predicted intersection over union with the truth.
    """

    bits: np.ndarray
    area: int
    box: tuple[int, int, int, int]
    quality: float


@register
class MobileSamParts(Detector):
    """The parts that a grid of points lies in; small ones lie over large ones.

    Colours are drawn from the seed, so that a seed gives the same map again. The network sees the
    picture in its own proportions, and a picture without parts gives a black map.
    """

    name = "mobile_sam"
    tags = ("Segmentation",)
    frame = Frame.RESIZED
    seeded = True
    weights = (MOBILE_SAM,)

    def detect(self, image: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
        from .nets.mobile_sam import build

        with lend(MOBILE_SAM, build, half=False) as network:
            masks = without_doubles(list(all_masks(image, network)))
        return paint(masks, image.shape[:2], rng)


def paint(masks: list[Mask], size: Sequence[int], rng: np.random.RandomState) -> np.ndarray:
    """Masks in random colours, the smaller over the larger ones; uint8 (*size, 3)."""
    picture = np.zeros((*size, 3), np.uint8)
    for mask in sorted(masks, key=lambda mask: mask.area, reverse=True):
        inside = np.unpackbits(mask.bits, count=size[0] * size[1]).reshape(size)
        picture[inside > 0] = rng.randint(255, size=3)
    return picture


def all_masks(image: np.ndarray, network: MobileSam) -> Iterator[Mask]:
    """The masks of all points of the grid that the network is sure of.

    Args:
        image: uint8 (H, W, 3).
        network: MobileSAM.
    """
    import torch

    seen = within_box(image, SIDE, SIDE, 1, cv2.INTER_LINEAR, cv2.INTER_AREA)
    height, width = seen.shape[:2]
    pixels = as_input(seen, network)
    square = torch.nn.functional.pad(pixels, (0, SIDE - width, 0, SIDE - height))
    features = network.image_encoder(square)
    device, dtype = place_of(network)
    middles = (np.arange(POINTS) + 0.5) / POINTS
    grid = np.stack(np.meshgrid(middles * width, middles * height), axis=-1).reshape(-1, 2)
    points = torch.from_numpy((grid + 0.5) / SIDE).to(device, dtype)
    for some in points.split(AT_ONCE):
        logits, quality = network.masks_at(features, some)
        sure = quality > QUALITY
        for part, worth in zip(
            logits[sure].split(ENLARGED_AT_ONCE), quality[sure].split(ENLARGED_AT_ONCE), strict=True
        ):
            yield from _stable(_enlarge(part, (height, width), image.shape[:2]), worth)


def _enlarge(logits: Tensor, seen: tuple[int, int], size: Sequence[int]) -> Tensor:
    """Mask logits (n, h, w) of the square as (n, *size), the padding cut off."""
    from torch.nn.functional import interpolate

    square = interpolate(logits[:, None], (SIDE, SIDE), mode="bilinear")
    return interpolate(square[:, :, : seen[0], : seen[1]], tuple(size), mode="bilinear")[:, 0]


def _stable(logits: Tensor, quality: Tensor) -> Iterator[Mask]:
    """The masks among (n, H, W) logits whose outline is sharp."""
    certain = (logits > MARGIN).sum(dim=(1, 2))
    possible = (logits > -MARGIN).sum(dim=(1, 2))
    stable = certain >= STABILITY * possible.clamp(min=1)
    for mask, worth in zip((logits[stable] > 0).cpu().numpy(), quality[stable], strict=True):
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        box = int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
        yield Mask(np.packbits(mask), int(mask.sum()), box, float(worth))


def without_doubles(masks: list[Mask]) -> list[Mask]:
    """The best masks first, without those whose box is nearly that of a better one."""
    ordered = sorted(masks, key=lambda mask: mask.quality, reverse=True)
    boxes = np.array([mask.box for mask in ordered], np.float64).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    remaining = np.ones(len(ordered), bool)
    for i in range(len(ordered)):
        if not remaining[i]:
            continue
        top_left = np.maximum(boxes[i, :2], boxes[i + 1 :, :2])
        bottom_right = np.minimum(boxes[i, 2:], boxes[i + 1 :, 2:])
        shared = (bottom_right - top_left).clip(0).prod(axis=1)
        union = areas[i] + areas[i + 1 :] - shared
        remaining[i + 1 :] &= shared <= OVERLAP * union
    return [mask for mask, remains in zip(ordered, remaining, strict=True) if remains]
