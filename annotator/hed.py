"""Soft edges by HED (Xie, Tu, ICCV 2015), in three forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._edges import SAFE_STEPS, as_bytes, in_steps, scribble, soft_edges
from .registry import NetworkDetector, register
from .weights import WeightFile

WEIGHTS = WeightFile(
    name="ControlNetHED.pth",
    folder="hed",
    size=29_444_406,
    sha256="5ca93762ffd68a29fee1af9d495bf6aab80ae86f08905fb35472a083a4c7a8fa",
    licence="Apache-2.0",
    repo="lllyasviel/Annotators",
)


class _Hed(NetworkDetector):
    """Sees soft edges, float64 (H, W), 0 to 1."""

    weights = (WEIGHTS,)

    def see(self, images: Sequence[np.ndarray], **_named: object) -> list[np.ndarray]:
        from .nets.hed import build

        return soft_edges(images, WEIGHTS, build)


@register
class Hed(_Hed):
    """White soft edges on black."""

    name = "hed"
    label = "softedge_hed"
    tags = ("SoftEdge",)

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return as_bytes(seen)


@register
class HedSafe(_Hed):
    """White soft edges in three grey levels, so that the picture cannot hide in them."""

    name = "hed_safe"
    label = "softedge_hedsafe"
    tags = ("SoftEdge",)

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return as_bytes(in_steps(seen, SAFE_STEPS))


@register
class ScribbleHed(_Hed):
    """Broad white strokes along the ridges of the soft edges."""

    name = "scribble_hed"
    tags = ("Scribble", "SparseCtrl")
    sized = True

    def draw(self, seen: np.ndarray, _image: np.ndarray, *, kept: tuple[int, int]) -> np.ndarray:
        height, width = kept
        # Cut first: strokes must not grow out of what the padding made up.
        return scribble(as_bytes(seen)[:height, :width])
