"""Procedural circles in the manner of Fill50K: a line drawing to follow, colours in the prompt.

The drawing says where, only the prompt says which colours: a control that learned it follows both.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from tqdm import tqdm

from .dataset import ABOUT, Item, about, write_items, write_picture, write_text
from .errors import TrainError

log = logging.getLogger(__name__)

COLOURS: Final = {
    "red": (214, 40, 40),
    "orange": (244, 140, 32),
    "yellow": (250, 220, 50),
    "green": (50, 160, 70),
    "blue": (45, 90, 200),
    "purple": (130, 60, 170),
    "pink": (246, 136, 186),
    "white": (246, 246, 246),
}
FINER: Final = 4
"""Circles are filled at this many times the size, for smooth borders."""


def draw(seed: int, number: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """One example: the line drawing and the picture, uint8 (size, size, 3), and its prompt."""
    rng = np.random.default_rng((seed, number))
    inside, around = (str(name) for name in rng.choice(list(COLOURS), 2, replace=False))
    radius = float(rng.uniform(0.15, 0.42)) * size
    x, y = rng.uniform(0.35, 0.65, 2) * size
    large = np.empty((size * FINER, size * FINER, 3), np.uint8)
    large[:] = COLOURS[around]
    centre = (round(x * FINER), round(y * FINER))
    cv2.circle(large, centre, round(radius * FINER), COLOURS[inside], -1)
    picture = cv2.resize(large, (size, size), interpolation=cv2.INTER_AREA)
    drawing = np.zeros((size, size, 3), np.uint8)
    cv2.circle(drawing, (round(x), round(y)), round(radius), (255, 255, 255), 1)
    return drawing, picture, f"a {inside} circle on {around} background"


def make(folder: Path, count: int, size: int, seed: int) -> None:
    """Write a data set; what is there already, of the same settings, is kept.

    Raises:
        TrainError: the folder holds a data set of other settings.
    """
    settings = {"made_by": "fill50k", "size": size, "seed": seed, "preprocessor": "canny",
                "control_type": "Canny"}  # fmt: skip
    known = about(folder)
    if known and known != settings:
        msg = f"{folder} holds another data set ({json.dumps(known)}); choose another folder"
        raise TrainError(msg)
    write_text(folder / ABOUT, json.dumps(settings, indent=1))
    items = []
    for number in tqdm(range(count), desc="fill50k", mininterval=1):
        name = f"{number:06d}.png"
        item = Item(f"source/{name}", f"target/{name}", "")
        drawing, picture, prompt = draw(seed, number, size)
        for place, array in ((item.source, drawing), (item.target, picture)):
            if not (folder / place).is_file():
                write_picture(folder / place, array)
        items.append(item._replace(prompt=prompt))
    write_items(folder, items)
    log.info("%d examples of %d x %d in %s", count, size, size, folder)
