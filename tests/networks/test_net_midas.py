"""MiDaS: layout, output of the reference with the same weights, depth and directions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from neural import (
    check_batch,
    check_full_precision,
    check_memory_is_given_back,
    check_odd_pictures,
    save_weights,
    smooth_picture,
)
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from weights import weights_folder

from annotator import midas
from annotator.nets.midas import build
from lib_controlnet.detect.preprocess import run_preprocessor


def small_state() -> dict[str, torch.Tensor]:
    """Random weights of the published layout at a fraction of its width and fewer blocks."""
    return random_state(read_keys("midas_small"))


def test_published_layout_loads_strictly() -> None:
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in read_keys("midas").items()}
    count = sum(parameter.numel() for parameter in build(state).parameters())
    assert (len(state), count) == (368, 123_146_985)
    trained = {"optimizer": {}, "model": state}
    assert build(trained).state_dict().keys() == state.keys()
    del state["pretrained.model.blocks.3.attn.proj.bias"]
    with pytest.raises(RuntimeError, match=r"blocks\.3\.attn\.proj\.bias"):
        build(state)


def test_output_is_that_of_the_reference() -> None:
    """In double precision, where only the formulas count; the stored output has 24 bits."""
    network = build({key: tensor.double() for key, tensor in small_state().items()}).eval()
    with torch.no_grad():
        found = network(random_input((2, 3, 96, 160), -1, 1).double())
    assert found.shape == (2, 1, 96, 160)
    assert relative_error(found[:, :, ::2, ::2], read_output("midas_small")) < 1e-6


def test_two_pictures_at_once_equal_two_alone() -> None:
    check_batch(build(small_state()), random_input((2, 3, 64, 96), -1, 1), 5e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path / "weights") as folder:
        save_weights(folder, midas.MIDAS, small_state())
        yield folder


@pytest.mark.usefixtures("folder")
def test_depth_follows_the_recipe() -> None:
    picture = smooth_picture(64, 128)
    with torch.no_grad():
        planes = torch.from_numpy(picture.transpose(2, 0, 1)[None] / 127.5 - 1).float()
        depth = build(small_state()).eval()(planes)[0, 0].numpy().astype(np.float64)
    expected = (depth - depth.min()) / (depth.max() - depth.min()) * 255
    found = run_preprocessor("depth", picture, 64).image
    assert np.abs(found - expected[:, :, None]).max() <= 1.01  # cut to whole levels
    assert (found.min(), found.max()) == (0, 255)


def test_directions_of_a_slope_are_exact() -> None:
    """A Sobel kernel sums to 8 times the slope per pixel; the background stays flat."""
    right = np.tile(np.arange(40, dtype=np.float32) * 0.5, (30, 1))
    found = midas.directions(right, 0.4)
    length = np.hypot(2 * np.pi, 4)
    slope = [int((v / length + 1) * 127.5) for v in (2 * np.pi, 0, 4)]
    assert (found[5:-5, 20:-5] == slope).all()
    assert (found[:, :15] == (255, 127, 127)).all()
    down = midas.directions(np.ascontiguousarray(right.T), 0.4)
    assert (down[20:-5, 5:-5] == [slope[0], slope[2], slope[1]]).all()


def test_directions_of_a_flat_depth_face_the_viewer() -> None:
    found = midas.directions(np.full((8, 9), 3.0, np.float32), 0.4)
    assert (found == (255, 127, 127)).all()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["depth", "normal_map"])
def test_preprocessor_end_to_end(name: str) -> None:
    check_odd_pictures(name)
    check_full_precision(name)
    check_memory_is_given_back(name)
