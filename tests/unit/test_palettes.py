"""Colours of segmentation classes: the tables of the data sets, each colour one class."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from fake_web import served

from annotator.palettes import ADE20K, ANIME_FACE, COCO, PALETTES, UNLABELED, Palette, pair_names
from lib_controlnet.api.routes import PREFIX
from lib_controlnet.detect.palettes import describe_palettes
from lib_controlnet.ui.editors import answer_editor

ROAD, SKYSCRAPER = 6, 48
# CRC of the colours as published: mmsegmentation's "ade", detectron2's COCO_CATEGORIES.
TABLES = [
    pytest.param(ADE20K, 150, 149, 3620555175, id="ade20k"),
    pytest.param(COCO, 133, 133, 325795295, id="coco"),
    pytest.param(ANIME_FACE, 7, 7, None, id="anime_face"),
]


@pytest.mark.parametrize(("palette", "classes", "different", "crc"), TABLES)
def test_table_is_the_published_one(
    palette: Palette, classes: int, different: int, crc: int | None
) -> None:
    assert palette.colours.shape == (classes, 3)
    assert palette.colours.dtype == np.uint8
    assert len(set(map(tuple, palette.colours.tolist()))) == different
    assert len(set(palette.names)) == classes
    assert all(name and name == name.strip() and "  " not in name for name in palette.names)
    assert crc is None or zlib.crc32(palette.colours.tobytes()) == crc


def test_only_road_and_skyscraper_share_a_colour() -> None:
    assert (ADE20K.names[ROAD], ADE20K.names[SKYSCRAPER]) == ("road", "skyscraper")
    assert np.array_equal(ADE20K.colours[ROAD], ADE20K.colours[SKYSCRAPER])


@pytest.mark.parametrize(
    ("palette", "name", "colour"),
    [
        (ADE20K, "sky", (6, 230, 230)),
        (ADE20K, "chest of drawers", (6, 51, 255)),
        (ADE20K, "flag", (92, 0, 255)),
        (COCO, "person", (220, 20, 60)),
        (COCO, "water-other", (58, 41, 149)),
        (ANIME_FACE, "hair", (0, 0, 255)),
        (ANIME_FACE, "skin", (0, 255, 255)),
    ],
)
def test_names_have_their_colours(palette: Palette, name: str, colour: tuple) -> None:
    assert tuple(palette.colours[palette.names.index(name)]) == colour
    labels = np.array([[0, palette.names.index(name)]])
    assert tuple(palette.paint(labels)[0, 1]) == colour


def test_no_class_has_the_colour_of_what_has_none() -> None:
    for palette in PALETTES.values():
        assert UNLABELED not in set(map(tuple, palette.colours.tolist()))


def test_first_twenty_of_coco_mean_what_those_of_ade20k_do() -> None:
    assert [ADE20K.names[number] for number in ADE20K.first][::19] == ["wall", "chair"]
    assert len(ADE20K.first) == len(COCO.first) == 20
    assert ANIME_FACE.first == tuple(range(7))
    alike = dict(pair_names())
    assert [alike[ADE20K.names[number]] for number in ADE20K.first] == [
        COCO.names[number] for number in COCO.first
    ]


def test_pairs_are_classes_each_in_one_pair() -> None:
    ours, theirs = zip(*pair_names(), strict=True)
    assert set(ours) <= set(ADE20K.names)
    assert set(theirs) <= set(COCO.names)
    assert len(set(ours)) == len(set(theirs)) == len(ours)
    assert set(ADE20K.names) & set(COCO.names) <= {*ours, *theirs}


def test_description_has_names_colours_and_who_paints_with_them() -> None:
    described = describe_palettes()
    ade = described["palettes"]["ade20k"]
    assert ade["classes"][2] == ["sky", "#06e6e6"]
    assert ade["preprocessors"] == ["oneformer_ade20k", "segmentation"]
    assert described["palettes"]["coco"]["preprocessors"] == ["oneformer_coco"]
    assert described["palettes"]["anime_face"]["preprocessors"] == ["anime_face_segment"]
    assert {"ade20k": "sofa", "coco": "couch"} in described["alike"]
    assert described["unlabeled"] == "#000000"


def test_route_tells_the_palettes(tmp_path: Path) -> None:
    with served(tmp_path) as (client, _runtime):
        answer = client.get(f"{PREFIX}/palettes?ignored=1")
        assert client.post(f"{PREFIX}/palettes", json={}).status_code == 405
    assert answer.status_code == 200
    assert answer.json() == describe_palettes()


def test_editor_is_told_the_same() -> None:
    assert answer_editor({"do": "palettes", "value": None}, None) == {"value": describe_palettes()}
