"""DSINE: layout, output of the reference with the same weights, its geometry, the map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from neural import (
    as_checkpoint,
    check_batch,
    check_full_precision,
    check_memory_is_given_back,
    check_odd_pictures,
    save_weights,
    smooth_picture,
)
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from weights import weights_folder

from annotator.dsine import DSINE, NormalDsine
from annotator.nets.dsine import Camera, axes_of_steps, build, face, neighbours, turn, unit
from lib_controlnet.detect.preprocess import run_preprocessor

CAMERA = Camera.from_angle(60, 50, 110)


def small_checkpoint(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of the published layout at an eighth of its width, as a file has them."""
    return as_checkpoint(random_state(read_keys("dsine_small")), "model", dtype)


def test_published_layout_loads_strictly() -> None:
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in read_keys("dsine").items()}
    count = sum(parameter.numel() for parameter in build({"model": state}).parameters())
    assert (len(state), count) == (918, 72_564_759)
    del state["gru.convq.bias"]
    with pytest.raises(RuntimeError, match=r"gru\.convq\.bias"):
        build({"model": state})


def test_output_is_that_of_the_reference() -> None:
    """In double precision, where only the formulas count; the stored output has 24 bits."""
    network = build(small_checkpoint(torch.float64)).eval()
    with torch.no_grad():
        found = network(random_input((2, 3, 64, 128), -2, 2).double(), CAMERA, 5)
    assert found.shape == (2, 3, 64, 128)
    assert relative_error(found[:, :, ::4, ::4], read_output("dsine_small")) < 1e-6


def test_two_pictures_at_once_equal_two_alone() -> None:
    network = build(small_checkpoint(torch.float64)).eval()
    pair = random_input((2, 3, 64, 64), -2, 2).double()
    check_batch(partial_network(network), pair, 1e-9)


def partial_network(network: torch.nn.Module) -> torch.nn.Module:
    """The network with the camera and one iteration given, as a module of the picture alone."""
    alone = torch.nn.Module()
    alone.forward = partial(network, camera=CAMERA, iterations=1)
    return alone


def test_the_camera_sees_its_angle_along_the_longer_side() -> None:
    slopes = Camera.from_angle(90, 48, 96).slopes(torch.zeros(1, 1, 6, 12, dtype=torch.float64), 8)
    edge = 44 / 48  # the outermost of twelve pixels ends at 45 degrees, its centre before that
    assert slopes[0, 0, :, 0].tolist() == pytest.approx([-edge] * 6)
    assert slopes[0, 0, :, -1].tolist() == pytest.approx([edge] * 6)
    assert slopes[0, 1, 0].tolist() == pytest.approx([-20 / 48] * 12)


def test_turning_about_an_axis() -> None:
    vectors = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 2, 3]]).double().T[None, :, :, None, None]
    axis = torch.tensor([0.0, 0, 1]).double()[None, :, None, None, None].expand_as(vectors)
    quarter = torch.full((1, 1, 3, 1, 1), math.pi / 2, dtype=torch.float64)
    turned = turn(vectors, axis, quarter)[0, :, :, 0, 0].T
    expected = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [-2, 1, 3]]).double()
    assert torch.allclose(turned, expected)
    assert torch.equal(turn(vectors, torch.zeros_like(axis), quarter), vectors)


def test_axes_lie_in_the_surface_above_the_step() -> None:
    """The axis stands at right angles to the normal and projects onto the step."""
    normals = unit(random_input((1, 3, 4, 2, 2), -1, 1).double())
    slopes, steps = (random_input((1, 2, 4, 2, 2), -0.1, 0.1, seed).double() for seed in (2, 3))
    axes = axes_of_steps(normals, slopes, steps)
    assert float((axes * normals).sum(dim=1).abs().max()) < 1e-12
    sideways = axes[:, :2] - axes[:, 2:] * (slopes + steps)
    assert float((sideways[:, 0] * steps[:, 1] - sideways[:, 1] * steps[:, 0]).abs().max()) < 1e-12
    edge_on = torch.zeros_like(normals)
    assert not axes_of_steps(edge_on, slopes, steps).any()


def test_normals_are_bent_until_they_are_seen() -> None:
    rays = torch.tensor([0.0, 0, 1]).double()[None, :, None, None]
    away = unit(torch.tensor([1.0, 0, -2]).double()[None, :, None, None])
    seen = unit(torch.tensor([1.0, 0, 2]).double()[None, :, None, None])
    assert torch.allclose(face(seen, rays), seen)
    bent = face(away, rays)[0, :, 0, 0]
    assert bent[2] / bent[0] == pytest.approx(0.01 * math.sqrt(5), rel=1e-9)


def test_neighbours_come_row_by_row_and_the_border_repeats() -> None:
    found = neighbours(torch.arange(6.0).view(1, 1, 2, 3), 3)
    assert found.shape == (1, 1, 9, 2, 3)
    assert found[0, 0, :, 0, 0].tolist() == [0, 0, 1, 0, 0, 1, 3, 3, 4]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path / "weights") as folder:
        save_weights(folder, DSINE, small_checkpoint())
        yield folder


@pytest.mark.usefixtures("folder")
def test_map_follows_the_recipe() -> None:
    """The camera is that of the picture without its padding, 64 x 90 of 64 x 128."""
    picture = smooth_picture(64, 90)
    padded = np.pad(picture, ((0, 0), (0, 38), (0, 0)), mode="edge")
    planes = (padded / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        network = build(small_checkpoint()).eval()
        x = torch.from_numpy(planes.transpose(2, 0, 1)[None]).float()
        found = network(x, Camera.from_angle(75, 64, 90), 2)[0].numpy()
    expected = ((found.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255)[:, :90]
    shown = run_preprocessor("normal_dsine", picture, 64, (75, 2)).image
    assert np.abs(shown - expected).max() <= 1.1  # cut to whole levels
    for others in ((60, 2), (75, 3)):
        other = run_preprocessor("normal_dsine", picture, 64, others).image
        assert not np.array_equal(shown, other), others


@pytest.mark.usefixtures("folder")
def test_preprocessor_end_to_end() -> None:
    check_odd_pictures("normal_dsine")
    for degrees in (0, 180, 360):  # no pinhole camera sees these
        found = run_preprocessor("normal_dsine", smooth_picture(64, 64), 64, (degrees, 1)).image
        assert np.ptp(found) > 0
    check_full_precision("normal_dsine")
    check_memory_is_given_back("normal_dsine")


def test_sliders_are_those_that_clients_know() -> None:
    fov, iterations = NormalDsine.sliders
    assert (fov.minimum, fov.maximum, fov.default, fov.step) == (0, 360, 60, 0.1)
    assert (iterations.minimum, iterations.maximum, iterations.default) == (1, 20, 5)
