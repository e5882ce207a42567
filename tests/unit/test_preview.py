"""A preview shows the very map that a generation makes, wherever the picture comes from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from panels import FakeRuntime, data_url
from PIL import Image

from lib_controlnet.detect import preprocess
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.detection import detect_unit
from lib_controlnet.prepare.inputs import PictureSource, choose
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.ui import preview
from lib_controlnet.units.plan import plan
from lib_controlnet.units.request import GenerationRequest, InpaintRules
from lib_controlnet.units.unit import parse_unit

SIZE = Size(128, 96)
MODULES = (
    *("none", "canny", "shuffle", "inpaint_only", "inpaint_only+lama"),
    "inpaint_global_harmonious",
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def blob(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    return mask


@pytest.fixture(autouse=True)
def guesses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """LaMa without its file: the guess tells which picture it was made for."""
    lama = sys.modules[type(preprocess.get("inpaint_only+lama")).__module__]
    monkeypatch.setattr(lama, "fill", lambda image: 255 - image[::2, ::2, :3])
    return


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures with masks beside them."""
    for name, made in (("pictures", noise), ("masks", blob)):
        (tmp_path / name).mkdir()
        for number in (10, 9):
            Image.fromarray(made(80, 96 + number)).save(tmp_path / name / f"{number}.png")
    return tmp_path


def inpaint(**changes: Any) -> dict[str, Any]:
    rules = {"blur_x": 2, "blur_y": 2, "invert": False, "binary": True, "only_masked": False}
    mask = Image.fromarray(blob(150, 120))
    return {"inpaint": InpaintRules(**{"mask": mask, "padding": 8, **rules, **changes})}


REQUESTS: dict[str, dict[str, Any]] = {
    "txt2img": {"seed": 7},
    "hires": {"seed": 7, "has_hires": True},
    "img2img": {"resize_mode": 1},
    "img2img, filled": {"resize_mode": 2, "seed": 2**40 + 1},
    "img2img, latent": {"resize_mode": 3},
    "inpaint": inpaint(),
    "inpaint, filled": {"resize_mode": 2, **inpaint(invert=True)},
    "only masked": {"resize_mode": 1, **inpaint(only_masked=True)},
}
UNITS: dict[str, dict[str, Any]] = {
    "tab": {},
    "own": {"image": noise(80, 100, 1)},
    "drawn": {"image": {"image": data_url(noise(80, 100, 1)), "mask": data_url(blob(80, 100))}},
    "folder": {"input_mode": "batch", "batch_images": "{folder}/pictures"},
    "folder with masks": {
        **{"input_mode": "batch", "batch_images": "{folder}/pictures"},
        "batch_mask_dir": "{folder}/masks",
    },
    "several": {"input_mode": "merge", "batch_images": [noise(80, 100, 1), noise(90, 70, 2)]},
}
CHANGES: tuple[dict[str, Any], ...] = (
    {"resize_mode": "Resize and Fill", "processor_res": 64},
    {"resize_mode": "Crop and Resize", "pixel_perfect": True, "inpaint_crop_input_image": False},
)


IN_TXT2IMG = ("txt2img", "hires")
CASES = [(k, s) for k in REQUESTS for s in UNITS if k not in IN_TXT2IMG or s != "tab"]


@pytest.mark.parametrize(("kind", "source"), CASES)
def test_preview_is_the_map_of_the_generation(kind: str, source: str, folder: Path) -> None:
    asked = dict(REQUESTS[kind])
    if kind not in IN_TXT2IMG:
        asked["init_image"] = Image.fromarray(noise(150, 120, 3))
    request = GenerationRequest(SIZE, **asked)
    fields = {
        key: value.format(folder=folder) if isinstance(value, str) else value
        for key, value in UNITS[source].items()
    }
    runtime = FakeRuntime(Catalog([folder]))
    for module in MODULES:
        for changes in CHANGES:
            unit = parse_unit({"module": module, **fields, **changes, "model": "m"})
            shown = preview.preview(unit, request, runtime)
            (used, *_more) = generated([unit], request, runtime)
            display = preprocess.get(module).display(used)
            assert np.array_equal(shown, display), (module, changes)


class Models:
    """Every model exists."""

    find_model = staticmethod(Path)
    remark = staticmethod(lambda _name: None)


def generated(units: list[Any], request: GenerationRequest, runtime: Any) -> list[np.ndarray]:
    """The maps of a generation, of a batch those of its first turn."""
    units = plan(units, runtime.batch_source()).at(0)
    preparation = Preparation(request, Models(), None, PictureSource())
    return [made.detected for made in prepare_units(units, preparation, [])]


def test_pixel_perfect_fills_whole_cells() -> None:
    """Of a result whose sides are no multiples of 8 the latent covers 512 x 768."""
    unit = parse_unit({"module": "canny", "image": noise(480, 640), "pixel_perfect": True})
    made = detect_unit(choose(unit, GenerationRequest(Size(519, 775))), PictureSource())
    assert made.detection.resolution == 768


@pytest.mark.parametrize(
    ("field", "seed"),
    [("7", 7), (7.0, 7), ("4294967296", 2**32), ("-1", 0), ("", 0), (None, 0), ("x", 0),
     ("1e999", 0), ("nan", 0)],
)  # fmt: skip
def test_target_request_takes_the_page_s_seed_and_size(field: Any, seed: int) -> None:
    page = {"width": 64, "height": 96, "seed": field, "hires": True}
    expected = GenerationRequest(Size(64, 96), seed=seed, has_hires=True)
    assert preview.target_request(page) == expected
    assert preview.target_request(None).size == Size(512, 512)
