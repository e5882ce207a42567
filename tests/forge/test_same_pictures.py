"""Where a member's plain pictures are A1111's to 1 of 255, the controlled ones are as well.

Against a real WebUI (`--webui-url`) there are more cases, and those whose plain pictures differ by
the hosts' own arithmetic, or whose models it lacks, are skipped with words.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sdxl_models
from controls import encoded, picture, request
from matrix import checkpoints
from PIL import Image
from servers import Server

EDGES = encoded(np.pad(np.full((24, 24, 3), 255, np.uint8), ((20, 20), (20, 20), (0, 0))))
PHOTO = encoded(picture())
WHITE = encoded(np.full((64, 64), 255, np.uint8))
BOX = encoded(np.pad(np.full((32, 32), 255, np.uint8), 16))
HALF = encoded(np.pad(np.full((64, 32), 255, np.uint8), ((0, 0), (0, 32))))


def unit(model: str = "control_demo_depth", **fields: Any) -> dict[str, Any]:
    return {"module": "none", "model": model, "image": EDGES, **fields}


def checkpoint(name: str) -> dict[str, Any]:
    return {"override_settings": {"sd_model_checkpoint": name}}


DEPTH = unit()
CANNY = {"module": "canny", "model": "control_demo_canny"}
"""Without a picture of its own: it follows the host's."""
MODES = ("Balanced", "My prompt is more important", "ControlNet is more important")
MORE = unit(control_mode=MODES[2])
COLOURS = unit(module="tile_colorfix", image=PHOTO)
KEPT = unit("control_demo_inpaint", module="inpaint_only", image=PHOTO, mask=BOX)
FOLLOWS = {"module": "inpaint_only", "model": "control_demo_inpaint"}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.75, "hr_cfg": 4}
LANCZOS = {**HIRES, "hr_upscaler": "Lanczos", **checkpoint(checkpoints.STILL)}
LOW, HIGH = unit(hr_option="Low res only"), unit(hr_option="High res only")
BATCH = {"batch_size": 2, "prompt": "a circle AND a square :0.5"}
TURNS = {"batch_option": "Each ControlNet unit for each image in a batch"}
XL = {"model": sdxl_models.CONTROL}
FROM_PICTURE = {
    **{"init_images": [EDGES], "denoising_strength": 0.75},
    **checkpoint(checkpoints.STILL),
}
# The family mixes noise of its own into what is not masked, so all that is sampled is masked.
WHOLE = {**FROM_PICTURE, "mask": WHITE, "mask_blur": 0, "inpaint_full_res": False}
MASKED = {**WHOLE, "mask": BOX, "inpaint_full_res": True, "inpaint_full_res_padding": 0}
AS_MEMBERS = {"refiner_switch_by_sample_steps": True, "enable_quantization": True}
"""Settings of A1111's; members always count steps, and always take whole timesteps."""
REFINER = {"refiner_checkpoint": checkpoints.SECOND, "refiner_switch_at": 0.5}

SEEN = 0.2
"""Mean difference that controls make at least, also where a quarter of the picture is sampled: in
A1111 it is 0.25 in the least of these cases."""

Case = tuple[dict[str, Any], tuple[dict[str, Any], ...]]
CASES: dict[str, Case] = {
    "families": (
        {},
        (
            unit(weight=0.6),
            unit("control_lora_demo_canny", module="canny", weight=0.6),
            unit("t2iadapter_demo_canny", module="canny", weight=0.6),
        ),
    ),
    "more families": (
        {},
        (
            unit("union_demo", module="canny", union_control_type="Hard Edge", weight=0.6),
            {"module": "reference_adain+attn", "model": "None", "image": PHOTO, "weight": 0.6},
        ),
    ),
    "rows": (BATCH, (MORE, unit(effective_region_mask=HALF))),
    "no guidance": ({"cfg_scale": 1}, (DEPTH, COLOURS)),
    "long prompt": ({"prompt": "a red circle, " * 30}, (MORE, COLOURS)),
    "hires": (HIRES, (DEPTH, COLOURS)),
    "hires on pictures": (LANCZOS, (LOW, HIGH, COLOURS)),
    "second order": ({"sampler_name": "Heun"}, (unit(guidance_end=0.5), COLOURS)),
    "timesteps": ({"sampler_name": "DDIM"}, (COLOURS, KEPT)),
    "inpaint_only": ({}, (KEPT,)),
    "img2img": (FROM_PICTURE, ({**CANNY, "weight": 0.6}, COLOURS)),
    "inpaint": (WHOLE, ({**FOLLOWS, "control_mode": MODES[2]},)),
    "only masked": (MASKED, (CANNY, {**FOLLOWS, "control_mode": MODES[1]})),
    "turns": ({"batch_size": 2, "n_iter": 2}, ({**DEPTH, **TURNS}, {**MORE, "image": PHOTO})),
    "batch": ({}, ({**DEPTH, "input_mode": "Batch", "batch_images": [EDGES, PHOTO]},)),
    "loopback": ({"n_iter": 2}, ({**DEPTH, "loopback": True},)),
    "inpainting checkpoint": (checkpoint(checkpoints.INPAINTING), (KEPT,)),
    "refiner": (REFINER, (MORE, COLOURS)),
    "SDXL": (checkpoint(sdxl_models.BASE), (unit(**XL), {**COLOURS, **XL}, {**KEPT, **XL})),
}
FAMILIES = ("control_lora_demo_canny", "t2iadapter_demo_canny", "t2iadapter_demo_canny_light")
SAMPLERS = {
    **dict.fromkeys(("Euler a", "LMS", "DPM2", "DPM++ 2M", "DPM++ SDE", "PLMS", "Restart"), 4),
    # Not quantized by that setting: so many steps that their timesteps are whole anyway.
    "UniPC": 26,
    "LCM": 8,
}
WINDOWS = ((0, 0.5), (0.5, 1), (0.25, 0.75))
REAL: dict[str, Case] = {
    **{f"alone {name}": ({}, (unit(name, module="canny"),)) for name in FAMILIES},
    "alone lllite_demo_canny": ({}, (unit("lllite_demo_canny", module="canny"),)),
    "alone reference_only": ({}, ({"module": "reference_only", "image": PHOTO},)),
    "style_align": ({"batch_size": 2}, (unit(style_align=True),)),
    **{
        f"{path}, {mode}": (fields, ({**CANNY, "control_mode": mode},))
        for mode in MODES
        for path, fields in (("img2img", FROM_PICTURE), ("inpaint", WHOLE), ("masked", MASKED))
    },
    **{
        f"sampler {name}": ({"sampler_name": name, "steps": steps}, (DEPTH, COLOURS))
        for name, steps in SAMPLERS.items()
    },
    "sampler DDIM": ({"sampler_name": "DDIM"}, (MORE,)),
    "Karras": ({"sampler_name": "DPM++ 2M", "scheduler": "Karras"}, (DEPTH, KEPT)),
    **{
        f"window {start}-{end}": ({"steps": 8}, (unit(guidance_start=start, guidance_end=end),))
        for start, end in WINDOWS
    },
    "hires, low only": (HIRES, (LOW,)),
    "hires, high only": (HIRES, (HIGH,)),
    "hires with another checkpoint": (
        {**HIRES, "hr_checkpoint_name": checkpoints.SECOND},
        (DEPTH, COLOURS),
    ),
    "hires with a refiner": ({**HIRES, **REFINER}, (MORE, COLOURS)),
    "hires of a batch": ({**HIRES, **BATCH, "n_iter": 2}, (MORE, KEPT)),
    "own crop": (MASKED, (unit(), unit("control_demo_canny", inpaint_crop_input_image=False))),
    "layers": ({}, (unit(advanced_weighting=[0.5, 0, 1.5, 0.25, 1, 0.75, 2]),)),
    "all at once": ({**BATCH, **REFINER, "steps": 8}, (MORE, COLOURS, KEPT)),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A real WebUI gets all cases."""
    is_real = metafunc.config.getoption("--webui-url")
    metafunc.parametrize("case", {**CASES, **(REAL if is_real else {})})


def needed(fields: dict[str, Any], units: tuple[dict[str, Any], ...]) -> set[str]:
    """The models that a case names."""
    named = [fields.get(name) for name in ("refiner_checkpoint", "hr_checkpoint_name")]
    named += [fields.get("override_settings", {}).get("sd_model_checkpoint")]
    named += [one.get("model") for one in units]
    return {name for name in named if name not in (None, "None")}


def missing(server: Server, names: set[str]) -> set[str]:
    """Those that a WebUI does not have."""
    controls = server.get("/controlnet/model_list?update=true")["model_list"]
    has = {name.partition(" [")[0] for name in controls}
    has |= {model["model_name"] for model in server.get("/sdapi/v1/sd-models")}
    return names - has


def draw(server: Server, asked: dict[str, Any]) -> list[np.ndarray]:
    """The answer's pictures and maps, each (H, W, 3) of whole numbers."""
    route = "img2img" if "init_images" in asked else "txt2img"
    answer = server.post(f"/sdapi/v1/{route}", asked)
    files = (io.BytesIO(base64.b64decode(text)) for text in answer["images"])
    return [np.array(Image.open(file).convert("RGB")).astype(int) for file in files]


@pytest.fixture(scope="session")
def draw_there(a1111: Server) -> Callable[[dict[str, Any]], list[np.ndarray]]:
    """Gives A1111's pictures of a request, made once; it has one guidance for both passes."""
    known: dict[str, list[np.ndarray]] = {}

    def find(asked: dict[str, Any]) -> list[np.ndarray]:
        key = json.dumps(asked, sort_keys=True)
        if key not in known:
            sent = {name: value for name, value in asked.items() if name != "hr_cfg"}
            sent["override_settings"] = {**AS_MEMBERS, **asked["override_settings"]}
            known[key] = draw(a1111, sent)
        return known[key]

    return find


def farthest(one: list[np.ndarray], other: list[np.ndarray]) -> int:
    """The largest difference of any two that belong together."""
    assert [array.shape for array in one] == [array.shape for array in other]
    return max(int(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def test_pictures_are_those_of_a1111(
    case: str, web: Server, draw_there: Any, more: dict[str, Any], pytestconfig: pytest.Config
) -> None:
    fields, units = {**CASES, **REAL}[case]
    lacks = missing(web, needed(fields, units))
    if lacks:
        pytest.skip(f"the WebUI lacks {', '.join(lacks)}")
    settings = {"override_settings": {}, **fields}
    plain, controlled = request(**settings), request(*units, **settings)
    here, steered = (draw(web, {**asked, **more}) for asked in (plain, controlled))
    assert max(np.abs(a - b).mean() for a, b in zip(steered, here, strict=False)) > SEEN
    apart = farthest(here, draw_there(plain))
    if apart > 1 and pytestconfig.getoption("--webui-url"):
        pytest.skip(f"the plain pictures are {apart} of 255 apart")
    assert apart <= 1
    assert farthest(steered, draw_there(controlled)) <= 1
