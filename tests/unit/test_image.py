"""Geometry of control pictures: sizes, detector resize, and the laws of `fit_map`."""

from __future__ import annotations

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_controlnet.enums import ResizeMode
from lib_controlnet.errors import ImageError
from lib_controlnet.pictures import thinning
from lib_controlnet.pictures.maps import (
    Size,
    fit_map,
    join_mask,
    pixel_perfect_resolution,
    resize_short_side,
    resize_with_pad,
)

RESIZE, INNER, OUTER = ResizeMode.RESIZE, ResizeMode.INNER_FIT, ResizeMode.OUTER_FIT
MODES = pytest.mark.parametrize("mode", list(ResizeMode), ids=lambda mode: mode.name)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, channels), dtype=np.uint8)


def lines(height: int = 128, width: int = 128) -> np.ndarray:
    """A one-pixel edge map: a circle, a diagonal, a rectangle."""
    image = np.zeros((height, width), np.uint8)
    cv2.circle(image, (width // 2, height // 2), min(width, height) // 3, 255, 1)
    cv2.line(image, (4, 4), (width - 5, height // 2), 255, 1)
    cv2.rectangle(image, (8, height - 30), (40, height - 9), 255, 1)
    return np.dstack([image] * 3)


def share_of_blobs(binary: np.ndarray) -> float:
    """White 2 x 2 blocks per white pixel: 0 for one-pixel lines, near 1 for broad ones."""
    white = binary[:, :, 0] > 0
    blocks = white[:-1, :-1] & white[1:, :-1] & white[:-1, 1:] & white[1:, 1:]
    return np.count_nonzero(blocks) / np.count_nonzero(white)


# --- Size ---------------------------------------------------------------------------------


def test_size_knows_its_algebra() -> None:
    size = Size(513, 300)
    assert (size.short, size.area) == (300, 153900)
    assert size.multiple_of_down(8) == Size(512, 296)
    assert Size(5, 3).multiple_of_down(8) == Size(8, 8)
    assert size.scale(0.5) == Size(256, 150)  # 256.5 rounds to even
    assert Size(100, 1).scale(0.01) == Size(1, 1)
    assert Size.from_array(np.zeros((2, 3, 4))) == Size(3, 2)


# --- pixel perfect ------------------------------------------------------------------------

PIXEL_PERFECT = [
    # image size, target, mode, resolution by hand
    (Size(512, 512), Size(512, 512), INNER, 512),
    (Size(512, 512), Size(768, 512), INNER, 768),
    (Size(512, 512), Size(768, 512), RESIZE, 768),
    (Size(512, 512), Size(768, 512), OUTER, 512),
    (Size(1000, 500), Size(512, 512), INNER, 512),  # max(512/500, 512/1000) * 500
    (Size(1000, 500), Size(512, 512), OUTER, 256),
    (Size(640, 480), Size(519, 775), INNER, 775),
    (Size(3, 1000), Size(512, 512), OUTER, 2),  # 0.512 * 3 = 1.536
    (Size(1, 4000), Size(512, 512), OUTER, 1),  # never 0
]


@pytest.mark.parametrize("case", PIXEL_PERFECT, ids=str)
def test_pixel_perfect_resolution_table(case: tuple) -> None:
    image, target, mode, expected = case
    assert pixel_perfect_resolution(image, target, mode) == expected


@given(st.integers(8, 2000), st.integers(8, 2000), st.integers(64, 2048), st.integers(64, 2048))
def test_pixel_perfect_map_needs_no_enlarging(w: int, h: int, tw: int, th: int) -> None:
    """At that resolution a covering map has at least the target's pixels, up to rounding."""
    target = Size(tw, th).multiple_of_down(8)
    side = pixel_perfect_resolution(Size(w, h), target, INNER)
    factor = side / min(w, h)
    assert w * factor >= target.width * (1 - 0.5 / side) - 1
    assert h * factor >= target.height * (1 - 0.5 / side) - 1


# --- resize for detectors -----------------------------------------------------------------

PAD = [
    # height, width, resolution, resized height and width, padded height and width
    (300, 411, 512, (512, 701), (512, 704)),
    (100, 100, 64, (64, 64), (64, 64)),
    (65, 97, 65, (65, 97), (128, 128)),
    (200, 101, 99, (196, 99), (256, 128)),
    (1, 96, 64, (64, 6144), (64, 6144)),
    (1, 4000, 512, (4, 16384), (64, 16384)),  # the long side stops at 16384
]


@pytest.mark.parametrize("case", PAD, ids=str)
def test_resize_with_pad_table(case: tuple) -> None:
    height, width, resolution, resized, padded = case
    image, remove_pad = resize_with_pad(noise(height, width), resolution)
    assert image.shape == (*padded, 3)
    back = remove_pad(image)
    assert back.shape == (*resized, 3)
    assert back.flags.c_contiguous
    assert np.array_equal(back, resize_short_side(noise(height, width), resolution))


def test_padding_repeats_the_edge() -> None:
    image, _ = resize_with_pad(noise(65, 97), 65)
    assert (image[65:] == image[64]).all()
    assert (image[:, 97:] == image[:, 96:97]).all()


def test_resize_short_side_leaves_a_fitting_picture_alone() -> None:
    image = noise(64, 96)
    assert resize_short_side(image, 64) is image


def test_more_pixels_than_a_preprocessor_may_work_on_are_refused_unmade() -> None:
    assert resize_short_side(noise(2, 8), 2048).shape == (2048, 8192, 3)
    tracemalloc.start()
    for by_area in (False, True):
        with pytest.raises(ImageError, match=r"of 16 x 2 .* at 16384 x 2048 .* 16 million pixels"):
            resize_short_side(noise(2, 16), 2048, by_area)
    with pytest.raises(ImageError, match="lower the resolution"):
        resize_with_pad(noise(16, 2), 2048)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2, 16), (16384, 1), (1, 300), (3, 4000)], ids=str)
@pytest.mark.parametrize("mode", list(ResizeMode))
def test_narrow_map_takes_the_memory_of_the_result(shape: tuple, mode: ResizeMode) -> None:
    tracemalloc.start()
    fitted = fit_map(noise(*shape), Size(1024, 1024), mode)
    assert tracemalloc.get_traced_memory()[1] < 160 << 20, "16 million pixels and their work"
    tracemalloc.stop()
    assert fitted.shape == (1024, 1024, 3)


def test_result_larger_than_pictures_may_be_is_refused_unmade() -> None:
    with pytest.raises(ImageError, match="16384 a side"):
        fit_map(noise(4, 4), Size(20_000, 64), ResizeMode.RESIZE)


def test_resize_by_area_differs_when_enlarging_only() -> None:
    image = noise(64, 96)
    assert not np.array_equal(resize_short_side(image, 100), resize_short_side(image, 100, True))
    assert np.array_equal(resize_short_side(image, 50), resize_short_side(image, 50, True))


# --- join_mask ----------------------------------------------------------------------------


def test_join_mask_resizes_without_new_values() -> None:
    mask = np.array([[0, 255], [7, 0]], np.uint8)
    joined = join_mask(noise(4, 6), mask)
    assert joined[:, :, 3].tolist() == [[0] * 3 + [255] * 3] * 2 + [[7] * 3 + [0] * 3] * 2
    assert np.array_equal(joined[:, :, :3], noise(4, 6))


def test_join_mask_takes_the_first_channel_and_none_is_empty() -> None:
    mask = noise(4, 6)
    assert np.array_equal(join_mask(noise(4, 6), mask)[:, :, 3], mask[:, :, 0])
    assert not join_mask(noise(4, 6), None)[:, :, 3].any()


# --- fit_map: geometry --------------------------------------------------------------------


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows along x, green along y; 200 levels and more, so that it is no palette."""
    y, x = np.mgrid[:height, :width]
    return np.dstack([x, y, x * 0]).astype(np.uint8)


GEOMETRY = [
    # map (w, h), target (w, h), mode, resized to, at (x, y) in the target
    ((250, 250), (125, 50), RESIZE, (125, 50), (0, 0)),
    ((250, 250), (100, 50), INNER, (100, 100), (0, -25)),
    ((250, 250), (50, 100), INNER, (100, 100), (-25, 0)),
    ((250, 200), (101, 50), INNER, (101, 81), (0, -15)),
    ((250, 250), (100, 50), OUTER, (50, 50), (25, 0)),
    ((250, 250), (50, 101), OUTER, (50, 50), (0, 25)),
    ((250, 200), (64, 64), OUTER, (64, 51), (0, 7)),  # 64 // 2 - 51 // 2, as the host
    ((250, 250), (250, 250), INNER, (250, 250), (0, 0)),
    ((250, 250), (300, 250), OUTER, (250, 250), (25, 0)),
]


@pytest.mark.parametrize("case", GEOMETRY, ids=str)
def test_fit_map_places_the_map(case: tuple) -> None:
    (width, height), target, mode, size, (x, y) = case
    image = ramp(height, width)
    method = cv2.INTER_AREA if size[0] * size[1] < width * height else cv2.INTER_CUBIC
    resized = image if size == (width, height) else cv2.resize(image, size, interpolation=method)
    fitted = fit_map(image, Size(*target), mode)
    assert fitted.shape == (target[1], target[0], 3)
    assert fitted.flags.c_contiguous
    inside = fitted[max(y, 0) : y + size[1], max(x, 0) : x + size[0]]
    cut = resized[max(-y, 0) :, max(-x, 0) :][: inside.shape[0], : inside.shape[1]]
    assert np.array_equal(inside, cut)


def test_resize_and_fill_takes_the_median_of_the_edge() -> None:
    image = ramp(250, 250)
    image[:60, 0] = 9  # too few to move the median
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    expected = np.median(edge, axis=0).astype(np.uint8)
    fitted = fit_map(image, Size(100, 50), OUTER)
    assert (fitted[:, :25] == expected).all()
    assert (fitted[:, 75:] == expected).all()


def test_extreme_proportions_leave_at_least_one_pixel() -> None:
    fitted = fit_map(noise(1, 3000), Size(64, 64), OUTER)
    assert fitted.shape == (64, 64, 3)
    assert fit_map(noise(3000, 1), Size(64, 64), INNER).shape == (64, 64, 3)


# --- fit_map: content ---------------------------------------------------------------------

SCALES = pytest.mark.parametrize("target", [64, 96, 160, 256, 512], ids=lambda t: f"to {t}")


@MODES
@SCALES
def test_thin_lines_stay_thin_and_binary(mode: ResizeMode, target: int) -> None:
    fitted = fit_map(lines(), Size(target, target), mode)
    assert set(np.unique(fitted)) == {0, 255}
    assert np.array_equal(fitted[:, :, 0], fitted[:, :, 2])
    assert share_of_blobs(fitted) < 0.01
    length = np.count_nonzero(fitted[:, :, 0]) / np.count_nonzero(lines()[:, :, 0])
    assert 0.7 < length / (target / 128) < 1.2, "lines got lost or grew"


@pytest.mark.parametrize(("target", "prune"), [(200, True), (100, False)])
def test_thin_lines_are_the_thinned_ridges_of_the_resized_map(target: int, prune: bool) -> None:
    """The documented procedure, step by step; pruning only when enlarging."""
    method = cv2.INTER_CUBIC if prune else cv2.INTER_AREA
    grey = cv2.resize(lines(), (target, target), interpolation=method).mean(axis=2)
    ridges = thinning.ridge_pixels(grey.astype(np.uint8))
    _, binary = cv2.threshold(ridges, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    fitted = fit_map(lines(), Size(target, target), RESIZE)
    assert np.array_equal(fitted[:, :, 0], hit_or_miss(binary, prune))


def test_thin_lines_stay_where_they_were() -> None:
    fitted = fit_map(lines(), Size(512, 512), RESIZE)
    wide = cv2.resize(lines(), (512, 512), interpolation=cv2.INTER_NEAREST)
    near = cv2.dilate(wide, np.ones((5, 5), np.uint8))
    assert not (fitted & ~near).any()


def test_canny_edges_of_a_photograph_survive_enlarging(photograph: np.ndarray) -> None:
    edges = np.dstack([cv2.Canny(photograph[:256, :256], 100, 200)] * 3)
    fitted = fit_map(edges, Size(640, 640), RESIZE)
    assert set(np.unique(fitted)) == {0, 255}
    assert share_of_blobs(fitted) < 0.06
    plain = cv2.resize(edges, (640, 640), interpolation=cv2.INTER_CUBIC)
    assert share_of_blobs(np.where(plain > 127, 255, 0)) > 0.3, "the measure cannot fail"


@MODES
@SCALES
def test_broad_binary_maps_stay_binary(mode: ResizeMode, target: int) -> None:
    image = np.zeros((128, 128, 3), np.uint8)
    cv2.circle(image, (64, 64), 40, (255, 255, 255), -1)
    fitted = fit_map(image, Size(target, target), mode)
    assert set(np.unique(fitted)) == {0, 255}
    share = (fitted[:, :, 0] > 0).mean() / (image[:, :, 0] > 0).mean()
    assert share == pytest.approx(1, abs=0.05)


@MODES
@SCALES
def test_palettes_keep_their_exact_colours(mode: ResizeMode, target: int) -> None:
    palette = noise(1, 150)[0]
    labels = np.random.default_rng(0).integers(0, 150, (16, 16))
    image = palette[np.kron(labels, np.ones((8, 8), int))]
    fitted = fit_map(image, Size(target, target // 2), mode)
    known = {tuple(colour) for colour in palette}
    if mode is OUTER:
        known.add(tuple(fitted[0, 0]))
    assert {tuple(colour) for colour in fitted.reshape(-1, 3)} <= known


def test_photographs_are_interpolated(photograph: np.ndarray) -> None:
    small = cv2.resize(photograph, (200, 200), interpolation=cv2.INTER_AREA)
    assert np.array_equal(fit_map(photograph, Size(200, 200), RESIZE), small)
    large = cv2.resize(photograph, (600, 600), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(fit_map(photograph, Size(600, 600), RESIZE), large)


@MODES
@pytest.mark.parametrize("target", [Size(128, 128), Size(200, 77), Size(64, 300)], ids=str)
def test_mask_stays_binary_and_the_added_border_is_masked(mode: ResizeMode, target: Size) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[20:60, 30:90] = 255
    mask[100:110] = 120  # below half: not masked
    fitted = fit_map(np.dstack([noise(128, 128), mask]), target, mode)
    assert fitted.shape == (target.height, target.width, 4)
    assert set(np.unique(fitted[:, :, 3])) <= {0, 255}
    if mode is OUTER and target != Size(128, 128):
        assert fitted[0, 0, 3] == 255
        assert fitted[-1, -1, 3] == 255
        assert fitted[target.height // 2, target.width // 2, 3] == 0
    else:
        assert fitted[0, 0, 3] == 0


def test_mask_is_cut_at_half_even_where_nothing_is_resized() -> None:
    mask = np.array([[0, 126, 127, 128, 129, 255]], np.uint8)
    fitted = fit_map(np.dstack([noise(1, 6), mask]), Size(6, 1), RESIZE)
    assert fitted[0, :, 3].tolist() == [0, 0, 0, 255, 255, 255]


def test_mask_does_not_change_how_colours_are_fitted() -> None:
    image = lines()
    mask = np.zeros((128, 128, 1), np.uint8)
    fitted = fit_map(np.dstack([image, mask]), Size(300, 300), RESIZE)
    assert np.array_equal(fitted[:, :, :3], fit_map(image, Size(300, 300), RESIZE))


def test_map_of_the_right_size_is_unchanged(photograph: np.ndarray) -> None:
    for mode in ResizeMode:
        assert np.array_equal(fit_map(photograph, Size(512, 512), mode), photograph)


SIDES = st.integers(1, 90)


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([3, 4]), st.sampled_from(list(ResizeMode)))
def test_fit_map_gives_the_size_asked_for(
    w: int, h: int, tw: int, th: int, channels: int, mode: ResizeMode
) -> None:
    for image in (noise(h, w, channels), np.where(noise(h, w, channels) > 230, 255, 0)):
        fitted = fit_map(image.astype(np.uint8), Size(tw, th), mode)
        assert fitted.shape == (th, tw, channels)
        assert fitted.dtype == np.uint8


# --- thinning -----------------------------------------------------------------------------


def hit_or_miss(binary: np.ndarray, prune: bool) -> np.ndarray:
    """The same procedure with OpenCV's hit-or-miss operator on the whole picture."""

    def delete(kernels: tuple[np.ndarray, ...]) -> bool:
        changed = False
        for kernel in kernels:
            hits = cv2.morphologyEx(result, cv2.MORPH_HITMISS, kernel.astype(np.int32))
            changed |= bool(hits.any())
            result[hits > 0] = 0
        return changed

    result = binary.copy()
    for _ in range(32):
        if not delete(thinning._THINNING):
            break
    if prune:
        delete(thinning._PRUNING)
    return result


@pytest.mark.parametrize("prune", [False, True], ids=["keep spurs", "prune"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(40, 51), (1, 30), (33, 1), (1, 1)], ids=str)
def test_thin_equals_hit_or_miss(shape: tuple[int, int], share: float, prune: bool) -> None:
    random = np.random.default_rng(5).random(shape)
    binary = np.where(random < share, np.uint8(255), np.uint8(0))
    assert np.array_equal(thinning.thin(binary, prune), hit_or_miss(binary, prune))


def test_thin_keeps_a_bar_connected() -> None:
    bar = np.zeros((40, 80), np.uint8)
    bar[15:24, 10:70] = 255
    thinned = thinning.thin(bar, prune=False)
    count, _ = cv2.connectedComponents(thinned, connectivity=8)
    assert count == 2
    assert 40 < np.count_nonzero(thinned) < 80


def test_ridge_pixels_keep_crests_in_all_directions() -> None:
    image = np.zeros((9, 9), np.uint8)
    image[4] = 200
    image[3] = image[5] = 90
    kept = thinning.ridge_pixels(image)
    assert (kept[4] == 200).all()
    assert kept[0, 0] == 0
