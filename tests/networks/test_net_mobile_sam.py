"""MobileSAM: published keys, output of the reference classes, which masks count, the painting."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from neural import smooth_picture
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from torch import Tensor, nn
from weights import weights_folder

import annotator.mobile_sam as detector
from annotator.mobile_sam import MOBILE_SAM, Mask, all_masks, paint, without_doubles
from annotator.nets.mobile_sam import MobileSam, build
from annotator.networks import CACHE, lend
from lib_controlnet.detect.preprocess import run_preprocessor

NAME = "mobile_sam"
SIDE = 128
SIZE = (70, 100)


class SquaresAtPoints(nn.Module):
    """In the network's place: three squares around each point, some blurred, some poor.

    Squares are drawn to a coarse raster, so that neighbouring points give nearly the same ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.image_encoder = nn.Identity()
        self.weight = nn.Parameter(torch.zeros(1))

    def masks_at(self, _features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        cells = torch.arange(32).float()
        raster = (points.float() * 32 / 3).floor() * 3 + 1.5
        place = raster + 0.5 * (points.float() * 32 - raster)
        away = torch.maximum(
            (cells[None, None, :] - place[:, 0, None, None]).abs(),
            (cells[None, :, None] - place[:, 1, None, None]).abs(),
        )
        sizes, slopes = torch.tensor([1.6, 4.2, 9.0]), torch.tensor([40.0, 60.0, 30.0])
        logits = (sizes[None, :, None, None] - away[:, None]) * slopes[None, :, None, None]
        wave = torch.sin(raster @ torch.tensor([1.7, 2.9]))[:, None] * torch.tensor([1, 0.7, -1])
        return logits, 0.9 + 0.08 * wave


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "SIDE", SIDE)
    monkeypatch.setattr(detector, "POINTS", 6)


@pytest.fixture
def _stored(tmp_path: Path) -> Iterator[None]:
    """A file whose masks are sharp and well thought of."""
    state = random_state(read_keys("mobile_sam"), 21)
    for key in state:
        if "output_hypernetworks_mlps" in key and "layers.2" in key:
            state[key] *= 100
    state["mask_decoder.iou_prediction_head.layers.2.bias"] += 2.5
    with weights_folder(tmp_path) as folder:
        (folder / MOBILE_SAM.folder).mkdir()
        torch.save(state, folder / MOBILE_SAM.folder / MOBILE_SAM.name)
        yield


picture = partial(smooth_picture, seed=5, sigma=3)


def test_published_keys_load_strictly() -> None:
    keys = read_keys("mobile_sam")
    assert len(keys) == 439
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    ours = {key: list(tensor.shape) for key, tensor in build(state).state_dict().items()}
    assert ours.items() <= keys.items()
    unused = {key.rpartition(".")[0] for key in keys.keys() - ours.keys()}
    assert {stem.split(".")[1] for stem in unused} == {
        *("norm_head", "head", "mask_downscaling", "point_embeddings")
    }
    del state["mask_decoder.iou_token.weight"]
    with pytest.raises(RuntimeError, match="iou_token"):
        build(state)


def test_output_equals_the_reference() -> None:
    network = build(random_state(read_keys("mobile_sam"), 21)).eval()
    x = random_input((1, 3, SIDE, SIDE), -2, 2)
    points = (random_input((5, 2), 0, SIDE, seed=3) + 0.5) / SIDE
    with torch.no_grad():
        features = network.image_encoder(x)
        masks, quality = network.masks_at(features, points)
        one, _ = network.masks_at(features, points[2:3])
        pair = network.image_encoder(torch.cat((x, x.flip(2))))
    reference = read_output("mobile_sam")
    count = features[0, ::4].numel()
    assert relative_error(features[0, ::4].ravel(), reference[:count]) <= 1e-5
    assert relative_error(masks[:, :, ::2, ::2].ravel(), reference[count:-15]) <= 1e-5
    assert relative_error(quality.ravel(), reference[-15:]) <= 1e-5
    assert relative_error(one[0], masks[2].numpy()) <= 1e-5
    assert relative_error(pair[0], features[0].numpy()) <= 1e-5


@pytest.mark.usefixtures("_small")
def test_masks_and_their_order_equal_the_references() -> None:
    """Thresholds, enlarging, boxes, suppression of doubles, small parts over large ones."""
    with torch.no_grad():
        found = list(all_masks(np.zeros((*SIZE, 3), np.uint8), SquaresAtPoints()))
    kept = without_doubles(found)
    labels = np.zeros(SIZE, np.float32)
    for number, mask in enumerate(sorted(kept, key=lambda mask: -mask.area), 1):
        inside = np.unpackbits(mask.bits, count=labels.size).reshape(SIZE) > 0
        assert inside.sum() == mask.area
        labels[inside] = number
    assert 10 < len(kept) < len(found)
    assert np.array_equal(labels, read_output("mobile_sam_masks"))


@pytest.mark.parametrize("order", [1, -1])
def test_small_parts_lie_over_large_ones(order: int) -> None:
    large, small = np.zeros((5, 7), bool), np.zeros((5, 7), bool)
    large[1:, 1:], small[2:4, 2:4] = True, True
    masks = [Mask(np.packbits(mask), int(mask.sum()), (0, 0, 6, 4), 0.9) for mask in (large, small)]
    found = paint(masks[::order], (5, 7), np.random.RandomState(3))
    first, second = np.random.RandomState(3).randint(255, size=(2, 3))
    expected = np.zeros((5, 7, 3))
    expected[large], expected[small] = first, second
    assert np.array_equal(found, expected)


@pytest.mark.usefixtures("_small", "_stored")
def test_a_seed_always_gives_the_same_colours() -> None:
    given = picture(96, 128)
    first, again, other = (run_preprocessor(NAME, given, 96, seed=seed).image for seed in (7, 7, 8))
    assert first.shape == (96, 128, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(first.any(axis=2), other.any(axis=2))
    colours = set(map(tuple, first.reshape(-1, 3).tolist()))
    assert tuple(np.random.RandomState(7).randint(255, size=3)) in colours  # the largest part's


@pytest.mark.usefixtures("_small", "_stored")
@pytest.mark.parametrize("size", [(61, 83), (1, 20), (20, 1), (1, 1)])
def test_odd_sizes_give_maps_of_the_detect_size(size: tuple[int, int]) -> None:
    found = run_preprocessor(NAME, picture(*size), 64).image
    factor = 64 / min(size)
    assert found.shape[:2] == (round(size[0] * factor), round(size[1] * factor))


@pytest.mark.usefixtures("_small")
def test_a_picture_without_parts_is_black(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with weights_folder(tmp_path) as folder:
        (folder / MOBILE_SAM.folder).mkdir()
        state = random_state(read_keys("mobile_sam"), 21)
        torch.save(state, folder / MOBILE_SAM.folder / MOBILE_SAM.name)
        monkeypatch.setattr(detector, "QUALITY", 100.0)
        found = run_preprocessor(NAME, np.full((64, 96), 128, np.uint8), 64).image
    assert found.shape == (64, 96, 3)
    assert not found.any()


@pytest.mark.usefixtures("_stored")
def test_memory_is_given_back() -> None:
    with lend(MOBILE_SAM, build, half=False) as network:
        assert isinstance(network, MobileSam)
        alive = weakref.ref(network)
    del network
    assert alive() is not None
    CACHE.clear()
    assert alive() is None
