"""ZoeDepth: layout, output of the reference with the same weights, the preprocessor."""

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

from annotator.nets import zoe
from annotator.nets.beit import distance_rows
from annotator.nets.zoe import build, input_size, measure
from annotator.zoe import ZOE, nearness
from lib_controlnet.detect.preprocess import run_preprocessor

COUNTS = "conditional_log_binomial.log_binomial_transform."


def small_checkpoint(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of the published layout, BEiT at a sixteenth of its width, as in a file.

    Twice the usual size, so that the bins move and the output varies.
    """
    state = random_state(read_keys("zoe_small"), gain=2.0)
    state[f"{COUNTS}k_idx"] = torch.arange(64).view(1, -1, 1, 1)
    state[f"{COUNTS}K_minus_1"] = torch.full((1, 1, 1, 1), 63.0)
    return {"model": {k: t.to(dtype) if t.is_floating_point() else t for k, t in state.items()}}


def test_published_layout_loads_strictly() -> None:
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in read_keys("zoe").items()}
    count = sum(parameter.numel() for parameter in build({"model": state}).parameters())
    assert (len(state), count) == (535, 344_816_746)
    newer = {key: t for key, t in state.items() if "relative_position_index" not in key}
    assert len(newer) == 511
    build({"model": newer})
    del newer["core.core.pretrained.model.blocks.7.gamma_2"]
    with pytest.raises(RuntimeError, match=r"blocks\.7\.gamma_2"):
        build({"model": newer})


@pytest.fixture(scope="module")
def exact() -> torch.nn.Module:
    """The network in double precision, where only the formulas count."""
    return build(small_checkpoint(torch.float64)).eval()


def test_output_is_that_of_the_reference(exact: torch.nn.Module) -> None:
    """The bound is that of 24 bits; the reference has some of its constants in them, too."""
    with torch.no_grad():
        found = exact(random_input((2, 3, 96, 160), -1, 1).double())
    assert found.shape == (2, 1, 96, 160)
    assert relative_error(found[:, :, ::3, ::3], read_output("zoe_small")) < 1e-6


def test_measuring_is_that_of_the_reference(
    exact: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the frame, the mirror image and both resizes; the reference was set to this size."""
    monkeypatch.setattr(zoe, "SEEN", (96, 128))
    x = random_input((1, 3, 64, 96), 0, 1).double()
    x = torch.nn.functional.avg_pool2d(x, 5, 1, 2)
    with torch.no_grad():
        found = measure(exact, x * 2 - 1)
    assert relative_error(found[:, :, ::2, ::2], read_output("zoe_small_infer")) < 1e-6


def test_two_pictures_at_once_equal_two_alone() -> None:
    check_batch(build(small_checkpoint()), random_input((2, 3, 64, 96), -1, 1), 5e-5)


def test_every_pair_of_tokens_reads_the_row_of_its_distance() -> None:
    rows = distance_rows((2, 3))
    assert rows.shape == (7, 7)
    assert rows[0].tolist() == [17] + [15] * 6
    assert rows[1:, 0].tolist() == [16] * 6
    for asking in range(6):
        for asked in range(6):
            down = asking // 3 - asked // 3 + 1
            right = asking % 3 - asked % 3 + 2
            assert rows[1 + asking, 1 + asked] == down * 5 + right


@pytest.mark.parametrize(
    ("size", "seen"),
    [((384, 512), (384, 512)), ((608, 608), (512, 512)), ((60, 2000), (32, 512))],
)
def test_pictures_are_resized_to_near_the_size_of_training(
    size: tuple[int, int], seen: tuple[int, int]
) -> None:
    assert input_size(*size) == seen


def test_near_and_far_are_percentiles() -> None:
    metres = np.arange(101, dtype=np.float32).reshape(1, -1)
    found = nearness(metres)[0].astype(int)
    assert (found[:3] == 255).all()
    assert (found[85:] == 0).all()
    assert abs(found[43] - (1 - (43 - 2) / 83) * 255) <= 1
    with np.errstate(all="raise"):
        assert not nearness(np.full((3, 4), 2.0, np.float32)).any()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path / "weights") as folder:
        save_weights(folder, ZOE, small_checkpoint())
        yield folder


@pytest.mark.usefixtures("folder")
def test_map_follows_the_recipe(exact: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoe, "SEEN", (96, 128))  # a smaller grid is enough here
    picture = smooth_picture(64, 64)
    planes = torch.from_numpy(picture.transpose(2, 0, 1)[None] / 127.5 - 1)
    with torch.no_grad():
        metres = measure(exact, planes)[0, 0].numpy()
    near, far = np.percentile(metres, (2, 85))
    expected = ((far - metres) / (far - near) * 255).clip(0, 255)
    found = run_preprocessor("depth_zoe", picture, 64).image
    assert np.abs(found - expected[:, :, None]).max() <= 1.05  # cut to whole levels


@pytest.mark.usefixtures("folder")
def test_preprocessor_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoe, "SEEN", (96, 128))  # a smaller grid is enough here
    check_odd_pictures("depth_zoe")
    check_full_precision("depth_zoe")
    check_memory_is_given_back("depth_zoe")
