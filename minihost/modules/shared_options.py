"""Settings that the host itself declares."""

from __future__ import annotations

import gradio as gr
from modules import shared_items
from modules.options import OptionHTML, OptionInfo, options_section
from modules.paths_internal import default_output_dir

restricted_opts = {
    "samples_filename_pattern",
    "outdir_samples",
    "outdir_txt2img_samples",
    "outdir_img2img_samples",
    "outdir_grids",
    "outdir_txt2img_grids",
    "outdir_img2img_grids",
    "outdir_save",
}


def _slider(
    default: float, label: str, scale: tuple[float, float, float], infotext: str | None = None
) -> OptionInfo:
    range_and_step = dict(zip(("minimum", "maximum", "step"), scale, strict=True))
    return OptionInfo(default, label, gr.Slider, range_and_step, infotext=infotext)


def _radio(default: str, label: str, *choices: str, infotext: str | None = None) -> OptionInfo:
    return OptionInfo(default, label, gr.Radio, {"choices": list(choices)}, infotext=infotext)


def _folder(name: str, label: str) -> OptionInfo:
    return OptionInfo(f"{default_output_dir}/{name}", label)


options_templates: dict[str, OptionInfo] = {
    **options_section(("saving-images", "Saving images/grids"), {
        "samples_save": OptionInfo(True, "Always save all generated images"),
        "samples_format": OptionInfo("png", "File format for images"),
        "samples_filename_pattern": OptionInfo("", "Images filename pattern"),
        "grid_save": OptionInfo(True, "Always save all generated image grids"),
        "return_grid": OptionInfo(True, "Show grid in results for web"),
        "grid_only_if_multiple": OptionInfo(True, "Do not save grids consisting of one picture"),
        "jpeg_quality": _slider(80, "Quality for saved jpeg images", (1, 100, 1)),
        "save_to_dirs": OptionInfo(True, "Save images to a subdirectory"),
    }),
    **options_section(("saving-paths", "Paths for saving"), {
        "outdir_samples": OptionInfo("", "Output directory for images"),
        "outdir_txt2img_samples": _folder("txt2img-images", "txt2img images"),
        "outdir_img2img_samples": _folder("img2img-images", "img2img images"),
        "outdir_grids": OptionInfo("", "Output directory for grids"),
        "outdir_txt2img_grids": _folder("txt2img-grids", "txt2img grids"),
        "outdir_img2img_grids": _folder("img2img-grids", "img2img grids"),
        "outdir_save": _folder("saved", "Directory of the Save button"),
    }),
    **options_section(("sd", "Stable Diffusion"), {
        "sd_model_checkpoint": OptionInfo(
            None, "Stable Diffusion checkpoint", gr.Dropdown,
            lambda: {"choices": shared_items.list_checkpoint_tiles()},
            refresh=shared_items.refresh_checkpoints, infotext="Model hash"),
        "sd_unet": OptionInfo("Automatic", "SD Unet", gr.Dropdown,
                              lambda: {"choices": shared_items.sd_unet_items()}),
        "CLIP_stop_at_last_layers": _slider(1, "Clip skip", (1, 12, 1), infotext="Clip skip"),
        "enable_quantization": OptionInfo(False, "Whole timesteps in K samplers"),
        "refiner_switch_by_sample_steps": OptionInfo(False, "Switch to refiner by sampling steps"),
        "sd_noise_schedule": _radio("Default", "Noise schedule for sampling", "Default",
                                    "Zero Terminal SNR", infotext="Noise Schedule"),
    }),
    **options_section(("img2img", "img2img"), {
        "inpainting_mask_weight": _slider(1.0, "Inpainting conditioning mask strength",
                                          (0, 1, 0.01), infotext="Conditional mask weight"),
        "img2img_fix_steps": OptionInfo(False, "With img2img, do exactly the amount of steps"),
        "img2img_background_color": OptionInfo(
            "#ffffff", "Fill transparent parts of the input image", gr.ColorPicker, {}),
        "img2img_inpaint_mask_brush_color": OptionInfo(
            "#ffffff", "Inpaint mask brush color", gr.ColorPicker, {}),
    }),
    **options_section(("optimizations", "Optimizations"), {
        "s_min_uncond": _slider(0.0, "Negative Guidance minimum sigma", (0, 15, 0.01),
                                infotext="NGMS"),
        "skip_early_cond": _slider(0.0, "Ignore negative prompt during early sampling",
                                   (0, 1, 0.01), infotext="Skip Early CFG"),
        "pad_cond_uncond": OptionInfo(False, "Pad prompt/negative prompt", infotext="Pad conds"),
        "batch_cond_uncond": OptionInfo(True, "Batch cond/uncond"),
    }),
    **options_section(("ui", "User interface"), {
        "localization": OptionInfo("None", "Localization", gr.Dropdown,
                                   lambda: {"choices": shared_items.localizations()}),
        "send_size": OptionInfo(True, "Send size when sending to another tab"),
        "show_progress_every_n_steps": _slider(2, "Live preview display period", (-1, 32, 1)),
        "show_progress_type": _radio("Approx NN", "Live preview method", "Full", "Approx NN",
                                     "Approx cheap"),
    }),
    **options_section(("API", "API"), {
        "api_enable_requests": OptionInfo(
            True, "Allow http:// and https:// URLs for input images", restrict_api=True),
    }),
    **options_section((None, "Hidden options"), {
        "disabled_extensions": OptionInfo([], "Disable these extensions"),
    }),
}  # fmt: skip

__all__ = ["OptionHTML", "OptionInfo", "options_templates", "restricted_opts"]
