"""UniFormer with UPerNet: published keys, output of the reference class, the map of classes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from neural import check_colour_maps, smooth_picture
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from weights import weights_folder

import annotator.segmentation as detector
from annotator._labels import most_likely
from annotator._sizes import within_box
from annotator.nets.uniformer import UniFormer, UniFormerParams, build
from annotator.networks import CACHE, lend
from annotator.palettes import ADE20K
from annotator.segmentation import UPERNET
from lib_controlnet.detect.preprocess import run_preprocessor

NAME = "segmentation"
SMALL = UniFormerParams(dims=(8, 16, 64, 128), depths=(1, 2, 2, 1), channels=16, classes=12)
COLOURS = set(map(tuple, ADE20K.colours.tolist()))


def small_state(classes: int = SMALL.classes) -> dict[str, torch.Tensor]:
    """The file of a small network, auxiliary head included."""
    params = UniFormerParams(SMALL.dims, SMALL.depths, channels=16, classes=classes)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in UniFormer(params).state_dict().items()}
    weights = random_state({**shapes, "auxiliary_head.conv_seg.weight": (12, 8, 1, 1)}, 17)
    return {"state_dict": weights}


@pytest.fixture
def _stored(tmp_path: Path) -> Iterator[None]:
    with weights_folder(tmp_path) as folder:
        (folder / UPERNET.folder).mkdir()
        torch.save(small_state(150), folder / UPERNET.folder / UPERNET.name)
        yield


picture = partial(smooth_picture, seed=5, sigma=3)


def test_published_keys_load_strictly() -> None:
    keys = read_keys("uniformer")
    assert len(keys) == 414
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    network = build({"state_dict": state})
    used = {k: shape for k, shape in keys.items() if not k.startswith("auxiliary_head.")}
    assert {k: list(t.shape) for k, t in network.state_dict().items()} == used
    del state["backbone.blocks3.7.attn.qkv.bias"]
    with pytest.raises(RuntimeError, match=r"blocks3\.7\.attn\.qkv\.bias"):
        build({"state_dict": state})


def test_output_equals_the_reference() -> None:
    network = build(small_state()).eval()
    x = random_input((2, 3, 100, 164), -2, 2)
    with torch.no_grad():
        ours = network(x)
        singles = torch.cat([network(x[:1]), network(x[1:])])
    assert relative_error(ours[:, :, ::2, ::2], read_output("uniformer")) <= 1e-5
    assert relative_error(singles, ours.numpy()) <= 1e-5


def test_half_precision_stays_close() -> None:
    x = random_input((1, 3, 64, 96), -2, 2)
    with torch.no_grad():
        exact = build(small_state()).eval()(x)
        half = build(small_state()).eval().half()(x.half())
    assert half.dtype == torch.float16
    assert relative_error(half.float(), exact.numpy()) <= 0.03


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize(
    ("side", "seen"), [(512, (512, 768)), (576, (512, 800)), (64, (512, 1024))]
)
def test_map_is_the_best_class_of_rgb(side: int, seen: tuple[int, int]) -> None:
    given = picture(96, 144)
    found = run_preprocessor(NAME, given, side).image
    method = cv2.INTER_CUBIC if side > 96 else cv2.INTER_AREA
    small = cv2.resize(given, (side * 3 // 2, side), interpolation=method)
    pads = ((0, -small.shape[0] % 64), (0, -small.shape[1] % 64), (0, 0))
    padded = np.pad(small, pads, mode="edge")
    trained = cv2.resize(padded, seen[::-1], interpolation=cv2.INTER_LINEAR)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    x = torch.from_numpy((trained - mean) / std).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        scores = build(small_state(150)).eval()(x)
    scores = torch.nn.functional.interpolate(scores, padded.shape[:2], mode="bilinear")
    labels = scores[0].argmax(dim=0).numpy()[: small.shape[0], : small.shape[1]]
    agree = (found == ADE20K.colours[labels]).all(axis=2).mean()
    assert agree > 0.999  # float32 against float64 where two classes tie
    assert len(np.unique(labels)) >= 3


@pytest.mark.usefixtures("_stored")
def test_odd_flat_and_grey_pictures_give_maps_of_the_detect_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector, "SHORT_SIDE", 128)
    check_colour_maps(NAME, COLOURS)


@pytest.mark.usefixtures("_stored")
def test_memory_is_given_back() -> None:
    with lend(UPERNET, build) as network:
        alive = weakref.ref(network)
    del network
    assert alive() is not None
    CACHE.clear()
    assert alive() is None


@pytest.mark.parametrize("classes", [1, 7, 16, 33, 150])
def test_most_likely_equals_one_argmax_of_all_classes(classes: int) -> None:
    scores = random_input((1, classes, 5, 7), -1, 1)
    scores[:, -1] = scores[:, 0]  # the first of equals wins
    whole = torch.nn.functional.interpolate(scores, (23, 30), mode="bilinear")
    assert np.array_equal(most_likely(scores, (23, 30)), whole[0].argmax(dim=0).numpy())


@pytest.mark.parametrize(
    ("size", "step", "expected"),
    [
        ((100, 200), 1, (50, 100)),
        ((200, 100), 1, (100, 50)),
        ((10, 1000), 1, (2, 200)),
        ((10, 10), 32, (64, 64)),
        ((1, 1000), 32, (32, 192)),
    ],
)
def test_within_box_fits_short_and_long_side(
    size: tuple[int, int], step: int, expected: tuple[int, int]
) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    assert within_box(picture, 50, 200, step).shape[:2] == expected
