"""Sizes and the geometry of control pictures.

A picture is uint8 (H, W, 3) RGB; with a mask it is (H, W, 4), the mask in the fourth channel,
white where the picture is to be repainted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import cv2
import numpy as np

from lib_controlnet.enums import ResizeMode
from lib_controlnet.errors import ImageError
from lib_controlnet.limits import MAX_SIDE, MAX_WORKED
from lib_controlnet.pictures.decode import check_size
from lib_controlnet.pictures.thinning import ridge_pixels, thin

_PAD_STEP: Final = 64
"""Detectors run on multiples of this."""
_FEW_COLOURS: Final = 200
"""A map with fewer colours is a palette (segmentation), whose colours must stay exact."""
_FEW_GREYS: Final = 8
"""A grey map with more levels than this is a drawing or a depth map, never a palette."""
_STRIP: Final = 1 << 20
"""Pixels looked at in one go when colours are counted."""


class _Kind(Enum):
    """What a map's colours mean, which decides how it may be resized."""

    SMOOTH = "smooth"
    """Any mixture of two colours means something: photographs, depth, soft lines."""
    PALETTE = "palette"
    """Colours are names: no other may appear."""
    BROAD = "broad"
    """White areas on black, or the other way round."""
    LINES = "lines"
    """White lines on black, mostly one pixel wide."""


@dataclass(frozen=True, order=True)
class Size:
    """Width and height in pixels (or latent cells, where said)."""

    width: int
    height: int

    @staticmethod
    def from_array(array: np.ndarray) -> Size:
        """Size of a picture (H, W, ...)."""
        return Size(array.shape[1], array.shape[0])

    @property
    def short(self) -> int:
        return min(self.width, self.height)

    @property
    def area(self) -> int:
        return self.width * self.height

    def multiple_of_down(self, step: int) -> Size:
        """Both sides rounded down to a multiple of `step`, but never below one step."""
        return Size(
            max(self.width // step, 1) * step,
            max(self.height // step, 1) * step,
        )

    def scale(self, factor: float) -> Size:
        """Both sides times `factor`, rounded half to even, at least 1."""
        return Size(max(round(self.width * factor), 1), max(round(self.height * factor), 1))


def join_mask(image: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Put a mask into the fourth channel.

    Args:
        image: uint8 (H, W, 3).
        mask: uint8 (h, w) or (h, w, c), whose first channel counts; brought to the picture's
            size without interpolation. None is an empty mask.
    """
    height, width = image.shape[:2]
    if mask is None:
        plane: np.ndarray = np.zeros((height, width), np.uint8)
    else:
        plane = np.ascontiguousarray(mask if mask.ndim == 2 else mask[:, :, 0])
        if plane.shape != (height, width):
            plane = _take_nearest(plane, Size(width, height))
    return np.dstack([image, plane])


def resize_short_side(image: np.ndarray, resolution: int, by_area: bool = False) -> np.ndarray:
    """Bring the short side to `resolution`, keeping the proportions.

    Pictures so narrow that the long side would pass 16384 pixels are brought to that instead.

    Args:
        image: uint8 (H, W, C).
        resolution: length of the short side in pixels.
        by_area: average areas also when enlarging, which is cubic otherwise.

    Raises:
        ImageError: the result would have more pixels than a preprocessor may work on.
    """
    size = Size.from_array(image)
    factor = min(resolution / size.short, MAX_SIDE / max(size.width, size.height))
    wanted = size.scale(factor)
    if wanted.area > MAX_WORKED:
        msg = (
            f"a picture of {size.width} x {size.height} pixels would be worked on at "
            f"{wanted.width} x {wanted.height} for a resolution of {resolution}; at most "
            f"{MAX_WORKED // 1_000_000} million pixels can be: lower the resolution, or send a "
            "picture of other proportions"
        )
        raise ImageError(msg)
    if wanted == size:
        return image
    method = cv2.INTER_CUBIC if factor > 1 and not by_area else cv2.INTER_AREA
    resized = cv2.resize(image, (wanted.width, wanted.height), interpolation=method)
    return resized.reshape(*resized.shape[:2], -1)


def resize_with_pad(
    image: np.ndarray, resolution: int
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Resize for a detector and pad right and bottom to multiples of 64 by repeating the edge.

    Args:
        image: uint8 (H, W, C).
        resolution: length of the short side in pixels.

    Returns:
        The padded picture, and the function that cuts the padding off an equally large result.
    """
    resized = resize_short_side(image, resolution)
    size = Size.from_array(resized)
    right, bottom = -size.width % _PAD_STEP, -size.height % _PAD_STEP
    padded = resized
    if right or bottom:
        padded = cv2.copyMakeBorder(resized, 0, bottom, 0, right, cv2.BORDER_REPLICATE)

    def remove_pad(result: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(result[: size.height, : size.width])

    return padded, remove_pad


def pixel_perfect_resolution(image_size: Size, target: Size, mode: ResizeMode) -> int:
    """The detector resolution at which one map pixel becomes one pixel of the result.

    Args:
        image_size: size of the control picture, after any crop.
        target: size of the generation (of the first pass under hires fix).
        mode: how the map will be fitted.
    """
    factor = _fit_factor(image_size, target, mode)
    return max(round(factor * image_size.short), 1)


def fit_map(control_map: np.ndarray, target: Size, mode: ResizeMode) -> np.ndarray:
    """Bring a control map to the size of the picture without spoiling what it encodes.

    One-pixel lines stay one pixel wide and binary, palettes keep their exact colours, a mask
    (fourth channel) stays binary and marks the border that "Resize and Fill" adds.

    Args:
        control_map: uint8 (H, W, 3) or (H, W, 4).
        target: size wanted.
        mode: stretch, cover and crop, or fit inside a border of the map's median edge colour.

    Returns:
        uint8 (target.height, target.width, 3 or 4), contiguous.

    Raises:
        ImageError: the target is larger than pictures may be.
    """
    check_size(target.width, target.height, "the picture to be made")
    wanted, x, y = placement(Size.from_array(control_map), target, mode)
    if max(wanted.width, wanted.height) > MAX_SIDE or wanted.area > max(
        MAX_WORKED, 4 * target.area
    ):
        control_map = _middle_part(control_map, target)
        wanted, x, y = placement(Size.from_array(control_map), target, mode)
    resized = resize_map(control_map, wanted)
    if mode is ResizeMode.INNER_FIT:
        shown = resized[-y : target.height - y, -x : target.width - x]
        return np.ascontiguousarray(shown)
    if wanted == target:
        return np.ascontiguousarray(resized)
    canvas = np.empty((target.height, target.width, control_map.shape[2]), np.uint8)
    canvas[:] = border_colour(control_map)
    canvas[y : y + wanted.height, x : x + wanted.width] = resized
    return canvas


def placement(size: Size, target: Size, mode: ResizeMode) -> tuple[Size, int, int]:
    """How a map of `size` is laid on `target`: its new size, and its left and top there.

    The centre is the host's, so that odd remainders fall alike; left and top are negative where
    "Crop and Resize" cuts.
    """
    if mode is ResizeMode.RESIZE:
        return target, 0, 0
    wanted = size.scale(_fit_factor(size, target, mode))
    x = target.width // 2 - wanted.width // 2
    y = target.height // 2 - wanted.height // 2
    return wanted, x, y


def resize_map(control_map: np.ndarray, wanted: Size) -> np.ndarray:
    """Stretch a map by the method its colours call for; a mask (fourth channel) turns binary.

    Args:
        control_map: uint8 (H, W, 3) or (H, W, 4).
        wanted: size wanted.

    Returns:
        uint8 (wanted.height, wanted.width, 3 or 4).
    """
    colours = np.ascontiguousarray(control_map[:, :, :3])
    mask = control_map[:, :, 3:]
    size = Size.from_array(control_map)
    if wanted != size:
        kind = _kind(colours)
        method = _method(kind, size, wanted)
        if kind is _Kind.LINES:
            for step in _steps(size, wanted):
                colours = _thin_lines(colours, step)
        else:
            colours = _stretch(colours, wanted, method)
            colours = _black_or_white(colours) if kind is _Kind.BROAD else colours
        if mask.size:
            mask = _stretch(np.ascontiguousarray(mask[:, :, 0]), wanted, method)
    if not mask.size:
        return colours
    return np.dstack([colours, np.where(mask > 127, np.uint8(255), np.uint8(0))])


def is_flat(image: np.ndarray) -> bool:
    """Whether a picture is a map whose colours may not be mixed: lines, areas or a palette.

    Args:
        image: uint8 (H, W, 3) or (H, W, 4); a fourth channel does not count.
    """
    return _kind(np.ascontiguousarray(image[:, :, :3])) is not _Kind.SMOOTH


def _fit_factor(size: Size, target: Size, mode: ResizeMode) -> float:
    factors = target.height / size.height, target.width / size.width
    return min(factors) if mode is ResizeMode.OUTER_FIT else max(factors)


def _middle_part(control_map: np.ndarray, target: Size) -> np.ndarray:
    """What "Crop and Resize" shows of a map so narrow that the whole would fill the memory."""
    size = Size.from_array(control_map)
    factor = _fit_factor(size, target, ResizeMode.INNER_FIT)
    cuts = []
    for given, shown in ((size.height, target.height), (size.width, target.width)):
        kept = min(math.ceil(shown / factor) + 2, given)
        start = (given - kept) // 2
        cuts.append(slice(start, given - start))
    return control_map[cuts[0], cuts[1]]


def border_colour(control_map: np.ndarray) -> np.ndarray:
    """What "Resize and Fill" adds: the median colour of a map's four edges.

    Where colours may not be mixed it is the edge colour nearest to that.

    Args:
        control_map: uint8 (H, W, 3) or (H, W, 4).

    Returns:
        uint8 (3,), or (4,) with the mask set.
    """
    sides = (control_map[0], control_map[-1], control_map[:, 0], control_map[:, -1])
    edges = np.concatenate(sides)
    border = np.median(edges, axis=0).astype(np.uint8)
    if is_flat(control_map):
        distance = np.abs(edges[:, :3].astype(np.int16) - border[:3]).sum(axis=1)
        border = edges[distance.argmin()].copy()
    border[3:] = 255
    return border


def _kind(colours: np.ndarray) -> _Kind:
    """What a uint8 (H, W, 3) map encodes, judged by its colours."""
    count = _count_colours(colours)
    if count >= _FEW_COLOURS:
        return _Kind.SMOOTH
    is_grey = bool((colours == colours[:, :, :1]).all())
    if is_grey and count == 2 and colours.min() < 16 and colours.max() > 240:
        return _Kind.LINES if _is_one_pixel_wide(colours) else _Kind.BROAD
    return _Kind.SMOOTH if is_grey and count > _FEW_GREYS else _Kind.PALETTE


def _count_colours(colours: np.ndarray) -> int:
    """How many different colours a uint8 (H, W, 3) picture has, counted no further than needed."""
    flat = colours.reshape(-1, 3)
    seen = np.zeros(1 << 24, bool)
    count = 0
    for start in range(0, len(flat), _STRIP):
        wide = flat[start : start + _STRIP].astype(np.int32)
        seen[(wide[:, 0] << 16) | (wide[:, 1] << 8) | wide[:, 2]] = True
        count = int(np.count_nonzero(seen))
        if count >= _FEW_COLOURS:
            break
    return count


def _is_one_pixel_wide(binary: np.ndarray) -> bool:
    """Whether opening by 3 x 3 removes more than half of the white."""
    kernel = np.ones((3, 3), np.uint8)
    opened = cv2.dilate(cv2.erode(binary, kernel), kernel)
    lost, white = np.count_nonzero(opened < binary), np.count_nonzero(binary > 127)
    return 2 * lost > white


def _stretch(picture: np.ndarray, wanted: Size, method: int) -> np.ndarray:
    """A picture at another size by one of OpenCV's interpolations."""
    if method == cv2.INTER_NEAREST_EXACT:
        return _take_nearest(picture, wanted)
    return cv2.resize(picture, (wanted.width, wanted.height), interpolation=method)


def _take_nearest(picture: np.ndarray, wanted: Size) -> np.ndarray:
    """A picture at another size, each pixel one of its own.

    Where two are equally near, OpenCV 5 takes now the one, now the other. This is OpenCV 4's
    `INTER_NEAREST_EXACT`, in whole numbers of 1 / 65536 of a pixel.
    """
    height, width = picture.shape[:2]
    rows, columns = _nearest(height, wanted.height), _nearest(width, wanted.width)
    return picture[rows[:, None], columns]


def _nearest(count: int, wanted: int) -> np.ndarray:
    """Of each of `wanted` pixels in a row the nearest of `count`."""
    step = ((count << 16) + wanted // 2) // wanted
    places = (step * np.arange(wanted) + step // 2 - count % 2) >> 16
    return places.clip(0, count - 1)


def _method(kind: _Kind, size: Size, wanted: Size) -> int:
    """OpenCV's interpolation for a map."""
    if kind is _Kind.PALETTE:
        return cv2.INTER_NEAREST_EXACT  # the plain one shifts by up to half a pixel
    # Enlarging must be cubic: lines are found again as its ridges.
    return cv2.INTER_AREA if wanted.area < size.area else cv2.INTER_CUBIC


def _steps(size: Size, wanted: Size) -> list[Size]:
    """Sizes on the way to `wanted`, none more than twice the one before.

    Enlarged further in one go, a line shows the steps of its pixels as teeth and spurs.
    """
    ratio = max(wanted.width / size.width, wanted.height / size.height)
    count = max(math.ceil(math.log2(ratio)), 1)
    x, y = (wanted.width / size.width) ** (1 / count), (wanted.height / size.height) ** (1 / count)
    between = [
        Size(max(round(size.width * x**i), 1), max(round(size.height * y**i), 1))
        for i in range(1, count)
    ]
    return [*between, wanted]


def _thin_lines(colours: np.ndarray, wanted: Size) -> np.ndarray:
    """Resize one-pixel lines: the thinned ridges of the resized map."""
    size = Size.from_array(colours)
    method = _method(_Kind.LINES, size, wanted)
    resized = cv2.resize(colours, (wanted.width, wanted.height), interpolation=method)
    ridges = ridge_pixels(resized.mean(axis=2).astype(np.uint8))
    _, binary = cv2.threshold(ridges, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return cv2.cvtColor(thin(binary, prune=wanted.area > size.area), cv2.COLOR_GRAY2RGB)


def _black_or_white(colours: np.ndarray) -> np.ndarray:
    grey = colours.mean(axis=2).astype(np.uint8)
    _, binary = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return cv2.cvtColor(binary, cv2.COLOR_GRAY2RGB)
