"""Where a unit acts: placing a region on a pass, and where its mask comes from."""

import base64
import io
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from lib_controlnet.engine.injection import RegionMask
from lib_controlnet.enums import ActingRegion, ResizeMode
from lib_controlnet.errors import UnitError
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry
from lib_controlnet.pictures.region import Region, place_region
from lib_controlnet.prepare.crop import host_picture
from lib_controlnet.prepare.inputs import PictureSource, choose, host_region, own_region
from lib_controlnet.units.request import GenerationRequest, InpaintRules
from lib_controlnet.units.unit import parse_unit

ANY = PictureSource()
TXT2IMG = GenerationRequest(Size(64, 64))
WIDE = PassGeometry.of_latent(Size(8, 4))


def blob(width=96, height=64, box=(30, 16, 54, 40)):
    mask = np.zeros((height, width), np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    return mask


def inpaint(mask, resize_mode=1, **changes):
    rules = {"blur_x": 0, "blur_y": 0, "invert": False, "binary": True, "only_masked": False}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    rules = InpaintRules(mask=Image.fromarray(mask), padding=4, **{**rules, **changes})
    return GenerationRequest(
        Size(64, 64), init_image=picture, resize_mode=resize_mode, inpaint=rules
    )


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("feather", [0.0, 7.0, 60.0])
@pytest.mark.parametrize("shape", [(32, 32), (5, 91), (513, 300), (1, 1)])
@pytest.mark.parametrize("level", [0, 255])
def test_uniform_region_is_exactly_uniform(mode, feather, shape, level):
    placed = place_region(Region(np.full(shape, level, np.uint8), mode, feather), WIDE)
    assert torch.equal(placed, torch.full((1, 1, 32, 64), level / 255))


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("feather", [0.0, 9.0])
def test_region_and_its_inverse_add_up_to_one(mode, feather):
    mask = np.random.default_rng(1).integers(0, 256, (47, 71), np.uint8)
    for border in (None, 0, 255):
        region = Region(mask, mode, feather, border)
        both = place_region(region, WIDE) + place_region(region.invert(), WIDE)
        torch.testing.assert_close(both, torch.ones_like(both), atol=1e-6, rtol=0)


def overlap(given, wanted):
    """(wanted, given): the share of a cell that lies on a pixel, by exact fractions."""
    cell = Fraction(given, wanted)
    return np.array(
        [
            [
                float(max(min((i + 1) * cell, k + 1) - max(i * cell, k), 0) / cell)
                for k in range(given)
            ]
            for i in range(wanted)
        ]
    )


@pytest.mark.parametrize("size", [(8, 4), (9, 5), (1, 1), (13, 31), (64, 32), (100, 47)], ids=str)
@pytest.mark.parametrize("shape", [(32, 64), (31, 7), (1, 50), (64, 128)], ids=str)
def test_cells_hold_the_share_that_they_cover(shape, size):
    mask = np.random.default_rng(3).random(shape, np.float32)
    expected = overlap(shape[0], size[1]) @ mask.astype(np.float64) @ overlap(shape[1], size[0]).T
    found = RegionMask(torch.from_numpy(mask)[None, None]).at(size[::-1], torch.zeros(1))
    assert np.abs(found[0, 0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("mode", list(ResizeMode))
@pytest.mark.parametrize("factor", [1, 8, 3, 1 / 8], ids=str)
@pytest.mark.parametrize("cells", [(8, 8), (4, 4), (2, 2)], ids=str)
def test_mask_with_edges_on_cells_is_exact_at_every_layer(mode, factor, cells):
    checks = np.kron([[0, 1], [1, 0]], np.ones((1, 1), np.uint8)) * np.uint8(255)
    drawn = np.kron(checks, np.ones((max(int(32 * factor), 1),) * 2, np.uint8))
    placed = place_region(Region(drawn, mode), PassGeometry.of_latent(Size(8, 8)))
    found = RegionMask(placed).at(cells, torch.zeros(1))[0, 0]
    half = cells[0] // 2
    assert torch.equal(found, torch.kron(torch.tensor([[0.0, 1], [1, 0]]), torch.ones(half, half)))


@pytest.mark.parametrize("shape", [(16384, 1), (1, 16384), (16384, 3), (2, 16384)], ids=str)
@pytest.mark.parametrize("mode", list(ResizeMode))
def test_narrow_mask_takes_no_more_memory_than_the_pass(shape, mode):
    mask = np.zeros(shape, np.uint8)
    mask[len(mask) // 2 :, shape[1] // 2 :] = 255
    tracemalloc.start()
    place_region(Region(mask, mode, 4.0), PassGeometry.of_latent(Size(64, 64)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20, "some copies of 512 x 512 floats"


def test_crop_and_resize_takes_the_centre():
    mask = np.zeros((64, 64), np.uint8)
    mask[:16] = 255  # cut away by the crop to 2:1
    assert not place_region(Region(mask, ResizeMode.INNER_FIT), WIDE).any()


def test_resize_and_fill_continues_the_edge_or_takes_the_border():
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :4] = 255  # touches the left edge only
    placed = place_region(Region(mask, ResizeMode.OUTER_FIT), WIDE)[0, 0]
    assert placed[:, :20].min() == 1.0
    assert not placed[:, 20:].any()
    filled = place_region(Region(mask, ResizeMode.OUTER_FIT, border=255), WIDE)[0, 0]
    assert filled[:, 48:].min() == 1.0
    assert not filled[:, 20:48].any()


@pytest.mark.parametrize("feather", [8, 20, 40])
def test_feather_softens_that_many_pixels_and_no_more(feather):
    mask = np.zeros((64, 128), np.uint8)
    mask[:, :64] = 255
    line = place_region(
        Region(mask, ResizeMode.RESIZE, feather), PassGeometry.of_latent(Size(16, 8))
    )
    line = line[0, 0, 32]
    soft = int(((line > 1e-4) & (line < 1 - 1e-4)).sum())
    assert abs(soft - feather) <= 2
    assert bool((line.diff() <= 1e-6).all()), "the strength falls steadily"
    assert line[63] + line[64] == pytest.approx(1.0, abs=1e-4), "half of it on each side"


def test_feather_grows_with_the_hires_pass():
    mask = np.zeros((64, 128), np.uint8)
    mask[:, :64] = 255
    region = Region(mask, ResizeMode.RESIZE, 16)
    low = place_region(region, PassGeometry.of_latent(Size(16, 8)))
    high = place_region(region, PassGeometry.of_latent(Size(32, 16)), scale=2.0)
    shrunk = torch.nn.functional.avg_pool2d(high, 2)
    assert (shrunk - low).abs().max() < 0.05


def test_region_follows_the_crop_of_a_hires_pass():
    columns = np.zeros((64, 96), np.uint8)
    columns[:, 48:] = 255
    geometry = PassGeometry(Size(96, 64), 16, 8, Size(64, 40))
    placed = place_region(Region(columns, ResizeMode.RESIZE), geometry)[0, 0]
    assert placed.shape == (40, 64)
    assert not placed[:, :32].any()
    assert placed[:, 32:].min() == 1.0


def as_base64(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "value",
    [blob(), as_base64(blob()), {"image": np.zeros((64, 96, 3), np.uint8), "mask": blob()}],
    ids=["array", "base64", "drawing"],
)
def test_own_mask_in_every_form(value):
    unit = parse_unit({"effective_region_mask": value, "region_feather": 3})
    assert unit.acting_region is ActingRegion.OWN
    region = own_region(choose(unit, TXT2IMG), ANY)
    assert np.array_equal(region.mask, blob())
    assert (region.mode, region.feather) == (ResizeMode.INNER_FIT, 3.0)


def test_own_mask_that_is_missing_says_what_to_do():
    unit = parse_unit({"region": "Own mask"}, 2)
    with pytest.raises(UnitError, match=r"unit 2: region is 'Own mask', but no mask is given"):
        own_region(choose(unit, TXT2IMG), ANY)


def test_own_mask_goes_the_way_of_the_img2img_picture():
    unit = parse_unit({"effective_region_mask": blob(), "resize_mode": "Just Resize"})
    region = own_region(choose(unit, inpaint(blob(), resize_mode=2)), ANY)
    assert region.mode is ResizeMode.OUTER_FIT
    own = parse_unit({**vars(unit), "image": np.zeros((9, 9, 3), np.uint8)})
    assert own_region(choose(own, inpaint(blob(), resize_mode=2)), ANY).mode is ResizeMode.RESIZE


@pytest.mark.parametrize("has_own", [False, True])
def test_own_mask_is_cropped_as_the_host_crops(has_own):
    drawn = blob(box=(36, 20, 96, 40))
    fields = {"effective_region_mask": drawn, "resize_mode": "Just Resize"}
    if has_own:
        fields["image"] = np.zeros((64, 96, 3), np.uint8)
    region = own_region(choose(parse_unit(fields), inpaint(blob(), only_masked=True)), ANY)
    # Box 24 x 24 and 4 pixels of padding: 32 x 32 pixels, doubled to 64 x 64.
    placed = place_region(region, PassGeometry.of_latent(Size(8, 8)))[0, 0]
    part = np.kron(drawn[12:44, 26:58], np.ones((2, 2), np.uint8))
    assert np.array_equal(placed.numpy(), part / np.float32(255))


def test_own_mask_is_not_cropped_where_the_unit_says_so():
    fields = {"effective_region_mask": blob(), "inpaint_crop_input_image": False}
    region = own_region(choose(parse_unit(fields), inpaint(blob(), only_masked=True)), ANY)
    assert np.array_equal(region.mask, blob())


@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("blur", [0, 3])
def test_host_region_is_what_the_host_repaints(only_masked, invert, blur):
    request = inpaint(blob(), only_masked=only_masked, invert=invert, blur_x=blur, blur_y=blur)
    host = host_picture(request.init_image, request.inpaint, request.size, request.resize_mode)
    region = host_region(parse_unit({"region_feather": 5}), request)
    assert np.array_equal(region.mask, host.mask)
    assert region.feather == 5.0


def test_host_region_of_a_blank_mask_is_empty():
    request = inpaint(blob() * 0, only_masked=True)
    assert not host_region(parse_unit({}), request).mask.any()
    assert host_region(parse_unit({}), TXT2IMG) is None


@pytest.mark.parametrize("value", [-1, 513, "wide", float("nan")])
def test_impossible_feather_is_refused(value):
    with pytest.raises(UnitError, match="unit 1: region_feather"):
        parse_unit({"region_feather": value}, 1)


def test_unknown_region_lists_the_choices():
    with pytest.raises(UnitError, match="region is 'behind'.*Inside the inpaint mask"):
        parse_unit({"region": "behind"})
