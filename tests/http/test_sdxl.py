"""A WebUI with a checkpoint of SDXL's kind: what acts on SD1 acts there, and only where it may.

Needs `--webui-url`, `--sdxl-checkpoint` and `--sdxl-control`; the embedded host runs the same in
`tests/host/test_sdxl.py`. `tests/matrix/prepare.py FOLDER --probe` gives the WebUI a small random
LaMa for `inpaint_only+lama`, and the probe for the cases of the matrix.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from fuzz.soak import STATE
from PIL import Image

SIZE = 128
HALF = SIZE // 2
NEAR = 16
"""Pixels beside an edge that the VAE mixes."""
SCENE = np.random.default_rng(2).integers(0, 256, (SIZE // 16, SIZE // 16, 3), np.uint8)
SCENE = SCENE.repeat(16, 0).repeat(16, 1)
LEFT = np.zeros((SIZE, SIZE), np.uint8)
LEFT[:, :HALF] = 255
BODY = {
    **{"prompt": "a red circle", "negative_prompt": "grey", "seed": 5, "cfg_scale": 4},
    **{"steps": 3, "width": SIZE, "height": SIZE, "sampler_name": "Euler", "save_images": False},
}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}


def encoded(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


PICTURE = encoded(SCENE)
MASK = encoded(LEFT)
MASKED = {"image": {"image": PICTURE, "mask": MASK}}
FROM_PICTURE = {"init_images": [PICTURE], "denoising_strength": 0.9}
INPAINT = {**FROM_PICTURE, "mask": MASK, "mask_blur": 0, "inpainting_fill": 1}


@dataclass(frozen=True)
class Run:
    """A generation.

    Attributes:
        unit: fields beside model and picture.
        body: fields of the request.
        keeps: the picture stays as it was right of the mask.
    """

    unit: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    keeps: bool = False


RUNS = {
    "control": Run(),
    "control first": Run({"control_mode": "ControlNet is more important"}),
    "window": Run({"guidance_start": 0.3, "guidance_end": 0.8}),
    "inpaint_only": Run({"module": "inpaint_only", **MASKED}, keeps=True),
    "inpaint_only+lama": Run({"module": "inpaint_only+lama", **MASKED}, keeps=True),
    "tile_colorfix": Run({"module": "tile_colorfix"}),
    "tile_colorfix+sharp": Run({"module": "tile_colorfix+sharp"}),
    "hires": Run(body=HIRES),
    "hires inpaint_only": Run({"module": "inpaint_only", **MASKED}, HIRES),
    "hires tile_colorfix": Run({"module": "tile_colorfix"}, HIRES),
    "img2img": Run(body=FROM_PICTURE),
    "img2img tile_colorfix+sharp": Run({"module": "tile_colorfix+sharp"}, FROM_PICTURE),
    "inpaint": Run(body=INPAINT, keeps=True),
    "inpaint_only in the host's mask": Run(
        {"module": "inpaint_only", "image": None}, INPAINT, keeps=True
    ),
    "only masked": Run(
        {"module": "inpaint_only", "image": None},
        {**INPAINT, "inpaint_full_res": True, "inpaint_full_res_padding": 8},
        keeps=True,
    ),
}


Generate = Callable[..., tuple[np.ndarray, str]]


@pytest.fixture(scope="module")
def generate(webui: Any, request: pytest.FixtureRequest) -> Generate:
    """A function that makes a picture and its infotext on the SDXL checkpoint."""
    names = [request.config.getoption(f"--sdxl-{kind}") for kind in ("checkpoint", "control")]
    if webui.is_ours or not all(names):
        pytest.skip("needs --webui-url, --sdxl-checkpoint and --sdxl-control")
    checkpoint, control = names
    stays = {"override_settings_restore_afterwards": False}
    chosen = {"override_settings": {"sd_model_checkpoint": checkpoint}, **stays}

    def run(run: Run | None) -> tuple[np.ndarray, str]:
        body = {**BODY, **chosen, **(run.body if run else {})}
        if run is not None:
            unit = {"module": "none", "model": control, "image": PICTURE, **run.unit}
            body["alwayson_scripts"] = {"ControlNet": {"args": [unit]}}
        route = "img2img" if "init_images" in body else "txt2img"
        answer = webui.post(f"/sdapi/v1/{route}", body)
        if answer.status_code == 422 and "ControlNetLama.pth" in answer.text:
            pytest.skip("no LaMa there: tests/matrix/prepare.py FOLDER --probe writes a small one")
        assert answer.status_code == 200, answer.text[:2000]
        found = answer.json()
        picture = Image.open(io.BytesIO(base64.b64decode(found["images"][0]))).convert("RGB")
        return np.array(picture), json.loads(found["info"])["infotexts"][0]

    return run


def difference(one: np.ndarray, two: np.ndarray) -> float:
    """Mean difference in levels of 255."""
    return float(np.abs(one.astype(int) - two).mean())


@pytest.mark.parametrize("name", RUNS)
def test_units_act_and_say_so(generate: Generate, name: str) -> None:
    run = RUNS[name]
    found, infotext = generate(run)
    plain, said = generate(Run({"enabled": False}, run.body))
    assert found.shape == plain.shape
    assert "ControlNet 0" in infotext
    assert "ControlNet" not in said
    assert difference(found, plain) > 1
    if run.keeps:
        away = slice(HALF + NEAR, None)
        assert difference(found[:, away], SCENE[:, away]) < 1
        assert difference(found[:, : HALF - NEAR], SCENE[:, : HALF - NEAR]) > 1
    if "init_images" not in run.body:  # the host's own encoder draws without a seed
        assert np.array_equal(generate(run)[0], found)


def test_a_region_bounds_what_acts(generate: Generate) -> None:
    region = {"region": "Own mask", "effective_region_mask": MASK}
    plain, _ = generate(None)
    found, _ = generate(Run({**region, "weight": 1.5, "guidance_end": 0.4}))
    inside = difference(found[:, :HALF], plain[:, :HALF])
    assert inside > 2 * difference(found[:, HALF:], plain[:, HALF:])


def test_nothing_is_left(generate: Generate, webui: Any) -> None:
    before, _ = generate(None)
    for name in ("inpaint_only", "tile_colorfix+sharp"):
        generate(RUNS[name])
    assert np.array_equal(generate(None)[0], before)
    state = webui.get(STATE)
    if state.status_code == 200:
        assert state.json()["hooks"] == []
