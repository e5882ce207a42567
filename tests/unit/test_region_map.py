"""One picture in a few colours: which pixels are whose, and which units it is for."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter

from lib_controlnet.enums import ActingRegion, ResizeMode
from lib_controlnet.errors import ControlNetError, UnitError
from lib_controlnet.pictures.colour_areas import SOFT, split_colours
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.inputs import DecodedFiles, PictureSource, choose, own_region
from lib_controlnet.prepare.painted import paint_masks
from lib_controlnet.units import infotext
from lib_controlnet.units.region_map import share_region_map
from lib_controlnet.units.request import GenerationRequest
from lib_controlnet.units.unit import parse_unit

RED, GREEN, BLUE, WHITE = "#ff0000", "#00c800", "#1e3cff", "#ffffff"
COLOURS = (RED, GREEN, BLUE)
ROOT = Path(__file__).resolve().parents[2]
ANY = PictureSource()
REQUEST = GenerationRequest(Size(64, 64))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def painted(height: int = 96, width: int = 128) -> np.ndarray:
    """Red on the left, a green disc and a blue bar on white."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[:, : width // 4] = rgb(RED)
    cv2.circle(picture, (width // 2, height // 2), height // 4, rgb(GREEN), -1)
    picture[:, -width // 5 :] = rgb(BLUE)
    return picture


def exact(picture: np.ndarray, colour: str) -> np.ndarray:
    return (picture == rgb(colour)).all(2)


def encode(picture: np.ndarray, kind: str = "PNG", **settings: Any) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **settings)
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def region_masks(*fields: dict, source: PictureSource = ANY) -> list[np.ndarray]:
    units = share_region_map([parse_unit(one, i) for i, one in enumerate(fields)])
    return [own_region(choose(unit, REQUEST), source).mask for unit in units if unit.region_colour]


def test_flat_colours_are_divided_exactly() -> None:
    picture = painted()
    areas = split_colours(picture, COLOURS)
    for colour in COLOURS:
        assert np.array_equal(areas.mask_of(colour) > 0, exact(picture, colour))
    assert areas.shares[WHITE] == pytest.approx(exact(picture, WHITE).mean(), abs=0.05)


@pytest.mark.parametrize("kind", ["jpeg", "softened"])
def test_soft_edges_are_divided_and_nothing_is_two_units_own(kind: str) -> None:
    picture = painted(384, 512)
    soft = (
        decode(encode(picture, "JPEG", quality=80))
        if kind == "jpeg"
        else np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)))
    )
    masks = [split_colours(soft, COLOURS).mask_of(colour) > 0 for colour in COLOURS]
    assert (np.sum(masks, 0) <= 1).all()
    for mask, colour in zip(masks, COLOURS, strict=True):
        wanted = exact(picture, colour)
        assert (mask & wanted).sum() / (mask | wanted).sum() > 0.98
        near = cv2.dilate(wanted.astype(np.uint8), np.ones((2 * SOFT + 1,) * 2)) > 0
        assert not (mask & ~near).any()


def test_adjoining_areas_leave_no_gap_where_they_mix() -> None:
    picture = np.empty((32, 64, 3), np.uint8)
    picture[:, :32], picture[:, 32:] = rgb(RED), rgb(BLUE)
    mixed = np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)))
    areas = split_colours(mixed, (RED, BLUE))
    assert (areas.labels < 2).all()


def test_what_is_far_from_all_colours_is_nobodys() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    picture[:100] = rgb(RED)
    picture[150:154, 150:154] = (250, 40, 60)  # too small to be one that it is painted in
    picture[180:, 180:] = (255, 49, 0)
    areas = split_colours(picture, (RED,))
    assert np.array_equal(areas.mask_of(RED)[:104] > 0, exact(picture, RED)[:104])
    assert not areas.mask_of(RED)[104:].any()


def test_transparent_parts_are_nobodys() -> None:
    picture = np.dstack([painted(), np.full((96, 128), 255, np.uint8)])
    picture[:, 64:, 3] = 0
    mask = split_colours(picture, (WHITE,)).mask_of(WHITE)
    assert not mask[:, 64:].any()
    assert mask[0, 63]


def test_every_unit_gets_its_colour_of_the_one_picture() -> None:
    picture = painted()
    fields = [{"region_colour": colour} for colour in ("red", [0, 200, 0], "1E3CFF")]
    fields[1]["region_map"] = encode(picture)
    decoded = DecodedFiles()
    masks = region_masks(*fields, source=PictureSource(decoded=decoded))
    for mask, colour in zip(masks, COLOURS, strict=True):
        assert np.array_equal(mask > 0, exact(picture, colour))
    own = {"region_colour": "red", "region_map": encode(picture[:, ::-1])}
    again = region_masks(*fields, own)
    assert np.array_equal(again[3] > 0, exact(picture[:, ::-1], RED))
    assert all(np.array_equal(one, other) for one, other in zip(masks, again[:3], strict=True))
    same = region_masks(fields[1], {**fields[1]}, fields[0])
    assert np.array_equal(same[0], same[1]), "two units of one colour act on the same part"
    assert np.array_equal(same[2], masks[0])


def test_picture_of_a_disabled_unit_counts() -> None:
    holder = {"enabled": False, "region_map": painted()}
    (mask,) = region_masks({"region_colour": RED}, holder)
    assert np.array_equal(mask > 0, exact(painted(), RED))


def test_region_is_an_own_mask_and_is_written() -> None:
    fields = {"region_colour": "red", "region_map": painted(), "region_feather": 9}
    (unit,) = share_region_map([parse_unit({**fields, "resize_mode": "Just Resize"})])
    region = own_region(choose(unit, REQUEST), PictureSource())
    assert (region.mode, region.feather) == (ResizeMode.RESIZE, 9.0)
    text = infotext.serialize(unit)
    assert "Region: Own mask, Region Feather: 9.0, Region Colour: #ff0000" in text
    assert infotext.parse(text)["region_colour"] == RED
    assert parse_unit({"region_color": "red"}).acting_region is ActingRegion.OWN


@pytest.mark.parametrize(
    ("units", "told"),
    [
        ([{"region_colour": RED}], "no unit has a region_map"),
        (
            [{"region_colour": "#00ffff", "region_map": painted()}, {"region_colour": RED}],
            r"region_colour is #00ffff, which is not in the region_map; its colours are "
            r"#ffffff \(.*\), #ff0000 \(25.0%\), #1e3cff",
        ),
        ([{"region_colour": RED, "region_map": "no picture"}], "region_map cannot be decoded"),
        (
            [{"region_colour": RED, "region_map": np.zeros((5000, 5000), np.uint8)}],
            "region_map is 5000 x 5000 pixels",
        ),
        (
            [{"region_colour": RED, "region_map": np.zeros((9, 9, 4), np.uint8)}],
            "its colours are all transparent",
        ),
    ],
    ids=["no picture", "no such colour", "damaged", "too large", "transparent"],
)
def test_what_cannot_be_done_is_refused(units: list[dict], told: str) -> None:
    with pytest.raises(ControlNetError, match=f"^unit 0: .*{told}"):
        region_masks(*units)


def test_too_many_colours_are_refused() -> None:
    many = [{"region_colour": [i, 0, 0], "region_map": "x"} for i in range(65)]
    with pytest.raises(UnitError, match="65 colours of units, 64 at most"):
        region_masks(*many)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"effective_region_mask": painted()}, "effective_region_mask is given"),
        ({"region": "Inside the inpaint mask"}, "region is 'Inside the inpaint mask'"),
    ],
    ids=["mask", "inside"],
)
def test_colour_that_is_not_used_is_noted(fields: dict, note: str) -> None:
    asked = parse_unit({"region_colour": RED, "region_map": painted(), **fields})
    (unit,) = share_region_map([asked])
    assert unit.notes == (f"region_colour is not used: {note}",)
    assert unit.acting_region is asked.acting_region


def test_picture_without_any_colour_is_noted() -> None:
    mine = {"region_colour": RED, "region_map": painted()}
    for others in ([{}], [mine, {**mine, "region_map": painted()}]):
        asked = [*others, {"region_map": painted()}]
        units = share_region_map([parse_unit(one) for one in asked])
        assert [len(unit.notes) for unit in units] == [*(0 for _ in others), 1]
        assert units[-1].notes == ("region_map is not used: no unit has a region_colour for it",)
        assert units[-1].acting_region is ActingRegion.WHOLE


def test_widgets_without_a_picture_are_none() -> None:
    """What drawing widgets send: neither a mask nor a map, so the colour and the map count."""
    empty = {"image": None, "mask": " "}
    asked = [
        {"region_colour": RED, "region_map": empty, "effective_region_mask": empty},
        {"region_map": {"image": painted(), "mask": None}, "region_colour": BLUE},
    ]
    for unit in share_region_map([parse_unit(one) for one in asked]):
        assert (unit.notes, unit.region_palette) == ((), (RED, BLUE))
    masks = region_masks(*asked)
    assert np.array_equal(masks[0] > 0, exact(painted(), RED))


def test_masks_take_the_place_of_colours() -> None:
    asked = [{"region_colour": RED, "region_map": painted()}, {"region_colour": BLUE}, {}]
    units = paint_masks([parse_unit(one, i) for i, one in enumerate(asked)], PictureSource().read)
    for unit, colour in zip(units, (RED, BLUE), strict=False):
        assert np.array_equal(unit.effective_region_mask[:, :, 1] > 0, exact(painted(), colour))
    assert all((unit.region_colour, unit.region_map) == ("", None) for unit in units)
    alone = parse_unit({"region_colour": RED})
    assert paint_masks([alone], PictureSource().read)[0].region_colour == RED


def test_example_of_the_page_is_understood() -> None:
    page = (ROOT / "docs/where-and-when.md").read_text(encoding="utf-8")
    body = json.loads(page.split("```json")[1].split("```")[0])
    units = [parse_unit(one) for one in body["alwayson_scripts"]["ControlNet"]["args"]]
    assert [unit.region_colour for unit in units] == [RED, "#0000ff", GREEN]
    assert not any(unit.notes for unit in share_region_map(units))
