"""LeReS: layout, output of the reference with the same weights, what is cut off, the map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from neural import (
    as_checkpoint,
    check_batch,
    check_memory_is_given_back,
    check_odd_pictures,
    half_precision_error,
    save_weights,
    smooth_picture,
)
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from weights import weights_folder

from annotator.leres import RES101, cut
from annotator.nets.leres import build
from lib_controlnet.detect.preprocess import run_preprocessor


def small_checkpoint(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of the published layout at a sixteenth of its width, as a file has them."""
    return as_checkpoint(random_state(read_keys("leres_small")), "depth_model", dtype)


def test_published_layout_loads_strictly() -> None:
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in read_keys("leres").items()}
    network = build({"depth_model": state})
    count = sum(parameter.numel() for parameter in network.parameters())
    assert (len(state), count) == (712, 115_360_833)
    state["depth_model.surplus.weight"] = torch.empty(1, device="meta")
    with pytest.raises(RuntimeError, match=r"surplus\.weight"):
        build({"depth_model": state})


def test_output_is_that_of_the_reference() -> None:
    """In double precision, where only the formulas count; the stored output has 24 bits."""
    network = build(small_checkpoint(torch.float64)).eval()
    with torch.no_grad():
        found = network(random_input((2, 3, 96, 128), -2, 2).double())
    assert found.shape == (2, 1, 96, 128)
    assert relative_error(found[:, :, ::2, ::2], read_output("leres_small")) < 1e-6


def test_two_pictures_at_once_equal_two_alone() -> None:
    check_batch(build(small_checkpoint()), random_input((2, 3, 64, 96), -2, 2))


@pytest.mark.parametrize(
    ("near", "background"), [(0, 0), (33.3, 0), (0, 20.5), (40, 40), (100, 0), (0, 100)]
)
def test_cutting_equals_the_thresholds_of_opencv(near: float, background: float) -> None:
    depth = np.random.default_rng(3).random((80, 90), dtype=np.float32) * 7 - 3
    share = (depth - depth.min()) / (depth.max() - depth.min())
    levels = cv2.convertScaleAbs((share * 65535).astype(np.uint16), alpha=255 / 65535)
    if near:
        levels = cv2.threshold(levels, near / 100 * 255, 255, cv2.THRESH_TOZERO)[1]
    levels = cv2.bitwise_not(levels)
    if background:
        levels = cv2.threshold(levels, background / 100 * 255, 255, cv2.THRESH_TOZERO)[1]
    assert np.array_equal(cut(depth, near, background), levels)


def test_a_flat_depth_is_all_near() -> None:
    with np.errstate(all="raise"):
        assert (cut(np.full((4, 5), 2.5, np.float32), 0, 0) == 255).all()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path / "weights") as folder:
        save_weights(folder, RES101, small_checkpoint())
        yield folder


@pytest.mark.usefixtures("folder")
def test_map_follows_the_recipe() -> None:
    picture = smooth_picture(64, 128)
    unit = (picture / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        planes = torch.from_numpy(unit.transpose(2, 0, 1)[None])
        depth = build(small_checkpoint(torch.float64)).eval()(planes)[0, 0].numpy()
    expected = 255 - (depth - depth.min()) / (depth.max() - depth.min()) * 255
    found = run_preprocessor("depth_leres", picture, 64).image
    assert np.abs(found - expected[:, :, None]).max() <= 0.51  # rounded to whole levels
    cropped = run_preprocessor("depth_leres", picture, 64, (0, 50)).image
    assert np.array_equal(cropped, np.where(found > 127, found, 0))


@pytest.mark.usefixtures("folder")
def test_preprocessor_end_to_end() -> None:
    check_odd_pictures("depth_leres")
    error = half_precision_error("depth_leres", smooth_picture(64, 96), 64)
    assert error < 0.5  # levels of 255, half precision has about three digits
    check_memory_is_given_back("depth_leres")
