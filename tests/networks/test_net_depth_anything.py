"""Depth Anything: layout, output of the reference with the same weights, the preprocessor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from neural import (
    check_batch,
    check_memory_is_given_back,
    check_odd_pictures,
    half_precision_error,
    save_weights,
    smooth_picture,
)
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from weights import weights_folder

from annotator._tensors import spread
from annotator.depth_anything import LONGEST, SIDE, DepthAnythingV1, DepthAnythingV2, as_seen
from annotator.nets.depth_anything import DepthAnything, Params, build_v1, build_v2
from annotator.weights import WeightsError
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.errors import PreprocessorUnavailableError

BUILDS = {"v1": build_v1, "v2": build_v2}
VERSION = {DepthAnythingV1: build_v1, DepthAnythingV2: build_v2}
SMALL = Params(64, 12, (8, 16, 24, 32), 16, (2, 5, 8, 11))


def small_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a network with the published layout at a fraction of its width."""
    with torch.device("meta"):
        shapes = {key: t.shape for key, t in DepthAnything(SMALL).state_dict().items()}
    return random_state(shapes, seed)


@pytest.mark.parametrize(("size", "millions"), [("s", 24.785), ("b", 97.471), ("l", 335.316)])
def test_published_layout_loads_strictly(size: str, millions: float) -> None:
    keys = read_keys(f"depth_anything_vit{size}")
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in keys.items()}
    for build in BUILDS.values():
        network = build(state)
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count / 1e6 == pytest.approx(millions, abs=5e-4)


@pytest.mark.parametrize("version", list(BUILDS))
def test_output_is_that_of_the_reference(version: str) -> None:
    """The bound is 1e-5 of the largest value; a dozen blocks of float32 leave about 2e-6."""
    network = BUILDS[version](random_state(read_keys("depth_anything_vits"))).eval()
    with torch.no_grad():
        found = network(random_input((2, 3, 126, 168), -2, 2))
    assert found.shape == (2, 1, 126, 168)
    expected = read_output(f"depth_anything_{version}")
    assert relative_error(found[:, :, ::4, ::4], expected) < 1e-5


def test_a_file_of_another_depth_is_refused() -> None:
    state = {k: t for k, t in small_state().items() if "blocks.11." not in k}
    with pytest.raises(KeyError):
        build_v2(state)
    del state["pretrained.norm.weight"]
    with pytest.raises(RuntimeError, match="norm.weight"):
        build_v1(state)


def test_two_pictures_at_once_equal_two_alone() -> None:
    check_batch(build_v2(small_state()), random_input((2, 3, 70, 84), -2, 2))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (518, 518)),
        ((512, 768), (518, 784)),  # 777 lies half-way and goes to the even multiple
        ((1024, 640), (826, 518)),
        ((64, 64), (518, 518)),
        ((64, 640), (518, SIDE * LONGEST)),
    ],
)
def test_the_network_sees_the_documented_size(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    given = smooth_picture(*size)
    seen = as_seen(given)
    assert seen.shape == (*expected, 3)
    resized = cv2.resize(given / 255.0, expected[::-1], interpolation=cv2.INTER_CUBIC)
    assert np.abs(seen - resized).max() < 1e-5


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path / "weights") as folder:
        yield folder


def expected_map(picture: np.ndarray, build: object, state: dict[str, torch.Tensor]) -> np.ndarray:
    """The recipe written out: RGB, ImageNet statistics, bilinear back, lowest to highest."""
    unit = cv2.resize(picture / 255.0, (518, 518), interpolation=cv2.INTER_CUBIC)
    unit = (unit - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        depth = build(state)(torch.from_numpy(unit.transpose(2, 0, 1)[None]).float())
    size = picture.shape[:2]
    depth = torch.nn.functional.interpolate(depth, size, mode="bilinear", align_corners=False)
    values = depth[0, 0].numpy().astype(np.float64)
    return (values - values.min()) / (values.max() - values.min()) * 255


@pytest.mark.parametrize("detector", [DepthAnythingV1, DepthAnythingV2])
def test_map_follows_the_recipe(folder: Path, detector: type) -> None:
    state = small_state()
    save_weights(folder, detector.weights[0], state)
    picture = smooth_picture(64, 64)
    found = run_preprocessor(detector.name, picture, 64).image
    expected = expected_map(picture, VERSION[detector], state)
    assert np.abs(found - expected[:, :, None]).max() <= 1.01  # cut to whole levels
    assert (found.min(), found.max()) == (0, 255)


def test_the_best_file_that_is_there_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.depth_anything.SIDE", 84)
    large, base = DepthAnythingV2.larger
    with pytest.raises(PreprocessorUnavailableError, match=r"depth_anything_v2_vits\.pth"):
        run_preprocessor("depth_anything_v2", smooth_picture(64, 64), 64)
    maps = []
    for seed, weight in enumerate((DepthAnythingV2.weights[0], base, large)):
        save_weights(folder, weight, small_state(seed))
        maps.append(run_preprocessor("depth_anything_v2", smooth_picture(64, 64), 64).image)
        assert not any(np.array_equal(maps[-1], earlier) for earlier in maps[:-1])
    monkeypatch.setenv("CONTROLNET_DEPTH_ANYTHING_MODEL_URL", "http://127.0.0.1:9/model.pth")
    with pytest.raises(WeightsError, match=r"depth_anything_vitl14\.pth"):
        DepthAnythingV1().detect(smooth_picture(64, 64))


def test_a_flat_depth_is_black_and_any_other_uses_the_whole_range() -> None:
    with np.errstate(all="raise"):
        assert not spread(np.full((3, 4), 2.5, np.float32)).any()
    assert spread(np.float32([[-1, 0, 1, 3]])).tolist() == [[0, 63, 127, 255]]


def test_preprocessor_end_to_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("annotator.depth_anything.SIDE", 84)  # a smaller grid is enough here
    save_weights(folder, DepthAnythingV2.weights[0], small_state())
    check_odd_pictures("depth_anything_v2")
    error = half_precision_error("depth_anything_v2", smooth_picture(64, 96), 64)
    assert error < 0.5  # levels of 255, half precision has about three digits
    check_memory_is_given_back("depth_anything_v2")
