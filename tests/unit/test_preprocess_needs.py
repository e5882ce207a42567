"""What preprocessors need and give beside pictures: files, packages, poses; and the cache of it."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from panels import FOLLOWING, FakeRuntime
from weights import weights_folder

from annotator import registry as declared
from annotator.registry import Detected, Detector, Frame, Requirement, RequirementError
from annotator.weights import WeightFile, WeightsError
from lib_controlnet.detect import listing, preprocess
from lib_controlnet.detect.preprocess import DetectionCache, run_preprocessor
from lib_controlnet.errors import PreprocessorUnavailableError
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.ui import choices
from lib_controlnet.ui.messages import as_html

FILE = WeightFile("Level.bin", "level", 1, "MIT", repo="someone/Level")
LARGER = WeightFile("Level_large.bin", "level", 1, "MIT", repo="someone/Level")
PICTURE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


class Level(Detector):
    """A grey map as light as the first byte of its file."""

    name = "level"
    label = "level (grey)"
    tags = ("Level",)
    weights = (FILE,)
    larger = (LARGER,)
    runs: ClassVar[list[tuple[int, int]]] = []

    def detect(self, image: np.ndarray) -> np.ndarray:
        found = declared.STORE.locate(FILE)
        if found is None:
            msg = "the file Level.bin is missing"
            raise WeightsError(msg)
        self.runs.append(image.shape[:2])
        return np.full(image.shape[:2], found.read_bytes()[0], np.uint8)


class Figure(Detector):
    """A pose beside the map; knows which part of the padded picture stays."""

    name = "figure"
    tags = ("Level",)
    sized = True

    def detect(self, image: np.ndarray, *, kept: tuple[int, int]) -> Detected:
        height, width = kept
        return Detected(image, {"people": [[1.0, 2.0]], "canvas": [height, width]})


class Picky(Detector):
    """Needs a package."""

    name = "picky"
    tags = ("Level",)
    package: ClassVar[Requirement] = Requirement("picky_package", "picky-package>=2")
    requires = (package,)

    def detect(self, image: np.ndarray) -> np.ndarray:
        self.package.load()
        return image


@pytest.fixture(autouse=True)
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The three preprocessors, and the folder where their file belongs."""
    monkeypatch.setattr(declared, "_BROKEN", {})
    for detector in (Level(), Figure(), Picky()):
        preprocess.registry.add(detector)
    Level.runs.clear()
    with weights_folder(tmp_path / "weights") as folder:
        yield folder
    for name in ("level", "figure", "picky"):
        preprocess.registry.remove(name)


def put(folder: Path, level: int, weight: WeightFile = FILE) -> Path:
    path = folder / weight.places[0]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes([level]))
    return path


# --- poses ---------------------------------------------------------------------------------


def test_pose_comes_beside_the_map_in_the_cropped_size() -> None:
    found = run_preprocessor("figure", PICTURE, 100)
    assert found.image.shape == (100, 140, 3)
    assert found.pose == {"people": [[1.0, 2.0]], "canvas": [100, 140]}
    assert run_preprocessor("canny", PICTURE, 64).pose is None


def test_pose_is_kept_in_the_cache_and_counted() -> None:
    cache = DetectionCache()
    first = run_preprocessor("figure", PICTURE, 64, cache=cache)
    assert run_preprocessor("figure", PICTURE, 64, cache=cache) is first
    assert cache.nbytes == first.image.nbytes + 4 * 32


# --- the cache and files -------------------------------------------------------------------


def test_replaced_file_is_another_result(listed: Path) -> None:
    cache = DetectionCache()
    path = put(listed, 100)
    assert run_preprocessor("level", PICTURE, 64, cache=cache).image.max() == 100
    assert run_preprocessor("level", PICTURE, 64, cache=cache).image.max() == 100
    assert len(Level.runs) == 1
    put(listed, 200)
    os.utime(path, (1, 1))
    assert run_preprocessor("level", PICTURE, 64, cache=cache).image.max() == 200
    put(listed, 7, LARGER)
    run_preprocessor("level", PICTURE, 64, cache=cache)
    assert len(Level.runs) == 3, "a larger file would have been used"


def test_result_of_the_run_that_brought_the_file_is_found_again(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Level.detect

    def bringing(self: Level, image: np.ndarray) -> np.ndarray:
        put(listed, 50)
        return plain(self, image)

    monkeypatch.setattr(Level, "detect", bringing)
    cache = DetectionCache()
    for _ in range(2):
        assert run_preprocessor("level", PICTURE, 64, cache=cache).image.max() == 50
    assert len(Level.runs) == 1
    assert len(cache) == 1


def test_failure_is_not_kept(listed: Path) -> None:
    cache = DetectionCache()
    with pytest.raises(PreprocessorUnavailableError) as caught:
        run_preprocessor("level", PICTURE, 64, cache=cache)
    assert str(caught.value) == "preprocessor level cannot run: the file Level.bin is missing"
    put(listed, 9)
    assert run_preprocessor("level", PICTURE, 64, cache=cache).image.max() == 9


# --- what the user is told -----------------------------------------------------------------


def test_download_is_announced_until_the_file_is_there(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notes() -> list[str]:
        return choices.remarks(listing.ALL, "level (grey)", "None", FakeRuntime(Catalog([])))

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    said = preprocess.remark("level (grey)")
    assert said == f"The first run of level (grey) downloads Level.bin (1 bytes) to {listed}."
    assert "unavailable" not in listing.module_detail()["level"]
    button = (
        '<span class="cnet-fetch" data-module="level" data-size="1 bytes" '
        'data-orders="[&quot;weights/level/Level.bin&quot;]"></span>'
    )
    assert as_html(*notes()) == f'<span class="cnet-info">{html.escape(said)}</span>{button}'
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert preprocess.remark("level") == (
        "level (grey) cannot run: it lacks Level.bin (1 bytes), and downloads are switched off; "
        f"put what it lacks into {listed}."
    )
    assert "cnet-fetch" not in as_html(*notes()), "a button would do nothing"
    put(listed, 1)
    assert preprocess.remark("level") is None
    assert notes() == []


def test_larger_file_stands_for_the_default_one(listed: Path) -> None:
    put(listed, 1, LARGER)
    assert preprocess.remark("level") is None
    assert Level().find_missing_files() == ()


@pytest.mark.parametrize(
    ("module", "visible"), [("level", True), ("picky", True), ("canny", False)]
)
def test_panel_says_it_when_the_preprocessor_is_chosen(module: str, visible: bool) -> None:
    status = choices.on_module("All", module, "None", False, None)[FOLLOWING - 1]
    assert status["visible"] is visible
    assert (preprocess.remark(module) or "")[:20] in status["value"]


# --- packages ------------------------------------------------------------------------------

HINT = '`pip install "picky-package>=2"` in the WebUI\'s environment, then restart the WebUI'


def test_missing_package_disables_that_one_alone_and_says_how_to_get_it() -> None:
    reason = f"it needs the Python package picky_package; {HINT}"
    assert listing.module_detail()["picky"]["unavailable"] == reason
    with pytest.raises(PreprocessorUnavailableError) as caught:
        run_preprocessor("picky", PICTURE)
    assert str(caught.value) == f"preprocessor picky cannot run: {reason}"
    assert preprocess.default_of("Level").name != "picky"
    run_preprocessor("canny", PICTURE, 64)


def package(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (folder / "picky_package.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "picky_package", raising=False)


def test_package_that_is_there_is_not_imported_before_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, monkeypatch, "VALUE = 1")
    assert Picky().unavailable is None
    assert "picky_package" not in sys.modules
    assert Picky.package.load().VALUE == 1
    run_preprocessor("picky", PICTURE, 64)


def test_broken_package_is_told_once_it_has_failed_and_hurts_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, monkeypatch, "raise OSError('libfoo.so is missing')")
    assert Picky().unavailable is None
    reason = (
        "the Python package picky_package cannot be used (OSError: libfoo.so is missing); " + HINT
    )
    with pytest.raises(PreprocessorUnavailableError) as caught:
        run_preprocessor("picky", PICTURE)
    assert str(caught.value) == f"preprocessor picky cannot run: {reason}"
    assert Picky().unavailable == reason
    with pytest.raises(RequirementError):
        Picky.package.load()
    run_preprocessor("canny", PICTURE, 64)


def test_package_that_the_host_blocks_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host puts None in place of some packages, xformers for one."""
    monkeypatch.setitem(sys.modules, "picky_package", None)
    assert "it needs the Python package picky_package" in str(Picky().unavailable)


@pytest.mark.parametrize(
    ("install", "shown"),
    [
        ("", "`pip install onnx`"),
        ("onnx==1.2 foo", "`pip install onnx==1.2 foo`"),
        ("onnx>=1 foo", '`pip install "onnx>=1" foo`'),
    ],
)
def test_pip_line_can_be_pasted_into_a_shell(install: str, shown: str) -> None:
    assert Requirement("onnx", install).hint.startswith(shown)
    assert Requirement("onnx", install, "It is large.").hint.endswith("WebUI. It is large.")


def test_frames_other_than_padded_keep_everything() -> None:
    class Whole(Figure):
        name = "whole"
        frame = Frame.RESIZED

    seen: Any = preprocess._detect(preprocess.Work(Whole(), 100, (), 0), PICTURE)
    assert seen.pose["canvas"] == [100, 140]
