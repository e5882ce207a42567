"""The host's own preparation of an img2img picture and its mask, repeated to the pixel.

A control picture lines up with what is being painted only if it goes through the same resize,
blur and crop as the host's picture, so these are computed in the host's order with Pillow and
OpenCV. Regions are boxes (left, top, right, bottom) in pixels of the picture as given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from PIL import Image, ImageOps

from lib_controlnet.enums import LATENT_SCALE
from lib_controlnet.pictures.decode import check_size
from lib_controlnet.pictures.maps import Size, border_colour, is_flat, resize_map

if TYPE_CHECKING:
    from lib_controlnet.units.request import InpaintRules

Box = tuple[int, int, int, int]

STRETCH: Final = 0
COVER: Final = 1
FIT: Final = 2
LATENT_UPSCALE: Final = 3


@dataclass(frozen=True, eq=False)
class HostPicture:
    """What the host paints on.

    Attributes:
        image: uint8 (H, W, 3), requested size.
        mask: uint8 (H, W), white where the host repaints; None if it repaints everything.
        region: the part of the given picture that `image` shows; None for the whole.
    """

    image: np.ndarray
    mask: np.ndarray | None
    region: Box | None


def host_picture(
    init: Image.Image,
    rules: InpaintRules | None,
    size: Size,
    resize_mode: int,
    background: str = "#ffffff",
    prepared: Image.Image | None = None,
) -> HostPicture:
    """Picture and mask as the host hands them to the sampler.

    Args:
        init: the img2img picture, any mode.
        rules: mask and its settings; None without a mask. A mask that is blank after inversion
            and blur counts as none when only the masked area is wanted, as in the host.
        size: requested size.
        resize_mode: the host's, 0 to 3; 3 stretches the latent, see `latent_part`.
        background: colour under transparent parts.
        prepared: the mask of `prepare_mask`, if there is one already.
    """
    check_size(size.width, size.height, "the requested picture")
    picture = _flatten(init, background)
    mask = None if rules is None else prepared or prepare_mask(rules)
    region = None
    if mask is not None and rules is not None and rules.only_masked:
        region = crop_region(mask, rules.padding, size)
        mask = None if region is None else _resize(FIT, mask.crop(region), size)
    elif mask is not None:
        mask = _resize(resize_mode, mask, size)
    if region is not None:
        picture = _resize(FIT, picture.crop(region), size)
    elif resize_mode == LATENT_UPSCALE:
        whole = np.array(picture.convert("RGB"))
        shown = Image.fromarray(latent_part(whole, Size.from_array(whole), size))
        picture = _resize(STRETCH, shown, size)
    else:
        picture = _resize(resize_mode, picture, size)
    plane = None if mask is None else np.array(mask.convert("RGB"))[:, :, 0].copy()
    return HostPicture(np.array(picture.convert("RGB")), plane, region)


def whole_picture(init: Image.Image, background: str = "#ffffff") -> np.ndarray:
    """The img2img picture in full, uint8 (H, W, 3), as the host has it before it resizes it.

    Args: see `host_picture`.

    Raises:
        ImageError: it is larger than pictures may be.
    """
    check_size(init.width, init.height, "the img2img picture")
    return np.array(_flatten(init, background))


def latent_part(plane: np.ndarray, given: Size, size: Size) -> np.ndarray:
    """What the host's resize mode 3 spreads over a result, of what lies over the img2img picture.

    The host encodes the picture in its own size, whose last pixels may fill no cell, and stretches
    the whole latent to the result's whole cells. Where a side of the result is no multiple of 8,
    something lies beyond those: more of the picture, or its repeated edge.

    Args:
        plane: (H, W, ...), over the whole picture.
        given: the picture's size.
        size: the result's.
    """
    sides = ((given.height, size.height), (given.width, size.width))
    rows, columns = (
        np.arange(round(_spread(*side) * length)).clip(max=length - 1)
        for side, length in zip(sides, plane.shape, strict=False)
    )
    return plane[rows][:, columns]


def _spread(given: int, wanted: int) -> float:
    """Share of a picture's side that mode 3 spreads over the result's."""
    return _whole_cells(given) / given * (wanted / _whole_cells(wanted))


def _whole_cells(length: int) -> int:
    """Pixels under a side's whole latent cells."""
    return max(length // LATENT_SCALE, 1) * LATENT_SCALE


def follow_crop(
    init: Image.Image,
    rules: InpaintRules | None,
    size: Size,
    resize_mode: int,
    background: str = "#ffffff",
) -> HostPicture:
    """The picture of a unit that has none of its own: what the host paints on.

    It equals `host_picture`, except that where the host fits the picture into a border (mode 2
    without a crop) the border is left off: a preprocessor must not take the stretched edges for
    content. Fitted into `size` ("Resize and Fill"), the rest lies on the host's pixels.

    Args: see `host_picture`.
    """
    return without_border(
        host_picture(init, rules, size, resize_mode, background), init, size, resize_mode
    )


def without_border(
    found: HostPicture, init: Image.Image, size: Size, resize_mode: int
) -> HostPicture:
    """What the host paints on, less the border into which it fits a picture."""
    if found.region is not None or resize_mode in (STRETCH, COVER, LATENT_UPSCALE):
        return found
    inner = _inner_size(FIT, init, size)
    left, top = _centre(inner, size)
    rows, columns = slice(top, top + inner.height), slice(left, left + inner.width)
    mask = None if found.mask is None else np.ascontiguousarray(found.mask[rows, columns])
    return HostPicture(np.ascontiguousarray(found.image[rows, columns]), mask, None)


def prepare_mask(rules: InpaintRules) -> Image.Image:
    """The mask in the size given: grey, inverted if asked, blurred along x, then along y."""
    mask = _single_channel(rules.mask, rules.binary)
    if rules.invert:
        mask = ImageOps.invert(mask)
    plane = np.array(mask)
    for sigma, along_x in ((rules.blur_x, True), (rules.blur_y, False)):
        if sigma > 0:
            length = 2 * int(2.5 * sigma + 0.5) + 1
            plane = cv2.GaussianBlur(plane, (length, 1) if along_x else (1, length), sigma)
    return Image.fromarray(plane)


def crop_region(mask: Image.Image, padding: int, size: Size) -> Box | None:
    """Box around everything that is not black, grown to the proportions of `size`.

    Args:
        mask: grey mask.
        padding: pixels added on each side first.
        size: requested picture size.

    Returns:
        The box; None if the mask is black. Near the border the proportions may be missed.
    """
    box = mask.getbbox()
    if box is None:
        return None
    left, top = max(box[0] - padding, 0), max(box[1] - padding, 0)
    right, bottom = min(box[2] + padding, mask.width), min(box[3] + padding, mask.height)
    wanted = size.width / size.height
    if (right - left) / (bottom - top) > wanted:
        top, bottom = _widen(top, bottom, (right - left) / wanted, mask.height)
    else:
        left, right = _widen(left, right, (bottom - top) * wanted, mask.width)
    return left, top, right, bottom


def crop_control(
    image: np.ndarray,
    init_size: Size,
    region: Box,
    size: Size,
    resize_mode: int,
    is_map: bool = False,
) -> np.ndarray:
    """Cut the part of a unit's own picture that lies over the host's crop.

    Args:
        image: uint8 (H, W, 3), or (H, W, 4) with a mask.
        init_size: size of the img2img picture.
        region: the host's crop in that picture.
        size: requested picture size.
        resize_mode: 0 to 2, how the unit's picture is laid over the img2img picture.
        is_map: no preprocessor follows. Lines, areas and palettes are then resized and bordered
            as maps are, at the same place; anything else goes through the host's own filter.

    Returns:
        uint8 (size.height, size.width, 3 or 4).
    """
    is_map = is_map and is_flat(image)
    planes = [(image[:, :, :3], is_map)]
    if image.shape[2] == 4:
        planes.append((image[:, :, 3], False))
    cut = []
    for plane, as_map in planes:
        laid = _resize(resize_mode, Image.fromarray(plane), init_size, as_map)
        cut.append(_resize(FIT, laid.crop(region), size, as_map))
    return _stack(cut)


def _stack(pictures: list[Image.Image]) -> np.ndarray:
    arrays = [np.array(picture.convert("RGB")) for picture in pictures]
    return arrays[0] if len(arrays) == 1 else np.dstack([arrays[0], arrays[1][:, :, 0]])


def _lanczos(picture: Image.Image, size: Size) -> Image.Image:
    if picture.size == (size.width, size.height):
        return picture
    return picture.resize((size.width, size.height), Image.Resampling.LANCZOS)


def _inner_size(mode: int, picture: Image.Image, size: Size) -> Size:
    """Size of the whole picture before the host crops it or adds the border."""
    wide = size.width / size.height
    source = picture.width / picture.height
    keep_width = wide > source if mode == COVER else wide < source
    keep_height = wide <= source if mode == COVER else wide >= source
    width = size.width if keep_width else picture.width * size.height // picture.height
    height = size.height if keep_height else picture.height * size.width // picture.width
    return Size(max(width, 1), max(height, 1))


def _centre(inner: Size, size: Size) -> tuple[int, int]:
    """Where the host puts a picture of size `inner`: left and top, negative where it is cut."""
    return size.width // 2 - inner.width // 2, size.height // 2 - inner.height // 2


def _resize(mode: int, picture: Image.Image, size: Size, as_map: bool = False) -> Image.Image:
    """The host's resize; as a map, without mixing colours and with a border of one colour."""
    check_size(size.width, size.height, "the resized picture")
    if mode == STRETCH:
        return _map_resize(picture, size) if as_map else _lanczos(picture, size)
    inner = _inner_size(mode, picture, size)
    check_size(inner.width, inner.height, "the picture, enlarged until it covers the result,")
    resized = _map_resize(picture, inner) if as_map else _lanczos(picture, inner)
    left, top = _centre(inner, size)
    border = tuple(border_colour(np.array(picture)).tolist()) if as_map else 0
    canvas = Image.new("RGB", (size.width, size.height), border)
    canvas.paste(resized, (left, top))
    if mode != COVER and not as_map:
        _stretch_edges(canvas, resized, left, top)
    return canvas


def _map_resize(picture: Image.Image, size: Size) -> Image.Image:
    return Image.fromarray(resize_map(np.array(picture), size))


def _stretch_edges(canvas: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    """Fill the free border. The source boxes are empty: Pillow then samples at the very edge."""
    width, height = picture.size
    if top > 0:
        strips = ((0, 0, width, 0), (0, 0)), ((0, height, width, height), (0, top + height))
        shape = canvas.width, top
    elif left > 0:
        strips = ((0, 0, 0, height), (0, 0)), ((width, 0, width, height), (left + width, 0))
        shape = left, canvas.height
    else:
        return
    for box, place in strips:
        canvas.paste(picture.resize(shape, box=box), place)


def _widen(low: int, high: int, wanted: float, limit: int) -> tuple[int, int]:
    """Grow an interval around its middle, shifted and then clamped into [0, limit]."""
    extra = int(wanted - (high - low))
    low, high = low - extra // 2, high + extra - extra // 2
    beyond = max(high - limit, 0)
    low, high = low - beyond, high - beyond
    if low < 0:
        low, high = 0, high - low
    return low, min(high, limit)


def _single_channel(mask: Image.Image, binary: bool) -> Image.Image:
    """Alpha where it is used, else grey."""
    if mask.mode == "RGBA" and mask.getextrema()[3] != (255, 255):
        alpha = mask.getchannel("A")
        return alpha.point(lambda level: 255 if level > 128 else 0) if binary else alpha
    return mask.convert("L")


def _flatten(picture: Image.Image, background: str) -> Image.Image:
    if picture.mode == "RGBA":
        under = Image.new("RGBA", picture.size, background)
        under.paste(picture, mask=picture)
        picture = under
    return picture.convert("RGB")
