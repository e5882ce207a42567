"""Whatever knows the pictures of its next turns has them detected together, and shows the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from animatediff import AnimateDiff, OwnFrames, installed
from batches import batch_unit, job, m2m, pixels, run_batch_tab, same, save_noise
from controls import MODEL
from neighbours import denoiser_replaced
from neighbours import process as run
from PIL import Image

NAMES = ["c1.png", "c2.png", "c3.png"]
FIELDS = {"module": "seer of the host", "model": MODEL, "processor_res": 64}


@pytest.fixture
def calls(webui: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many pictures a preprocessor sees at a time, where that is a gain."""
    from annotator.registry import REGISTRY, NetworkDetector
    from lib_controlnet.detect import ahead

    seen: list[int] = []

    class Seer(NetworkDetector):
        name = "seer of the host"

        def see(self, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
            seen.append(len(images))
            return [255 - image for image in images]

        def draw(self, made: np.ndarray, _image: np.ndarray) -> np.ndarray:
            return made

    monkeypatch.setattr(ahead, "gains", lambda: True)
    REGISTRY.add(Seer())
    yield seen
    REGISTRY.remove(Seer.name)


def run_folder(_webui: Any, folder: Path) -> list[np.ndarray]:
    out = folder.parent / "out"
    run(job(batch_unit(str(folder), output_dir=str(out), **FIELDS)))
    return pixels([Image.open(out / name) for name in NAMES])


def run_tab(webui: Any, folder: Path) -> list[np.ndarray]:
    units = [batch_unit(str(folder), **FIELDS)]
    gallery, *_ = run_batch_tab(webui, units, batch_input_dir=str(folder))
    assert len(gallery) == 3
    return []  # the noise of the host's encoder differs


def run_movie(webui: Any, folder: Path) -> list[np.ndarray]:
    path = folder.parent / "clip.gif"
    frames = [Image.fromarray(np.full((64, 64, 3), 60 * n, np.uint8)) for n in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    del webui
    answer = m2m(job(dict(FIELDS), save_to=folder.parent / "out"), (str(path), None, False))
    return pixels(answer.images)


def run_animation(_webui: Any, folder: Path) -> list[np.ndarray]:
    from modules import scripts

    frames, runner = OwnFrames([[0], [1], [2]]), scripts.scripts_txt2img
    with installed(AnimateDiff(3), runner), denoiser_replaced(frames.attach):
        return pixels(run(job(batch_unit(str(folder), **FIELDS))).images)


@pytest.mark.parametrize("kind", [run_folder, run_tab, run_movie, run_animation])
def test_turns_that_are_known_are_detected_together(
    kind: Callable[[Any, Path], list[np.ndarray]],
    webui: Any,
    calls: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lib_controlnet.detect import ahead
    from lib_controlnet.host.runtime import find_runtime

    runtime = find_runtime()
    runtime.detections.clear()
    found = kind(webui, save_noise(tmp_path / "one" / "control", NAMES))
    assert calls == [3]
    assert len(runtime.detections.ahead) == 0
    runtime.detections.clear()
    monkeypatch.setattr(ahead, "gains", lambda: False)
    assert same(found, kind(webui, save_noise(tmp_path / "other" / "control", NAMES)))
    assert calls == [3, 1, 1, 1]
