"""Soft edges by PiDiNet (Su et al., ICCV 2021), in four forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._edges import SAFE_STEPS, as_bytes, in_steps, scribble
from ._tensors import as_array, as_planes
from .networks import lend
from .registry import NetworkDetector, register
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


class _PidiNet(NetworkDetector):
    """Sees soft edges, float32 (H, W), 0 to 1."""

    weights = (WEIGHTS,)

    def see(self, images: Sequence[np.ndarray], **_named: object) -> np.ndarray:
        from .nets.pidinet import build

        blue_first = [image[:, :, ::-1] for image in images]
        with lend(WEIGHTS, build) as network:
            return as_array(network(as_planes(blue_first, network) / 255))[:, 0]


@register
class PidiNet(_PidiNet):
    """White soft edges on black."""

    name = "pidinet"
    label = "softedge_pidinet"
    tags = ("SoftEdge",)
    priority = 100

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return as_bytes(seen)


@register
class PidiNetSafe(_PidiNet):
    """White soft edges in three grey levels, so that the picture cannot hide in them."""

    name = "pidinet_safe"
    label = "softedge_pidisafe"
    tags = ("SoftEdge",)

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return as_bytes(in_steps(seen, SAFE_STEPS))


@register
class PidiNetSketch(_PidiNet):
    """Only edges that are more likely than not, white on black."""

    name = "pidinet_sketch"
    label = "t2ia_sketch_pidi"
    tags = ("T2I-Adapter",)

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return np.where(seen > LIKELY, np.uint8(255), np.uint8(0))


@register
class PidiNetScribble(_PidiNet):
    """Broad white strokes along the ridges of the soft edges."""

    name = "pidinet_scribble"
    label = "scribble_pidinet"
    tags = ("Scribble", "SparseCtrl")
    priority = 100
    sized = True

    def draw(self, seen: np.ndarray, _image: np.ndarray, *, kept: tuple[int, int]) -> np.ndarray:
        height, width = kept
        # Cut first: strokes must not grow out of what the padding made up.
        return scribble(as_bytes(seen)[:height, :width])
