"""Depth of hands from a mesh. Lu et al. (2023), "HandRefiner", arXiv:2311.17957."""

from __future__ import annotations

from .registry import Detector, register


@register
class DepthHandRefiner(Detector):
    """Not available: depth of the hands in a picture."""

    name = "depth_hand_refiner"
    tags = ("Depth",)
    unavailable = (
        "it needs the MANO hand model, whose licence forbids commercial use and passing on, and "
        "a package that is not on PyPI; crop the hands and use depth_anything_v2 instead"
    )
