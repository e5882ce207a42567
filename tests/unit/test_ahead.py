"""Networks see the pictures of several turns at once; each turn gets what it would get alone."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from neural import smooth_picture
from PIL import Image

from annotator import _edges, clip_vision
from annotator.registry import REGISTRY, NetworkDetector
from lib_controlnet.detect import ahead, preprocess
from lib_controlnet.detect.preprocess import DetectionCache, all_detectors, run_preprocessor
from lib_controlnet.errors import ImageError
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.detection import detect_unit
from lib_controlnet.prepare.inputs import PictureSource, choose
from lib_controlnet.units.request import GenerationRequest
from lib_controlnet.units.unit import ControlUnit

# By module of the preprocessor: channels of its network's answer, and how much smaller that is.
ANSWERS = {
    "anime_face_segment": (7, 1),
    "clip_vision": (5, 1),
    "depth_anything": (1, 1),
    "dsine": (3, 1),
    "hed": (1, 2),
    "ip_adapter": (5, 1),
    "leres": (1, 1),
    "lineart": (1, 1),
    "lineart_anime": (1, 1),
    "lineart_anime_denoise": (1, 1),
    "midas": (1, 1),
    "mlsd": (9, 2),
    "normal_bae": (4, 1),
    "oneformer": (6, 4),
    "pidinet": (1, 1),
    "segmentation": (20, 4),
    "softedge_anyline": (1, 1),
    "softedge_teed": (1, 1),
    "zoe": (1, 1),
}
SEVERAL = ("hed", "softedge_anyline", "softedge_teed")
"""Their networks give a list of maps."""


class StandIn(torch.nn.Module):
    """A small network that answers in the form of another one, and notes its rows."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module, self.rows = module, list[int]()
        self.channels, self.stride = ANSWERS[module]
        self.place = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, *_rest: Any) -> Any:
        self.rows.append(len(x))
        generator = torch.Generator().manual_seed(3)
        kernel = torch.randn(self.channels, x.shape[1], 3, 3, generator=generator)
        found = torch.nn.functional.conv2d(x, kernel, stride=self.stride, padding=1)
        if self.module in ("clip_vision", "ip_adapter"):
            return SimpleNamespace(pooled=found.mean((2, 3)), hidden=found[:, 0], last=found[:, 1])
        if self.module in SEVERAL:
            return [found / 99, found[:, :, ::2, ::2] / 50]
        if self.module == "oneformer":
            votes = found.flatten(2)[..., :5]
            return SimpleNamespace(class_queries_logits=votes, masks_queries_logits=found)
        return found.abs() if self.module in ("midas", "zoe") else found

    side = 32
    """Of what CLIP sees."""

    def blank(self, _like: torch.Tensor) -> torch.Tensor:
        """What CLIP sees in nothing."""
        return torch.zeros(1, self.side)


@pytest.mark.parametrize(
    "name", [d.name for d in all_detectors() if d.takes_many and not d.unavailable]
)
def test_several_pictures_at_once_give_what_each_gives_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = preprocess.get(name)
    module = type(detector).__module__.rpartition(".")[2]
    network = StandIn(module)

    @contextmanager
    def lend(*_weight: Any, half: bool = True) -> Iterator[StandIn]:
        del half
        with torch.no_grad():
            yield network

    for owner in (importlib.import_module(type(detector).__module__), _edges, clip_vision):
        monkeypatch.setattr(owner, "lend", lend, raising=False)
    work = preprocess.plan_work(detector, 64, ())
    pictures = [smooth_picture(64, 90, seed) for seed in range(3)]
    alone = [preprocess.run_all(work, [picture])[0] for picture in pictures]
    assert network.rows == [2, 2, 2] if module == "zoe" else [1, 1, 1]  # zoe sees mirror images
    network.rows.clear()
    together = preprocess.run_all(work, pictures)
    assert network.rows == [6 if module == "zoe" else 3]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 1
        for key, tensor in {} if one.embedding is None else one.embedding.tensors.items():
            torch.testing.assert_close(other.embedding.tensors[key], tensor)
    assert not np.array_equal(alone[0].image, alone[1].image)


def test_every_plain_network_of_tensors_takes_several() -> None:
    ours = [d for d in all_detectors() if type(d).__module__.startswith("annotator.")]
    modules = {type(d).__module__.rpartition(".")[2] for d in ours if d.takes_many}
    assert modules == set(ANSWERS)


class Seer(NetworkDetector):
    """Brightens; notes how many pictures it sees at a time."""

    name = "seer"
    calls: list[int]
    most = 99
    fault: type[Exception] = ValueError

    def see(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        self.calls.append(len(images))
        if len(images) > self.most:
            raise self.fault(len(images))
        return [image // 2 for image in images]

    def draw(self, seen: np.ndarray, _image: np.ndarray) -> np.ndarray:
        return seen + 100


@pytest.fixture
def seer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seer]:
    """A preprocessor that counts, where a network gains by several pictures at once."""
    monkeypatch.setattr(ahead, "gains", lambda: True)
    detector = Seer()
    detector.calls = []
    REGISTRY.add(detector)
    yield detector
    REGISTRY.remove(detector.name)


def picture(number: int, side: int = 64) -> np.ndarray:
    """A picture of its own."""
    return np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    """A file of it."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


REQUEST = GenerationRequest(Size(64, 64))


def run_turns(given: Sequence[Any], cache: DetectionCache, resolution: int = 64) -> list[Any]:
    """The map of each turn, or the kind of error that it ends with."""
    units = [ControlUnit(module="seer", image=one, processor_res=resolution) for one in given]
    results: list[Any] = []
    for turn, unit in enumerate(units, 1):
        later = (choose(one, REQUEST) for one in units[turn:])
        try:
            made = detect_unit(choose(unit, REQUEST), PictureSource(), cache, later)
            results.append(made.detection.image)
        except ImageError as error:
            results.append(type(error))
    return results


TEN = [picture(number) for number in range(10)]
LARGE = [picture(number, 1024) for number in range(3)]
BROKEN = b"no picture"
TURNS = {
    "all of a small batch at once": (TEN[:5], {}, [5]),
    "eight at a time": (TEN, {}, [8, 2]),
    "files too": ([encode(one) for one in TEN[:3]], {}, [3]),
    "other sizes in a turn of their own": ([TEN[0], LARGE[0], TEN[1]], {}, [2, 1]),
    "the same picture once": ([TEN[0], TEN[1], TEN[0], TEN[1]], {}, [2]),
    "as many pixels as the memory may hold": (LARGE, {"resolution": 1024}, [2, 1]),
    "one by one where even two are too large": (LARGE, {"resolution": 2048}, [1, 1, 1]),
    "up to a broken one, which fails alone": (
        *([*TEN[:2], BROKEN, *TEN[2:4]], {}),
        [2, 2],
    ),
    "a broken one first": ([BROKEN, *TEN[:2]], {}, [2]),
    "half as many after a failure": (TEN, {"most": 4}, [8, 1, 4, 4, 1]),
    "and after lack of memory": (
        *(TEN[:6], {"most": 1, "fault": MemoryError}),
        [6, 1, 3, 1, 1, 1, 1, 1],
    ),
    "without a cache of maps": (TEN[:4], {"size": 0}, [4]),
}


@pytest.mark.parametrize("case", TURNS)
def test_turns_are_detected_together(case: str, seer: Seer, monkeypatch: Any) -> None:
    given, how, calls = TURNS[case]
    resolution = how.get("resolution", 64)
    monkeypatch.setattr(seer, "most", how.get("most", 99), raising=False)
    monkeypatch.setattr(seer, "fault", how.get("fault", ValueError), raising=False)
    found = run_turns(given, DetectionCache(how.get("size", 16)), resolution)
    assert seer.calls == calls
    monkeypatch.setattr(ahead, "gains", lambda: False)
    expected = run_turns(given, DetectionCache(), resolution)
    assert seer.calls[len(calls) :] == [1] * len(
        {str(one) for one in expected if one is not ImageError}
    )
    for one, other in zip(found, expected, strict=True):
        assert one is other is ImageError or np.array_equal(one, other)


def test_nothing_is_looked_at_ahead_on_the_cpu(seer: Seer, monkeypatch: Any) -> None:
    monkeypatch.undo()
    assert not ahead.gains()
    read: list[int] = []

    def later() -> Iterator[Any]:
        read.append(1)
        yield choose(ControlUnit(module="seer", image=TEN[1]), REQUEST)

    detect_unit(
        choose(ControlUnit(module="seer", image=TEN[0]), REQUEST),
        PictureSource(),
        DetectionCache(),
        later(),
    )
    assert (seer.calls, read) == ([1], [])


def test_known_picture_reads_nothing_ahead(seer: Seer) -> None:
    cache = DetectionCache()
    run_preprocessor("seer", TEN[0], 64, cache=cache)
    run_turns([TEN[0]], cache)
    assert seer.calls == [1]
    assert len(cache.ahead) == 0


def test_wrong_guesses_come_to_an_end(seer: Seer) -> None:
    cache = DetectionCache()
    for turn in range(9):
        guessed = [choose(ControlUnit(image=picture(99 + 9 * turn + i)), REQUEST) for i in range(9)]
        mine = choose(ControlUnit(module="seer", image=picture(turn)), REQUEST)
        detect_unit(mine, PictureSource(), cache, iter(guessed))
    assert seer.calls == [8, 8, 8, 1, 1, 1, 1, 1, 1]
