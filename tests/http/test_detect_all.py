"""`/controlnet/detect` for every preprocessor that needs no file, and the refusal of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lib_controlnet.detect import preprocess
from lib_controlnet.detect.preprocess import run_preprocessor

SIDE = 96
RUNNABLE = [d for d in preprocess.all_detectors() if not (d.files or d.requires or d.unavailable)]
NEVER = [d for d in preprocess.all_detectors() if d.unavailable and not d.requires]


@pytest.fixture(scope="module")
def photograph_and_mask(photograph: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A part of a photograph, uint8 (160, 120, 3), and a mask for it."""
    mask = np.zeros((160, 120, 3), np.uint8)
    mask[40:100, 30:90] = 255
    return np.ascontiguousarray(photograph[60:220, 160:280]), mask


@pytest.mark.parametrize("detector", RUNNABLE, ids=lambda d: d.name)
def test_detect_gives_the_preprocessors_own_map(
    webui: Any, codec: Any, photograph_and_mask: tuple[np.ndarray, np.ndarray], detector: Any
) -> None:
    picture, mask = photograph_and_mask
    body = {
        "controlnet_module": detector.name,
        "controlnet_input_images": [codec.encode(picture)],
        "controlnet_masks": [codec.encode(mask)],
        "controlnet_processor_res": SIDE,
    }
    answer = webui.post("/controlnet/detect", body)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["images"]
    expected = run_preprocessor(detector.name, picture, SIDE, mask=mask[:, :, 0]).display
    shown = codec.decode(found)
    assert shown.shape[:2] == expected.shape[:2]
    if detector.seeded:
        assert shown.std() > 1
    else:
        assert np.abs(shown[..., :3].astype(int) - expected[..., :3]).max() <= 1


@pytest.mark.parametrize("detector", NEVER, ids=lambda d: d.name)
def test_detect_refuses_what_is_not_there_with_the_reason(
    webui: Any, codec: Any, photograph_and_mask: tuple[np.ndarray, np.ndarray], detector: Any
) -> None:
    body = {
        "controlnet_module": detector.name,
        "controlnet_input_images": [codec.encode(photograph_and_mask[0])],
    }
    answer = webui.post("/controlnet/detect", body)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert detector.unavailable in detail or "Module not supported" in detail
