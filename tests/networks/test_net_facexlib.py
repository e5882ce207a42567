"""The face in the middle: networks and alignment against the package facexlib 0.3.0.

`data/networks/{retinaface,bisenet}.npz` hold what its classes gave with the random weights of
`random_weights` (seed 3, gains 1 and 1.2), BiSeNet's at every sixth pixel;
`data/poses/retinaface.json` and `upright.png` what its helper made of
`pose_scenes.retinaface_outputs`, the picture at every eighth pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from neural import save_weights, smooth_picture
from PIL import Image
from pose_scenes import picture, retinaface_outputs
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from torch import Tensor, nn
from weights import weights_folder

from annotator import facexlib
from annotator.nets import bisenet, retinaface
from annotator.networks import CACHE
from annotator.pose.retinaface import anchors, decode_faces
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.errors import ImageError

POSES = Path(__file__).resolve().parents[1] / "data" / "poses"
GOLDEN = json.loads((POSES / "retinaface.json").read_text(encoding="utf-8"))
WIDTH, HEIGHT = 576, 512
NETS = {"retinaface": (retinaface, 27_293_600), "bisenet": (bisenet, 13_300_416)}


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", NETS)
def test_published_file_fits_strictly(name: str) -> None:
    module, parameters = NETS[name]
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in read_keys(name).items()}
    network = module.build(state)
    assert sum(p.numel() for p in network.parameters()) == parameters
    with pytest.raises(RuntimeError, match="Missing key"):
        module.build(dict(list(state.items())[1:]))


def test_faces_network_equals_the_reference() -> None:
    network = retinaface.build(random_state(read_keys("retinaface"), seed=3)).eval()
    given = random_input((2, 3, 64, 96), -120, 140)
    wanted = read_output("retinaface")
    for part, mine in zip((slice(4), slice(4, 6), slice(6, 16)), network(given), strict=True):
        assert relative_error(mine, wanted[..., part]) <= 1e-5
    alone = network(given[1:])[0]
    assert relative_error(alone, wanted[1:, :, :4]) <= 1e-5


def test_parts_network_equals_the_reference() -> None:
    network = bisenet.build(random_state(read_keys("bisenet"), seed=3, gain=1.2)).eval()
    given = random_input((2, 3, 64, 96), -2, 2)
    wanted = read_output("bisenet")
    assert relative_error(network(given)[:, :, ::6, ::6], wanted) <= 1e-5
    assert relative_error(network(given[1:])[:, :, ::6, ::6], wanted[1:]) <= 1e-5
    half = network.half()(given[:1].half()).float()
    assert relative_error(half[:, :, ::6, ::6], wanted[:1]) <= 0.02


def test_faces_are_those_of_the_reference() -> None:
    boxes, scores, points = retinaface_outputs(5, WIDTH, HEIGHT)
    found, spots = decode_faces(boxes, scores[:, 1], points, WIDTH, HEIGHT)
    wanted = np.array(GOLDEN["boxes"])
    assert len(wanted) >= 3
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 2e-3
    assert np.abs(spots.reshape(-1, 10) - GOLDEN["points"]).max() < 2e-3


def test_cells_at_the_edge_count_whole() -> None:
    squares = anchors(65, 33)
    assert len(squares) == 2 * (9 * 5 + 5 * 3 + 3 * 2)
    assert squares[0].tolist() == [4, 4, 16, 16]
    assert squares[1].tolist() == [4, 4, 32, 32]
    assert squares[2].tolist() == [12, 4, 16, 16]
    assert squares[-1].tolist() == [80, 48, 512, 512]


@pytest.mark.parametrize(("height", "kept"), [(39.9, 2), (40.1, 1)])
def test_face_that_covers_a_surer_one_goes(height: float, kept: int) -> None:
    """The second face is the upper part of the first, some rows of a hundred."""
    squares = anchors(320, 320)
    boxes, scores = np.zeros((len(squares), 4)), np.zeros(len(squares))
    for row, score, rows in ((-2, 0.99, 100), (-1, 0.98, height)):
        centre, side = squares[row, :2], squares[row, 2:]
        boxes[row, :2] = ((150, 100 + rows / 2) - centre) / side / 0.1
        boxes[row, 2:] = np.log((100, rows) / side) / 0.2
        scores[row] = score
    found, _ = decode_faces(boxes, scores, np.zeros((len(squares), 10)), 320, 320)
    assert len(found) == kept
    assert np.allclose(found[0], (100, 100, 200, 200))


class Faces(nn.Module):
    """Gives the same outputs for any picture of the expected size."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def forward(self, given: Tensor) -> tuple[Tensor, ...]:
        self.seen.append(given)
        return tuple(torch.from_numpy(part)[None] for part in retinaface_outputs(5, WIDTH, HEIGHT))


class Parts(nn.Module):
    """Skin in the upper half of any face, hair, which counts as face, and cloth below."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, given: Tensor) -> Tensor:
        scores = torch.zeros(1, 19, *given.shape[2:])
        scores[:, 1, :256], scores[:, 17, 256:384], scores[:, 16, 384:] = 1, 1, 1
        return scores


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Faces]:
    faces = Faces()
    monkeypatch.setattr(retinaface, "build", lambda _: faces)
    monkeypatch.setattr(bisenet, "build", lambda _: Parts())
    with weights_folder(tmp_path) as folder:
        for weight in (facexlib.FACES, facexlib.PARTS):
            save_weights(folder, weight, {"anchor": torch.zeros(1)})
        yield faces


def test_face_is_turned_upright_as_by_the_reference(networks: Faces) -> None:
    given = picture(5, WIDTH, HEIGHT)
    face = facexlib.upright(given)
    wanted = np.asarray(Image.open(POSES / "upright.png")).astype(int)
    difference = np.abs(face[4::8, 4::8] - wanted)
    # Points in another precision shift the crop by less than a hundredth of a pixel.
    assert (difference == 0).mean() > 0.99
    assert difference.max() <= 3
    (seen,) = networks.seen
    blue_first = given[7, 9, ::-1] - np.array([104.0, 117, 123])
    assert seen[0, :, 7, 9].tolist() == blue_first.tolist()


def test_face_is_grey_and_all_else_white(networks: Faces) -> None:
    given = picture(5, WIDTH, HEIGHT)
    found = run_preprocessor("facexlib", given).image
    assert found.shape == (512, 512, 3)
    face = facexlib.upright(given)
    grey = np.rint(face[:384] @ np.array([0.299, 0.587, 0.114]))
    assert np.array_equal(found[:384, :, 0], grey)
    assert (found[384:] == 255).all()
    small = run_preprocessor("facexlib", given[::2, ::2]).image
    assert small.shape == (512, 512, 3)


def test_picture_without_a_face_is_refused(tmp_path: Path) -> None:
    """A file in the published form whose numbers are all zero."""
    shapes = read_keys("retinaface")
    zeros = {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}
    with weights_folder(tmp_path) as folder:
        save_weights(folder, facexlib.FACES, zeros)
        with pytest.raises(ImageError, match="no face is found"):
            run_preprocessor("facexlib", smooth_picture(64, 64))
    assert not len(CACHE)
