"""The areas of a picture that is painted in a few colours: which pixels are a colour's.

A pixel is a colour's if it is at most `TOLERANCE` away from it, and nearer to it than to the other
colours that were asked for. Edges softened by a brush or by JPEG have colours in between: within
`SOFT` pixels of an area such a pixel goes to the nearest colour, of those asked for and of the
others that the picture is painted in. No pixel is two colours'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

TOLERANCE: Final = 48
"""Distance in RGB, in which black and white lie 441 apart. JPEG stays well below it in an area."""
SOFT: Final = 4
"""Pixels; half of a block of JPEG, and more than a brush softens."""
MAX_COLOURS: Final = 64
"""That are asked for, and that a picture is thought to have besides."""
_LEAST_SHARE: Final = 1000
"""A colour that fills less than this part of the picture is not one that it is painted in."""
_EVEN: Final = 24
"""Levels by which pixels side by side differ within an area."""
_SHOWN: Final = 8
_OPAQUE: Final = 128
_NONE: Final = 255
_STRIP: Final = 1 << 22
"""Distances computed in one go."""


@dataclass(frozen=True, eq=False)
class ColourAreas:
    """Which pixel is whose.

    Attributes:
        labels: uint8 (H, W), the place of the pixel's colour in `colours`, 255 for nobody's.
        colours: `#rrggbb`, those asked for.
        shares: of all pixels, by colour; those that nobody asked for are there too, without edges.
    """

    labels: np.ndarray
    colours: tuple[str, ...]
    shares: dict[str, float]

    def mask_of(self, colour: str) -> np.ndarray:
        """uint8 (H, W), white where the pixels are a colour's."""
        return (self.labels == self.colours.index(colour)).astype(np.uint8) * 255

    def describe(self) -> str:
        """The colours that there are, those of most pixels first."""
        present = sorted(self.shares.items(), key=lambda item: -item[1])
        named = [f"{name} ({share:.1%})" for name, share in present if share > 0]
        return ", ".join(named[:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")


def split_colours(picture: np.ndarray, colours: Sequence[str]) -> ColourAreas:
    """Divide a picture among colours.

    Args:
        picture: uint8 (H, W, 3 or 4); what is rather transparent is nobody's.
        colours: `#rrggbb`, different ones, 64 at most.
    """
    asked = np.array([_rgb(colour) for colour in colours], np.float32)
    pixels = np.ascontiguousarray(picture[:, :, :3])
    seen = picture[:, :, 3] >= _OPAQUE if picture.shape[2] == 4 else None
    others, shares = _find_others(pixels, seen, asked)
    labels = np.empty(pixels.shape[:2], np.uint8)
    nearest = np.empty(pixels.shape[:2], np.uint8)
    palette = np.concatenate([asked, others])
    for rows in _strips(pixels, len(palette)):
        far = _distances(pixels[rows], palette)
        own = far[:, :, : len(asked)].argmin(2)
        is_near = np.take_along_axis(far, own[:, :, None], 2)[:, :, 0] <= TOLERANCE**2
        labels[rows] = np.where(is_near, own, _NONE)
        nearest[rows] = far.argmin(2)
    if seen is not None:
        labels[~seen] = nearest[~seen] = _NONE
    soft = (labels == _NONE) & (nearest < len(asked))
    for label in np.unique(nearest[soft]):
        area = (labels == label).astype(np.uint8)
        reached = cv2.dilate(area, np.ones((2 * SOFT + 1,) * 2, np.uint8)) > 0
        nearest[soft & (nearest == label) & ~reached] = _NONE
    labels[soft] = nearest[soft]
    counts = np.bincount(labels.ravel(), minlength=_NONE + 1)
    own_shares = {colour: float(counts[i] / labels.size) for i, colour in enumerate(colours)}
    return ColourAreas(labels, tuple(colours), {**own_shares, **shares})


def _find_others(
    pixels: np.ndarray, seen: np.ndarray | None, asked: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """What a picture is painted in besides: float32 (n, 3), and the share of each by its name.

    Only areas count, whose pixels are like those around them; so edges, soft ones too, do not.
    Colours are told apart by the upper five bits of each channel; those that are as near to one
    asked for, or to a more frequent one, as noise is, count as that.
    """
    count, sums = np.zeros(1 << 15, np.int64), np.zeros((3, 1 << 15))
    inner = cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).max(2) <= _EVEN
    inner = inner if seen is None else inner & seen
    for rows in _strips(pixels, 3):
        part = pixels[rows][inner[rows]]
        fine = part.astype(np.int32) >> 3
        cells = (fine[:, 0] << 10) | (fine[:, 1] << 5) | fine[:, 2]
        count += np.bincount(cells, minlength=len(count))
        for channel, sum_ in enumerate(sums):
            sum_ += np.bincount(cells, part[:, channel], minlength=len(count))
    size = pixels.shape[0] * pixels.shape[1]
    frequent = np.flatnonzero(count * _LEAST_SHARE >= max(size, 1))
    found, shares = list[np.ndarray](), dict[str, float]()
    for cell in frequent[np.argsort(-count[frequent], kind="stable")]:
        colour = np.rint(sums[:, cell] / count[cell]).astype(np.float32)
        taken = np.concatenate([asked, np.array(found, np.float32).reshape(-1, 3)])
        if ((taken - colour) ** 2).sum(1).min() > TOLERANCE**2 and len(found) < MAX_COLOURS:
            found.append(colour)
            name = "#{:02x}{:02x}{:02x}".format(*colour.astype(int))
            shares[name] = float(count[cell] / size)
    return np.array(found, np.float32).reshape(-1, 3), shares


def _distances(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Squared distances, float32 (H, W, colours); whole numbers that float32 holds exactly."""
    wide = pixels.astype(np.float32)
    far = wide @ (-2 * palette.T)
    far += (wide * wide).sum(2)[:, :, None]
    far += (palette * palette).sum(1)
    return far


def _strips(pixels: np.ndarray, width: int) -> Iterator[slice]:
    """Rows to be looked at in one go, where each pixel takes so many numbers."""
    step = max(_STRIP // max(pixels.shape[1] * width, 1), 1)
    for start in range(0, len(pixels), step):
        yield slice(start, start + step)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))
