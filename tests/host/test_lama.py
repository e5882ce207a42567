"""Filling before repainting: sampling starts from the filled picture, the rest comes back."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from random_weights import random_state
from weights import weights_folder

from annotator.lama import LAMA
from annotator.nets.lama import Lama, LamaParams
from lib_controlnet.engine.effects.start_picture import StartPicture

SIZE = 64
MODEL = "control_demo_inpaint"


@pytest.fixture(autouse=True)
def _stored(tmp_path: Path) -> Iterator[None]:
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in Lama(LamaParams(8, 1)).state_dict().items()}
    with weights_folder(tmp_path) as folder:
        (folder / LAMA.folder).mkdir()
        torch.save(random_state(shapes, 1), folder / LAMA.folder / LAMA.name)
        yield


def encoded(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def generate(host: Any, picture: np.ndarray, mask: np.ndarray, **fields: Any) -> np.ndarray:
    unit = {
        "module": "inpaint_only+lama",
        "model": MODEL,
        "image": {"image": encoded(picture), "mask": encoded(mask)},
        **fields,
    }
    answer = host.txt2img(
        prompt="a mosaic",
        steps=2,
        width=SIZE,
        height=SIZE,
        seed=5,
        sampler_name="Euler",
        alwayson_scripts={"ControlNet": {"args": [unit]}},
    )
    return np.array(answer.images[0].convert("RGB"))


def test_sampling_starts_from_the_filled_picture(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 255
    result = generate(host, picture, mask)
    away = slice(SIZE // 2 + 8, None)
    assert np.array_equal(result[:, away], picture[:, away])
    seen: list[tuple[torch.Tensor, float]] = []

    def spy(_self: StartPicture, noise: torch.Tensor, alpha_bar: float) -> None:
        seen.append((noise.clone(), alpha_bar))

    monkeypatch.setattr(StartPicture, "under_noise", spy)
    other = generate(host, picture, mask)
    (noise, alpha_bar) = seen[0]
    assert len(seen) == 1
    assert noise.shape == (1, 4, SIZE // 8, SIZE // 8)
    assert abs(float(noise.std()) - 1) < 0.3, "not the unit noise"
    assert 0 < alpha_bar < 0.01
    assert (result != other).any(), "the noise that was changed is not what sampling starts from"
