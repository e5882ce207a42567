"""Edge and line preprocessors: networks and maps against the reference, and odd pictures.

The stored outputs are those of controlnet_aux 0.0.10, for manga lines of the authors' model
(MangaLineExtraction_PyTorch), for Anyline's layers of scikit-image, all with `random_state`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from neural import (
    check_batch,
    check_memory_is_given_back,
    check_odd_pictures,
    half_precision_error,
    save_weights,
)
from random_weights import (
    NETWORKS,
    random_input,
    random_state,
    read_keys,
    read_output,
    relative_error,
)
from torch import Tensor, nn
from weights import weights_folder

from annotator._edges import in_steps, scribble
from annotator.mlsd import segments
from annotator.networks import CACHE, Place, lend
from annotator.softedge_anyline import fine_lines, screen
from lib_controlnet.detect.preprocess import find, run_preprocessor

# network: channels, smallest and largest value of its input, and the size of the stored one
INPUTS = {
    "hed": (3, 0, 255, (48, 64)),
    "pidinet": (3, 0, 1, (48, 64)),
    "teed": (3, 0, 255, (32, 64)),
    "mlsd": (4, -1, 1, (64, 64)),
    "lineart": (3, 0, 1, (48, 64)),
    "lineart_anime": (3, -1, 1, (256, 256)),
    "manga_line": (1, 0, 255, (48, 64)),
}
OUTPUTS = {
    "hed": sum(256 * 512 // 4**scale for scale in range(5)),
    "pidinet": 256 * 512,
    "teed": 4 * 256 * 512,
    "mlsd": 9 * 128 * 256,
    "lineart": 256 * 512,
    "lineart_anime": 256 * 512,
    "manga_line": 256 * 512,
}
"""Numbers that come out for 256 x 512 pixels."""
STRIDES = {"lineart_anime": 4}
"""Only every so many pixels of these outputs are stored."""

# preprocessor: network, seed and gain of the weights that give its map some contrast
DETECTORS = {
    "hed": ("hed", 2, 0.85),
    "hed_safe": ("hed", 2, 0.85),
    "scribble_hed": ("hed", 2, 0.85),
    "pidinet": ("pidinet", 0, 1.0),
    "pidinet_safe": ("pidinet", 0, 1.0),
    "pidinet_sketch": ("pidinet", 0, 1.0),
    "pidinet_scribble": ("pidinet", 0, 1.0),
    "softedge_teed": ("teed", 0, 1.7),
    "softedge_anyline": ("teed", 0, 1.7),
    "mlsd": ("mlsd", 0, 1.3),
    "lineart": ("lineart", 0, 1.6),
    "lineart_coarse": ("lineart", 1, 1.6),
    "lineart_anime": ("lineart_anime", 0, 0.5),
    "lineart_anime_denoise": ("manga_line", 2, 0.75),
}
ONE_EACH = tuple({network: name for name, (network, *_) in reversed(DETECTORS.items())}.values())
BINARY = {"scribble_hed", "pidinet_sketch", "pidinet_scribble", "mlsd"}
LEVELS = {"hed_safe", "pidinet_safe", "softedge_teed_5", "softedge_anyline"}

# preprocessor and stored map where they differ in name, and its sliders
MAPS = {name: (name, ()) for name in DETECTORS} | {
    "softedge_teed": ("softedge_teed", (0,)),
    "softedge_teed_5": ("softedge_teed", (5,)),
    "mlsd": ("mlsd", (0.3, 2.5)),
}


def as_published(network: str, state: dict[str, Tensor]) -> dict[str, object]:
    """The form in which a network's file keeps its tensors."""
    if network in ("pidinet", "lineart_anime", "manga_line"):
        wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
        return {"state_dict": wrapped} if network == "pidinet" else wrapped
    return state


def built(network: str, state: dict[str, Tensor]) -> nn.Module:
    return builder(network)(as_published(network, state)).eval()


def builder(network: str) -> Callable[..., nn.Module]:
    module = {"lineart_anime": "pix2pix"}.get(network, network)
    return importlib.import_module(f"annotator.nets.{module}").build


class Joined(nn.Module):
    """A network whose outputs, one or several, come as rows of one matrix."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        maps = self.network(x)
        maps = [maps] if isinstance(maps, Tensor) else maps
        return torch.cat([each.flatten(1) for each in maps], dim=1)


@pytest.fixture(scope="module")
def ready() -> Iterator[Callable[[str], None]]:
    """Makes sure that a preprocessor finds a file of random weights."""
    with TemporaryDirectory() as name, weights_folder(Path(name)) as folder:

        def write(detector: str) -> None:
            (weight,) = find(detector).weights
            if not (folder / weight.places[0]).exists():
                network, seed, gain = DETECTORS[detector]
                state = random_state(read_keys(network), seed, gain)
                save_weights(folder, weight, as_published(network, state))

        yield write


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    """What the stored maps were made of: a part of a photograph, uint8 (64, 128, 3)."""
    photographs = importlib.import_module("photographs")
    return np.ascontiguousarray(photographs.load("astronaut")[64:128, 160:288])


@pytest.mark.parametrize("network", INPUTS)
def test_published_keys_load_strictly_and_run_in_half_precision(network: str) -> None:
    """On the meta device, which knows shapes and types but computes nothing."""
    state = {
        key: torch.empty(shape, device="meta", dtype=torch.float16)
        for key, shape in read_keys(network).items()
    }
    first, *rest = state
    with pytest.raises((KeyError, RuntimeError), match=re.escape(first)):
        built(network, {key: state[key] for key in rest})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        built(network, {**state, f"{first}.more": state[first]})
    joined = Joined(built(network, state))
    given = torch.empty(2, INPUTS[network][0], 256, 512, device="meta", dtype=torch.float16)
    found = joined(given)
    assert found.dtype is torch.float16
    assert found.shape == (2, OUTPUTS[network])


@pytest.mark.parametrize("name", ONE_EACH)
def test_network_equals_the_reference_and_batches(name: str, ready: Callable[[str], None]) -> None:
    ready(name)
    network = DETECTORS[name][0]
    (weight,) = find(name).weights
    channels, low, high, size = INPUTS[network]
    given = random_input((1, channels, *size), low, high)
    with lend(weight, builder(network)) as lent:
        joined = Joined(lent)
        found = joined(given)
        if network in STRIDES:
            step = STRIDES[network]
            found = found.view(size)[::step, ::step]
        assert relative_error(found.flatten(), read_output(network)) <= 1e-5
        check_batch(joined, torch.cat([given, given.flip(3) * 0.9]))


@pytest.mark.parametrize("stored", MAPS)
def test_map_equals_the_reference(
    stored: str, ready: Callable[[str], None], crop: np.ndarray
) -> None:
    name, values = MAPS[stored]
    ready(name)
    found = run_preprocessor(name, crop, 64, values).image
    assert (found == found[:, :, :1]).all()
    expected = np.load(NETWORKS / "edge_maps.npz")[stored].astype(int)
    difference = np.abs(found[:, :, 0] - expected)
    if stored in BINARY:
        assert set(np.unique(found)) == {0, 255}
    if stored in BINARY | LEVELS:  # values at a limit may fall to either side
        assert (difference > 1).mean() < 0.002
    else:  # so may those that are cut to whole numbers
        assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", DETECTORS)
def test_odd_pictures(name: str, ready: Callable[[str], None]) -> None:
    ready(name)
    check_odd_pictures(name)


def test_half_precision_stays_close(ready: Callable[[str], None], crop: np.ndarray) -> None:
    """Very slow on a CPU, so the larger networks were compared by hand."""
    ready("pidinet")
    assert half_precision_error("pidinet", crop[:, :64], 64) < 0.5


@pytest.mark.parametrize("name", ["hed", "softedge_teed", "lineart_anime_denoise"])
def test_unscaled_pictures_are_seen_in_full_precision(
    name: str, ready: Callable[[str], None], crop: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These take 0 to 255, and half precision ends at 65504."""
    ready(name)
    full = run_preprocessor(name, crop, 64).image
    monkeypatch.setattr(CACHE, "place", Place(half=True))
    assert np.array_equal(run_preprocessor(name, crop, 64).image, full)


@pytest.mark.parametrize(
    ("rough", "smooth"), [("scribble_hed", "hed"), ("pidinet_scribble", "pidinet")]
)
def test_scribble_is_made_of_what_is_left_without_padding(
    rough: str, smooth: str, ready: Callable[[str], None], crop: np.ndarray
) -> None:
    ready(rough)
    part = crop[:, 55:]  # 73 wide, padded to 128
    expected = scribble(run_preprocessor(smooth, part, 64).image[:, :, 0])
    found = run_preprocessor(rough, part, 64).image
    assert np.array_equal(found[:, :, 0], expected)
    assert found.any()


def test_scribble_draws_broad_lines_along_ridges() -> None:
    rows, columns = np.mgrid[:96, :96]
    across = np.abs(columns + rows / 2 - 72) / np.hypot(1, 0.5)  # pixels from a slanting line
    soft = (255 * np.exp(-((across / 24) ** 2))).astype(np.uint8)
    drawn = scribble(soft)
    assert set(np.unique(drawn)) == {0, 255}
    assert (soft[across < 19] > 127).all(), "the line's own breadth"
    inside = np.s_[10:-10, 10:-10]
    assert drawn[inside][across[inside] < 4].all()
    assert not drawn[inside][across[inside] > 9].any()
    assert not scribble(soft // 3).any(), "too faint"


def test_steps_are_the_published_ones() -> None:
    edges = np.array([0, 0.33, 0.34, 0.66, 0.67, 0.99, 1.0])
    assert in_steps(edges, 2).tolist() == [0, 0, 0.5, 0.5, 1, 1, 1.5]
    assert in_steps(edges, 1).tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert in_steps(edges, 0) is edges


def test_fine_lines_leave_out_specks() -> None:
    image = np.full((64, 64, 3), 255, np.uint8)
    image[10, 10:21] = 0  # 11 pixels
    image[30, 10:22] = 0  # 12
    image[50:62, 60] = 0  # cut off with the padding
    lines = fine_lines(image, (64, 60))
    assert lines.shape == (64, 60)
    assert not lines[:20].any()
    assert (lines[30, 10:22] > 100).all()
    assert not lines[40:].any()


def test_screened_is_that_of_light() -> None:
    base, top = (np.arange(256, dtype=np.uint8)[:, None] * np.ones(256, np.uint8) for _ in "ab")
    top = np.ascontiguousarray(top.T)
    found = screen(base, top)
    assert np.array_equal(found, found.T)
    assert np.array_equal(found[0], top[0])
    assert (found[255] == 255).all()
    assert found[128, 64] == round(128 + 64 - 128 * 64 / 255)


def a_segment(logit: float) -> Tensor:
    """An answer of M-LSD with one centre at (x=8, y=4), 6 long to each side."""
    maps = torch.zeros(1, 9, 16, 32)
    maps[:, 0] = -20
    maps[0, 0, 4, 8] = logit
    maps[0, 1:5, 4, 8] = torch.tensor([-6.0, 1.0, 6.0, -1.0])
    return maps


@pytest.mark.parametrize(
    ("least", "shortest", "expected"),
    [
        (0.1, 0.1, [[4.0, 10.0, 28.0, 6.0]]),
        (0.87, 12.1, [[4.0, 10.0, 28.0, 6.0]]),
        (0.89, 0.1, []),
        (0.1, 12.2, []),
        (2.0, 20.0, []),
    ],
)
def test_segments_pass_both_thresholds(
    least: float, shortest: float, expected: list[list[float]]
) -> None:
    assert segments(a_segment(2.0), least, shortest).tolist() == expected  # sigmoid 0.881


def test_segments_keep_the_likeliest_of_neighbours_and_at_most_200() -> None:
    maps = a_segment(2.0)
    maps[0, 0, 5, 9] = 1.5
    maps[0, 1:5, 5, 9] = torch.tensor([-5.0, 0.0, 5.0, 0.0])
    assert len(segments(maps, 0.1, 0.1)) == 1
    many = torch.zeros(1, 9, 64, 64)
    many[:, 0, ::2, ::2] = torch.rand(32, 32, generator=torch.Generator().manual_seed(3)) + 1
    many[:, 1] = 10
    assert len(segments(many, 0.5, 0.1)) == 200


def test_mlsd_without_a_line_is_black(ready: Callable[[str], None], crop: np.ndarray) -> None:
    ready("mlsd")
    assert not run_preprocessor("mlsd", crop, 64, (2, 20)).image.any()
    assert run_preprocessor("mlsd", crop, 64, (0.1, 0.1)).image.any()


@pytest.mark.parametrize("name", ONE_EACH)
def test_memory_is_given_back(name: str, ready: Callable[[str], None]) -> None:
    ready(name)
    check_memory_is_given_back(name)
