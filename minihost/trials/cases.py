"""The cases: what is asked for, and what the pictures have to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import cv2
import numpy as np
from bench_http.variants import MODES, distance

TXT2IMG, IMG2IMG = "txt2img", "img2img"
KEPT: Final = 2.0
"""Up to which pictures count as the same that are computed in batches of other sizes."""

FAR: Final = 16
"""Pixels from the mask's border at which nothing of its blur is left."""

Pictures = list[np.ndarray]


@dataclass(frozen=True)
class Shown:
    """What a case made.

    Attributes:
        bare: pictures without a unit, uint8 (H, W, 3).
        controlled: with it; empty where the case has none.
        init: of img2img, what it began with.
        mask: of img2img, uint8 (H, W), 255 where it is repainted.
        earlier: pictures of the cases before, with their unit if they have one, by title.
        size: width and height that were asked for.
    """

    bare: Pictures
    controlled: Pictures
    init: np.ndarray
    mask: np.ndarray
    earlier: Mapping[str, Pictures]
    size: tuple[int, int]


def find_nothing(_shown: Shown) -> str:
    """Nothing more is asked for."""
    return ""


def find_balanced(shown: Shown) -> str:
    """Another control mode gives another picture."""
    same = np.array_equal(shown.controlled[0], shown.earlier["one unit"][0])
    return "the same picture as Balanced" if same else ""


def find_change_outside(shown: Shown) -> str:
    """What is not masked is kept."""
    kernel = np.ones((2 * FAR + 1, 2 * FAR + 1), np.uint8)
    far = cv2.dilate(shown.mask, kernel) == 0
    off = np.abs(shown.controlled[0].astype(int) - shown.init)[far]
    return f"changes by {off.max()} outside of the mask" if off.max() > KEPT else ""


def find_small_hires(shown: Shown) -> str:
    """A hires picture is as large as asked for."""
    wanted = tuple(int(side * HIRES_SCALE) for side in shown.size)
    height, width = shown.controlled[0].shape[:2]
    return "" if (width, height) == wanted else f"is {width} x {height}"


def find_mixed_batch(shown: Shown) -> str:
    """The first picture of a batch is the one made alone, and the second is another."""
    if len(shown.controlled) != BATCH:
        return f"gave {len(shown.controlled)} pictures"
    off = distance(shown.controlled[0], shown.earlier["one unit"][0])
    if off > KEPT:
        return f"its first picture is {off:.0f} from that of a single one"
    return "gave one picture twice" if np.array_equal(*shown.controlled) else ""


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        title: in it.
        fields: of the request.
        unit: fields of the unit; None: the case has none.
        problem: what is wrong with the pictures, in words; "" for nothing.
        route: of the API.
    """

    title: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    unit: Mapping[str, Any] | None = field(default_factory=dict)
    problem: Callable[[Shown], str] = find_nothing
    route: str = TXT2IMG


HIRES_SCALE: Final = 1.5
BATCH: Final = 2
HIRES: Final = {
    "enable_hr": True,
    "hr_scale": HIRES_SCALE,
    "hr_upscaler": "Latent",
    "denoising_strength": 0.7,
    "hr_cfg": 4,
    "hr_additional_modules": ["Use same choices"],
}
"""The last two are asked for by members of the Forge family alone."""

CASES: Final = (
    Case("no unit", unit=None),
    Case("one unit"),
    Case("ControlNet is more important", unit={"control_mode": MODES[2]}, problem=find_balanced),
    Case("inpaint", problem=find_change_outside, route=IMG2IMG),
    Case("hires", HIRES, problem=find_small_hires),
    Case("batch of 2", {"batch_size": BATCH}, problem=find_mixed_batch),
    Case("CFG 1", {"cfg_scale": 1}),
)
REFUSED, AGAIN = "a model that is missing", "no unit, again"
TITLES: Final = (*(case.title for case in CASES), REFUSED, AGAIN)
