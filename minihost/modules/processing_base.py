"""The object that carries one generation's settings and state: what both tabs share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from modules import (
    devices,
    extra_networks,
    processing_conditioning,
    prompt_parser,
    rng,
    sd_samplers,
    sd_samplers_common,
    shared,
)
from modules.shared import opts
from PIL import Image
from torch import Tensor, nn


def _run_time() -> Any:
    return field(default=None, init=False)


@dataclass(repr=False)
class StableDiffusionProcessing:
    """Settings given by the user come first; `init=False` fields are filled while it runs."""

    sd_model: object = None
    outpath_samples: str | None = None
    outpath_grids: str | None = None
    prompt: str | list[str] = ""
    negative_prompt: str | list[str] = ""
    styles: list[str] | None = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0.0
    sampler_name: str | None = None
    scheduler: str | None = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    extra_generation_params: dict[str, Any] | None = None
    overlay_images: list[Image.Image] | None = None
    eta: float | None = None
    denoising_strength: float | None = None
    s_min_uncond: float | None = None
    override_settings: dict[str, Any] | None = None
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: str | None = None
    refiner_switch_at: float | None = None
    firstpass_image: Image.Image | None = None

    scripts_value: Any = _run_time()
    script_args_value: Any = _run_time()
    scripts_setup_complete: bool = field(default=False, init=False)

    # Shared by all objects: [key, conditions] of the last generation.
    cached_uc: ClassVar[list] = [None, None]
    cached_c: ClassVar[list] = [None, None]

    comments: dict[str, int] | None = _run_time()
    sampler: sd_samplers_common.Sampler | None = _run_time()
    is_using_inpainting_conditioning: bool = field(default=False, init=False)
    paste_to: tuple[int, int, int, int] | None = _run_time()
    is_hr_pass: bool = field(default=False, init=False)
    c: Any = _run_time()
    uc: Any = _run_time()
    rng: rng.ImageRNG | None = _run_time()
    firstpass_steps: int | None = _run_time()
    all_prompts: list[str] | None = _run_time()
    all_negative_prompts: list[str] | None = _run_time()
    all_seeds: list[int] | None = _run_time()
    all_subseeds: list[int] | None = _run_time()
    iteration: int = field(default=0, init=False)
    batch_index: int = field(default=0, init=False)
    main_prompt: str | None = _run_time()
    main_negative_prompt: str | None = _run_time()
    prompts: list[str] | None = _run_time()
    negative_prompts: list[str] | None = _run_time()
    seeds: list[int] | None = _run_time()
    subseeds: list[int] | None = _run_time()
    extra_network_data: dict | None = _run_time()
    user: str | None = _run_time()
    sd_model_name: str | None = _run_time()
    sd_model_hash: str | None = _run_time()
    is_api: bool = field(default=False, init=False)
    sampler_noise_scheduler_override: Any = _run_time()
    refiner_checkpoint_info: Any = _run_time()

    def __post_init__(self) -> None:
        self.comments = {}
        self.styles = self.styles or []
        self.extra_generation_params = self.extra_generation_params or {}
        self.override_settings = self.override_settings or {}
        self.script_args = self.script_args_value or {}
        # On the object, so that `self.cached_c[0] = ...` and replacing the list both work.
        self.cached_uc = StableDiffusionProcessing.cached_uc
        self.cached_c = StableDiffusionProcessing.cached_c

    def fill_fields_from_opts(self) -> None:
        """Take sampler parameters that were not given from the settings."""
        if self.s_min_uncond is None:
            self.s_min_uncond = opts.s_min_uncond

    @property
    def sd_model(self) -> nn.Module:  # noqa: F811 - replaces the field's default, as in the WebUI
        """The loaded checkpoint."""
        return shared.sd_model

    @sd_model.setter
    def sd_model(self, value: object) -> None:
        pass

    # ---- scripts ----

    @property
    def scripts(self) -> Any:
        """The runner of the tab, or None."""
        return self.scripts_value

    @scripts.setter
    def scripts(self, value: Any) -> None:
        self.scripts_value = value
        self._setup_when_complete()

    @property
    def script_args(self) -> Any:
        """Values of all script components of the tab."""
        return self.script_args_value

    @script_args.setter
    def script_args(self, value: Any) -> None:
        self.script_args_value = value
        self._setup_when_complete()

    def _setup_when_complete(self) -> None:
        if self.scripts_value and self.script_args_value and not self.scripts_setup_complete:
            self.setup_scripts()

    def setup_scripts(self) -> None:
        """Run the scripts' `setup`."""
        self.scripts_setup_complete = True
        self.scripts.setup_scrips(self, is_ui=not self.is_api)

    def comment(self, text: str) -> None:
        """Show a line below the picture."""
        self.comments[text] = 1

    # ---- prompts and conditions ----

    def setup_prompts(self) -> None:
        """Lists of prompts, one per picture, styles included."""
        if isinstance(self.prompt, list):
            self.all_prompts = self.prompt
        elif isinstance(self.negative_prompt, list):
            self.all_prompts = [self.prompt] * len(self.negative_prompt)
        else:
            self.all_prompts = [self.prompt] * (self.batch_size * self.n_iter)
        negative = self.negative_prompt
        self.all_negative_prompts = (
            negative if isinstance(negative, list) else [negative] * len(self.all_prompts)
        )
        if len(self.all_prompts) != len(self.all_negative_prompts):
            msg = (
                f"{len(self.all_prompts)} prompts and {len(self.all_negative_prompts)} negative "
                "prompts were given; expected equally many"
            )
            raise RuntimeError(msg)
        self.main_prompt = self.all_prompts[0]
        self.main_negative_prompt = self.all_negative_prompts[0]

    def cached_params(
        self,
        required_prompts: Sequence[str],
        steps: int,
        extra_network_data: object,
        hires_steps: int | None = None,
    ) -> tuple:
        """Everything that conditions depend on."""
        return (
            list(required_prompts),
            steps,
            hires_steps,
            opts.CLIP_stop_at_last_layers,
            shared.sd_model.sd_checkpoint_info,
            extra_network_data,
            self.width,
            self.height,
        )

    def get_conds_with_caching(
        self,
        function: Callable[..., Any],
        required_prompts: Sequence[str],
        steps: int,
        caches: list[list],
        extra_network_data: object,
        hires_steps: int | None = None,
    ) -> Any:
        """Conditions from the first cache that fits, else made and kept in the first cache."""
        key = self.cached_params(required_prompts, steps, extra_network_data, hires_steps)
        for cache in caches:
            if cache[0] is not None and cache[0] == key:
                return cache[1]
        cache = caches[0]
        with devices.autocast():
            cache[1] = function(shared.sd_model, required_prompts, steps, hires_steps)
        cache[0] = key
        return cache[1]

    def setup_conds(self) -> None:
        """Encode the prompts of the current batch."""
        self.firstpass_steps = self.total_steps(self.sampler_name, self.steps)
        size = (self.width, self.height)
        self.c, self.uc = self.encode_prompts(
            (self.prompts, self.negative_prompts),
            size,
            ([self.cached_c], [self.cached_uc]),
            self.extra_network_data,
        )

    def total_steps(self, sampler_name: str | None, steps: int) -> int:
        """Evaluations that a sampler's progress is measured against."""
        config = sd_samplers.find_sampler_config(sampler_name)
        return config.total_steps(steps) if config else steps

    def encode_prompts(
        self,
        prompts: tuple[list[str], list[str]],
        size: tuple[int, int],
        caches: tuple[list[list], list[list]],
        extra_network_data: object,
        hires_steps: int | None = None,
    ) -> tuple[Any, Any]:
        """(conditions, negative conditions) of prompts and negative prompts for a picture size."""
        width, height = size
        negative = prompt_parser.SdConditioning(prompts[1], True, width, height)
        positive = prompt_parser.SdConditioning(prompts[0], False, width, height)
        steps, tags = self.firstpass_steps, extra_network_data
        encode, encode_parts = (
            prompt_parser.get_learned_conditioning,
            prompt_parser.get_multicond_learned_conditioning,
        )
        uc = self.get_conds_with_caching(encode, negative, steps, caches[1], tags, hires_steps)
        c = self.get_conds_with_caching(encode_parts, positive, steps, caches[0], tags, hires_steps)
        return c, uc

    def get_conds(self) -> tuple[Any, Any]:
        """(conditions, negative conditions) of the pass that runs."""
        return self.c, self.uc

    def parse_extra_network_prompts(self) -> None:
        """Take tags such as `<lora:...>` out of the prompts of the current batch."""
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    # ---- image conditioning ----

    def txt2img_image_conditioning(
        self, x: Tensor, width: int | None = None, height: int | None = None
    ) -> Tensor:
        """Conditioning latents for a picture made from nothing."""
        reads_picture = processing_conditioning.reads_picture(self.sd_model)
        self.is_using_inpainting_conditioning = reads_picture
        return processing_conditioning.txt2img_image_conditioning(
            self.sd_model, x, width or self.width, height or self.height
        )

    def img2img_image_conditioning(
        self,
        source_image: Tensor,
        latent_image: Tensor,
        image_mask: Image.Image | Tensor | None = None,
        round_image_mask: bool = True,
    ) -> Tensor:
        """Conditioning latents for a changed picture (b, 3, H, W) in [-1, 1]."""
        if self.sd_model.cond_stage_key == "edit":
            return processing_conditioning.edit_image_conditioning(self.sd_model, source_image)
        if not processing_conditioning.reads_picture(self.sd_model):
            return latent_image.new_zeros(latent_image.shape[0], 5, 1, 1)
        self.is_using_inpainting_conditioning = True
        return processing_conditioning.inpainting_image_conditioning(
            self.sd_model,
            source_image,
            latent_image,
            image_mask,
            round_image_mask,
            getattr(self, "inpainting_mask_weight", None),
        )

    # ---- life ----

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Prepare what all batches share."""

    def sample(
        self,
        conditioning: Any,
        unconditional_conditioning: Any,
        seeds: list[int],
        subseeds: list[int],
        subseed_strength: float,
        prompts: list[str],
    ) -> Tensor:
        """Latents of one batch, or already decoded pictures."""
        raise NotImplementedError

    def save_samples(self) -> bool:
        """Whether pictures of this job are written to disk now."""
        complete = not (shared.state.interrupted or shared.state.skipped)
        return bool(opts.samples_save and not self.do_not_save_samples and complete)

    def close(self) -> None:
        """Let go of everything large; called by whoever made the object."""
        self.sampler = None
        self.c = None
        self.uc = None


def create_random_tensors(
    shape: Sequence[int],
    seeds: Sequence[int],
    subseeds: Sequence[int] | None = None,
    subseed_strength: float = 0.0,
) -> Tensor:
    """Starting noise (len(seeds), *shape)."""
    return rng.ImageRNG(shape, seeds, subseeds, subseed_strength).next()


def as_float_tensor(array: object) -> Tensor:
    """A float tensor on the generating device, in the VAE's type."""
    return torch.as_tensor(array).to(devices.device, dtype=devices.dtype_vae)
