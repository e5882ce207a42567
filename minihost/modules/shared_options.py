"""Settings that the host itself declares."""

from __future__ import annotations

import gradio as gr
from modules import shared_items
from modules.options import OptionHTML, OptionInfo, categories, options_section
from modules.paths_internal import default_output_dir

restricted_opts = {
    "samples_filename_pattern",
    "directories_filename_pattern",
    "outdir_samples",
    "outdir_txt2img_samples",
    "outdir_img2img_samples",
    "outdir_extras_samples",
    "outdir_grids",
    "outdir_txt2img_grids",
    "outdir_img2img_grids",
    "outdir_save",
}

categories.register_category("saving", "Saving images")
categories.register_category("sd", "Stable Diffusion")
categories.register_category("ui", "User Interface")
categories.register_category("system", "System")

_SLIDER = gr.Slider


def _slide(low: float, high: float, step: float) -> dict:
    return {"minimum": low, "maximum": high, "step": step}


options_templates: dict[str, OptionInfo] = {}


def _section(identifier: tuple, options: dict[str, OptionInfo]) -> None:
    options_templates.update(options_section(identifier, options))


_section(("saving-images", "Saving images/grids", "saving"), {
    "samples_save": OptionInfo(True, "Always save all generated images"),
    "samples_format": OptionInfo("png", "File format for images"),
    "samples_filename_pattern": OptionInfo("", "Images filename pattern"),
    "save_images_add_number": OptionInfo(True, "Add number to filename when saving"),
    "grid_save": OptionInfo(True, "Always save all generated image grids"),
    "grid_format": OptionInfo("png", "File format for grids"),
    "return_grid": OptionInfo(True, "Show grid in results for web"),
    "n_rows": OptionInfo(-1, "Grid row count", _SLIDER,
        _slide(-1, 16, 1)),
    "grid_only_if_multiple": OptionInfo(True, "Do not save grids consisting of one picture"),
    "grid_prevent_empty_spots": OptionInfo(False, "Prevent empty spots in grid"),
    "enable_pnginfo": OptionInfo(True, "Write infotext to metadata of the generated image"),
    "save_txt": OptionInfo(False, "Create a text file with infotext next to every image"),
    "save_images_before_face_restoration": OptionInfo(False, "Save before face restoration"),
    "save_images_before_highres_fix": OptionInfo(False, "Save a copy before hires fix"),
    "save_images_before_color_correction": OptionInfo(False, "Save before colour correction"),
    "save_mask": OptionInfo(False, "For inpainting, save a copy of the greyscale mask"),
    "save_mask_composite": OptionInfo(False, "For inpainting, save a masked composite"),
    "save_init_img": OptionInfo(False, "Save init images when using img2img"),
    "jpeg_quality": OptionInfo(80, "Quality for saved jpeg images", _SLIDER,
        _slide(1, 100, 1)),
    "webp_lossless": OptionInfo(False, "Use lossless compression for webp images"),
    "use_original_name_batch": OptionInfo(True, "Use original name for output in batch"),
    "save_selected_only": OptionInfo(True, "When using the Save button, save only the selected"),
    "save_to_dirs": OptionInfo(True, "Save images to a subdirectory"),
    "grid_save_to_dirs": OptionInfo(True, "Save grids to a subdirectory"),
    "use_save_to_dirs_for_ui": OptionInfo(False, 'Use a subdirectory with the "Save" button'),
    "directories_filename_pattern": OptionInfo("[date]", "Directory name pattern"),
    "directories_max_prompt_words": OptionInfo(8, "Max prompt words", _SLIDER,
        _slide(1, 20, 1)),
})  # fmt: skip

_section(("saving-paths", "Paths for saving", "saving"), {
    "outdir_samples": OptionInfo("", "Output directory for images"),
    "outdir_txt2img_samples": OptionInfo(f"{default_output_dir}/txt2img-images", "txt2img images"),
    "outdir_img2img_samples": OptionInfo(f"{default_output_dir}/img2img-images", "img2img images"),
    "outdir_extras_samples": OptionInfo(f"{default_output_dir}/extras-images", "extras images"),
    "outdir_grids": OptionInfo("", "Output directory for grids"),
    "outdir_txt2img_grids": OptionInfo(f"{default_output_dir}/txt2img-grids", "txt2img grids"),
    "outdir_img2img_grids": OptionInfo(f"{default_output_dir}/img2img-grids", "img2img grids"),
    "outdir_save": OptionInfo(f"{default_output_dir}/saved", "Directory of the Save button"),
    "outdir_init_images": OptionInfo(f"{default_output_dir}/init-images", "Init images"),
})  # fmt: skip

_section(("sd", "Stable Diffusion", "sd"), {
    "sd_model_checkpoint": OptionInfo(
        None, "Stable Diffusion checkpoint", gr.Dropdown,
        lambda: {"choices": shared_items.list_checkpoint_tiles()},
        refresh=shared_items.refresh_checkpoints, infotext="Model hash"),
    "sd_checkpoints_limit": OptionInfo(1, "Checkpoints kept loaded", _SLIDER,
        _slide(1, 10, 1)),
    "sd_checkpoints_keep_in_cpu": OptionInfo(True, "Only keep one model on device"),
    "sd_checkpoint_cache": OptionInfo(0, "Checkpoints to cache in RAM", _SLIDER,
        _slide(0, 10, 1)),
    "sd_unet": OptionInfo("Automatic", "SD Unet", gr.Dropdown,
                          lambda: {"choices": shared_items.sd_unet_items()}),
    "sd_vae": OptionInfo("Automatic", "SD VAE", gr.Dropdown,
                         lambda: {"choices": shared_items.sd_vae_items()}),
    "enable_quantization": OptionInfo(False, "Round timesteps to whole numbers"),
    "emphasis": OptionInfo("Original", "Emphasis mode"),
    "enable_batch_seeds": OptionInfo(
        True, "Make K-diffusion samplers produce same images in batch"),
    "comma_padding_backtrack": OptionInfo(20, "Prompt word wrap length", _SLIDER,
        _slide(0, 74, 1)),
    "sdxl_crop_left": OptionInfo(0, "SDXL crop left", gr.Number, {"precision": 0}),
    "sdxl_crop_top": OptionInfo(0, "SDXL crop top", gr.Number, {"precision": 0}),
    "sdxl_refiner_low_aesthetic_score": OptionInfo(2.5, "SDXL low aesthetic score", gr.Number),
    "sdxl_refiner_high_aesthetic_score": OptionInfo(6.0, "SDXL high aesthetic score", gr.Number),
    "upcast_attn": OptionInfo(False, "Upcast cross attention layer to float32"),
    "CLIP_stop_at_last_layers": OptionInfo(
        1, "Clip skip", _SLIDER,
        _slide(1, 12, 1), infotext="Clip skip"),
    "randn_source": OptionInfo("GPU", "Random number generator source", gr.Radio,
                               {"choices": ["GPU", "CPU", "NV"]}, infotext="RNG"),
    "tiling": OptionInfo(False, "Tiling", infotext="Tiling"),
    "refiner_switch_by_sample_steps": OptionInfo(False, "Switch to refiner by sampling steps"),
    "hires_fix_refiner_pass": OptionInfo("second pass", "Hires fix: which pass the refiner is in"),
    "sd_vae_encode_method": OptionInfo("Full", "VAE type for encode", gr.Radio,
        {"choices": ["Full"]}),
    "sd_vae_decode_method": OptionInfo("Full", "VAE type for decode", gr.Radio,
        {"choices": ["Full"]}),
    "auto_vae_precision": OptionInfo(True, "Automatically revert VAE to 32-bit floats"),
})  # fmt: skip

_section(("img2img", "img2img", "sd"), {
    "inpainting_mask_weight": OptionInfo(1.0, "Inpainting conditioning mask strength", _SLIDER,
                                         _slide(0, 1, 0.01), infotext="Conditional mask weight"),
    "initial_noise_multiplier": OptionInfo(1.0, "Noise multiplier for img2img", _SLIDER,
                                           _slide(0, 1.5, 0.001), infotext="Noise multiplier"),
    "img2img_extra_noise": OptionInfo(0.0, "Extra noise multiplier for img2img and hires fix",
                                      _SLIDER,
        _slide(0, 1, 0.01), infotext="Extra noise"),
    "img2img_color_correction": OptionInfo(False, "Apply color correction to img2img results"),
    "img2img_fix_steps": OptionInfo(False, "With img2img, do exactly the amount of steps"),
    "img2img_background_color": OptionInfo("#ffffff", "Fill transparent parts of the input image",
                                           gr.ColorPicker, {}),
    "img2img_editor_height": OptionInfo(720, "Height of the image editor", _SLIDER,
        _slide(80, 1600, 1)),
    "img2img_sketch_default_brush_color": OptionInfo("#ffffff", "Sketch color", gr.ColorPicker,
        {}),
    "img2img_inpaint_mask_brush_color": OptionInfo("#ffffff", "Inpaint mask brush color",
                                                   gr.ColorPicker, {}),
    "img2img_inpaint_sketch_default_brush_color": OptionInfo(
        "#ffffff", "Inpaint sketch brush color", gr.ColorPicker, {}),
    "return_mask": OptionInfo(False, "For inpainting, include the greyscale mask in results"),
    "return_mask_composite": OptionInfo(
        False, "For inpainting, include masked composite in results"),
    "img2img_batch_show_results_limit": OptionInfo(32, "Show the first N batch results", _SLIDER,
                                                   _slide(-1, 1000, 1)),
    "overlay_inpaint": OptionInfo(True, "Overlay original for inpaint"),
    "img2img_batch_use_original_name": OptionInfo(False, "Save using filename pattern in batch"),
})  # fmt: skip

_section(("optimizations", "Optimizations", "sd"), {
    "cross_attention_optimization": OptionInfo("Automatic", "Cross attention optimization"),
    "s_min_uncond": OptionInfo(0.0, "Negative Guidance minimum sigma", _SLIDER,
                               _slide(0, 15, 0.01), infotext="NGMS"),
    "s_min_uncond_all": OptionInfo(False, "Negative Guidance minimum sigma all steps",
                                   infotext="NGMS all steps"),
    "skip_early_cond": OptionInfo(0.0, "Ignore negative prompt during early sampling", _SLIDER,
                                  _slide(0, 1, 0.01), infotext="Skip Early CFG"),
    "token_merging_ratio": OptionInfo(0.0, "Token merging ratio", _SLIDER,
        _slide(0, 0.9, 0.1)),
    "token_merging_ratio_img2img": OptionInfo(0.0, "Token merging ratio for img2img", _SLIDER,
                                              _slide(0, 0.9, 0.1)),
    "token_merging_ratio_hr": OptionInfo(0.0, "Token merging ratio for high-res pass", _SLIDER,
                                         _slide(0, 0.9, 0.1)),
    "pad_cond_uncond": OptionInfo(False, "Pad prompt/negative prompt", infotext="Pad conds"),
    "pad_cond_uncond_v0": OptionInfo(False, "Pad prompt/negative prompt (v0)",
                                     infotext="Pad conds v0"),
    "persistent_cond_cache": OptionInfo(True, "Persistent cond cache"),
    "batch_cond_uncond": OptionInfo(True, "Batch cond/uncond"),
    "fp8_storage": OptionInfo("Disable", "FP8 weight", gr.Radio, {"choices": ["Disable",
        "Enable"]}),
    "cache_fp16_weight": OptionInfo(False, "Cache FP16 weight for LoRA"),
})  # fmt: skip

_section(("compatibility", "Compatibility", "sd"), {
    "auto_backcompat": OptionInfo(True, "Automatic backward compatibility"),
    "use_old_emphasis_implementation": OptionInfo(False, "Use old emphasis implementation"),
    "use_old_karras_scheduler_sigmas": OptionInfo(False, "Use old karras scheduler sigmas"),
    "no_dpmpp_sde_batch_determinism": OptionInfo(False, "No DPM++ SDE batch determinism"),
    "use_old_hires_fix_width_height": OptionInfo(
        False, "For hires fix, use width/height sliders to set final resolution"),
    "hires_fix_use_firstpass_conds": OptionInfo(False, "For hires fix, use first pass conds"),
    "use_old_scheduling": OptionInfo(False, "Use old prompt editing timelines"),
    "use_downcasted_alpha_bar": OptionInfo(False, "Downcast model alphas_cumprod to fp16"),
})  # fmt: skip

_section(("upscaling", "Upscaling", "sd"), {
    "upscaler_for_img2img": OptionInfo(None, "Upscaler for img2img", gr.Dropdown,
                                       lambda: {"choices": shared_items.upscaler_names()}),
    "set_scale_by_when_changing_upscaler": OptionInfo(False, "Set scale when changing upscaler"),
})  # fmt: skip

_section(("infotext", "Infotext", "ui"), {
    "add_model_hash_to_info": OptionInfo(True, "Add model hash to infotext"),
    "add_model_name_to_info": OptionInfo(True, "Add model name to infotext"),
    "add_vae_name_to_info": OptionInfo(True, "Add VAE name to infotext"),
    "add_vae_hash_to_info": OptionInfo(True, "Add VAE hash to infotext"),
    "add_user_name_to_info": OptionInfo(False, "Add user name to infotext"),
    "add_version_to_infotext": OptionInfo(True, "Add program version to infotext"),
    "disable_weights_auto_swap": OptionInfo(True, "Disregard checkpoint information on paste"),
    "infotext_skip_pasting": OptionInfo([], "Disregard fields from pasted infotext",
                                        gr.CheckboxGroup, {"choices": []}),
    "infotext_styles": OptionInfo("Apply if any", "Infer styles from pasted infotext"),
})  # fmt: skip

_section(("ui", "User interface", "ui"), {
    "do_not_show_images": OptionInfo(False, "Do not show any images in gallery"),
    "samples_in_gallery": OptionInfo(True, "Show pictures in the gallery"),
    "gallery_height": OptionInfo("", "Gallery height"),
    "show_progress_in_title": OptionInfo(True, "Show generation progress in window title"),
    "send_seed": OptionInfo(True, "Send seed when sending to another tab"),
    "send_size": OptionInfo(True, "Send size when sending to another tab"),
    "sd_checkpoint_dropdown_use_short": OptionInfo(False, "Names without directories"),
    "quicksettings_list": OptionInfo(["sd_model_checkpoint"], "Quicksettings list",
                                     gr.CheckboxGroup, {"choices": ["sd_model_checkpoint",
        "sd_vae"]}),
    "ui_tab_order": OptionInfo([], "UI tab order", gr.CheckboxGroup, {"choices": []}),
    "hidden_tabs": OptionInfo([], "Hidden UI tabs", gr.CheckboxGroup, {"choices": []}),
    "ui_reorder_list": OptionInfo([], "UI item order", gr.CheckboxGroup, {"choices": []}),
    "interrupt_after_current": OptionInfo(True, "Don't interrupt in the middle"),
    "localization": OptionInfo("None", "Localization"),
    "gradio_theme": OptionInfo("Default", "Gradio theme"),
    "compact_prompt_box": OptionInfo(False, "Compact prompt layout"),
})  # fmt: skip

_section(("live_previews", "Live previews", "ui"), {
    "show_progressbar": OptionInfo(True, "Show progressbar"),
    "live_previews_enable": OptionInfo(True, "Show live previews of the created image"),
    "live_previews_image_format": OptionInfo("png", "Live preview file format", gr.Radio,
                                             {"choices": ["jpeg", "png", "webp"]}),
    "show_progress_grid": OptionInfo(True, "Show previews of all images in a batch as a grid"),
    "show_progress_every_n_steps": OptionInfo(2, "Live preview display period", _SLIDER,
                                              _slide(-1, 32, 1)),
    "show_progress_type": OptionInfo("Approx NN", "Live preview method", gr.Radio,
                                     {"choices": ["Full", "Approx NN", "Approx cheap", "TAESD"]}),
    "live_preview_content": OptionInfo("Prompt", "Live preview subject", gr.Radio,
                                       {"choices": ["Combined", "Prompt", "Negative prompt"]}),
    "live_preview_refresh_period": OptionInfo(500.0, "Progressbar and preview update period"),
    "live_preview_fast_interrupt": OptionInfo(False, "Return image with chosen preview method"),
})  # fmt: skip

_section(("sampler-params", "Sampler parameters", "sd"), {
    "hide_samplers": OptionInfo([], "Hide samplers", gr.CheckboxGroup,
                                lambda: {"choices": shared_items.sampler_names()}),
    "eta_ddim": OptionInfo(0.0, "Eta for DDIM", _SLIDER,
        _slide(0, 1, 0.01), infotext="Eta DDIM"),
    "eta_ancestral": OptionInfo(1.0, "Eta for k-diffusion samplers", _SLIDER,
        _slide(0, 1, 0.01),
                                infotext="Eta"),
    "ddim_discretize": OptionInfo("uniform", "img2img DDIM discretize", gr.Radio,
                                  {"choices": ["uniform", "quad"]}),
    "s_churn": OptionInfo(0.0, "sigma churn", _SLIDER,
        _slide(0, 100, 0.01), infotext="Sigma churn"),
    "s_tmin": OptionInfo(0.0, "sigma tmin", _SLIDER,
        _slide(0, 10, 0.01), infotext="Sigma tmin"),
    "s_tmax": OptionInfo(0.0, "sigma tmax", _SLIDER,
        _slide(0, 999, 0.01), infotext="Sigma tmax"),
    "s_noise": OptionInfo(1.0, "sigma noise", _SLIDER,
        _slide(0, 1.1, 0.001), infotext="Sigma noise"),
    "sigma_min": OptionInfo(0.0, "sigma min", gr.Number, infotext="Schedule min sigma"),
    "sigma_max": OptionInfo(0.0, "sigma max", gr.Number, infotext="Schedule max sigma"),
    "rho": OptionInfo(0.0, "rho", gr.Number, infotext="Schedule rho"),
    "eta_noise_seed_delta": OptionInfo(0, "Eta noise seed delta", gr.Number, {"precision": 0},
                                       infotext="ENSD"),
    "always_discard_next_to_last_sigma": OptionInfo(False, "Always discard next-to-last sigma",
                                                    infotext="Discard penultimate sigma"),
    "sgm_noise_multiplier": OptionInfo(False, "SGM noise multiplier",
                                       infotext="SGM noise multiplier"),
    "uni_pc_variant": OptionInfo("bh1", "UniPC variant", gr.Radio,
                                 {"choices": ["bh1", "bh2", "vary_coeff"]},
        infotext="UniPC variant"),
    "uni_pc_skip_type": OptionInfo("time_uniform", "UniPC skip type", gr.Radio,
                                   {"choices": ["time_uniform", "time_quadratic", "logSNR"]},
                                   infotext="UniPC skip type"),
    "uni_pc_order": OptionInfo(3, "UniPC order", _SLIDER,
        _slide(1, 50, 1), infotext="UniPC order"),
    "uni_pc_lower_order_final": OptionInfo(True, "UniPC lower order final",
                                           infotext="UniPC lower order final"),
    "sd_noise_schedule": OptionInfo("Default", "Noise schedule for sampling", gr.Radio,
                                    {"choices": ["Default", "Zero Terminal SNR"]},
                                    infotext="Noise Schedule"),
    "skip_prompt_comments": OptionInfo(False, "Keep comments in prompts"),
    "enable_prompt_comments": OptionInfo(True, "Enable comments in prompts"),
})  # fmt: skip

_section(("system", "System", "system"), {
    "show_warnings": OptionInfo(False, "Show warnings in console"),
    "print_hypernet_extra": OptionInfo(False, "Print extra hypernetwork information"),
    "multiple_tqdm": OptionInfo(True, "Add a second progress bar to the console"),
    "hide_ldm_prints": OptionInfo(True, "Quiet model loading"),
    "dump_stacks_on_signal": OptionInfo(False, "Print stack traces on SIGINT"),
    "profiling_enable": OptionInfo(False, "Enable profiling"),
    "list_hidden_files": OptionInfo(True, "Load models from hidden directories"),
})  # fmt: skip

_section(("API", "API", "system"), {
    "api_enable_requests": OptionInfo(True, "Allow http:// and https:// URLs for input images",
                                      restrict_api=True),
    "api_forbid_local_requests": OptionInfo(True, "Forbid URLs to local resources",
                                            restrict_api=True),
    "api_useragent": OptionInfo("", "User agent for requests", restrict_api=True),
})  # fmt: skip

_section(("postprocessing", "Postprocessing", "sd"), {
    "postprocessing_enable_in_main_ui": OptionInfo([], "Postprocessing in txt2img and img2img",
                                                   gr.CheckboxGroup, {"choices": []}),
    "face_restoration": OptionInfo(False, "Restore faces", infotext="Face restoration"),
    "face_restoration_model": OptionInfo("None", "Face restoration model"),
})  # fmt: skip

_section((None, "Hidden options"), {
    "disabled_extensions": OptionInfo([], "Disable these extensions"),
    "disable_all_extensions": OptionInfo("none", "Disable all extensions"),
    "restore_config_state_file": OptionInfo("", "Config state file to restore from"),
    "sd_checkpoint_hash": OptionInfo("", "SHA256 hash of the current checkpoint"),
})  # fmt: skip

__all__ = ["OptionHTML", "OptionInfo", "options_templates", "restricted_opts"]
