"""The paths that only the page has, started inside the host with the page's own functions."""

from __future__ import annotations

import base64
import inspect
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio
from modules import call_queue, images, img2img, scripts, shared, txt2img
from PIL import Image, ImageChops

PICTURES = (
    *("init_img", "sketch", "inpaint_color_sketch", "inpaint_color_sketch_orig"),
    *("init_img_inpaint", "init_mask_inpaint"),
)
IMG2IMG: dict[str, Any] = {
    "prompt_styles": [],
    "mask_alpha": 0,
    "image_cfg_scale": 1.5,
    "distilled_cfg_scale": 3.5,
    "selected_scale_tab": 0,
    "scale_by": 1.0,
    "override_settings_texts": [],
    "img2img_batch_output_dir": "",
    "img2img_batch_inpaint_mask_dir": "",
    "img2img_batch_use_png_info": False,
    "img2img_batch_png_info_props": [],
    "img2img_batch_png_info_dir": "",
    "img2img_batch_source_type": "from dir",
    "img2img_batch_upload": None,
}
TXT2IMG: dict[str, Any] = {
    "prompt_styles": [],
    "enable_hr": True,
    "hr_checkpoint_name": "Use same checkpoint",
    "hr_sampler_name": "Use same sampler",
    "hr_scheduler": "Use same scheduler",
    "hr_prompt": "",
    "hr_negative_prompt": "",
    "hr_additional_modules": ["Use same choices"],
    "hr_distilled_cfg": 3.5,
    "distilled_cfg_scale": 3.5,
    "override_settings_texts": [],
}
NOBODY = SimpleNamespace(username=None)
GRADIO_OF_PAIRS = 4
"""From this version on a gallery holds pictures with their captions."""


def picture(text: str) -> Image.Image:
    """base64 PNG -> PIL."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def encoded(image: Image.Image) -> str:
    """PIL -> base64 PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def script_arguments(runner: Any, units: list[dict]) -> list[Any]:
    """Every script's own defaults, with the units in ControlNet's place."""
    arguments: list[Any] = [None] * len(runner.inputs)
    arguments[0] = 0
    for script in runner.scripts:
        values = [control.value for control in getattr(script, "controls", None) or []]
        arguments[script.args_from : script.args_to] = values
    controls = next(s for s in runner.alwayson_scripts if s.title().lower() == "controlnet")
    places = range(controls.args_from, controls.args_to)
    for place in places:
        arguments[place] = {"enabled": False}
    arguments[controls.args_from : controls.args_from + len(units)] = units
    return arguments


def named(function: Callable, values: dict[str, Any]) -> list[Any]:
    """Values in the order of a function's positional parameters, up to its `*args`."""
    wanted = inspect.signature(function).parameters.values()
    names = [item.name for item in wanted if item.kind is item.POSITIONAL_OR_KEYWORD]
    return [values[name] for name in names]


def run_img2img(request: dict[str, Any]) -> tuple:
    """A tab of img2img; `batch` holds the batch tab's files as {name: picture}."""
    values = {**IMG2IMG, "id_task": "", "request": NOBODY, **request["values"]}
    for name in PICTURES:
        values[name] = picture(values[name]).convert("RGB") if values.get(name) else None
    drawn = values.get("init_img_with_mask")
    if drawn:
        image, mask = picture(drawn["image"]).convert("RGBA"), picture(drawn["mask"])
        values["init_img_with_mask"] = {"image": image, "mask": mask.convert("RGB")}
    with tempfile.TemporaryDirectory() as folder:
        values["img2img_batch_input_dir"] = _write(request.get("batch"), Path(folder, "in"))
        values["img2img_batch_inpaint_mask_dir"] = _write(
            request.get("batch_masks"), Path(folder, "masks")
        )
        values.setdefault("init_img_with_mask", None)
        if "sketch_fg" in inspect.signature(img2img.img2img).parameters:
            values |= on_canvases(values)
        arguments = script_arguments(scripts.scripts_img2img, request["units"])
        return img2img.img2img(*named(img2img.img2img, values), *arguments)


def on_canvases(values: dict[str, Any]) -> dict[str, Any]:
    """The pictures of the tabs as what lies below and what is drawn over it, each RGBA."""
    drawn = values["init_img_with_mask"] or {"image": None, "mask": None}
    plain, painted = values["inpaint_color_sketch_orig"], values["inpaint_color_sketch"]
    layers = {
        "sketch": (values["sketch"], values["sketch"], None),
        "init_img_with_mask": (drawn["image"], drawn["image"], drawn["mask"]),
        "inpaint_color_sketch": (plain, painted, plain and ImageChops.difference(plain, painted)),
    }
    found: dict[str, Any] = {}
    for name, (below, above, where) in layers.items():
        found[name] = below and below.convert("RGBA")
        found[f"{name}_fg"] = above and strokes(above, where)
    return found


def strokes(painted: Image.Image, where: Image.Image | None) -> Image.Image:
    """The painted places of a picture, RGBA; elsewhere it is transparent."""
    over = painted.convert("RGBA")
    empty = Image.new("L", over.size)
    over.putalpha(empty if where is None else where.convert("L").point(lambda v: 255 if v else 0))
    return over


def _write(files: dict[str, str] | None, folder: Path) -> str:
    if not files:
        return ""
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_bytes(base64.b64decode(text))
    return str(folder)


def run_upscale(request: dict[str, Any]) -> tuple:
    """The button that upscales a picture of the gallery."""
    values = {**TXT2IMG, "id_task": "", "request": NOBODY, **request["values"]}
    values["hr_cfg"] = values["cfg_scale"]
    arguments = script_arguments(scripts.scripts_txt2img, request["units"])
    create = named(txt2img.txt2img_create_processing, values)[2:]
    gallery: list[Any] = ["data:image/png;base64," + request["picture"]]
    if int(gradio.__version__.split(".")[0]) >= GRADIO_OF_PAIRS:
        gallery = [(picture(request["picture"]), None)]
    text = "a picture\nSteps: 5, Sampler: Euler, CFG scale: 4, Seed: 5, Size: 64x64"
    info = json.dumps({"infotexts": [text]})
    return txt2img.txt2img_upscale("", NOBODY, gallery, 0, info, *create, *arguments)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Start one of the page's functions as the page does: alone, under the host's queue."""
    function = {"img2img": run_img2img, "upscale": run_upscale}[request["function"]]
    with call_queue.queue_lock:
        shared.state.begin(job="matrix")
        try:
            pictures = function(request)[0]
        finally:
            shared.state.end()
    return {"pictures": len(pictures)}


def host_picture(request: dict[str, Any]) -> str:
    """The host's arithmetic on a picture: a list of ["resize", mode, w, h] and ["crop", box]."""
    image = picture(request["picture"])
    for step, *values in request["steps"]:
        if step == "resize":
            mode, width, height = values
            image = images.resize_image(mode, image, width, height)
        elif step == "crop":
            image = image.crop(tuple(values[0]))
    return encoded(image)
