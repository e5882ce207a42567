"""Soft edges by PiDiNet (Su et al., ICCV 2021), in four forms."""

from __future__ import annotations

import numpy as np

from ._edges import SAFE_STEPS, as_bytes, in_steps, scribble
from ._tensors import as_array, as_planes
from .networks import lend
from .registry import Detector, register
from .weights import WeightFile

WEIGHTS = WeightFile(
    name="table5_pidinet.pth",
    folder="pidinet",
    size=2_871_148,
    sha256="80860ac267258b5f27486e0ef152a211d0b08120f62aeb185a050acc30da486c",
    licence="research only (University of Oulu)",
    repo="lllyasviel/Annotators",
)
LIKELY = 0.5


def _edges(image: np.ndarray) -> np.ndarray:
    """Float32 (H, W), 0 to 1, of a uint8 RGB picture (H, W, 3)."""
    from .nets.pidinet import build

    blue_first = image[:, :, ::-1]
    with lend(WEIGHTS, build) as network:
        return as_array(network(as_planes(blue_first, network) / 255))[0, 0]


@register
class PidiNet(Detector):
    """White soft edges on black."""

    name = "pidinet"
    label = "softedge_pidinet"
    tags = ("SoftEdge",)
    priority = 100
    weights = (WEIGHTS,)

    def detect(self, image: np.ndarray) -> np.ndarray:
        return as_bytes(_edges(image))


@register
class PidiNetSafe(Detector):
    """White soft edges in three grey levels, so that the picture cannot hide in them."""

    name = "pidinet_safe"
    label = "softedge_pidisafe"
    tags = ("SoftEdge",)
    weights = (WEIGHTS,)

    def detect(self, image: np.ndarray) -> np.ndarray:
        return as_bytes(in_steps(_edges(image), SAFE_STEPS))


@register
class PidiNetSketch(Detector):
    """Only edges that are more likely than not, white on black."""

    name = "pidinet_sketch"
    label = "t2ia_sketch_pidi"
    tags = ("T2I-Adapter",)
    weights = (WEIGHTS,)

    def detect(self, image: np.ndarray) -> np.ndarray:
        return np.where(_edges(image) > LIKELY, np.uint8(255), np.uint8(0))


@register
class PidiNetScribble(Detector):
    """Broad white strokes along the ridges of the soft edges."""

    name = "pidinet_scribble"
    label = "scribble_pidinet"
    tags = ("Scribble", "SparseCtrl")
    priority = 100
    sized = True
    weights = (WEIGHTS,)

    def detect(self, image: np.ndarray, *, kept: tuple[int, int]) -> np.ndarray:
        height, width = kept
        # Cut first: strokes must not grow out of what the padding made up.
        return scribble(as_bytes(_edges(image))[:height, :width])
