"""Anime face segmentation: published keys, output of the reference class, size of the map."""

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
from random_weights import (
    random_input,
    random_state,
    read_keys,
    read_output,
    relative_error,
)
from weights import weights_folder

import annotator.anime_face_segment as detector
from annotator.anime_face_segment import UNET
from annotator.nets.anime_face import build
from annotator.networks import CACHE, lend
from annotator.palettes import ANIME_FACE
from lib_controlnet.detect.preprocess import run_preprocessor

NAME = "anime_face_segment"
STATE = random_state(read_keys("anime_face"), 23)
COLOURS = set(map(tuple, ANIME_FACE.colours.tolist()))


@pytest.fixture
def _stored(tmp_path: Path) -> Iterator[None]:
    with weights_folder(tmp_path) as folder:
        (folder / UNET.folder).mkdir()
        torch.save({f"module.{k}": v for k, v in STATE.items()}, folder / UNET.folder / UNET.name)
        yield


picture = partial(smooth_picture, seed=5, sigma=3)


def test_published_keys_load_strictly() -> None:
    keys = read_keys("anime_face")
    assert len(keys) == 298
    network = build(STATE)
    assert {k: list(t.shape) for k, t in network.state_dict().items()} == keys
    assert sum(p.numel() for p in network.parameters()) == 1_554_255
    with pytest.raises(RuntimeError, match="extra"):
        build({**STATE, "extra": torch.zeros(1)})


def test_output_equals_the_reference() -> None:
    network = build(STATE).eval()
    x = random_input((2, 3, 64, 96), 0, 1)
    with torch.no_grad():
        ours = network(x)
        singles = torch.cat([network(x[:1]), network(x[1:])])
    assert relative_error(ours[:, :, ::3, ::3], read_output("anime_face")) <= 1e-5
    assert relative_error(singles, ours.numpy()) <= 1e-5


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize("resolution", [64, 512])
def test_map_is_the_most_probable_class_at_the_resolution(resolution: int) -> None:
    given = picture(128, 192)
    found = run_preprocessor(NAME, given, resolution).image
    method = cv2.INTER_CUBIC if resolution > 128 else cv2.INTER_AREA
    small = cv2.resize(given, (resolution * 3 // 2, resolution), interpolation=method)
    pad = -small.shape[1] % 64
    padded = np.pad(small, ((0, 0), (0, pad), (0, 0)), mode="edge")
    size = (768, 512) if resolution == 512 else (1024, 512)
    trained = padded
    if padded.shape[:2] != size[::-1]:
        trained = cv2.resize(padded, size, interpolation=cv2.INTER_CUBIC)
    x = torch.from_numpy(trained).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        parts = build(STATE).eval()(x)
    parts = torch.nn.functional.interpolate(parts, padded.shape[:2], mode="bilinear")
    labels = parts[0].argmax(dim=0).numpy()[: small.shape[0], : small.shape[1]]
    assert np.array_equal(found, ANIME_FACE.colours[labels])
    assert len(np.unique(labels)) >= 3


@pytest.mark.usefixtures("_stored")
def test_odd_flat_and_grey_pictures_give_maps_of_the_detect_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(detector, "SHORT_SIDE", 128)
    check_colour_maps(NAME, COLOURS)


def test_half_precision_stays_close() -> None:
    x = random_input((1, 3, 64, 32), 0, 1)
    with torch.no_grad():
        exact = build(STATE).eval()(x)
        half = build(STATE).eval().half()(x.half())
    assert half.dtype == torch.float16
    assert relative_error(half.float(), exact.numpy()) <= 0.05


@pytest.mark.usefixtures("_stored")
def test_memory_is_given_back() -> None:
    run_preprocessor(NAME, picture(64, 96), 64)
    with lend(UNET, build) as network:
        alive = weakref.ref(network)
    del network
    assert alive() is not None
    CACHE.clear()
    assert alive() is None
