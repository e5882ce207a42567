"""Running preprocessors: lookup, slider rules, masks, the cache, and foreign `annotator`s."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from annotator.registry import Detector, Frame
from annotator.weights import WeightFile
from lib_controlnet.detect import preprocess
from lib_controlnet.detect.preprocess import Detection, DetectionCache, run_preprocessor, settle
from lib_controlnet.errors import (
    ControlNetError,
    HostError,
    ImageError,
    PreprocessorUnavailableError,
)
from lib_controlnet.pictures.maps import join_mask

ROOT = Path(__file__).resolve().parents[2]


def noise(height: int = 64, width: int = 96, channels: int = 3, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, channels), dtype=np.uint8)


class Counting(Detector):
    """Counts its runs; returns noise from the generator it is given."""

    name = "counting"
    tags = ("Canny",)
    frame = Frame.RESIZED
    seeded = True
    runs = 0

    def detect(self, image: np.ndarray, *, rng: np.random.RandomState) -> np.ndarray:
        Counting.runs += 1
        return rng.randint(0, 256, image.shape[:2]).astype(np.uint8)


class Absent(Detector):
    name = "absent"
    tags = ("Absent",)
    unavailable = "it needs the package absent; `pip install absent`"


@pytest.fixture
def counting() -> type[Counting]:
    preprocess.registry.add(Counting())
    Counting.runs = 0
    yield Counting
    preprocess.registry.remove("counting")


@pytest.fixture
def absent() -> None:
    preprocess.registry.add(Absent())
    yield
    preprocess.registry.remove("absent")


# --- lookup -------------------------------------------------------------------------------


def test_unknown_name_lists_what_comes_close() -> None:
    with pytest.raises(PreprocessorUnavailableError) as caught:
        preprocess.get("canni")
    assert str(caught.value) == (
        "Module not available: 'canni' is no preprocessor here; did you mean canny?"
    )
    assert caught.value.status_code == 422
    assert preprocess.find("canni") is None


def test_unknown_name_tells_of_files_that_could_not_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(preprocess.registry.broken, "depth_new", "ImportError: no torchvision")
    with pytest.raises(PreprocessorUnavailableError, match=r"depth_new\.py: ImportError"):
        preprocess.get("depth_newer")


@pytest.mark.usefixtures("absent")
def test_unavailable_preprocessor_says_why() -> None:
    with pytest.raises(PreprocessorUnavailableError) as caught:
        run_preprocessor("absent", noise())
    assert str(caught.value) == (
        "preprocessor absent cannot run: it needs the package absent; `pip install absent`"
    )
    assert preprocess.default_of("Absent").name == "none"


@pytest.mark.parametrize(
    ("control_type", "name"),
    [
        ("All", "none"),
        ("Canny", "canny"),
        ("Inpaint", "inpaint_only"),
        ("InstructP2P", "none"),
        ("Scribble", "pidinet_scribble"),
        ("SparseCtrl", "pidinet_scribble"),
        ("Tile", "tile_resample"),
        ("MLSD", "mlsd"),
        ("Lineart", "lineart_standard"),  # made for it, unlike the more prominent invert
        ("Depth", "depth"),
        ("T2I-Adapter", "clip_vision"),
        ("IP-Adapter", "ip-adapter-auto"),
        ("Reference", "reference_only"),
    ],
)
def test_default_of_a_control_type(control_type: str, name: str) -> None:
    assert preprocess.default_of(control_type).name == name


# --- slider values ------------------------------------------------------------------------

SETTLED = [
    # module, resolution, a and b; what is used
    ("canny", (-1, -1, -1), (512, 100, 200, 0.5)),
    ("canny", (None, None, None), (512, 100, 200, 0.5)),
    ("canny", (768, 50, 60), (768, 50, 60, 0.5)),
    ("canny", (63, 0, 256), (512, 100, 200, 0.5)),
    ("canny", (64, 1, 255), (64, 1, 255, 0.5)),
    ("canny", (2048, 64.0, 64.5), (2048, 64.0, 64.5, 0.5)),
    ("inpaint_only", (-1, -1, -1), (0.5, 0.5, 0.5, 0.5)),
    ("inpaint_only", (0.5, 64, 0.7), (0.5, 0.5, 0.7, 0.5)),
    ("shuffle", (-1, -1, -1), (512, 0.5, 0.5, 0.5)),
    ("shuffle", (1024, 2, 2), (512, 0.5, 0.5, 0.5)),
    ("none", (-1, -1, -1), (512, 0.5, 0.5, 0.5)),
    ("blur_gaussian", (-1, 0, -1), (512, 9, 0.5, 0.5)),
]


@pytest.mark.parametrize("case", SETTLED, ids=str)
def test_settle_table(case: tuple) -> None:
    name, (resolution, a, b), expected = case
    found = settle(name, resolution, (a, b))
    assert (found.resolution, *found.values) == expected


def test_settle_logs_what_it_replaces(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settle("canny", 63, (-1, 300))
    settle("inpaint_only", 512, (64, 64))
    assert caplog.messages == [
        "[canny.threshold_b] Invalid value(300), using default value 200.",
        "[canny.processor_res] Invalid value(63), using default value 512.",
    ]


@pytest.mark.parametrize(
    ("resolution", "pixel_perfect", "short_side"),
    [(128, False, 128), (40, False, 512), (40, True, 40), (2100, True, 2100), (None, True, 512)],
)
def test_pixel_perfect_resolution_is_taken_as_it_is(
    resolution: int | None, pixel_perfect: bool, short_side: int
) -> None:
    image = noise(30, 20)
    found = run_preprocessor("threshold", image, resolution, pixel_perfect=pixel_perfect)
    assert found.resolution == short_side
    assert min(found.image.shape[:2]) == short_side


# --- pictures and masks -------------------------------------------------------------------


def test_fourth_channel_is_alpha_or_mask_as_declared() -> None:
    rgba = np.dstack([noise(), np.zeros((64, 96), np.uint8)])
    assert (run_preprocessor("none", rgba).image == 255).all()
    assert np.array_equal(run_preprocessor("inpaint_only", rgba).image, rgba)


@pytest.mark.parametrize("module", ["inpaint_only", "inpaint"])
def test_inpaint_joins_the_mask_and_adds_an_empty_one(module: str) -> None:
    mask = noise(32, 48, 1)[:, :, 0]
    found = run_preprocessor(module, noise(), mask=mask).image
    assert np.array_equal(found, join_mask(noise(), mask))
    assert not run_preprocessor(module, noise()).image[:, :, 3].any()
    replaced = run_preprocessor(module, join_mask(noise(), 255 - mask), mask=mask).image
    assert np.array_equal(replaced, join_mask(noise(), mask))


def test_mask_is_ignored_by_others() -> None:
    plain = run_preprocessor("invert", noise()).image
    assert np.array_equal(run_preprocessor("invert", noise(), mask=noise()[:, :, 0]).image, plain)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros(4, np.uint8), np.zeros((0, 4, 3), np.uint8)],
    ids=["float", "one dimension", "empty"],
)
def test_unusable_picture_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="the picture for canny"):
        run_preprocessor("canny", image)


RESIZING = [
    detector.name
    for detector in preprocess.all_detectors()
    if detector.frame is not Frame.AS_GIVEN and detector.resolution and not detector.unavailable
]


@pytest.mark.parametrize("name", RESIZING)
def test_every_preprocessor_refuses_more_pixels_than_it_may_work_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(preprocess.get(name)), "detect", None)
    for pixel_perfect in (False, True):
        with pytest.raises(ImageError, match="at most 16 million pixels"):
            run_preprocessor(
                name, np.zeros((16, 2, 3), np.uint8), 2048, pixel_perfect=pixel_perfect
            )


def test_results_cannot_be_written() -> None:
    image = noise()
    for module in ("none", "canny", "inpaint_only"):
        found = run_preprocessor(module, image, 64)
        with pytest.raises(ValueError, match="read-only"):
            found.image[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            found.display[0] = 0
    image[0] = 0  # the caller's own picture stays writable


def test_seed_reaches_detectors_that_ask_for_it(counting: type[Counting]) -> None:
    state = np.random.get_state()[1].copy()
    first, again, other = (
        run_preprocessor("counting", noise(), 64, seed=seed).image for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.shape == (64, 96, 3)
    assert np.array_equal(np.random.get_state()[1], state), "the global generator was used"


# --- what goes wrong in one ---------------------------------------------------------------


class Odd(Detector):
    """Does what a test asks for."""

    name = "odd"
    tags = ("Odd",)
    frame = Frame.RESIZED
    files = (WeightFile("odd_net.pth", "odd", 1, "none"),)
    made: object = None
    shown: object = None

    def detect(self, image: np.ndarray) -> np.ndarray:
        if isinstance(Odd.made, BaseException):
            raise Odd.made
        return Odd.made

    def display(self, image: np.ndarray) -> np.ndarray:
        return image if Odd.shown is None else Odd.shown


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> type[Odd]:
    preprocess.registry.add(Odd())
    monkeypatch.setattr(Odd, "shown", None)
    yield Odd
    preprocess.registry.remove("odd")


MAP = np.zeros((64, 96, 3), np.uint8)
NO_MAPS = {
    "None": None,
    "text": "map",
    "list": MAP.tolist(),
    "floats": MAP / 255,
    "nan": np.full((64, 96, 3), np.nan),
    "wide integers": MAP.astype(np.int64),
    "bits": MAP.astype(bool),
    "nothing": np.zeros((0, 96, 3), np.uint8),
    "a line": np.zeros(96, np.uint8),
    "two channels": np.zeros((64, 96, 2), np.uint8),
    "a batch": MAP[None],
    "a tensor": torch.zeros(3, 64, 96),
}


@pytest.mark.parametrize("place", ["made", "shown"])
@pytest.mark.parametrize("kind", NO_MAPS)
def test_what_is_no_map_is_refused_and_never_kept(
    kind: str, place: str, odd: type[Odd], monkeypatch: pytest.MonkeyPatch
) -> None:
    if (kind, place) == ("None", "shown"):
        return  # stands for "the map itself" in this test
    cache = DetectionCache()
    monkeypatch.setattr(odd, "made", MAP)
    monkeypatch.setattr(odd, place, NO_MAPS[kind])
    for _ in range(2):
        with pytest.raises(PreprocessorUnavailableError, match=r"^preprocessor odd returned "):
            run_preprocessor("odd", noise(), 64, cache=cache)
    assert len(cache) == 0
    monkeypatch.setattr(odd, "made", MAP)
    monkeypatch.setattr(odd, "shown", None)
    assert run_preprocessor("odd", noise(), 64, cache=cache).image.shape == MAP.shape


UNEXPECTED = [
    *(ZeroDivisionError("by zero"), AssertionError(), OSError(5, "broken disk"), KeyError("x")),
    *(RecursionError("deep"), StopIteration(), np.linalg.LinAlgError("singular"), ValueError()),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied\nat line 3"),
    RuntimeError("x" * 5000),
]


@pytest.mark.parametrize("error", UNEXPECTED, ids=lambda error: type(error).__name__)
def test_anything_unexpected_names_preprocessor_and_files(
    error: Exception, odd: type[Odd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(odd, "made", error)
    with pytest.raises(PreprocessorUnavailableError) as caught:
        run_preprocessor("odd", noise(), 64, cache=DetectionCache())
    text = str(caught.value)
    assert text.startswith(f"preprocessor odd failed ({type(error).__name__}: ")
    assert text.endswith("; its files are odd_net.pth")
    assert "\n" not in text
    assert len(text) < 300


NO_MEMORY = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    RuntimeError("MPS backend out of memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: str(error)[:12])
def test_lack_of_memory_is_told_as_such(
    error: Exception, odd: type[Odd], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(odd, "made", error)
    with pytest.raises(HostError, match="not enough memory for the preprocessor odd"):
        run_preprocessor("odd", noise(), 64)
    # The same while a network is loaded.
    (tmp_path / "odd_net.pth").write_bytes(b"x")
    monkeypatch.setattr(preprocess.store.STORE, "roots", (tmp_path,))

    def full(_path: Path, _place: object) -> None:
        raise error

    with (
        pytest.raises(preprocess.weights.WeightsError, match="has not enough memory for odd_net"),
        preprocess.networks.lend_opened(odd.files[0], full),
    ):
        pass


@pytest.mark.parametrize("while_loading", [False, True])
@pytest.mark.parametrize(("freed", "lacking", "runs"), [(1, 1, 2), (1, 2, 2), (0, 1, 1)])
def test_lack_of_memory_is_tried_again_where_some_can_be_freed(
    counting: type[Counting], monkeypatch: pytest.MonkeyPatch,
    while_loading: bool, freed: int, lacking: int, runs: int,
) -> None:  # fmt: skip
    """The second try draws the random numbers of a first one."""
    expected = run_preprocessor("counting", noise(), 64, seed=3).image
    counting.runs = 0
    detect, asked = counting.detect, []

    def scarce(self: Counting, image: np.ndarray, **named: Any) -> np.ndarray:
        made = detect(self, image, **named)
        if counting.runs > lacking:
            return made
        error = torch.cuda.OutOfMemoryError("CUDA out of memory")
        if while_loading:
            msg = "cuda has not enough memory"
            raise preprocess.weights.WeightsError(msg) from error
        raise error

    monkeypatch.setattr(counting, "detect", scarce)
    monkeypatch.setattr(
        preprocess.networks.CACHE, "make_room", lambda: asked.append(counting.runs) or freed
    )
    if runs > lacking:
        assert np.array_equal(run_preprocessor("counting", noise(), 64, seed=3).image, expected)
    else:
        with pytest.raises(ControlNetError, match="not enough memory"):
            run_preprocessor("counting", noise(), 64, seed=3)
    assert (counting.runs, asked) == (runs, [1])


def test_weight_file_that_asks_for_more_memory_than_it_has_is_not_opened(
    odd: type[Odd], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "odd_net.pth").write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")  # a memo of 32 GB
    monkeypatch.setattr(preprocess.store.STORE, "roots", (tmp_path,))
    opened: list[Path] = []
    with (
        pytest.raises(preprocess.weights.WeightsError, match=r"odd_net\.pth is damaged"),
        preprocess.networks.lend_opened(odd.files[0], lambda path, _place: opened.append(path)),
    ):
        pass
    assert not opened


def test_who_stops_a_preprocessor_stops_it(odd: type[Odd], monkeypatch) -> None:
    monkeypatch.setattr(odd, "made", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_preprocessor("odd", noise(), 64)


# --- cache --------------------------------------------------------------------------------


def test_cache_answers_for_equal_content(counting: type[Counting]) -> None:
    cache = DetectionCache()

    def run(image: np.ndarray, resolution: int = 64, seed: int = 0) -> Detection:
        return run_preprocessor("counting", image, resolution, cache=cache, seed=seed)

    first = run(noise())
    assert run(noise().copy()) is first
    assert run(np.flip(np.flip(noise(), 0).copy(), 0)) is first, "memory layout matters"
    assert counting.runs == 1
    run(noise(seed=1))
    run(noise(), resolution=128)
    run(noise(), seed=9)
    run(noise().reshape(96, 64, 3))
    assert counting.runs == 5
    assert len(cache) == 5


def test_cache_key_holds_the_sliders() -> None:
    cache = DetectionCache()
    maps = [run_preprocessor("canny", noise(), 64, (low, 200), cache) for low in (10, 100, -1)]
    assert maps[1] is maps[2], "-1 is the default"
    assert maps[0] is not maps[1]


def test_identity_preprocessors_take_no_room() -> None:
    cache = DetectionCache()
    for module in ("none", "inpaint_only", "inpaint"):
        run_preprocessor(module, noise(), cache=cache)
    assert len(cache) == 0


def detection(side: int) -> Detection:
    image = np.zeros((side, side, 3), np.uint8)
    return Detection("test", image, image, side, ())


def test_cache_is_bounded_by_bytes() -> None:
    one = detection(10).nbytes
    assert one == 300
    cache = DetectionCache(max_count=100, max_bytes=2 * one)
    for key in range(5):
        cache.put((key,), detection(10))
    assert cache.nbytes == 2 * one
    cache.put(("large",), detection(30))
    assert cache.get(("large",)) is None
    assert len(cache) == 2, "a picture that can never fit threw others out"
    cache.clear()
    assert cache.nbytes == 0


def test_cache_of_size_zero_keeps_nothing() -> None:
    for count in (0, -1):
        cache = DetectionCache(max_count=count)
        run_preprocessor("canny", noise(), 64, cache=cache)
        assert len(cache) == 0


def test_cache_serves_many_threads() -> None:
    cache = DetectionCache(max_count=3)
    expected = [run_preprocessor("canny", noise(seed=i), 64).image for i in range(6)]
    wrong: list[int] = []

    def work(offset: int) -> None:
        for step in range(40):
            i = (step + offset) % 6
            found = run_preprocessor("canny", noise(seed=i), 64, cache=cache)
            if not np.array_equal(found.image, expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(cache) == 3


# --- a neighbour that owns the name -------------------------------------------------------

PROBE = """
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
sys.path[:0] = [{neighbour!r}, {root!r}]
import annotator
from lib_controlnet.detect import preprocess
import numpy as np
found = preprocess.run_preprocessor("canny", np.zeros((64, 64, 3), np.uint8), 64)
print("annotator is", annotator.OWNER, "and canny gives", found.image.shape)
"""


def test_preprocessors_load_beside_a_foreign_annotator(tmp_path: Path) -> None:
    package = tmp_path / "annotator"
    package.mkdir()
    (package / "__init__.py").write_text("OWNER = 'theirs'\n")
    code = PROBE.format(neighbour=str(tmp_path), root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "annotator is theirs and canny gives (64, 64, 3)" in done.stdout
    assert f'the package name "annotator" is taken by {package}' in done.stdout
