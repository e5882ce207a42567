"""Surface directions by DSINE, which takes the angle of view into account."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._tensors import as_array, as_input, as_normal_map
from .networks import lend
from .registry import NetworkDetector, Slider, register
from .weights import WeightFile

DSINE = WeightFile(
    "dsine.pt",
    "normal_dsine",
    290_000_000,
    "Imperial College agreement, non-commercial",
    exact=False,
    repo="bdsqlsz/qinglong_controlnet-lllite",
    path="Annotators/dsine.pt",
)
NARROWEST, WIDEST = 1.0, 179.0
"""Degrees; a pinhole camera sees less than half of its surroundings."""


@register
class NormalDsine(NetworkDetector):
    """Surface directions as seen by a camera with that angle of view.

    Bae, Davison (2024), arXiv:2403.00712. The camera looks through the middle of the picture as it
    was resized; the old extension took the middle and the angle of the picture before that. Runs
    in full precision everywhere.
    """

    name = "normal_dsine"
    tags = ("NormalMap",)
    sliders = (Slider("Fov", 0, 360, 60, 0.1), Slider("Iterations", 1, 20, 5))
    sized = True
    weights = (DSINE,)

    def see(
        self,
        images: Sequence[np.ndarray],
        degrees: float,
        iterations: float,
        *,
        kept: tuple[int, int],
    ) -> np.ndarray:
        from .nets.dsine import Camera, build

        camera = Camera.from_angle(min(max(degrees, NARROWEST), WIDEST), *kept)
        with lend(DSINE, build, half=False) as network:
            return as_array(network(as_input(images, network), camera, int(iterations)))

    def draw(
        self,
        seen: np.ndarray,
        _image: np.ndarray,
        _degrees: float,
        _iterations: float,
        *,
        kept: tuple[int, int],
    ) -> np.ndarray:
        del kept  # it is cut off by whoever added it
        return as_normal_map(seen)
