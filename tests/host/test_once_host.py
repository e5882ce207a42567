"""How often the embedded host has a picture decoded and detected, by kind of run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batches import batch_unit, job, run_batch_tab, save_noise
from controls import encoded, picture, request, unit
from neighbours import process

PICTURE = encoded(picture(96, 96, seed=3))
FIELDS = {"module": "threshold", "processor_res": 64}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": "Latent"}


@pytest.fixture
def done(webui: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """What has been done, in a WebUI that has just been started."""
    from lib_controlnet.detect import preprocess
    from lib_controlnet.host.runtime import find_runtime
    from lib_controlnet.pictures import decode

    runtime = find_runtime()
    runtime.detections.clear()
    runtime.decoded.clear()
    counted: Counter[str] = Counter()
    for owner, name in ((decode, "_decode"), (preprocess.get("threshold"), "detect")):
        original = getattr(owner, name)

        def counting(*args: Any, _name: str = name, _original: Any = original, **named: Any) -> Any:
            counted[_name.strip("_")] += 1
            return _original(*args, **named)

        monkeypatch.setattr(owner, name, counting)
    yield counted


def generate(webui: Any, _folder: Path, **fields: Any) -> None:
    webui.txt2img(**request(unit(image=PICTURE, **FIELDS), **fields))


def generate_three_times(webui: Any, folder: Path) -> None:
    generate(webui, folder, n_iter=3)


def generate_hires(webui: Any, folder: Path) -> None:
    generate(webui, folder, **HIRES)


def use_three_units(webui: Any, _folder: Path) -> None:
    webui.txt2img(**request(*[unit(image=PICTURE, **FIELDS)] * 3))


def look_first(webui: Any, folder: Path) -> None:
    sent = {"controlnet_module": "threshold", "controlnet_processor_res": 64}
    answer = webui.post("/controlnet/detect", {**sent, "controlnet_input_images": [PICTURE]})
    assert answer.status_code == 200
    generate(webui, folder)


def run_batch(_webui: Any, folder: Path) -> None:
    """Two units, one with a picture for all turns."""
    turns = batch_unit(str(folder), output_dir=str(folder.parent / "out"), **FIELDS)
    process(job(turns, unit(image=PICTURE, **FIELDS)))


def run_tab(webui: Any, folder: Path) -> None:
    """A unit that follows the tab's files, which the host decodes."""
    gallery, *_ = run_batch_tab(webui, [unit(image=None, **FIELDS)], batch_input_dir=str(folder))
    assert gallery


@pytest.mark.parametrize(
    ("kind", "decoded", "detected"),
    [
        (generate, 1, 1),
        (generate_three_times, 1, 1),
        (generate_hires, 1, 1),
        (use_three_units, 1, 1),
        (look_first, 1, 1),
        (run_batch, 4, 4),
        (run_tab, 0, 3),
    ],
)
def test_each_picture_is_decoded_and_detected_once(
    kind: Callable[[Any, Path], None],
    decoded: int,
    detected: int,
    webui: Any,
    done: Counter[str],
    tmp_path: Path,
) -> None:
    kind(webui, save_noise(tmp_path / "control", ["c1.png", "c2.png", "c3.png"]))
    assert (done["decode"], done["detect"]) == (decoded, detected)
