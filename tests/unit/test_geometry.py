"""What may never happen to a control picture on its way: every kind, size and resize mode."""

from __future__ import annotations

import dataclasses
import io
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from lib_controlnet.enums import ResizeMode
from lib_controlnet.errors import ImageError
from lib_controlnet.pictures import maps
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.pictures.maps import Size, fit_map, is_flat, join_mask, placement, resize_map
from lib_controlnet.prepare.crop import (
    crop_control,
    crop_region,
    follow_crop,
    host_picture,
    prepare_mask,
)
from lib_controlnet.units.request import InpaintRules

RESIZE, INNER, OUTER = ResizeMode.RESIZE, ResizeMode.INNER_FIT, ResizeMode.OUTER_FIT
MODES = pytest.mark.parametrize("mode", list(ResizeMode), ids=lambda mode: mode.name)
ADE = [(120, 120, 120), (180, 120, 120), (6, 230, 230), (80, 50, 50), (4, 200, 3), (255, 6, 82)]
"""Wall, building, sky, floor, tree and one more of ADE20K's published colours."""


def noise(height: int, width: int, channels: int = 3, seed: int = 4) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


def segments(height: int, width: int, colours: list[tuple[int, int, int]] = ADE) -> np.ndarray:
    """Vertical and horizontal bands of the given colours."""
    y, x = np.mgrid[:height, :width]
    labels = (x * 7 // width + y * 5 // height) % len(colours)
    return np.array(colours, np.uint8)[labels]


def colours_of(image: np.ndarray) -> set[tuple[int, int, int]]:
    """Every colour of a picture, uint8 (H, W, 3)."""
    wide = image[:, :, :3].reshape(-1, 3).astype(np.int32)
    packed = np.unique(wide[:, 0] << 16 | wide[:, 1] << 8 | wide[:, 2]).tolist()
    return {(value >> 16, value >> 8 & 255, value & 255) for value in packed}


# --- upright ------------------------------------------------------------------------------

ORIENTATIONS = {
    # EXIF value: what a viewer shows, from the stored rows
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}
STORED = {
    "RGB": Image.fromarray(noise(3, 5)),
    "L": Image.fromarray(noise(3, 5)[:, :, 0]),
    "1": Image.fromarray(noise(3, 5)[:, :, 0] > 120),
    "P": Image.fromarray(noise(3, 5)).quantize(7),
    "LA": Image.fromarray(noise(3, 5, 2), "LA"),
    "RGBA": Image.fromarray(noise(3, 5, 4)),
    "I;16": Image.fromarray(noise(3, 5)[:, :, 0].astype(np.uint16) * 257),
}


def file_of(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("mode", STORED)
def test_turned_photographs_are_upright_in_every_mode(mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode_image(file_of(STORED[mode], "PNG", exif=exif))
    expected = ORIENTATIONS[orientation](decode_image(file_of(STORED[mode], "PNG")))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
def test_turned_files_are_upright_in_every_format(kind: str, orientation: int) -> None:
    blocks = np.kron(noise(2, 3), np.ones((16, 16, 1), np.uint8)) // 2
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode_image(file_of(Image.fromarray(blocks), kind, exif=exif, **options))
    expected = ORIENTATIONS[orientation](decode_image(Image.fromarray(blocks)))
    centres = np.s_[8::16, 8::16]  # JPEG blurs colours between blocks
    assert found.shape == expected.shape
    assert np.abs(found[centres].astype(int) - expected[centres]).max() <= 6


FILES = {
    # what a client may send: (file, RGB of its first pixel)
    "CMYK JPEG": (file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), (254, 0, 0)),
    "grey JPEG": (file_of(Image.new("L", (8, 8), 90), "JPEG"), (90, 90, 90)),
    "16-bit big-endian TIFF": (
        file_of(Image.fromarray(np.full((2, 2), 257 * 9, ">u2")), "TIFF"),
        (9, 9, 9),
    ),
    "32-bit TIFF": (file_of(Image.fromarray(np.full((2, 2), 257 * 9, "<i4")), "TIFF"), (9, 9, 9)),
    "16-bit colour PNG": (
        cv2.imencode(".png", np.full((2, 2, 3), (256 * 3, 256 * 2, 256), np.uint16))[1].tobytes(),
        (1, 2, 3),
    ),
    "grey PNG with a clear level": (
        file_of(Image.fromarray(np.array([[7, 9]], np.uint8)), "PNG", transparency=7),
        (255, 255, 255),
    ),
    "RGB PNG with a clear colour": (
        file_of(Image.new("RGB", (2, 1), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        (255, 255, 255),
    ),
    "palette PNG with soft alpha": (
        file_of(Image.new("P", (1, 1), 0), "PNG", transparency=bytes([51])),
        (204, 204, 204),
    ),
    "animated GIF": (
        file_of(
            Image.new("RGB", (2, 2), (0, 0, 255)),
            "GIF",
            save_all=True,
            append_images=[Image.new("RGB", (2, 2))],
        ),
        (0, 0, 255),
    ),
    "YCbCr picture": (Image.new("RGB", (2, 2), (255, 0, 0)).convert("YCbCr"), (254, 0, 0)),
    "premultiplied picture": (Image.new("RGBa", (1, 1), (51, 0, 0, 51)), (255, 204, 204)),
}


@pytest.mark.parametrize("name", FILES)
def test_uncommon_files_have_the_colours_a_viewer_shows(name: str) -> None:
    value, expected = FILES[name]
    found = decode_image(value)
    assert found.shape[2] == 3
    assert np.abs(found[0, 0].astype(int) - expected).max() <= 1


# --- palettes -----------------------------------------------------------------------------

TARGETS = pytest.mark.parametrize(
    "target", [Size(64, 64), Size(97, 41), Size(40, 200), Size(512, 320)], ids=str
)


@MODES
@TARGETS
@pytest.mark.parametrize("count", [1, 2, 3, 6], ids=lambda count: f"{count} colours")
def test_segmentation_colours_stay_in_the_set(mode: ResizeMode, target: Size, count: int) -> None:
    """The border that "Resize and Fill" adds included."""
    image = segments(120, 160, ADE[:count])
    assert colours_of(fit_map(image, target, mode)) <= set(ADE[:count])


@pytest.mark.parametrize("pair", [((255, 0, 0), (0, 0, 0)), ((0, 0, 255), (255, 255, 0))], ids=str)
def test_two_saturated_colours_do_not_turn_black_and_white(pair: tuple) -> None:
    image = segments(60, 80, list(pair))
    assert colours_of(fit_map(image, Size(200, 150), RESIZE)) == set(pair)


@pytest.mark.parametrize("side", [16, 20, 48, 100, 128, 300])
def test_palettes_are_not_shifted(side: int) -> None:
    """Every pixel shows the source at its centre, to half a source pixel."""
    index = np.arange(64)
    row = np.stack([index * 3, 255 - index * 3, index], axis=1).astype(np.uint8)
    image = np.repeat(row[None], 64, axis=0)
    found = fit_map(image, Size(side, side), RESIZE)[0, :, 2].astype(float)
    centres = (np.arange(side) + 0.5) * 64 / side - 0.5
    assert np.abs(found - centres).max() <= 0.5


def test_border_of_a_black_and_white_map_is_black_or_white() -> None:
    """As many white edge pixels as black ones: their median would be grey."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, 20:] = 255
    assert colours_of(fit_map(image, Size(80, 40), OUTER)) == {(0,) * 3, (255,) * 3}


# --- drawings and depth -------------------------------------------------------------------


def drawing(side: int) -> np.ndarray:
    """A smooth-edged circle of 2 pixels, drawn in few grey levels as a pen does."""
    image = np.zeros((side, side), np.uint8)
    cv2.circle(image, (side // 2, side // 2), side // 3, 255, 2, cv2.LINE_AA)
    return np.dstack([image // 12 * 12] * 3)


def test_smooth_drawings_are_not_torn_when_they_shrink() -> None:
    image = drawing(1024)
    assert 8 < len(colours_of(image)) < 30
    fitted = fit_map(image, Size(192, 192), RESIZE)[:, :, 0]
    assert cv2.connectedComponents(np.uint8(fitted > 30))[0] == 2  # background and circle
    torn = cv2.resize(image, (192, 192), interpolation=cv2.INTER_NEAREST_EXACT)[:, :, 0]
    assert cv2.connectedComponents(np.uint8(torn > 30))[0] > 20, "the measure cannot fail"


def test_depth_with_few_levels_stays_smooth() -> None:
    level = np.linspace(40, 90, 64).astype(np.uint8)
    image = np.dstack([np.repeat(level[None], 64, axis=0)] * 3)
    assert len(colours_of(image)) == 51
    found = fit_map(image, Size(256, 256), RESIZE)
    assert np.array_equal(found, cv2.resize(image, (256, 256), interpolation=cv2.INTER_CUBIC))
    assert not is_flat(image)


def test_large_maps_are_judged_by_all_their_rows() -> None:
    """The first million pixels are two greys, the rest is a photograph's noise."""
    image = noise(1200, 1100)
    image[:1000] = np.where(image[:1000, :, :1] > 127, np.uint8(50), np.uint8(90))
    found = fit_map(image, Size(550, 600), RESIZE)
    assert np.array_equal(found, cv2.resize(image, (550, 600), interpolation=cv2.INTER_AREA))


# --- masks --------------------------------------------------------------------------------


@MODES
@TARGETS
def test_mask_and_colours_never_mix(mode: ResizeMode, target: Size) -> None:
    """The mask over a photograph is the mask over any other, and the colours know of no mask."""
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (80, 60), 31, 255, -1)
    one, other = join_mask(noise(120, 160), mask), join_mask(noise(120, 160, seed=9), mask)
    fitted = fit_map(one, target, mode)
    assert np.array_equal(fitted[:, :, 3], fit_map(other, target, mode)[:, :, 3])
    assert np.array_equal(fitted[:, :, :3], fit_map(noise(120, 160), target, mode))
    assert set(np.unique(fitted[:, :, 3])) == {0, 255}


def test_half_clear_picture_is_flattened_before_the_mask_joins() -> None:
    clear = noise(20, 30, 4)
    mask = noise(20, 30)[:, :, 1]
    joined = join_mask(decode_image(Image.fromarray(clear)), mask)
    alpha = clear[:, :, 3:].astype(int)
    flat = (clear[:, :, :3] * alpha + 255 * (255 - alpha)) // 255
    assert np.array_equal(joined, np.dstack([flat.astype(np.uint8), mask]))


def test_larger_masks_are_sampled_at_the_centre() -> None:
    mask = np.repeat(np.arange(64, dtype=np.uint8)[None], 64, axis=0)
    found = join_mask(noise(16, 16), mask)[0, :, 3].astype(float)
    assert np.abs(found - (np.arange(16) * 4 + 1.5)).max() <= 0.5


# --- extreme sizes ------------------------------------------------------------------------

TINY = [(1, 1), (1, 90), (90, 1), (2, 3), (1, 2000)]


@MODES
@pytest.mark.parametrize("shape", TINY, ids=str)
@pytest.mark.parametrize("target", [Size(64, 64), Size(8, 104)], ids=str)
def test_tiny_pictures_fill_every_size(
    shape: tuple[int, int], mode: ResizeMode, target: Size
) -> None:
    plain = noise(*shape)
    white_line = np.zeros_like(plain)
    white_line[:, 0] = 255
    for image in (plain, white_line, join_mask(plain, plain[:, :, 0])):
        found = fit_map(image, target, mode)
        assert found.shape == (target.height, target.width, image.shape[2])
        wanted, left, top = placement(Size(shape[1], shape[0]), target, mode)
        fits_in = wanted.width <= target.width and wanted.height <= target.height
        assert fits_in if mode is OUTER else max(left, top) <= 0


@pytest.mark.parametrize("shape", [*TINY[:4], (1, 300)], ids=str)
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_tiny_pictures_go_through_the_hosts_preparation(shape: tuple[int, int], mode: int) -> None:
    picture = Image.fromarray(noise(*shape))
    full = Image.new("L", picture.size, 255)
    whole = InpaintRules(full, 4, 4, invert=False, binary=True, only_masked=False, padding=8)
    for rules in (None, whole, dataclasses.replace(whole, only_masked=True)):
        found = host_picture(picture, rules, Size(64, 48), mode)
        assert found.image.shape == (48, 64, 3)
        assert rules is None or found.mask.shape == (48, 64)


@pytest.mark.parametrize("turned", [False, True], ids=["row", "column"])
def test_line_of_16384_pixels_shows_its_middle(turned: bool) -> None:
    """Enlarged as a whole it would take 12 GB."""
    levels = np.zeros((1, 16384, 3), np.uint8)
    levels[0] = np.random.default_rng(0).integers(0, 256, (16384, 3))
    levels[0, 8191:8193] = 77  # one level over the 2 x 1 pixels that are shown
    image = levels.swapaxes(0, 1) if turned else levels
    found, peak = peak_of(lambda: fit_map(image, Size(256, 256), INNER))
    assert found.shape == (256, 256, 3)
    assert peak < 64
    middle = found.swapaxes(0, 1) if turned else found
    assert (middle[:, 100:156] == 77).all()


def test_picture_that_would_fill_the_memory_is_refused_with_its_size() -> None:
    picture = Image.fromarray(noise(1, 9000))
    with pytest.raises(ImageError, match=r"is 576000 x 64 pixels; at most 16384 a side"):
        host_picture(picture, None, Size(64, 64), 1)


WIDE, HIGH = 7680, 4320
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def huge(request: pytest.FixtureRequest) -> np.ndarray:
    photograph = request.getfixturevalue("photograph")
    return cv2.resize(photograph, (WIDE, HIGH), interpolation=cv2.INTER_LINEAR)


def peak_of(work: object) -> tuple[np.ndarray, float]:
    """The result and the most memory in use on the way, MiB."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1] / MEGABYTE
    finally:
        tracemalloc.stop()


@MODES
def test_8k_photograph_takes_no_more_memory_than_itself(huge: np.ndarray, mode: ResizeMode) -> None:
    found, peak = peak_of(lambda: fit_map(huge, Size(512, 512), mode))
    assert found.shape == (512, 512, 3)
    assert peak < huge.nbytes / MEGABYTE


def test_8k_transparent_and_16_bit_pictures_are_converted_in_strips(huge: np.ndarray) -> None:
    alpha = np.broadcast_to(np.linspace(0, 255, WIDE).astype(np.uint8), (HIGH, WIDE))
    clear = np.dstack([huge, alpha])
    found, peak = peak_of(lambda: decode_image(clear))
    assert peak < 2 * huge.nbytes / MEGABYTE
    for row in (0, 137, HIGH - 1):  # first and last strip, and one between
        wide = alpha[row, :, None].astype(int)
        exact = (huge[row] * wide + 255 * (255 - wide)) // 255
        assert np.array_equal(found[row], exact)
    deep = huge[:, :, 0].astype(np.uint16) * 257
    found, peak = peak_of(lambda: decode_image(deep))
    assert np.array_equal(found[:, :, 2], huge[:, :, 0])
    assert peak < 3 * huge.nbytes / MEGABYTE


def test_8k_line_map_shrinks_to_thin_lines() -> None:
    image = np.zeros((HIGH, WIDE, 3), np.uint8)
    cv2.circle(image, (WIDE // 2, HIGH // 2), 1500, (255, 255, 255), 1)
    found = fit_map(image, Size(1024, 576), RESIZE)[:, :, 0]
    assert set(np.unique(found)) == {0, 255}
    y, x = np.nonzero(found)
    radius = np.hypot(x + 0.5 - 512, y + 0.5 - 288)
    assert np.abs(radius - 200).max() < 1.5, "lines moved"
    turned = np.unique(np.round(np.degrees(np.arctan2(y - 288, x - 512)) / 5))
    assert turned.size >= 72, "the circle has gaps"
    assert found.astype(bool).sum() < 1.2 * 2 * np.pi * 200, "lines are broad"


# --- the host's crop ----------------------------------------------------------------------

WHOLE = Size(200, 100)
BOXES = {
    "middle": (80, 40, 120, 60),
    "left edge": (0, 30, 20, 60),
    "corner": (185, 85, 200, 100),
    "too tall to be square": (10, 45, 190, 55),
}


def only_masked(box: tuple[int, int, int, int]) -> InpaintRules:
    plane = np.zeros((WHOLE.height, WHOLE.width), np.uint8)
    plane[box[1] : box[3], box[0] : box[2]] = 255
    return InpaintRules(Image.fromarray(plane), 0, 0, False, True, only_masked=True, padding=6)


def line_map(size: Size) -> np.ndarray:
    image = np.zeros((size.height, size.width, 3), np.uint8)
    for x in range(5, size.width + 36, 12):
        cv2.line(image, (x, 0), (x - 36, size.height - 1), (255, 255, 255), 1)
    return image


@MODES
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("own", [WHOLE, Size(150, 150), Size(333, 90)], ids=str)
def test_own_maps_survive_the_hosts_crop(mode: ResizeMode, box: str, own: Size) -> None:
    """Lines stay thin and binary and palettes exact, on the pixels where pictures go."""
    region = crop_region(prepare_mask(only_masked(BOXES[box])), 6, Size(128, 96))
    laid = list(ResizeMode).index(mode)
    where = (WHOLE, region, Size(128, 96), laid)
    lines = line_map(own)
    found = crop_control(lines, *where, is_map=True)
    assert found.shape == (96, 128, 3)
    assert set(np.unique(found)) <= {0, 255}
    blurred = crop_control(lines, *where)
    assert len(np.unique(blurred)) > 8, "the measure cannot fail"
    if mode is RESIZE:
        near = cv2.dilate(blurred, np.ones((5, 5), np.uint8)) > 60
        assert not (found.astype(bool) & ~near).any(), "lines moved"
    palette = segments(own.height, own.width)
    assert colours_of(crop_control(palette, *where, is_map=True)) <= set(ADE)


def test_border_of_an_own_map_has_one_colour_under_the_hosts_crop() -> None:
    """Stretched edges would draw lines where the map has nothing."""
    image = line_map(Size(100, 100))
    image[:, 0] = 255
    crop = (0, 20, 60, 80)  # 50 pixels of border, then the map
    found = crop_control(image, WHOLE, crop, Size(60, 60), 2, is_map=True)
    assert not found[:, :50].any()
    assert np.array_equal(found[:, 50:], image[20:80, :10])
    stretched = crop_control(image, WHOLE, crop, Size(60, 60), 2)
    assert stretched[:, :50].any(), "the measure cannot fail"


@MODES
def test_own_photographs_take_the_hosts_filter_as_maps_too(
    photograph: np.ndarray, mode: ResizeMode
) -> None:
    region, laid = (30, 20, 90, 80), list(ResizeMode).index(mode)
    image = cv2.resize(photograph, (220, 140), interpolation=cv2.INTER_AREA)
    plain = crop_control(image, WHOLE, region, Size(96, 96), laid)
    assert np.array_equal(crop_control(image, WHOLE, region, Size(96, 96), laid, True), plain)


# --- a unit that follows the host's picture -----------------------------------------------

FOLLOWED = [Size(64, 64), Size(100, 76), Size(64, 41), Size(51, 128)]
BACKGROUND = "#12ab34"


@pytest.mark.parametrize("size", FOLLOWED, ids=str)
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("masked", ["no mask", "whole picture", "only masked", "blank"])
def test_followed_picture_lies_on_the_hosts_pixels(mode: int, size: Size, masked: str) -> None:
    init = Image.fromarray(noise(WHOLE.height, WHOLE.width, 4))
    rules = None if masked == "no mask" else only_masked(BOXES["left edge"])
    if masked == "whole picture":
        rules = dataclasses.replace(rules, only_masked=False, blur_x=4.0)
    if masked == "blank":
        rules = dataclasses.replace(rules, mask=Image.new("L", init.size))
    host = host_picture(init, rules, size, mode, BACKGROUND)
    followed = follow_crop(init, rules, size, mode, BACKGROUND)
    placed = fit_map(followed.image, size, OUTER)
    inside = np.ones((size.height, size.width), bool)
    if mode == 2 and masked != "only masked":  # the host's stretched edges are not content
        wanted, left, top = placement(Size.from_array(followed.image), size, OUTER)
        inside[:] = False
        inside[top : top + wanted.height, left : left + wanted.width] = True
        assert not inside.all()
    assert np.array_equal(placed[inside], host.image[inside])
    assert (followed.mask is None) == (host.mask is None)
    if host.mask is not None:
        joined = fit_map(join_mask(followed.image, followed.mask), size, OUTER)
        assert np.array_equal(joined[inside][:, 3] > 127, host.mask[inside] > 127)
        assert (joined[~inside][:, 3] == 255).all(), "the added border is to be painted"


def test_palettes_are_placed_alike_by_every_opencv() -> None:
    """128 to 192: every third pixel is as near to one as to the next, where OpenCV 5 wavers."""
    stripes = np.arange(128, dtype=np.uint8) % 2 * np.uint8(200)
    image = np.stack([stripes, 40 + 0 * stripes, 200 - stripes], axis=-1)[None].repeat(128, 0)
    placed = resize_map(image, Size(192, 192))
    taken = [(x // 3 * 2 + (x % 3 + 1) // 2) for x in range(192)]
    taken = [min(one, 127) for one in taken]
    assert np.array_equal(placed, image[:, taken][taken])


@pytest.mark.skipif(cv2.__version__ >= "5", reason="it is OpenCV 4's that is meant")
def test_palettes_are_placed_as_by_opencv_4() -> None:
    sides = [*range(1, 70), 333, 1920]
    for before in sides:
        row = np.arange(before, dtype=np.uint16)[None]
        for after in sides:
            ours = maps._nearest(before, after)
            theirs = cv2.resize(row, (after, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
            assert np.array_equal(ours, theirs), (before, after)


def test_resize_map_of_the_right_size_is_the_map_itself(photograph: np.ndarray) -> None:
    for image in (photograph, line_map(Size(64, 64)), segments(30, 40)):
        assert np.array_equal(resize_map(image, Size.from_array(image)), image)
