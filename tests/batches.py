"""Generations of several pictures for tests: folders of noise, jobs as tabs make them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from controls import SIZE, STEPS, picture, request, unit
from PIL import Image


def save_noise(folder: Path, names: Sequence[str], size: tuple[int, int] = (SIZE, SIZE)) -> Path:
    """A folder with one picture of noise per name; the n-th is `controls.picture(seed=n)`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(picture(*size, seed=number)).save(folder / name)
    return folder


def batch_unit(pictures: Any, **fields: Any) -> dict:
    """A unit in batch mode on a random control model."""
    return unit(image=None, input_mode="batch", batch_images=pictures, **fields)


def arguments(tab: str, units: Sequence[Any], seed: int = 5) -> list[Any]:
    """Values of a tab's script components with these units, as its page sends them."""
    from modules import scripts

    runner = getattr(scripts, f"scripts_{tab}")
    values: list[Any] = [None] * max(script.args_to for script in runner.scripts)
    for script in runner.scripts:
        own = [control.value for control in script.controls or []]
        if script.title() == "Sampler":
            own[:3] = [STEPS, "Euler", "Automatic"]
        if script.title() == "Seed":
            own[0] = seed
        if script.title() == "ControlNet":
            own[: len(units)] = units
        values[script.args_from : script.args_to] = own
    values[0] = 0
    return values


def job(*units: Any, save_to: Path | None = None, kind: str = "Txt2Img", **fields: Any) -> Any:
    """A processing object as a tab makes it (not the API): pictures go to `save_to`."""
    from modules import processing, scripts

    base = {name: value for name, value in request().items() if name != "alwayson_scripts"}
    made = getattr(processing, f"StableDiffusionProcessing{kind}")
    p = made(**{**base, "outpath_samples": str(save_to) if save_to else None, **fields})
    p.do_not_save_samples = p.do_not_save_samples or save_to is None
    tab = kind.lower()
    p.is_api = True  # the host's own scripts leave seed and sampler alone then
    p.scripts = getattr(scripts, f"scripts_{tab}")
    p.script_args = tuple(arguments(tab, units))
    p.is_api = False
    return p


def m2m(p: Any, *values: Any, duration: int = 50) -> Any:
    """Run "controlnet m2m" as the host does; `values` are (movie, picture, save) per unit."""
    from modules import shared

    runner = p.scripts
    titles = [script.title() for script in runner.selectable_scripts]
    script = runner.selectable_scripts[titles.index("controlnet m2m")]
    given = [*values, *[(None, None, False)] * 3][:3]
    args = list(p.script_args)
    args[0] = titles.index("controlnet m2m") + 1
    args[script.args_from : script.args_to] = [x for triple in given for x in triple] + [duration]
    p.script_args_value = tuple(args)
    shared.state.begin("test")
    try:
        return runner.run(p, *args)
    finally:
        shared.state.end()


def pixels(images: Sequence[Image.Image]) -> list[np.ndarray]:
    """uint8 arrays of PIL pictures."""
    return [np.array(image) for image in images]


def same(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> bool:
    """Equally many pictures, equal bit for bit."""
    return len(left) == len(right) and all(map(np.array_equal, left, right))


def run_batch_tab(host: Any, units: Sequence[Any], **fields: Any) -> tuple:
    """What Generate in img2img's batch tab gives: gallery, info, infotext, comments."""
    from modules import img2img, shared

    given = {
        "id_task": "task",
        "request": SimpleNamespace(username=None),
        "mode": 5,
        "prompt": "a red circle",
        "negative_prompt": "",
        "prompt_styles": [],
        **dict.fromkeys(("init_img", "sketch", "init_img_with_mask", "inpaint_color_sketch")),
        **dict.fromkeys(("inpaint_color_sketch_orig", "init_img_inpaint", "init_mask_inpaint")),
        **{"mask_blur": 0, "mask_alpha": 0.0, "inpainting_fill": 1, "n_iter": 1, "batch_size": 1},
        **{"cfg_scale": 4.0, "image_cfg_scale": 1.5, "denoising_strength": 0.6},
        **{"selected_scale_tab": 0, "height": SIZE, "width": SIZE, "scale_by": 1.0},
        **{"resize_mode": 0, "inpaint_full_res": False, "inpaint_full_res_padding": 0},
        "inpainting_mask_invert": 0,
        **{"batch_input_dir": "", "batch_output_dir": "", "batch_inpaint_mask_dir": ""},
        "override_settings_texts": [],
        **{"use_png_info": False, "png_info_props": [], "png_info_dir": ""},
        **{"source_type": "from dir", "upload": None},
        **fields,
    }
    shared.state.begin("test")
    try:
        return img2img.img2img(*given.values(), *arguments("img2img", units))
    finally:
        shared.state.end()
