"""Regions through the embedded host: residuals land where the unit may act, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from controls import SIZE, encoded, first, picture, request, unit
from embedded import ApiError
from PIL import Image

from lib_controlnet.engine import session

INSIDE, OUTSIDE = "Inside the inpaint mask", "Outside the inpaint mask"


@pytest.fixture
def places(monkeypatch):
    """Per U-Net call: where, on the shallowest layer, each row gets a residual; (rows, h, w)."""
    seen = []
    original = session.Places.skips

    def spy(self, add, taken):
        original(self, lambda step: note(step, add(step)), taken)

    def note(step, parts):
        height, width = step.x.shape[-2:]
        found = np.zeros((step.x.shape[0], height, width), bool)
        for part in parts:
            acts = part.layers[0].abs().sum(1).expand(-1, height, width) > 0
            found[list(part.rows)] |= acts.numpy()
        seen.append(found)
        return parts

    monkeypatch.setattr(session.Places, "skips", spy)
    yield seen
    assert seen, "no control acted at all"


def half(size=SIZE, side="left"):
    mask = np.zeros((size, size), np.uint8)
    mask[:, : size // 2] = 255
    return mask if side == "left" else 255 - mask


def cells(mask):
    """Latent cells of which some part is white."""
    return mask.reshape(mask.shape[0] // 8, 8, mask.shape[1] // 8, 8).max((1, 3)) > 0


def beyond(found, allowed, reach=0):
    """Whether something lies more than `reach` cells outside of `allowed`."""
    grown = np.array(Image.fromarray(allowed).resize(allowed.shape[::-1]))
    for _ in range(reach):
        padded = np.pad(grown, 1)
        shifts = [padded[y : y + grown.shape[0], x : x + grown.shape[1]] for y, x in NINE]
        grown = np.any(shifts, axis=0)
    return bool((found & ~grown).any())


NINE = [(y, x) for y in range(3) for x in range(3)]


@pytest.mark.parametrize("fields", [{}, {"region": "Own mask"}], ids=["mask alone", "region"])
def test_own_mask_limits_every_row_of_a_batch(webui, places, fields):
    own = unit(effective_region_mask=encoded(half()), **fields)
    webui.txt2img(**request(own, batch_size=3))
    assert {found.shape[0] for found in places} == {6}
    for found in places:
        for row in found:
            assert row[:, :4].all()
            assert not beyond(row, cells(half()))


def test_own_mask_is_followed_in_both_hires_passes(webui, places):
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
    webui.txt2img(**request(unit(effective_region_mask=encoded(half())), **hires))
    assert {found.shape[1:] for found in places} == {(8, 8), (16, 16)}
    for found in places:
        size = found.shape[-1] * 8
        assert found[:, :, : found.shape[-1] // 2].all()
        assert not any(beyond(row, cells(half(size))) for row in found)


def test_feather_reaches_beyond_the_mask_and_grows_with_the_hires_pass(webui, places):
    hires = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
    own = unit(effective_region_mask=encoded(half()), region_feather=32)
    webui.txt2img(**request(own, **hires))
    for found in places:
        reached = int(np.nonzero(found.any((0, 1)))[0].max())
        # 16 pixels beyond the middle, 32 in the second pass: 2 and 4 cells.
        assert reached == (5 if found.shape[-1] == 8 else 11)


def inpaint(mask, **fields):
    return {
        "init_images": [Image.fromarray(picture(128, 128))],
        "mask": Image.fromarray(mask),
        "inpaint_full_res": False,
        "inpaint_full_res_padding": 16,
        "mask_blur": 0,
        "denoising_strength": 0.7,
        **fields,
    }


def block():
    mask = np.zeros((128, 128), np.uint8)
    mask[32:64, 32:64] = 255
    return mask


@pytest.mark.parametrize("only_masked", [False, True], ids=["whole", "only-masked"])
@pytest.mark.parametrize("invert", [0, 1], ids=["", "inverted"])
@pytest.mark.parametrize("region", [INSIDE, OUTSIDE])
def test_inside_and_outside_the_hosts_mask(webui, places, region, invert, only_masked):
    fields = inpaint(block(), inpaint_full_res=only_masked, inpainting_mask_invert=invert)
    webui.img2img(**request(unit(region=region), **fields))
    repainted = 255 - block() if invert else block()
    crops = only_masked and not invert  # to 32 pixels and 16 of padding: exactly 64; else halves
    repainted = repainted[16:80, 16:80] if crops else repainted[::2, ::2]
    acts = cells(repainted) if region == INSIDE else cells(255 - repainted)
    never = ~cells(repainted) if region == INSIDE else ~cells(255 - repainted)
    for found in places:
        for row in found:
            assert row[acts & ~_near(never)].all()
            assert not beyond(row, acts, reach=1)  # the host's reduction of the mask is soft


def _near(mask):
    padded = np.pad(mask, 1)
    return np.any([padded[y : y + 8, x : x + 8] for y, x in NINE], axis=0)


def test_units_inside_and_outside_add_up_to_one_everywhere(webui):
    """The same unit twice, inside and outside, is the unit everywhere (soft mask and feather)."""
    fields = inpaint(block(), mask_blur=6)
    whole = first(webui.img2img(**request(unit(), **fields)))
    feather = {"region_feather": 24}
    both = (unit(region=INSIDE, **feather), unit(region=OUTSIDE, **feather))
    parts = first(webui.img2img(**request(*both, **fields)))
    assert np.abs(parts.astype(int) - whole).max() <= 1


def test_txt2img_refers_to_the_mask_of_the_inpaint_unit(webui, places):
    painted = unit(
        module="inpaint_global_harmonious",
        image={"image": encoded(picture()), "mask": encoded(half())},
        weight=0,
    )
    webui.txt2img(**request(unit(region=OUTSIDE), painted))
    for found in places:
        assert found[:, :, 5:].all()
        assert not any(beyond(row, cells(half(side="right"))) for row in found)


def test_outpainted_border_is_inside_the_inpaint_units_mask(webui, places):
    wide = encoded(picture(SIZE, SIZE // 2))
    fields = {"image": wide, "resize_mode": "Resize and Fill"}
    painted = unit(module="inpaint_global_harmonious", weight=0, **fields)
    webui.txt2img(**request(unit(region=INSIDE), painted))
    for found in places:
        assert found[:, 0].all()
        assert found[:, -1].all()
        assert not found[:, 4].any()


@pytest.mark.parametrize("route", ["txt2img", "img2img"])
def test_region_without_any_inpaint_mask_stops_with_a_sentence(webui, calls, route):
    fields = {"init_images": [Image.fromarray(picture())]} if route == "img2img" else {}
    with pytest.raises(ApiError) as caught:
        getattr(webui, route)(**request(unit(region=INSIDE), **fields))
    assert caught.value.status == 422
    expected = "unit 0: region is 'Inside the inpaint mask', but there is no inpaint mask"
    assert expected in str(caught.value.body)
    assert calls.rows == []


def test_all_white_regions_equal_off_in_every_resize_mode(webui):
    for mode in range(3):
        own = {"image": encoded(picture(96, 64)), "resize_mode": mode}
        off = first(webui.txt2img(**request(unit(**own))))
        white = encoded(np.full((48, 64), 255, np.uint8))
        full = unit(effective_region_mask=white, region_feather=20, **own)
        assert np.array_equal(first(webui.txt2img(**request(full))), off)


def test_inside_an_all_white_and_outside_an_all_black_mask_equal_off(webui):
    white = np.full((128, 128), 255, np.uint8)
    off = first(webui.img2img(**request(unit(), **inpaint(white))))
    inside = first(webui.img2img(**request(unit(region=INSIDE), **inpaint(white))))
    assert np.array_equal(inside, off)
    none = first(webui.img2img(**request(**inpaint(white))))
    outside = first(webui.img2img(**request(unit(region=OUTSIDE), **inpaint(white))))
    assert np.array_equal(outside, none)


def test_region_is_written_into_the_picture(webui):
    answer = webui.txt2img(
        **request(unit(region="Own mask", region_feather=8, effective_region_mask=encoded(half())))
    )
    text = answer.info["infotexts"][0]
    assert "Region: Own mask, Region Feather: 8.0" in text


def test_each_unit_for_each_image_takes_turns(webui, places):
    left = unit(effective_region_mask=encoded(half()))
    right = unit(
        effective_region_mask=encoded(half(side="right")),
        batch_option="Each ControlNet unit for each image in a batch",
    )
    webui.txt2img(**request(left, right, batch_size=3))
    for found in places:
        for row, mask in zip(found, [half(), half(side="right"), half()] * 2, strict=True):
            assert not beyond(row, cells(mask))
            assert (row & cells(mask)).any()
