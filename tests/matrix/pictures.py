"""Pictures whose every place is known by its colour, so that a wrong crop or scale shows.

Red rises from left to right and green from top to bottom; shapes with sharp edges lie on top.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

INIT_SIZE = (150, 120)
OWN_SIZE = (110, 140)


def scene(width: int, height: int, blue: int) -> Image.Image:
    """Ramps with a disc, a bar and a frame, RGB."""
    x = np.linspace(20, 235, width)[None].repeat(height, 0)
    y = np.linspace(20, 235, height)[:, None].repeat(width, 1)
    plane = np.full((height, width), blue)
    picture = Image.fromarray(np.dstack([x, y, plane]).round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    short = min(width, height)
    draw.ellipse((width * 0.18, height * 0.2, width * 0.18 + short * 0.4, height * 0.62), "#101060")
    draw.rectangle((width * 0.55, height * 0.5, width * 0.8, height * 0.85), fill="#f0f0a0")
    return picture


def init_picture() -> Image.Image:
    """What img2img starts from."""
    return scene(*INIT_SIZE, blue=60)


def other_init_picture() -> Image.Image:
    """A second file for the batch tab, of another size."""
    return scene(128, 128, blue=160).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def own_picture(unit: int = 0) -> Image.Image:
    """A unit's own picture, of other proportions; that of the second unit is a mirror image."""
    picture = scene(*OWN_SIZE, blue=200)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if unit else picture


def own_mask() -> Image.Image:
    """Drawn over the unit's own picture: an off-centre rectangle, L."""
    return _rectangle(OWN_SIZE, 0.15, 0.3, 0.6, 0.75)


def region_mask(size: tuple[int, int]) -> Image.Image:
    """Where the unit shall act, drawn over its control image: an off-centre rectangle, L."""
    return _rectangle(size, 0.2, 0.2, 0.62, 0.66)


def inpaint_mask(size: tuple[int, int] = INIT_SIZE) -> Image.Image:
    """Where img2img repaints: an off-centre rectangle, L."""
    return _rectangle(size, 0.35, 0.25, 0.75, 0.7)


def _rectangle(size: tuple[int, int], *sides: float) -> Image.Image:
    picture = Image.new("L", size)
    box = [round(side * size[i % 2]) for i, side in enumerate(sides)]
    ImageDraw.Draw(picture).rectangle(box, fill=255)
    return picture


def sketched() -> tuple[Image.Image, Image.Image]:
    """A picture with a coloured stroke on it, and the picture without."""
    plain = init_picture()
    drawn = plain.copy()
    drawn.paste((200, 30, 220), mask=inpaint_mask())
    return drawn, plain


def encoded(picture: Image.Image) -> str:
    """base64 PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decoded(text: str) -> Image.Image:
    """The picture of a base64 PNG."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    """An array as the probe sends it."""
    data = base64.b64decode(packed["data"])
    return np.frombuffer(data, packed["type"]).reshape(packed["shape"])
