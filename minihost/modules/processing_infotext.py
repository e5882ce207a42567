"""The result of a generation and the text that describes it."""

from __future__ import annotations

import json

from modules import infotext_utils, sd_samplers, shared
from modules.shared import opts

PROGRAM_VERSION = "v1.10.1-minihost"


def program_version() -> str:
    """What stands behind `Version:`; the number names the behaviour this host follows."""
    return PROGRAM_VERSION


def create_infotext(
    p: object,
    all_prompts: list[str],
    all_seeds: list[int],
    all_subseeds: list[int],
    comments: object = None,
    iteration: int = 0,
    position_in_batch: int = 0,
    use_main_prompt: bool = False,
    index: int | None = None,
    all_negative_prompts: list[str] | None = None,
) -> str:
    """Prompt, negative prompt and parameters of one picture.

    Args:
        p: the processing object; its `extra_generation_params` may hold texts, numbers, lists
            (indexed like `all_prompts`) and functions, which get this function's variables.
        all_prompts: prompts to choose from by index.
        all_seeds: seeds, likewise.
        all_subseeds: variation seeds, likewise.
        comments: ignored.
        iteration: batch number, for callers without `index`.
        position_in_batch: picture number in the batch, for callers without `index`.
        use_main_prompt: describe the whole job by its first prompt.
        index: position in the lists.
        all_negative_prompts: negative prompts, likewise.
    """
    if index is None:
        index = position_in_batch + iteration * p.batch_size
    negative_prompts = all_negative_prompts or p.all_negative_prompts
    if use_main_prompt:
        prompt_text, negative_prompt = p.main_prompt, p.main_negative_prompt
        index = 0
    else:
        prompt_text, negative_prompt = all_prompts[index], negative_prompts[index]

    generation_params = {
        **_own_params(p, all_seeds, all_subseeds, index, use_main_prompt),
        **p.extra_generation_params,
        "Version": program_version() if opts.add_version_to_infotext else None,
        "User": p.user if opts.add_user_name_to_info else None,
    }
    context = {
        "p": p,
        "all_prompts": all_prompts,
        "all_seeds": all_seeds,
        "all_subseeds": all_subseeds,
        "comments": comments,
        "iteration": iteration,
        "position_in_batch": position_in_batch,
        "use_main_prompt": use_main_prompt,
        "index": index,
        "all_negative_prompts": negative_prompts,
        "prompt_text": prompt_text,
        "negative_prompt": negative_prompt,
        "generation_params": generation_params,
    }
    text = _joined(generation_params, index, context)
    negative_text = f"\nNegative prompt: {negative_prompt}" if negative_prompt else ""
    return f"{prompt_text}{negative_text}\n{text}".strip()


def _joined(generation_params: dict, index: int, context: dict) -> str:
    """`key: value, ...`; lists are indexed, functions called, None is left out."""
    parts = []
    for key, value in generation_params.items():
        if isinstance(value, list):
            value = value[index]
        elif callable(value):
            value = value(**context)
        if value is not None:
            parts.append(key if key == value else f"{key}: {infotext_utils.quote(value)}")
    return ", ".join(parts)


def _own_params(
    p: object, all_seeds: list, all_subseeds: list, index: int, use_main_prompt: bool
) -> dict:
    clip_skip = int(getattr(p, "clip_skip", opts.CLIP_stop_at_last_layers))
    config = sd_samplers.find_sampler_config(p.sampler_name)
    uses_ensd = bool(opts.eta_noise_seed_delta) and bool(config and config.options.get("uses_ensd"))
    subseed = p.all_subseeds[0] if use_main_prompt else all_subseeds[index]
    resized = p.seed_resize_from_w > 0 and p.seed_resize_from_h > 0
    merging, merging_hr = p.get_token_merging_ratio(), p.get_token_merging_ratio(for_hr=True)
    return {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale,
        "Image CFG scale": getattr(p, "image_cfg_scale", None),
        "Seed": p.all_seeds[0] if use_main_prompt else all_seeds[index],
        "Face restoration": opts.face_restoration_model if p.restore_faces else None,
        "Size": f"{p.width}x{p.height}",
        "Model hash": p.sd_model_hash if opts.add_model_hash_to_info else None,
        "Model": p.sd_model_name if opts.add_model_name_to_info else None,
        "VAE hash": p.sd_vae_hash if opts.add_vae_hash_to_info else None,
        "VAE": p.sd_vae_name if opts.add_vae_name_to_info else None,
        "Variation seed": None if p.subseed_strength == 0 else subseed,
        "Variation seed strength": None if p.subseed_strength == 0 else p.subseed_strength,
        "Seed resize from": f"{p.seed_resize_from_w}x{p.seed_resize_from_h}" if resized else None,
        "Denoising strength": p.extra_generation_params.get("Denoising strength"),
        "Conditional mask weight": getattr(p, "inpainting_mask_weight", opts.inpainting_mask_weight)
        if p.is_using_inpainting_conditioning
        else None,
        "Clip skip": None if clip_skip <= 1 else clip_skip,
        "ENSD": opts.eta_noise_seed_delta if uses_ensd else None,
        "Token merging ratio": merging or None,
        "Token merging ratio hr": merging_hr or None,
        "Init image hash": getattr(p, "init_img_hash", None),
        "RNG": opts.randn_source if opts.randn_source != "GPU" else None,
        "Tiling": "True" if p.tiling else None,
    }


class Processed:
    """What a generation gave: pictures, one infotext for each, and the fields of `p`."""

    def __init__(
        self,
        p: object,
        images_list: list,
        seed: int = -1,
        info: str = "",
        subseed: int | None = None,
        all_prompts: list[str] | None = None,
        all_negative_prompts: list[str] | None = None,
        all_seeds: list[int] | None = None,
        all_subseeds: list[int] | None = None,
        index_of_first_image: int = 0,
        infotexts: list[str] | None = None,
        comments: str = "",
    ) -> None:
        self.images = images_list
        self.prompt = _first(p.prompt)
        self.negative_prompt = _first(p.negative_prompt)
        self.seed = int(_first(seed) if seed is not None else -1)
        self.subseed = subseed
        self.subseed_strength = p.subseed_strength
        self.info = info
        self.comments = "".join(f"{text}\n" for text in p.comments) + comments
        self.width = p.width
        self.height = p.height
        self.sampler_name = p.sampler_name
        self.cfg_scale = p.cfg_scale
        self.image_cfg_scale = getattr(p, "image_cfg_scale", None)
        self.steps = p.steps
        self.batch_size = p.batch_size
        self.restore_faces = p.restore_faces
        self.face_restoration_model = opts.face_restoration_model if p.restore_faces else None
        self.sd_model_name = p.sd_model_name
        self.sd_model_hash = p.sd_model_hash
        self.sd_vae_name = p.sd_vae_name
        self.sd_vae_hash = p.sd_vae_hash
        self.seed_resize_from_w = p.seed_resize_from_w
        self.seed_resize_from_h = p.seed_resize_from_h
        self.denoising_strength = getattr(p, "denoising_strength", None)
        self.extra_generation_params = p.extra_generation_params
        self.index_of_first_image = index_of_first_image
        self.styles = p.styles
        self.job_timestamp = shared.state.job_timestamp
        self.clip_skip = int(opts.CLIP_stop_at_last_layers)
        self.token_merging_ratio = p.get_token_merging_ratio()
        self.token_merging_ratio_hr = p.get_token_merging_ratio(for_hr=True)
        self.eta, self.ddim_discretize = p.eta, p.ddim_discretize
        self.s_churn, self.s_tmin, self.s_tmax = p.s_churn, p.s_tmin, p.s_tmax
        self.s_noise, self.s_min_uncond = p.s_noise, p.s_min_uncond
        self.sampler_noise_scheduler_override = p.sampler_noise_scheduler_override
        self.is_using_inpainting_conditioning = p.is_using_inpainting_conditioning
        self.all_prompts = all_prompts or p.all_prompts or [self.prompt]
        self.all_negative_prompts = (
            all_negative_prompts or p.all_negative_prompts or [self.negative_prompt]
        )
        self.all_seeds = all_seeds or p.all_seeds or [self.seed]
        self.all_subseeds = all_subseeds or p.all_subseeds or [self.subseed]
        self.infotexts = infotexts or [info] * len(images_list)
        self.version = program_version()

    def js(self) -> str:
        """The fields that the page and the API show, as JSON."""
        names = [
            "prompt",
            "all_prompts",
            "negative_prompt",
            "all_negative_prompts",
            "seed",
            "all_seeds",
            "subseed",
            "all_subseeds",
            "subseed_strength",
            "width",
            "height",
            "sampler_name",
            "cfg_scale",
            "steps",
            "batch_size",
            "restore_faces",
            "face_restoration_model",
            "sd_model_name",
            "sd_model_hash",
            "sd_vae_name",
            "sd_vae_hash",
            "seed_resize_from_w",
            "seed_resize_from_h",
            "denoising_strength",
            "extra_generation_params",
            "index_of_first_image",
            "infotexts",
            "styles",
            "job_timestamp",
            "clip_skip",
            "is_using_inpainting_conditioning",
            "version",
        ]
        return json.dumps({name: getattr(self, name) for name in names}, default=lambda o: None)

    def infotext(self, p: object, index: int) -> str:
        """Description of picture `index`."""
        return create_infotext(
            p,
            self.all_prompts,
            self.all_seeds,
            self.all_subseeds,
            comments=[],
            position_in_batch=index % self.batch_size,
            iteration=index // self.batch_size,
        )

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        """The ratio of one of the passes."""
        return self.token_merging_ratio_hr if for_hr else self.token_merging_ratio


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) else value
