"""From a case to what is sent to the WebUI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sdxl_models
from matrix import checkpoints, pictures
from matrix.cases import (
    BATCH_MASKS,
    BATCH_TAB,
    BATCH_TABS,
    CFG,
    HIRES,
    IMG2IMG,
    INPAINT,
    INPAINT_SKETCH,
    INPAINT_TAB,
    INPAINT_UPLOAD,
    LAYER_WEIGHTS,
    MORE_WEIGHTS,
    SDXL_LAYER_WEIGHTS,
    SKETCH,
    TXT2IMG,
    UPSCALE,
    WITH_MASK,
    is_sdxl,
    wants_mask,
)
from matrix.pairwise import Case
from matrix.pictures import encoded

STEPS = 5
HIRES_STEPS = 5
STRENGTH = 0.75
HIRES_STRENGTH = 0.7
SCALE = 1.5
MODES = {
    SKETCH: 1,
    INPAINT_TAB: 2,
    INPAINT_SKETCH: 3,
    INPAINT_UPLOAD: 4,
    BATCH_TAB: 5,
    BATCH_MASKS: 5,
}
MODELS = {"none": "control_demo_depth", "canny": "control_demo_canny"}
PROMPTS = {
    "short": "a red circle",
    "long": "a red circle and a yellow square, " * 14,
    "AND": "a red circle AND a blue star",
}
REGIONS = {
    "own": "Own mask",
    "inside": "Inside the inpaint mask",
    "outside": "Outside the inpaint mask",
}
CHECKPOINTS = {
    "inpainting": checkpoints.INPAINTING,
    "edit": checkpoints.EDITING,
    "sdxl": sdxl_models.BASE,
    "sdxl-v": sdxl_models.V,
    "sdxl-inpainting": sdxl_models.INPAINTING,
    "sdxl-refiner": sdxl_models.BASE,
}
REFINERS = {
    "sdxl-refiner": sdxl_models.REFINER,
    "refiner": checkpoints.SECOND,
    "refiner-moved": checkpoints.MOVED,
    "refiner-other": checkpoints.OTHER,
}
OTHER_SAMPLER = {"Euler": "DPM++ 2M", "DPM++ 2M": "Euler", "Heun": "DDIM"}


def size_of(case: Case) -> tuple[int, int]:
    """Width and height asked for."""
    width, height = case["size"].split("x")
    return int(width), int(height)


def hires_sampler(case: Case) -> str:
    """Sampler of the second pass."""
    if case["hr_sampler"] == "same":
        return case["sampler"]
    return OTHER_SAMPLER.get(case["sampler"], "Euler")


def resize_target(case: Case) -> tuple[int, int]:
    """Size asked of the second pass: of other proportions, so that its height or width is cropped.

    (0, 0) leaves it to the factor.
    """
    more = {"scale": None, "wide": (40, 16), "tall": (16, 40)}[case["target"]]
    if more is None:
        return 0, 0
    width, height = size_of(case)
    return width // 8 * 8 + more[0], height // 8 * 8 + more[1]


def _has_own(case: Case) -> bool:
    return case.get("source", "own") == "own"


def units_of(case: Case) -> list[dict[str, Any]]:
    """The unit of a case, or two that take turns."""
    if case.get("batch_option") != "turns":
        return [_unit(case, 0)]
    turns = {"batch_option": "Each ControlNet unit for each image in a batch"}
    return [{**_unit(case, 0), **turns}, _unit(case, 1)]


def _unit(case: Case, number: int) -> dict[str, Any]:
    start, end = case["window"].split("-")
    own_model = MODELS.get(case["module"], "control_demo_inpaint")
    unit: dict[str, Any] = {
        "module": case["module"],
        "model": sdxl_models.CONTROL if is_sdxl(case) else own_model,
        "resize_mode": case["resize"],
        "control_mode": case["mode"],
        "guidance_start": float(start),
        "guidance_end": float(end),
        "pixel_perfect": True,
        "hr_option": case.get("hr_option", "Both"),
        "inpaint_crop_input_image": case.get("crop", "yes") == "yes",
    }
    if case["region"] != "whole":
        unit |= {"region": REGIONS[case["region"]], "region_feather": int(case["feather"])}
    if case["region"] == "own":
        drawn_over = pictures.own_picture() if _has_own(case) else pictures.init_picture()
        unit["effective_region_mask"] = encoded(pictures.region_mask(drawn_over.size))
    if case["strength"] == "layers":
        weights = SDXL_LAYER_WEIGHTS if is_sdxl(case) else LAYER_WEIGHTS
        unit["advanced_weighting"] = list(weights)
    elif case["strength"] == "13 numbers":
        unit["advanced_weighting"] = list(MORE_WEIGHTS)
    else:
        unit["weight"] = float(case["strength"])
    if _has_own(case):
        unit["image"] = encoded(pictures.own_picture(number))
        if wants_mask(case):
            unit["mask"] = encoded(pictures.own_mask())
    return unit


def common(case: Case) -> dict[str, Any]:
    """What every path takes, under the names of the host's processing object."""
    width, height = size_of(case)
    fields: dict[str, Any] = {
        "prompt": PROMPTS[case["prompt"]],
        "negative_prompt": "grey",
        "steps": STEPS,
        "sampler_name": case["sampler"],
        "scheduler": "Automatic",
        "seed": 11,
        "cfg_scale": CFG,
        "width": width,
        "height": height,
        "batch_size": 2 if case["batch"] == "size" else 1,
        "n_iter": 2 if case["batch"] == "count" else 1,
        "override_settings": {
            "sd_model_checkpoint": CHECKPOINTS.get(case["checkpoint"], checkpoints.BASE),
        },
    }
    if case["checkpoint"] in REFINERS:
        fields["refiner_checkpoint"] = REFINERS[case["checkpoint"]]
        fields["refiner_switch_at"] = 0.5
    return fields


def hires_fields(case: Case) -> dict[str, Any]:
    """What the second pass takes."""
    x, y = resize_target(case)
    other = sdxl_models.V if is_sdxl(case) else checkpoints.SECOND
    is_other = case["hr_checkpoint"] == "other"
    return {
        "denoising_strength": HIRES_STRENGTH,
        "hr_upscaler": case["upscaler"],
        "hr_scale": SCALE,
        "hr_second_pass_steps": HIRES_STEPS,
        "hr_resize_x": x,
        "hr_resize_y": y,
        "hr_checkpoint_name": other if is_other else None,
        "hr_sampler_name": hires_sampler(case),
    }


def picture_fields(case: Case) -> dict[str, Any]:
    """What img2img takes, pictures aside."""
    fields: dict[str, Any] = {
        "denoising_strength": STRENGTH,
        "resize_mode": int(case["host_resize"]),
        "image_cfg_scale": 1.5,
    }
    if case["path"] in WITH_MASK:
        blur_x, blur_y = case["blur"].split(",")
        area, _, padding = case["area"].partition("+")
        fields |= {
            "mask_blur_x": int(blur_x),
            "mask_blur_y": int(blur_y),
            "inpainting_mask_invert": int(case["invert"]),
            "inpainting_fill": int(case["fill"]),
            "inpaint_full_res": area == "masked",
            "inpaint_full_res_padding": int(padding or 0),
        }
    return fields


def api_request(case: Case) -> tuple[str, dict[str, Any]]:
    """Route and payload of the paths that the API has."""
    payload = common(case)
    payload["alwayson_scripts"] = {"ControlNet": {"args": units_of(case)}}
    payload["save_images"] = False
    if case["path"] == HIRES:
        payload |= {"enable_hr": True, **hires_fields(case)}
    elif case["path"] != TXT2IMG:
        payload |= picture_fields(case)
        payload["init_images"] = [encoded(pictures.init_picture())]
        if case["path"] == INPAINT:
            payload["mask"] = encoded(pictures.inpaint_mask())
    route = "txt2img" if case["path"] in (TXT2IMG, HIRES) else "img2img"
    return f"/sdapi/v1/{route}", payload


def page_request(case: Case) -> tuple[str, dict[str, Any]]:
    """The probe's route and payload for the paths that only the page has.

    The page's functions get what they have parameters for; the rest is forced onto the
    processing object, where the page's other components would have put it.
    """
    fields = common(case)
    fields |= hires_fields(case) if case["path"] == UPSCALE else picture_fields(case)
    values = {name: fields.pop(name) for name in ("prompt", "negative_prompt", "n_iter")}
    for name in ("batch_size", "cfg_scale", "width", "height", "denoising_strength"):
        values[name] = fields.pop(name)
    request: dict[str, Any] = {"units": units_of(case), "values": values, "forced": fields}
    fields["do_not_save_samples"] = fields["do_not_save_grid"] = True
    if case["path"] == UPSCALE:
        for name in ("hr_scale", "hr_upscaler", "hr_second_pass_steps"):
            values[name] = fields.pop(name)
        values |= {"hr_resize_x": fields.pop("hr_resize_x")}
        values |= {"hr_resize_y": fields.pop("hr_resize_y")}
        request |= {"function": "upscale", "picture": encoded(pictures.scene(*size_of(case), 90))}
        return "/matrix-probe/run", request
    values |= {
        "mode": MODES[case["path"]],
        "resize_mode": fields.pop("resize_mode"),
        "mask_blur": fields.get("mask_blur_x", 4),
        "inpainting_fill": fields.pop("inpainting_fill", 1),
        "inpaint_full_res": fields.pop("inpaint_full_res", False),
        "inpaint_full_res_padding": fields.pop("inpaint_full_res_padding", 0),
        "inpainting_mask_invert": fields.pop("inpainting_mask_invert", 0),
    }
    request["function"] = "img2img"
    _add_pictures(case, request)
    return "/matrix-probe/run", request


def _add_pictures(case: Case, request: dict[str, Any]) -> None:
    """Put the pictures where the tab has them."""
    values, path = request["values"], case["path"]
    drawn, plain = (encoded(picture) for picture in pictures.sketched())
    mask = encoded(pictures.inpaint_mask())
    if path == SKETCH:
        values["sketch"] = drawn
    elif path == INPAINT_TAB:
        values["init_img_with_mask"] = {"image": plain, "mask": mask}
    elif path == INPAINT_SKETCH:
        values["inpaint_color_sketch"] = drawn
        values["inpaint_color_sketch_orig"] = plain
    elif path == INPAINT_UPLOAD:
        values["init_img_inpaint"] = plain
        values["init_mask_inpaint"] = mask
    elif path in BATCH_TABS:
        other = pictures.other_init_picture()
        request["batch"] = {"a.png": plain, "b.png": encoded(other)}
        if path == BATCH_MASKS:
            second = encoded(pictures.inpaint_mask(other.size))
            request["batch_masks"] = {"a.png": mask, "b.png": second}


def order(case: Case) -> tuple[str, dict[str, Any]]:
    """Route and payload of any case."""
    api = case["path"] in (TXT2IMG, HIRES, IMG2IMG, INPAINT)
    return api_request(case) if api else page_request(case)


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A request with other names of checkpoints and control models, at any depth."""
    if isinstance(value, dict):
        return {key: renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def models_of(request: dict[str, Any]) -> set[str]:
    """The checkpoints that a request names."""
    inner = {**request, **request.get("forced", {})}
    named = [inner.get("refiner_checkpoint"), inner.get("hr_checkpoint_name")]
    named.append(inner["override_settings"]["sd_model_checkpoint"])
    return {name for name in named if name}
