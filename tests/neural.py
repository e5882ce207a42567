"""What every preprocessor with a network has to pass, given a file of random weights."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from annotator.networks import CACHE, Place
from annotator.weights import WeightFile
from lib_controlnet.detect.preprocess import run_preprocessor


def save_weights(folder: Path, weight: WeightFile, content: Mapping[str, object]) -> Path:
    """Write a weight file to where it is looked for first below `folder`."""
    path = folder / weight.places[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(content), path)
    return path


def as_checkpoint(
    state: Mapping[str, Tensor], name: str, dtype: torch.dtype = torch.float32
) -> dict[str, dict[str, Tensor]]:
    """Weights in a precision as a training on several GPUs saves them, under a name."""
    floats = {k: t.to(dtype) if t.is_floating_point() else t for k, t in state.items()}
    return {name: {f"module.{key}": tensor for key, tensor in floats.items()}}


def smooth_picture(height: int, width: int, seed: int = 7, sigma: float = 2) -> np.ndarray:
    """A smooth random picture, uint8 (height, width, 3), that uses the whole range."""
    noise = np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma).reshape(noise.shape)
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


ODD_PICTURES = {
    "odd sizes": smooth_picture(61, 83),
    "grey": smooth_picture(64, 96)[:, :, 0],
    "one pixel high": smooth_picture(1, 3),
    "one pixel": smooth_picture(1, 1),
    "flat": np.full((64, 96, 3), 128, np.uint8),
}


def check_odd_pictures(name: str, side: int = 64) -> None:
    """Every odd picture gives an RGB map of the promised size, the same one twice."""
    for form, given in ODD_PICTURES.items():
        found = run_preprocessor(name, given, side).image
        height, width = given.shape[:2]
        factor = side / min(height, width)
        assert found.shape == (round(height * factor), round(width * factor), 3), form
        assert found.dtype == np.uint8
    again = run_preprocessor(name, given, side).image
    assert np.array_equal(found, again)


def check_colour_maps(name: str, colours: set[tuple[int, ...]], side: int = 64) -> None:
    """Every odd picture gives a map of the promised size in nothing but the palette's colours."""
    sizes = ((61, 83), (1, 20), (20, 1), (1, 1))
    odd = [smooth_picture(*size, seed=5, sigma=3) for size in sizes]
    flat = np.full((64, 96, 3), 128, np.uint8)
    for given in (*odd, flat, smooth_picture(64, 96, seed=5, sigma=3)[:, :, 0]):
        found = run_preprocessor(name, given, side).image
        factor = side / min(given.shape[:2])
        assert found.shape[:2] == tuple(round(length * factor) for length in given.shape[:2])
        assert set(map(tuple, found.reshape(-1, 3).tolist())) <= colours


def check_batch(network: nn.Module, pair: Tensor, bound: float = 1e-5) -> None:
    """Two pictures at once give what each of them gives alone.

    Args:
        pair: input with two rows.
        bound: largest difference as a share of the largest value; kernels may differ by batch.
    """
    network.eval()
    with torch.no_grad():
        both = network(pair)
        for row in (0, 1):
            alone = network(pair[row : row + 1])
            limit = bound * float(both.abs().max())
            assert float((both[row : row + 1] - alone).abs().max()) <= limit
    assert not torch.equal(both[0], both[1])


def check_memory_is_given_back(name: str) -> None:
    """Nothing holds the network any more once the cache is cleared."""
    run_preprocessor(name, smooth_picture(64, 64), 64)
    held = [weakref.ref(entry.opened) for entry in CACHE.values()]
    assert held
    CACHE.clear()
    gc.collect()
    assert not [ref for ref in held if ref() is not None]


def in_half_precision(name: str, picture: np.ndarray, side: int) -> np.ndarray:
    """The map where the device is said to compute in half precision, as integers."""
    before = CACHE.place
    CACHE.place = Place(before.device, half=True)
    try:
        return run_preprocessor(name, picture, side).image.astype(int)
    finally:
        CACHE.place = before


def half_precision_error(name: str, picture: np.ndarray, side: int) -> float:
    """Mean difference of the maps in half and in full precision, in levels of 255."""
    full = run_preprocessor(name, picture, side).image.astype(int)
    half = in_half_precision(name, picture, side)
    assert not np.array_equal(half, full), "nothing ran in half precision"
    return float(np.abs(half - full).mean())


def check_full_precision(name: str) -> None:
    """A network that loses too much in half precision runs in full precision there, too."""
    picture = smooth_picture(64, 64)
    full = run_preprocessor(name, picture, 64).image.astype(int)
    assert np.array_equal(in_half_precision(name, picture, 64), full)
