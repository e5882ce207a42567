"""What the Generate button of the img2img tab runs: five input modes and the batch."""

from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from modules import images, scripts
from modules.infotext_utils import create_override_settings_dict, parse_generation_parameters
from modules.processing import Processed, StableDiffusionProcessingImg2Img, create_binary_mask
from modules.shared import opts, state
from modules.txt2img import answer, run
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

MODE_IMG2IMG, MODE_SKETCH, MODE_INPAINT, MODE_INPAINT_SKETCH, MODE_UPLOAD, MODE_BATCH = range(6)
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}


def input_of_mode(
    mode: int,
    init_img: Any,
    sketch: Any,
    init_img_with_mask: Any,
    inpaint_color_sketch: Any,
    inpaint_color_sketch_orig: Any,
    init_img_inpaint: Any,
    init_mask_inpaint: Any,
    mask_blur: float,
    mask_alpha: float,
) -> tuple[Image.Image | None, Image.Image | None]:
    """(picture, mask) that a tab gives; the mask is white where to repaint.

    Args:
        mode: number of the tab.
        init_img: tab img2img.
        sketch: tab Sketch.
        init_img_with_mask: tab Inpaint: `{"image", "mask"}`.
        inpaint_color_sketch: tab Inpaint sketch, with the strokes.
        inpaint_color_sketch_orig: the same picture without them.
        init_img_inpaint: tab Inpaint upload.
        init_mask_inpaint: its mask.
        mask_blur: pixels, softens the strokes of Inpaint sketch.
        mask_alpha: transparency of the strokes, percent.
    """
    if mode == MODE_IMG2IMG:
        return _picture(init_img), None
    if mode == MODE_SKETCH:
        return _picture(sketch), None
    if mode == MODE_INPAINT:
        if init_img_with_mask is None:
            return None, None
        mask = create_binary_mask(init_img_with_mask["mask"])
        return _picture(init_img_with_mask["image"]), mask
    if mode == MODE_INPAINT_SKETCH:
        return _from_color_sketch(
            inpaint_color_sketch, inpaint_color_sketch_orig, mask_blur, mask_alpha
        )
    if mode == MODE_UPLOAD:
        return _picture(init_img_inpaint), images.fix_image(init_mask_inpaint)
    return None, None


def _picture(image: Any) -> Image.Image | None:
    if isinstance(image, dict):
        image = image["image"]
    return images.fix_image(image)


def _from_color_sketch(
    sketch: Image.Image | None, original: Image.Image | None, blur: float, alpha: float
) -> tuple[Image.Image | None, Image.Image | None]:
    if sketch is None:
        return None, None
    original = original or sketch
    drawn, plain = sketch.convert("RGB"), original.convert("RGB")
    difference = np.asarray(ImageChops.difference(drawn, plain))
    changed = np.any(difference > 0, axis=-1).astype(np.uint8) * 255
    mask = ImageEnhance.Brightness(Image.fromarray(changed, mode="L")).enhance(1 - alpha / 100)
    soft = mask.filter(ImageFilter.GaussianBlur(blur))
    blurred = drawn.filter(ImageFilter.GaussianBlur(blur))
    return Image.composite(blurred, plain, soft), mask


def img2img(
    id_task: str,
    request: gr.Request,
    mode: int,
    prompt: str,
    negative_prompt: str,
    prompt_styles: list[str],
    init_img: Any,
    sketch: Any,
    init_img_with_mask: Any,
    inpaint_color_sketch: Any,
    inpaint_color_sketch_orig: Any,
    init_img_inpaint: Any,
    init_mask_inpaint: Any,
    mask_blur: int,
    mask_alpha: float,
    inpainting_fill: int,
    n_iter: int,
    batch_size: int,
    cfg_scale: float,
    image_cfg_scale: float,
    denoising_strength: float,
    selected_scale_tab: int,
    height: int,
    width: int,
    scale_by: float,
    resize_mode: int,
    inpaint_full_res: bool,
    inpaint_full_res_padding: int,
    inpainting_mask_invert: int,
    img2img_batch_input_dir: str,
    img2img_batch_output_dir: str,
    img2img_batch_inpaint_mask_dir: str,
    override_settings_texts: list[str],
    img2img_batch_use_png_info: bool,
    img2img_batch_png_info_props: list[str],
    img2img_batch_png_info_dir: str,
    img2img_batch_source_type: str,
    img2img_batch_upload: list | None,
    *args: Any,
) -> tuple:
    """Gallery, generation info, infotext and comments for the tab's values."""
    del id_task
    mode = int(mode or 0)
    pictures = (init_img, sketch, init_img_with_mask, inpaint_color_sketch)
    originals = (inpaint_color_sketch_orig, init_img_inpaint, init_mask_inpaint)
    image, mask = input_of_mode(mode, *pictures, *originals, mask_blur, mask_alpha)
    if selected_scale_tab == 1 and mode != MODE_BATCH:
        width, height = _scaled_size(image, scale_by)
    if not 0.0 <= denoising_strength <= 1.0:
        msg = f"denoising strength is {denoising_strength}, expected 0 to 1"
        raise ValueError(msg)

    p = StableDiffusionProcessingImg2Img(
        outpath_samples=opts.outdir_samples or opts.outdir_img2img_samples,
        outpath_grids=opts.outdir_grids or opts.outdir_img2img_grids,
        prompt=prompt,
        negative_prompt=negative_prompt,
        styles=prompt_styles,
        batch_size=batch_size,
        n_iter=n_iter,
        cfg_scale=cfg_scale,
        width=width,
        height=height,
        init_images=[image],
        mask=mask,
        mask_blur=mask_blur,
        inpainting_fill=inpainting_fill,
        resize_mode=resize_mode,
        denoising_strength=denoising_strength,
        image_cfg_scale=image_cfg_scale,
        inpaint_full_res=inpaint_full_res,
        inpaint_full_res_padding=inpaint_full_res_padding,
        inpainting_mask_invert=inpainting_mask_invert,
        override_settings=create_override_settings_dict(override_settings_texts),
    )
    p.scripts = scripts.scripts_img2img
    p.script_args = args
    p.user = getattr(request, "username", None)
    if mask:
        p.extra_generation_params["Mask blur"] = mask_blur

    with closing(p):
        if mode == MODE_BATCH:
            uploaded = img2img_batch_source_type == "upload"
            processed = process_batch(
                p,
                img2img_batch_upload if uploaded else img2img_batch_input_dir,
                "" if uploaded else img2img_batch_output_dir,
                "" if uploaded else img2img_batch_inpaint_mask_dir,
                args,
                to_scale=selected_scale_tab == 1,
                scale_by=scale_by,
                use_png_info=img2img_batch_use_png_info,
                png_info_props=img2img_batch_png_info_props,
                png_info_dir=img2img_batch_png_info_dir,
            )
        else:
            processed = run(p)
    pictures = processed.images + getattr(processed, "extra_images", [])
    return answer(processed, pictures, processed.js())


def _scaled_size(image: Image.Image | None, factor: float) -> tuple[int, int]:
    """(width, height) of the input picture times a factor."""
    if image is None:
        msg = "'Resize by' needs an input picture, and the tab has none"
        raise ValueError(msg)
    return int(image.width * factor), int(image.height * factor)


# ---- batch ---------------------------------------------------------------------------------


def _batch_files(source: Any) -> list[Path]:
    """Pictures of a folder, or uploaded ones."""
    if isinstance(source, (list, tuple)):
        return [Path(item.name) for item in source]
    if not source:
        msg = "img2img batch has no input: upload pictures or name a folder"
        raise ValueError(msg)
    folder = Path(source)
    if not folder.is_dir():
        msg = f"img2img batch: the input folder {folder} does not exist"
        raise ValueError(msg)
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def _png_info(use: bool, props: list[str], folder: str) -> dict | None:
    return {"props": set(props or []), "folder": folder} if use else None


def process_batch(
    p: StableDiffusionProcessingImg2Img,
    input: str | list,
    output_dir: str,
    inpaint_mask_dir: str,
    args: tuple,
    to_scale: bool = False,
    scale_by: float = 1.0,
    use_png_info: bool = False,
    png_info_props: list[str] | None = None,
    png_info_dir: str | None = None,
) -> Processed:
    """The same job for every file; pictures and infotexts of all are joined.

    Args:
        p: the job; its input, mask, seed, prompts and sizes change from file to file.
        input: folder of pictures, or uploaded files.
        output_dir: where to save; empty: the usual folder.
        inpaint_mask_dir: folder of masks with the pictures' names, or a single mask for all.
        args: values of the scripts' components.
        to_scale: whether sizes are multiples of each picture's.
        scale_by: that multiple.
        use_png_info: parameters of each picture's infotext replace the job's.
        png_info_props: which of them.
        png_info_dir: where the pictures with the infotexts are; empty: those of the job.
    """
    files = _batch_files(input)
    png_info = _png_info(use_png_info, png_info_props or [], png_info_dir or "")
    masks = _batch_files(inpaint_mask_dir) if inpaint_mask_dir else []
    state.job_count = len(files) * p.n_iter
    original = {name: getattr(p, name) for name in _FROM_INFOTEXT}
    result: Processed | None = None
    for number, path in enumerate(files):
        state.job = f"{number + 1} out of {len(files)}"
        state.skipped = False
        if state.interrupted or state.stopping_generation:
            break
        image = ImageOps.exif_transpose(images.read(path))
        if to_scale:
            p.width, p.height = int(image.width * scale_by), int(image.height * scale_by)
        p.init_images = [image] * p.batch_size
        if masks:
            p.image_mask = Image.open(_mask_for(path, masks))
        _use_png_info(p, path, image, png_info, original)
        if output_dir:
            p.outpath_samples = output_dir
            p.override_settings["save_to_dirs"] = False
            p.override_settings["samples_filename_pattern"] = path.stem
        processed = run(p)
        if result is None:
            result = processed
        else:
            result.images += processed.images
            result.infotexts += processed.infotexts
    return result or Processed(p, [])


def _mask_for(path: Path, masks: list[Path]) -> Path:
    if len(masks) == 1:
        return masks[0]
    found = [mask for mask in masks if mask.stem == path.stem]
    if not found:
        msg = f"img2img batch: there is no mask named {path.stem} for {path.name}"
        raise ValueError(msg)
    return found[0]


_FROM_INFOTEXT = ("prompt", "negative_prompt", "seed", "cfg_scale", "sampler_name", "steps")


def _use_png_info(
    p: StableDiffusionProcessingImg2Img,
    path: Path,
    image: Image.Image,
    png_info: dict | None,
    original: dict,
) -> None:
    """Replace what the user chose by the values in the picture's infotext."""
    if png_info is None:
        return
    folder = png_info["folder"]
    source = Image.open(Path(folder) / path.name) if folder else image
    text, _ = images.read_info_from_image(source)
    found = parse_generation_parameters(text or "")
    props = png_info["props"]

    def chosen(prop: str, default: Any) -> Any:
        return found[prop] if prop in props and prop in found else default

    p.prompt = original["prompt"]
    if "Prompt" in props and found.get("Prompt"):
        p.prompt = f"{original['prompt']} {found['Prompt']}".strip()
    p.negative_prompt = original["negative_prompt"]
    if "Negative prompt" in props and found.get("Negative prompt"):
        p.negative_prompt = f"{original['negative_prompt']} {found['Negative prompt']}".strip()
    p.seed = int(chosen("Seed", original["seed"]))
    p.cfg_scale = float(chosen("CFG scale", original["cfg_scale"]))
    p.sampler_name = chosen("Sampler", original["sampler_name"])
    p.steps = int(chosen("Steps", original["steps"]))
    if "Model hash" in props and found.get("Model hash"):
        p.override_settings["sd_model_checkpoint"] = found["Model hash"]
