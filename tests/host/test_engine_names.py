"""Names of the older engine that other extensions import or read (interface section 3.3)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controls import MODEL, SIZE, encoded, first, picture, request, unit
from neighbours import controlnet_script, denoiser_replaced, processing_of
from neighbours import process as run
from PIL import Image, ImageOps

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python-api.md"
SCRIPT = (
    *("latest_network", "args_from", "args_to", "name", "filename", "alwayson", "enabled_units"),
    *("input_image", "detected_map", "latest_model_hash", "post_processors", "noise_modifier"),
    *("ui_batch_option_state", "is_img2img", "model_cache", "clear_control_model_cache"),
    *("get_enabled_units", "choose_input_image", "try_crop_image_with_a1111_mask"),
    *("get_target_dimensions", "get_remote_call", "parse_remote_call", "detectmap_proc"),
    "load_control_model",
)
FUNCTIONS = ("prepare_mask", "set_numpy_seed", "find_closest_lora_model_name")
NETWORK = (
    *("control_params", "model", "sd_ldm", "lowvram", "restore", "hook"),
    *("guidance_schedule_handler", "call_vae_using_process"),
)
PARAMS = (
    *("control_model", "preprocessor", "hint_cond", "hr_hint_cond", "used_hint_cond"),
    *("used_hint_cond_latent", "weight", "guidance_stopped", "start_guidance_percent"),
    *("stop_guidance_percent", "advanced_weighting", "control_model_type"),
    *("global_average_pooling", "hr_option", "soft_injection", "cfg_injection"),
    *("effective_region_mask", "union_control_types", "control_context_override"),
)


@pytest.fixture(scope="module")
def absent() -> set[str]:
    """Names that the page says are not there."""
    part = PAGE.read_text(encoding="utf-8").partition("## What is not there")[2]
    lines = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name for line in lines for name in re.findall(r"`(?:\w+\.)*(\w+)`", line)}


def test_every_name_is_there_or_the_page_says_why_not(webui: Any, absent: set[str]) -> None:
    import scripts.controlnet

    found: dict[str, bool] = {}

    def make(_sampler: Any, forward: Any) -> Any:
        script = controlnet_script()
        network = script.latest_network
        (param,) = network.control_params
        owners = [(script, SCRIPT), (network, NETWORK), (param, PARAMS)]
        owners.append((scripts.controlnet, FUNCTIONS))
        found.update((name, hasattr(owner, name)) for owner, names in owners for name in names)
        return forward

    with denoiser_replaced(make):
        webui.txt2img(**request(unit()))
    missing = {name for name, is_there in found.items() if not is_there}
    assert missing <= absent, "neither there nor on the page"
    assert not absent & {name for name, is_there in found.items() if is_there}


def test_prepare_mask_is_what_the_host_makes_of_it(webui: Any) -> None:
    from scripts.controlnet import prepare_mask

    mask = Image.new("L", (SIZE, SIZE))
    mask.paste(255, (16, 16, 48, 48))
    p = processing_of()
    p.mask_blur_x = p.mask_blur_y = 0
    p.inpainting_mask_invert = 1
    assert np.array_equal(np.array(prepare_mask(mask, p)), np.array(ImageOps.invert(mask)))
    p.inpainting_mask_invert, p.mask_blur_x = 0, 4
    soft = np.array(prepare_mask(mask, p))
    assert 0 < soft[32, 14] < 255
    assert soft[14, 32] == 0, "blurred along x alone"


def test_set_numpy_seed_repeats_what_preprocessors_draw(webui: Any) -> None:
    from scripts.controlnet import set_numpy_seed

    p = processing_of(seed=7, subseed=3)
    assert set_numpy_seed(p) == 7
    drawn = np.random.rand(3)
    p.seed, p.subseed = 2**32 + 7, 11
    assert set_numpy_seed(p) == 7, "the generator takes 32 bits, and no variation seed"
    assert np.array_equal(np.random.rand(3), drawn)


def test_find_closest_model_name(webui: Any) -> None:
    from scripts.controlnet import find_closest_lora_model_name

    assert find_closest_lora_model_name(MODEL.upper()).startswith(f"{MODEL} [")
    assert find_closest_lora_model_name("no such model") is None


def test_batch_option_state_follows_the_generation(webui: Any) -> None:
    together = "All ControlNet units for all images in a batch"
    separate = "Each ControlNet unit for each image in a batch"
    script = controlnet_script()
    before = list(script.ui_batch_option_state)
    seen: list[Any] = []

    def make(_sampler: Any, forward: Any) -> Any:
        seen.append(script.ui_batch_option_state)
        return forward

    with denoiser_replaced(make):
        units = [unit(batch_option=separate), unit(image=encoded(picture(seed=2)))]
        first(webui.txt2img(**request(*units)))
    assert seen == [[separate, False]]
    assert script.ui_batch_option_state == before == [together, False]


def test_names_of_the_host_are_left_alone(webui: Any) -> None:
    """Nothing is put in the place of the host's own functions (ADetailer looks for it)."""
    from modules import img2img, processing

    run(processing_of(unit()))
    left = [name for name in (*vars(processing), *vars(img2img)) if "controlnet" in name.lower()]
    assert left == []
