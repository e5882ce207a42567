"""The demo's measure of obedience, and its page."""

from __future__ import annotations

import adherence
import demo
import numpy as np
import photographs
import pytest
from contact_sheet import Row, Tile, sheet

from lib_controlnet.files.checkpoint import open_checkpoint


def line(column: int) -> np.ndarray:
    """bool (40, 40) with one vertical line."""
    mask = np.zeros((40, 40), bool)
    mask[:, column] = True
    return mask


@pytest.mark.parametrize(("shift", "f1"), [(0, 1.0), (2, 1.0), (3, 0.0), (9, 0.0)])
def test_agreement_forgives_two_pixels(shift: int, f1: float) -> None:
    assert adherence.agreement(line(20), line(20 + shift)).f1 == f1


def test_agreement_counts_lines_that_nobody_asked_for() -> None:
    found = adherence.agreement(line(5) | line(20), line(20))
    assert (found.precision, found.recall) == (0.5, 1.0)


def test_agreement_of_empty_maps_is_zero() -> None:
    empty = np.zeros((40, 40), bool)
    assert adherence.agreement(empty, line(3)).f1 == 0.0
    assert adherence.agreement(line(3), empty).f1 == 0.0


def test_edge_f1_of_a_picture_with_its_own_edges_is_one(photograph: np.ndarray) -> None:
    control = adherence.edges(photograph).astype(np.uint8) * 255
    assert adherence.edge_f1(photograph, control) == 1.0
    assert adherence.edge_f1(photograph[:, ::-1].copy(), control) < 0.6


@pytest.mark.parametrize("name", photographs.NAMES)
def test_photograph_is_a_colour_picture(name: str) -> None:
    picture = photographs.load(name)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert min(picture.shape[:2]) >= 256
    assert photographs.square(picture, 64).shape == (64, 64, 3)


def test_photograph_of_another_name_is_refused_with_the_names() -> None:
    with pytest.raises(ValueError, match=r"'cat'.*astronaut"):
        photographs.load("cat")


def test_sheet_shows_every_picture(photograph: np.ndarray) -> None:
    red = np.full((64, 64, 3), (255, 0, 0), np.uint8)
    tiles = (Tile(photograph, "a", "words " * 12), Tile(red, "b"))
    page = np.asarray(sheet("title", "subtitle", [Row("row", tiles), Row("row", tiles[1:])], 128))
    assert (page == (255, 0, 0)).all(axis=2).sum() == 2 * 128 * 128


class StudioOfScenes:
    """Stands for the embedded host: every model draws the scene itself."""

    def __init__(self) -> None:
        self.models = dict.fromkeys(demo.WAYS, "")
        self.asked: list[str] = []

    def unit(self, stem: str, picture: np.ndarray, module: str) -> dict:
        return {"stem": stem, "picture": picture, "module": module}

    def generate(self, _label: str, units: list[dict], **_payload: object) -> list[np.ndarray]:
        (unit,) = units
        assert unit["module"] == "canny"
        self.asked.append(unit["stem"])
        return [unit["picture"], adherence.edges(unit["picture"]).astype(np.uint8) * 255]


def test_demo_follows_the_same_edges_with_a_file_of_each_kind() -> None:
    studio = StudioOfScenes()
    row = demo.ways_row(studio, demo.FIRST_UNSEEN)
    assert studio.asked == list(demo.WAYS)
    assert [tile.title for tile in row.tiles] == list(demo.WAYS.values())
    assert all(tile.note.startswith("edge F1 1.00, file of ") for tile in row.tiles)
    found = [open_checkpoint(demo.ASSETS / f"{stem}.safetensors").kind for stem in demo.WAYS]
    assert [kind.key for kind in found] == [
        *("controlnet", "control_lora", "t2i", "t2i_light", "lllite", "union")
    ]
