"""Colours of segmentation classes: the tables of the data sets, each colour one class."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from annotator.palettes import ADE20K, ANIME_FACE, COCO, Palette

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
