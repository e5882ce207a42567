"""Scenes as data sets for `python -m lib_controlnet.train`: one for each control.

Their hints are exact (depth and borders are known), roughened as users' pictures are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from lib_controlnet.train.dataset import (
    ABOUT,
    LINES,
    Item,
    read_items,
    write_items,
    write_picture,
    write_text,
)

from .assets import RUNS
from .data import in_processes, load_scenes
from .hints import HINTS

DATA: Final = RUNS / "data"
COUNT: Final = 6000
CHUNK: Final = 200


@dataclass(frozen=True)
class Control:
    """What is known of one kind of demo ControlNet.

    Attributes:
        control_type: where the panel lists it.
        preprocessor: which one goes with it.
        seen_by: the preprocessor that looks for the hint in sample pictures; `none` compares the
            picture itself, for hints that no weight-free preprocessor finds.
    """

    control_type: str
    preprocessor: str
    seen_by: str


CONTROLS: Final = {
    "canny": Control("Canny", "canny", "canny"),
    "inpaint": Control("Inpaint", "inpaint_only", "none"),
    "scribble": Control("Scribble", "scribble_xdog", "canny"),
    "depth": Control("Depth", "depth_midas", "none"),
}
JOINED: Final = {"lines": ("canny",), "union": ("canny", "depth")}
"""Smaller data sets of the hints of others, by turns; samples are measured by the first one's."""
JOINED_COUNT: Final = 1200


def seen_by(data: str) -> str:
    """The preprocessor that looks for the hints of a data set in sample pictures."""
    return CONTROLS[JOINED.get(data, (data,))[0]].seen_by


def hint_picture(hint: np.ndarray) -> np.ndarray:
    """A hint, float (s, s, 3), as the picture of a data set: transparent where it is masked."""
    pixels = (hint.clip(0, 1) * 255).round().astype(np.uint8)
    masked = hint[:, :, 0] < 0
    return (
        np.dstack([pixels, np.where(masked, 0, 255).astype(np.uint8)]) if masked.any() else pixels
    )


def folder_of(kind: str, size: int) -> Path:
    """The folder of a data set."""
    return DATA / f"{kind}_{size}"


def _target(size: int, row: int) -> str:
    """Where a picture lies, seen from a data set: all kinds share one folder for each size."""
    return f"../pictures_{size}/{row:06d}.png"


def _write_rows(kind: str, size: int, rows: range) -> None:
    cv2.setNumThreads(1)
    scenes, folder = load_scenes(size), folder_of(kind, size)
    number = list(CONTROLS).index(kind)
    for row in rows:
        target = folder / _target(size, row)
        if not target.is_file():
            write_picture(target, scenes.arrays["picture"][row])
        hint = HINTS[kind](scenes.source(row), np.random.default_rng((number, size, row)))
        write_picture(folder / f"source/{row:06d}.png", hint_picture(hint))


def write(kind: str, size: int, workers: int = 2) -> Path:
    """The folder of a data set, written on the first call."""
    folder = folder_of(kind, size)
    if (folder / LINES).is_file():
        return folder
    if kind in JOINED:
        return _join(folder, size, JOINED[kind], workers)
    control = CONTROLS[kind]
    scenes = load_scenes(size, workers)
    count = min(COUNT, len(scenes))
    parts = [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    for _done in in_processes(partial(_write_rows, kind, size), parts, workers, f"{kind} {size}"):
        pass
    _write_about(folder, control)
    write_items(
        folder,
        [
            Item(f"source/{row:06d}.png", _target(size, row), scenes.captions[row])
            for row in range(count)
        ],
    )
    return folder


def _write_about(folder: Path, control: Control) -> None:
    known = {"made_by": "minihost/training", "preprocessor": control.preprocessor}
    write_text(folder / ABOUT, json.dumps({**known, "control_type": control.control_type}))


def _join(folder: Path, size: int, kinds: Sequence[str], workers: int) -> Path:
    """A data set of other ones' hints by turns; lines tell the type of all but the first."""
    parts = [read_items(write(kind, size, workers))[0][:JOINED_COUNT] for kind in kinds]
    items = []
    for row, choices in enumerate(zip(*parts, strict=True)):
        turn = row % len(kinds)
        kind, item = kinds[turn], choices[turn]
        told = CONTROLS[kind].control_type if turn else ""
        source = f"../{folder_of(kind, size).name}/{item.source}"
        items.append(Item(source, item.target, item.prompt, told))
    _write_about(folder, CONTROLS[kinds[0]])
    write_items(folder, items)
    return folder
