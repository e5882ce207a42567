"""Writes the pictures of docs/inpainting.md with the demo models: run it to draw them anew.

python docs/make_inpainting.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent / "minihost")]

from demo import FIRST_UNSEEN, Studio, encode, shapes_scene  # noqa: E402

PICTURES = DOCS / "images"
SIZE = 128
TILE = 192
GAP = 6
QUALITY = 88
REACH = 6  # a mask grows by that much at the default blur setting of 7
STEPS = 16


def main() -> None:
    """Generate, measure, save."""
    studio = Studio(SIZE, Path(tempfile.mkdtemp()), STEPS)
    inpaint(studio)
    outpaint(studio)


def inpaint(studio: Studio) -> None:
    """Picture, mask, then result and difference of both preprocessors."""
    scene = shapes_scene(FIRST_UNSEEN + 2, SIZE)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[14:106, 16:76] = 255
    ask = {"prompt": f"a red circle on {scene.caption.rpartition(' on ')[2]}", "seed": 1}
    veiled = scene.picture.copy()
    veiled[mask > 0] = veiled[mask > 0] // 3 + 140
    tiles = [scene.picture, veiled]
    for module in ("inpaint_only", "inpaint_global_harmonious"):
        unit = studio.unit("inpaint", scene.picture, module, mask=encode(mask))
        picture = studio.generate(module, [unit], **ask)[0]
        tiles += [picture, changed(picture, scene.picture)]
        far = cv2.dilate(mask, np.ones((2 * REACH + 1,) * 2, np.uint8)) == 0
        drift = np.abs(picture.astype(int) - scene.picture)[far]
        told = f"  outside the grown mask {drift.mean():.2f} levels off, at most {drift.max()}\n"
        sys.stdout.write(told)
    save("inpainting", tiles)


def outpaint(studio: Studio) -> None:
    """A picture on the wider canvas, and the canvas painted full."""
    scene = shapes_scene(FIRST_UNSEEN + 5, SIZE)
    canvas = np.full((SIZE, 2 * SIZE, 3), 200, np.uint8)
    canvas[:, SIZE // 2 : SIZE // 2 + SIZE] = scene.picture
    unit = studio.unit("inpaint", scene.picture, "inpaint_only", resize_mode="Resize and Fill")
    ask = {"prompt": scene.caption, "seed": 3, "width": 2 * SIZE}
    picture = studio.generate("outpainting", [unit], **ask)[0]
    save("outpainting", [canvas, picture, changed(picture, canvas)])


def changed(picture: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Brightness by difference, three times enlarged; black means the same to the bit."""
    difference = np.abs(picture.astype(int) - before).max(axis=2, keepdims=True)
    return np.repeat((3 * difference).clip(0, 255).astype(np.uint8), 3, axis=2)


def save(name: str, tiles: list[np.ndarray]) -> None:
    """Tiles side by side on white."""
    height = TILE
    shown = [
        cv2.resize(
            tile, (tile.shape[1] * height // tile.shape[0], height), interpolation=cv2.INTER_CUBIC
        )
        for tile in tiles
    ]
    gap = np.full((height, GAP, 3), 255, np.uint8)
    row = np.hstack([part for tile in shown for part in (tile, gap)][:-1])
    Image.fromarray(row).save(PICTURES / f"{name}.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()
