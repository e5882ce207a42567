"""Free photographs for the demo and the tests, read out of scikit-image's wheel.

The package is only a carrier: it is found, not imported. Sources and licences are listed in
docs/photographs.md.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("astronaut", "coffee", "chelsea", "rocket")


def folder() -> Path:
    """Where the wheel keeps its pictures.

    Raises:
        FileNotFoundError: scikit-image is not installed.
    """
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        msg = (
            "no photograph to work with: scikit-image is not installed here. Start this through "
            "dev.py, or `pip install scikit-image`"
        )
        raise FileNotFoundError(msg)
    return Path(spec.submodule_search_locations[0]) / "data"


def load(name: str) -> np.ndarray:
    """A photograph, uint8 (H, W, 3), RGB."""
    if name not in NAMES:
        msg = f"no photograph is called {name!r}; there are {', '.join(NAMES)}"
        raise ValueError(msg)
    path = next(folder().glob(f"{name}.*"))
    return np.asarray(Image.open(path).convert("RGB"))


def square(picture: np.ndarray, size: int, top: float = 0.0, left: float = 0.5) -> np.ndarray:
    """The largest square of a picture, scaled.

    Args:
        picture: uint8 (H, W, 3).
        size: edge of the result in pixels.
        top: where the square lies vertically, 0 (top) to 1 (bottom).
        left: where it lies horizontally, 0 (left) to 1 (right).

    Returns:
        uint8 (size, size, 3).
    """
    height, width = picture.shape[:2]
    edge = min(height, width)
    y, x = round((height - edge) * top), round((width - edge) * left)
    crop = Image.fromarray(picture[y : y + edge, x : x + edge])
    return np.asarray(crop.resize((size, size), Image.Resampling.LANCZOS))
