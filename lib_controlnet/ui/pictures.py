"""Pictures as the browser keeps them: data URLs, with a drawing layer or without.

On gradio 4 the picture of a component of gradio's is a `dict` instead: it names a file in the
folder of uploads, or has as its address what the page has made itself.
"""

from __future__ import annotations

import base64
import io
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from lib_controlnet.errors import ImageError
from lib_controlnet.pictures.decode import decode_image, decode_mask, is_foreign_address
from lib_controlnet.words import word

log = logging.getLogger(__name__)


def read_sketch(value: Any) -> dict[str, Any] | None:
    """Decode the value of a picture with a drawing layer.

    Returns:
        `image`: uint8 (H, W, 3); `mask`: uint8 (H, W, 3), white where something is drawn; or
        None without a picture. What cannot be decoded stays text, to be reported with the
        unit's number when it is used; of drawings that is a name of a host's canvas alone.
    """
    if isinstance(value, str) or (isinstance(value, Mapping) and "image" not in value):
        value = {"image": value, "mask": None}
    image = read_picture(value["image"]) if isinstance(value, Mapping) else None
    if image is None:
        return None
    if not isinstance(image, np.ndarray):
        return {"image": image, "mask": None}
    drawing = value.get("mask")
    if is_foreign_address(drawing):
        return {"image": image, "mask": drawing}
    return {"image": image, "mask": _read_drawing(drawing, image.shape[:2])}


def _place(value: Any) -> tuple[Any, list[str]]:
    """Where a picture is: a data URL, or a path and the folders that it may lie in."""
    if not isinstance(value, Mapping):
        return value, []
    path, url = value.get("path"), value.get("url")
    if isinstance(path, str):
        return path, _uploads()
    return (url if isinstance(url, str) and url.startswith("data:") else None), []


def _uploads() -> list[str]:
    """The folder in which gradio keeps what the page sent; nothing else may be named in a value."""
    return [os.environ.get("GRADIO_TEMP_DIR") or str(Path(tempfile.gettempdir(), "gradio"))]


def read_picture(value: Any) -> Any:
    """Decode a data URL or an upload to uint8 (H, W, 3); anything unreadable comes back as text."""
    value, folders = _place(value)
    if not isinstance(value, str) or not value:
        return value or None
    try:
        return decode_image(value, word("panel_picture"), allow_paths=folders)
    except ImageError as error:
        log.warning("%s", error)
        return value


def _read_mask(value: Any) -> Any:
    """Decode a mask alike, to uint8 (H, W, 3)."""
    value, folders = _place(value)
    if not isinstance(value, str) or not value:
        return value or None
    try:
        return np.repeat(
            decode_mask(value, word("panel_mask"), allow_paths=folders)[..., None], 3, axis=2
        )
    except ImageError as error:
        log.warning("%s", error)
        return value


def read_region(file: Any, canvas: Any) -> Any:
    """The mask of a unit's own region: the uploaded file and the drawing together.

    Args:
        file: data URL of a mask, white where the unit acts, or None.
        canvas: value of the picture that the region is drawn on; only its drawing counts.

    Returns:
        uint8 (H, W, 3), in the canvas's size if anything is drawn; None if there is neither. What
        cannot be decoded stays text, see `read_sketch`.
    """
    mask = _read_mask(file)
    sketch = read_sketch(canvas)
    if sketch is not None and is_foreign_address(sketch["image"]):
        return sketch["image"]
    drawing = None if sketch is None else sketch["mask"]
    if drawing is None or not drawing.any():
        return mask
    if not isinstance(mask, np.ndarray):
        return drawing if mask is None else mask
    size = (drawing.shape[1], drawing.shape[0])
    return np.maximum(drawing, cv2.resize(mask, size, interpolation=cv2.INTER_AREA))


def as_data_url(picture: np.ndarray | Image.Image) -> str:
    """A picture, or uint8 (H, W, 3 or 4), as a data URL."""
    shown = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    shown.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _read_drawing(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The drawing layer as uint8 (H, W, 3), black where nothing is drawn.

    The browser sends a layer of another size than the picture when it is asked before its
    canvas has been laid out; nothing is drawn on such a layer, and it counts as blank. A layer in
    the picture's proportions is one with the pixels of the screen, see `_has_proportions`.
    """
    blank = np.zeros((*shape, 3), np.uint8)
    if not isinstance(value, str) or not value:
        return blank
    try:
        layer = decode_image(value, word("panel_drawing"), keep_alpha=True)
    except ImageError as error:
        log.warning("%s", error)
        return blank
    if not _has_proportions(layer.shape[:2], shape):
        return blank
    # A layer without transparency is drawn all over, in whatever colour the brush has.
    drawn = layer[..., 3] if layer.shape[-1] == 4 else np.full(shape, 255, np.uint8)
    if drawn.shape != tuple(shape):
        drawn = cv2.resize(drawn, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.repeat(drawn[..., None], 3, axis=2)


def _has_proportions(layer: tuple[int, ...], picture: tuple[int, ...]) -> bool:
    """Whether a layer is the picture's, on a screen that has several pixels for one of a page."""
    density = layer[0] / picture[0]
    return all(abs(side - density * other) <= 1 for side, other in zip(layer, picture, strict=True))
