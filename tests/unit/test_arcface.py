"""Whose face it is: alignment and recogniser against insightface.

`data/poses/arcface.json` holds what its `ArcFaceONNX` gave with `data/onnx/recogniser.onnx` for
three faces of `pose_scenes.picture(11, 320, 240)`, every sixteenth number, and the means of sixteen
cells of the upright face of 224 x 224 pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pose_scenes import picture

from annotator._onnx import open_onnx
from annotator.networks import Place
from annotator.pose.arcface import SIDE, recognise, turn_upright

DATA = Path(__file__).resolve().parents[1] / "data"
GOLDEN = json.loads((DATA / "poses" / "arcface.json").read_text(encoding="utf-8"))
FACES = range(len(GOLDEN))


@pytest.mark.parametrize("number", FACES)
def test_upright_face_is_that_of_the_reference(number: int) -> None:
    points = np.array(GOLDEN[number]["points"], float)
    seen = turn_upright(picture(11, 320, 240), points, 2 * SIDE)
    means = seen.reshape(4, 56, 4, 56, 3).mean(axis=(1, 3)).ravel()
    assert np.abs(means - GOLDEN[number]["means"]).max() < 0.2


@pytest.mark.parametrize("number", FACES)
def test_embedding_is_that_of_the_reference(number: int) -> None:
    network = open_onnx(DATA / "onnx" / "recogniser.onnx", Place())
    points = np.array(GOLDEN[number]["points"], float)
    found = recognise(turn_upright(picture(11, 320, 240), points), network)
    wanted = np.array(GOLDEN[number]["embedding"])
    assert found.shape == (512,)
    assert np.abs(found[::16] - wanted).max() < 5e-3 * np.abs(wanted).max()


def test_points_on_one_spot_do_not_divide_by_nothing() -> None:
    seen = turn_upright(picture(11, 64, 64), np.full((5, 2), 20.0))
    assert seen.shape == (SIDE, SIDE, 3)
