"""Geometry and filling of inpaint masks."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter, ImageOps

Region = tuple[int, int, int, int]


def get_crop_region_v2(mask: Image.Image | np.ndarray, pad: int = 0) -> Region | None:
    """Box (x1, y1, x2, y2) around the non-zero pixels, grown by `pad` and clamped to the mask.

    Returns:
        None when the mask is blank.
    """
    picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    box = picture.getbbox()
    if box is None:
        return None
    x1, y1, x2, y2 = box
    return (
        max(x1 - pad, 0),
        max(y1 - pad, 0),
        min(x2 + pad, picture.width),
        min(y2 + pad, picture.height),
    )


def expand_crop_region(
    crop_region: Region,
    processing_width: int,
    processing_height: int,
    image_width: int,
    image_height: int,
) -> Region:
    """Grow a box until it has the ratio of the processed picture, as far as the image allows.

    The new rows (or columns) go half before and half after; a box that leaves the image is
    shifted back and finally clamped, so at the borders the ratio can be missed.
    """
    x1, y1, x2, y2 = crop_region
    width, height = x2 - x1, y2 - y1
    if width / height > processing_width / processing_height:
        wanted = width / (processing_width / processing_height)
        y1, y2 = _grow(y1, y2, int(wanted - height), image_height)
    else:
        wanted = height * (processing_width / processing_height)
        x1, x2 = _grow(x1, x2, int(wanted - width), image_width)
    return x1, y1, x2, y2


def _grow(low: int, high: int, extra: int, limit: int) -> tuple[int, int]:
    low -= extra // 2
    high += extra - extra // 2
    if high >= limit:
        shift = high - limit
        low, high = low - shift, high - shift
    if low < 0:
        low, high = 0, high - low
    return low, min(high, limit)


def fill(image: Image.Image, mask: Image.Image) -> Image.Image:
    """Replace the masked area by colours smeared in from around it.

    Args:
        image: picture of any mode.
        mask: `L`, 255 where the picture is to be replaced; same size.

    Returns:
        RGB picture.
    """
    canvas = Image.new("RGBA", (image.width, image.height))
    outside = Image.new("RGBa", (image.width, image.height))
    keep = ImageOps.invert(mask.convert("L"))
    outside.paste(image.convert("RGBA").convert("RGBa"), mask=keep)
    outside = outside.convert("RGBa")
    for radius, repeats in ((256, 1), (64, 1), (16, 2), (4, 4), (2, 2), (0, 1)):
        blurred = outside.filter(ImageFilter.GaussianBlur(radius)).convert("RGBA")
        for _ in range(repeats):
            canvas.alpha_composite(blurred)
    return canvas.convert("RGB")
