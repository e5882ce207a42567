"""Normal BAE: layout, output of the reference with the same weights, the preprocessor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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

from annotator.nets.normal_bae import Refine, as_normals, build
from annotator.nets.same_padding import SameConv2d, pad_same
from annotator.normal_bae import SCANNET
from lib_controlnet.detect.preprocess import run_preprocessor


def small_checkpoint(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, torch.Tensor]]:
    """Random weights of the published layout at an eighth of its width, as a file has them."""
    return as_checkpoint(random_state(read_keys("normal_bae_small")), "model", dtype)


def test_published_layout_loads_strictly() -> None:
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in read_keys("normal_bae").items()}
    network = build({"model": state})
    count = sum(parameter.numel() for parameter in network.parameters())
    assert (len(state), count) == (936, 72_422_336)
    del state["encoder.original_model.bn2.weight"]
    with pytest.raises(RuntimeError, match=r"bn2\.weight"):
        build({"model": state})
    with pytest.raises(KeyError):
        build(state)


def test_output_is_that_of_the_reference() -> None:
    """In double precision, where only the formulas count; the stored output has 24 bits."""
    network = build(small_checkpoint(torch.float64)).eval()
    with torch.no_grad():
        found = network(random_input((2, 3, 64, 96), -2, 2).double())
    assert found.shape == (2, 4, 64, 96)
    assert relative_error(found[:, :, ::3, ::3], read_output("normal_bae_small")) < 1e-6
    assert torch.allclose(found[:, :3].norm(dim=1), torch.ones(2, 64, 96, dtype=torch.float64))


def test_two_pictures_at_once_equal_two_alone() -> None:
    check_batch(build(small_checkpoint()), random_input((2, 3, 64, 64), -2, 2))


def test_refining_before_enlarging_changes_nothing() -> None:
    """The first layer runs on the small map; written out it runs on the large one."""
    refine = Refine(6, 8)
    refine.load_state_dict(random_state({k: t.shape for k, t in refine.state_dict().items()}))
    refine = refine.double().eval()
    features, coarser = (random_input((2, c, 5, 7), -1, 1, c).double() for c in (6, 4))
    joined = torch.cat([features, coarser], dim=1)
    large = F.interpolate(joined, scale_factor=2, mode="bilinear", align_corners=True)
    with torch.no_grad():
        plain = torch.nn.Sequential(*refine)(large.flatten(2)).unflatten(2, (10, 14))
        found = refine(features, coarser)
    assert torch.allclose(found, as_normals(plain), atol=1e-12)


@pytest.mark.parametrize("side", [7, 8, 9])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (7, 2)])
def test_same_padding_gives_every_stride_its_window(side: int, kernel: int, stride: int) -> None:
    x = torch.ones(1, 1, side, side)
    padded = pad_same(x, kernel, stride)
    before = int((padded[0, 0].sum(dim=1) == 0).int().argmin())
    after = padded.shape[2] - side - before
    assert 0 <= after - before <= 1  # the odd pixel comes last
    conv = SameConv2d(1, 1, kernel, stride)
    assert conv(x).shape[2] == -(-side // stride)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path / "weights") as folder:
        save_weights(folder, SCANNET, small_checkpoint())
        yield folder


@pytest.mark.usefixtures("folder")
def test_map_follows_the_recipe() -> None:
    picture = smooth_picture(64, 128)
    unit = (picture / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        planes = torch.from_numpy(unit.transpose(2, 0, 1)[None])
        found = build(small_checkpoint(torch.float64)).eval()(planes)[0, :3].numpy()
    expected = ((found.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255)
    shown = run_preprocessor("normal_bae", picture, 64).image
    assert np.abs(shown - expected).max() <= 1.01  # cut to whole levels
    assert np.ptp(shown, axis=(0, 1)).min() > 20


@pytest.mark.usefixtures("folder")
def test_preprocessor_end_to_end() -> None:
    check_odd_pictures("normal_bae")
    error = half_precision_error("normal_bae", smooth_picture(64, 96), 64)
    assert error < 0.5  # levels of 255, half precision has about three digits
    check_memory_is_given_back("normal_bae")
