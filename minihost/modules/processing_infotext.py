"""The result of a generation and the text that describes it."""

from __future__ import annotations

import json

from modules import infotext_utils, shared
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
    all_negative_prompts = all_negative_prompts or p.all_negative_prompts
    if use_main_prompt:
        prompt_text, negative_prompt = p.main_prompt, p.main_negative_prompt
        index = 0
    else:
        prompt_text, negative_prompt = all_prompts[index], all_negative_prompts[index]

    generation_params = {
        **_own_params(p, all_seeds, all_subseeds, index, use_main_prompt),
        **p.extra_generation_params,
        "Version": program_version(),
    }
    context = dict(locals())  # as in the WebUI, whose functions are given its local variables
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
    subseed = p.all_subseeds[0] if use_main_prompt else all_subseeds[index]
    return {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale,
        "Image CFG scale": getattr(p, "image_cfg_scale", None),
        "Seed": p.all_seeds[0] if use_main_prompt else all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Model hash": p.sd_model_hash,
        "Model": p.sd_model_name,
        "Variation seed": None if p.subseed_strength == 0 else subseed,
        "Variation seed strength": None if p.subseed_strength == 0 else p.subseed_strength,
        "Denoising strength": p.extra_generation_params.get("Denoising strength"),
        "Conditional mask weight": getattr(p, "inpainting_mask_weight", opts.inpainting_mask_weight)
        if p.is_using_inpainting_conditioning
        else None,
        "Clip skip": None if clip_skip <= 1 else clip_skip,
    }


_FROM_JOB = (
    "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "image_cfg_scale", "steps",
    "batch_size", "sd_model_name", "sd_model_hash", "denoising_strength",
    "extra_generation_params", "styles", "eta", "s_min_uncond",
    "sampler_noise_scheduler_override", "is_using_inpainting_conditioning",
)  # fmt: skip
_SHOWN = (
    "prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds",
    "subseed", "all_subseeds", "subseed_strength", "width", "height", "sampler_name", "cfg_scale",
    "steps", "batch_size", "sd_model_name", "sd_model_hash", "denoising_strength",
    "extra_generation_params", "index_of_first_image", "infotexts", "styles", "job_timestamp",
    "clip_skip", "is_using_inpainting_conditioning", "version",
)  # fmt: skip


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
        for name in _FROM_JOB:
            setattr(self, name, getattr(p, name, None))
        self.prompt = _first(p.prompt)
        self.negative_prompt = _first(p.negative_prompt)
        self.seed = int(_first(seed) if seed is not None else -1)
        self.subseed = subseed
        self.info = info
        self.comments = "".join(f"{text}\n" for text in p.comments) + comments
        self.index_of_first_image = index_of_first_image
        self.job_timestamp = shared.state.job_timestamp
        self.clip_skip = int(opts.CLIP_stop_at_last_layers)
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
        return json.dumps({name: getattr(self, name) for name in _SHOWN}, default=lambda o: None)

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


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) else value
