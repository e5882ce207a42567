"""What the Generate button of the txt2img tab runs."""

import json
from contextlib import closing
from typing import Any

import gradio as gr
from modules import infotext_utils, scripts
from modules.infotext_utils import create_override_settings_dict, parse_generation_parameters
from modules.processing import (
    Processed,
    StableDiffusionProcessing,
    StableDiffusionProcessingTxt2Img,
    process_images,
)
from modules.shared import opts
from modules.ui_common import plaintext_to_html


def txt2img_create_processing(
    id_task: str,
    request: gr.Request,
    prompt: str,
    negative_prompt: str,
    prompt_styles: list[str],
    n_iter: int,
    batch_size: int,
    cfg_scale: float,
    height: int,
    width: int,
    enable_hr: bool,
    denoising_strength: float,
    hr_scale: float,
    hr_upscaler: str,
    hr_second_pass_steps: int,
    hr_resize_x: int,
    hr_resize_y: int,
    hr_checkpoint_name: str,
    hr_sampler_name: str,
    hr_scheduler: str,
    hr_prompt: str,
    hr_negative_prompt: str,
    override_settings_texts: list[str],
    *args: Any,
    force_enable_hr: bool = False,
) -> StableDiffusionProcessingTxt2Img:
    """The job that the tab's values describe; `args` belong to the scripts."""
    del id_task
    p = StableDiffusionProcessingTxt2Img(
        outpath_samples=opts.outdir_samples or opts.outdir_txt2img_samples,
        outpath_grids=opts.outdir_grids or opts.outdir_txt2img_grids,
        prompt=prompt,
        styles=prompt_styles,
        negative_prompt=negative_prompt,
        batch_size=batch_size,
        n_iter=n_iter,
        cfg_scale=cfg_scale,
        width=width,
        height=height,
        enable_hr=enable_hr or force_enable_hr,
        denoising_strength=denoising_strength,
        hr_scale=hr_scale,
        hr_upscaler=hr_upscaler,
        hr_second_pass_steps=hr_second_pass_steps,
        hr_resize_x=hr_resize_x,
        hr_resize_y=hr_resize_y,
        hr_checkpoint_name=_unless(hr_checkpoint_name, "Use same checkpoint"),
        hr_sampler_name=_unless(hr_sampler_name, "Use same sampler"),
        hr_scheduler=_unless(hr_scheduler, "Use same scheduler"),
        hr_prompt=hr_prompt,
        hr_negative_prompt=hr_negative_prompt,
        override_settings=create_override_settings_dict(override_settings_texts),
    )
    p.scripts = scripts.scripts_txt2img
    p.script_args = args
    p.user = getattr(request, "username", None)
    return p


def _unless(value: str, same: str) -> str | None:
    return None if value == same else value


def run(p: StableDiffusionProcessing) -> Processed:
    """The selected script, or a plain generation."""
    processed = p.scripts.run(p, *p.script_args)
    return process_images(p) if processed is None else processed


def answer(processed: Processed, gallery: list, info: str) -> tuple:
    """What a tab shows: gallery, generation info, infotext, comments."""
    comments = plaintext_to_html(processed.comments, classname="comments")
    return gallery, info, plaintext_to_html(processed.info), comments


def txt2img(id_task: str, request: gr.Request, *args: Any) -> tuple:
    """Gallery, generation info, infotext and comments for the tab's values."""
    p = txt2img_create_processing(id_task, request, *args)
    with closing(p):
        processed = run(p)
    pictures = processed.images + getattr(processed, "extra_images", [])
    return answer(processed, pictures, processed.js())


def txt2img_upscale(
    id_task: str,
    request: gr.Request,
    gallery: list,
    gallery_index: int,
    generation_info: str,
    *args: Any,
) -> tuple:
    """Run only the second pass on a picture of the gallery, whose place the result takes."""
    if not gallery:
        msg = "no picture to upscale: generate one first"
        raise ValueError(msg)
    index = gallery_index if 0 <= gallery_index < len(gallery) else 0
    p = txt2img_create_processing(id_task, request, *args, force_enable_hr=True)
    p.batch_size = 1
    p.n_iter = 1
    p.txt2img_upscale = True
    info = json.loads(generation_info)
    p.firstpass_image = infotext_utils.image_from_url_text(gallery[index])
    parameters = parse_generation_parameters(info["infotexts"][index])
    p.seed = parameters.get("Seed", -1)
    p.subseed = parameters.get("Variation seed", -1)
    with closing(p):
        processed = run(p)
    pictures = [infotext_utils.image_from_url_text(item) for item in gallery]
    pictures[index : index + 1] = processed.images
    info["infotexts"][index : index + 1] = processed.infotexts
    return answer(processed, pictures, json.dumps(info))
