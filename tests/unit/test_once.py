"""What is done once for one picture, however many units, passes or generations ask for it.

Counted are decoded files, digests of pixels, resized pictures (by OpenCV and by Pillow), blurred
masks, and runs of preprocessors.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from annotator.registry import Detector, Frame
from lib_controlnet.detect import preprocess
from lib_controlnet.detect.preprocess import DetectionCache
from lib_controlnet.detect.seen import Seen
from lib_controlnet.errors import ImageError
from lib_controlnet.pictures import decode
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.detection import detect_unit
from lib_controlnet.prepare.inputs import DecodedFiles, PictureSource, choose
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units import batch
from lib_controlnet.units.batch import BatchSource
from lib_controlnet.units.plan import plan
from lib_controlnet.units.request import GenerationRequest, InpaintRules
from lib_controlnet.units.unit import ControlUnit, parse_unit

SIZE = Size(128, 64)
THREE = ("canny", "invert", "threshold")
SAME = ("canny", "canny", "canny")


def noise(width: int, height: int) -> Image.Image:
    """A picture of noise."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def encode(picture: Image.Image) -> bytes:
    """Its file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def mask(width: int, height: int) -> Image.Image:
    """A mask of the middle."""
    drawn = np.zeros((height, width), np.uint8)
    drawn[height // 4 : height // 2, width // 4 : width // 2] = 255
    return Image.fromarray(drawn)


FILE = encode(noise(200, 100))
DRAWN = encode(mask(200, 100))
RULES = InpaintRules(mask(200, 100), 4, 4, False, True, False, 32)
PAINT = GenerationRequest(SIZE, init_image=noise(200, 100), inpaint=RULES)
ONLY_MASKED = dataclasses.replace(PAINT, inpaint=dataclasses.replace(RULES, only_masked=True))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What has been done so far, by kind."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str, kind: str) -> None:
        original = getattr(owner, name)

        def counting(*args: Any, **named: Any) -> Any:
            counted[kind] += 1
            return original(*args, **named)

        monkeypatch.setattr(owner, name, counting)

    count(decode, "_from_pil", "decoded")
    count(cv2, "resize", "resized")
    count(Image.Image, "resize", "resized")
    count(cv2, "GaussianBlur", "blurred")
    digest = hashlib.sha1

    def digesting(data: Any = b"", **named: Any) -> Any:
        counted["digests"] += not isinstance(data, bytes)  # of pixels, not of a file
        return digest(data, **named)

    monkeypatch.setattr(hashlib, "sha1", digesting)
    for name in THREE:
        count(preprocess.get(name), "detect", "runs")
    yield counted


def units(modules: tuple[str, ...], **fields: Any) -> list[ControlUnit]:
    """A unit for each preprocessor."""
    given = {"model": "m", "processor_res": 64, **fields}
    return [parse_unit({"module": one, **given}, i) for i, one in enumerate(modules)]


class Models:
    """Every model exists."""

    remark = staticmethod(lambda _name: None)
    find_model = staticmethod(Path)
    network = staticmethod(lambda path, _base: path)


class Runs:
    """Generations of one runtime, which keeps what it has decoded and detected."""

    def __init__(self) -> None:
        self.cache, self.decoded = DetectionCache(), DecodedFiles()
        self.fetched = 0

    def fetch(self, _url: str) -> bytes:
        self.fetched += 1
        return FILE

    def run(self, request: GenerationRequest, asked: list[ControlUnit]) -> None:
        request = dataclasses.replace(request)  # the host is asked anew
        source = PictureSource(fetch=lru_cache(4)(self.fetch), decoded=self.decoded)
        made = prepare_units(asked, Preparation(request, Models(), None, source, self.cache), [])
        assert len(made) == len(asked)


TXT2IMG = GenerationRequest(SIZE)
IMG2IMG = GenerationRequest(SIZE, init_image=noise(200, 100))
CASES: dict[str, tuple[GenerationRequest, list[ControlUnit], dict[str, int]]] = {
    "one unit": (
        *(TXT2IMG, units(("canny",), image=FILE)),
        {"decoded": 1, "digests": 1, "resized": 1, "runs": 1},
    ),
    "pixels that may change": (
        *(TXT2IMG, units(("canny",), image=np.array(noise(200, 100)))),
        {"digests": 1, "resized": 1, "runs": 1},
    ),
    "three preprocessors of one picture": (
        *(TXT2IMG, units(THREE, image=FILE)),
        {"decoded": 1, "digests": 1, "resized": 1, "runs": 3},
    ),
    "the same three times": (
        *(TXT2IMG, units(SAME, image=FILE)),
        {"decoded": 1, "digests": 1, "resized": 1, "runs": 1},
    ),
    "at two resolutions": (
        TXT2IMG,
        [*units(("canny",), image=FILE), *units(("canny",), image=FILE, processor_res=80)],
        {"decoded": 1, "digests": 1, "resized": 2, "runs": 2},
    ),
    "a mask of its own": (
        *(TXT2IMG, units(("inpaint",) * 3, image=FILE, mask=DRAWN)),
        {"decoded": 2},
    ),
    "a mask as the region": (
        TXT2IMG,
        units(SAME, image=FILE, region="Own mask", effective_region_mask=DRAWN),
        {"decoded": 2, "digests": 1, "resized": 1, "runs": 1},
    ),
    "img2img's picture": (
        *(IMG2IMG, units(THREE)),
        {"digests": 1, "resized": 1, "runs": 3},
    ),
    "the pixels that are painted on": (
        *(PAINT, units(("inpaint",) * 3)),
        {"resized": 2, "blurred": 2},
    ),
    "its crop": (
        *(ONLY_MASKED, units(SAME, inpaint_crop_input_image=True)),
        {"digests": 1, "resized": 2, "blurred": 2, "runs": 1},
    ),
    "own pictures in its crop": (
        *(ONLY_MASKED, units(("none",) * 3, image=FILE, inpaint_crop_input_image=True)),
        {"decoded": 1, "resized": 1, "blurred": 2},
    ),
    "the region that is painted": (
        *(PAINT, units(SAME, image=FILE, region="Inside the inpaint mask")),
        {"decoded": 1, "digests": 1, "resized": 3, "blurred": 2, "runs": 1},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_done_twice(case: str, done: Counter[str]) -> None:
    request, asked, expected = CASES[case]
    Runs().run(request, asked)
    assert dict(+done) == expected


def preview(runs: Runs, request: GenerationRequest, asked: list[ControlUnit]) -> None:
    """Look at the map of the first unit."""
    source = PictureSource(decoded=runs.decoded)
    detect_unit(choose(asked[0], request), source, runs.cache)


@pytest.mark.parametrize("before", [Runs.run, preview])
def test_nothing_is_done_again_in_the_next_generation(before: Any, done: Counter[str]) -> None:
    runs, asked = Runs(), units(SAME, image=base64.b64encode(FILE).decode())
    before(runs, TXT2IMG, asked)
    assert dict(+done) == {"decoded": 1, "digests": 1, "resized": 1, "runs": 1}
    runs.run(TXT2IMG, asked)
    assert dict(+done) == {"decoded": 1, "digests": 1, "resized": 1, "runs": 1}


def test_address_is_asked_once_for_all_units_and_anew_for_each_generation() -> None:
    runs, asked = Runs(), units(SAME, image="https://example.org/a.png")
    for generation in (1, 2):
        runs.run(TXT2IMG, asked)
        assert runs.fetched == generation


def test_pictures_of_a_list_are_decoded_once_for_the_check_and_their_turn(
    done: Counter[str],
) -> None:
    runs = Runs()
    pictures = [encode(noise(60 + number, 60)) for number in range(4)]
    (unit,) = units(("canny",), image=None, batch_images=pictures, input_mode="batch")
    planned = plan([unit], BatchSource(decoded=runs.decoded))
    for turn in range(planned.count):
        runs.run(TXT2IMG, planned.at(turn))
    assert done["decoded"] == done["runs"] == 4


def test_files_of_a_folder_are_checked_once_and_again_when_they_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    check = batch.check_file
    monkeypatch.setattr(
        batch, "check_file", lambda path, where: (opened.append(path.name), check(path, where))
    )
    source = BatchSource(folders=True)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(FILE)
    (unit,) = units(("canny",), image=None, batch_images=str(tmp_path), input_mode="batch")
    for _ in range(3):
        plan([unit], source)
    assert opened == ["a.png", "b.png"]
    (tmp_path / "b.png").write_bytes(b"no picture")
    for _ in range(2):  # a refusal is never remembered
        with pytest.raises(ImageError, match=r"b\.png cannot be used"):
            plan([unit], source)
    assert opened == ["a.png", "b.png", "b.png", "b.png"]


def test_picture_that_may_change_is_looked_at_anew() -> None:
    seen, pixels = Seen(), np.zeros((8, 8, 3), np.uint8)
    view = pixels[:4]
    view.flags.writeable = False
    for picture in (pixels, view):
        before = seen.fingerprint(picture)
        pixels += 1
        assert seen.fingerprint(picture) != before
    constant = np.frombuffer(bytes(48), np.uint8).reshape(4, 4, 3)
    assert seen.fingerprint(constant) == seen.fingerprint(constant.copy())
    del constant
    assert not seen._digests


def test_resized_picture_is_each_preprocessors_own() -> None:
    cache = DetectionCache()
    pixels = np.asarray(noise(200, 100))

    class Spoiler(Detector):
        name = "spoiler"
        frame = Frame.RESIZED

        def detect(self, image: np.ndarray) -> np.ndarray:
            found = image.copy()
            image[:] = 0
            return found

    work = preprocess.Work(Spoiler(), 64, (), 0)
    frame = partial(cache.seen.frame, ("the picture",), work.frame)
    first, second = (preprocess.run_all(work, [pixels], frame)[0].image for _ in range(2))
    assert np.array_equal(first, second)
