"""txt2img: pictures from noise, with an optional second pass at a higher resolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from modules import (
    devices,
    extra_networks,
    images,
    rng,
    sd_models,
    sd_samplers,
    sd_samplers_common,
    shared,
)
from modules.processing_base import StableDiffusionProcessing, _run_time, as_float_tensor
from modules.processing_images import decode_latent_batch, opt_f, to_picture, to_tensor
from modules.shared import opts, state
from torch import Tensor

SAME_CHECKPOINT = "Use same checkpoint"


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    """One txt2img job."""

    enable_hr: bool = False
    denoising_strength: float = 0.75
    hr_scale: float = 2.0
    hr_upscaler: str | None = None
    hr_second_pass_steps: int = 0
    hr_resize_x: int = 0
    hr_resize_y: int = 0
    hr_checkpoint_name: str | None = None
    hr_sampler_name: str | None = None
    hr_scheduler: str | None = None
    hr_prompt: str | list[str] = ""
    hr_negative_prompt: str | list[str] = ""

    cached_hr_uc: ClassVar[list] = [None, None]
    cached_hr_c: ClassVar[list] = [None, None]

    hr_checkpoint_info: Any = _run_time()
    hr_upscale_to_x: int = field(default=0, init=False)
    hr_upscale_to_y: int = field(default=0, init=False)
    truncate_x: int = field(default=0, init=False)
    truncate_y: int = field(default=0, init=False)
    latent_scale_mode: dict | None = _run_time()
    hr_c: Any = _run_time()
    hr_uc: Any = _run_time()
    all_hr_prompts: list[str] | None = _run_time()
    all_hr_negative_prompts: list[str] | None = _run_time()
    hr_prompts: list[str] | None = _run_time()
    hr_negative_prompts: list[str] | None = _run_time()
    hr_extra_network_data: dict | None = _run_time()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cached_hr_uc = StableDiffusionProcessingTxt2Img.cached_hr_uc
        self.cached_hr_c = StableDiffusionProcessingTxt2Img.cached_hr_c

    def calculate_target_resolution(self) -> None:
        """Size of the second pass; may be called early and repeatedly."""
        width, height = self.width, self.height
        to_x, to_y = self.hr_resize_x, self.hr_resize_y
        self.truncate_x = self.truncate_y = 0
        if to_x == 0 and to_y == 0:
            self.extra_generation_params["Hires upscale"] = self.hr_scale
            self.hr_upscale_to_x = int(width * self.hr_scale)
            self.hr_upscale_to_y = int(height * self.hr_scale)
            return
        self.extra_generation_params["Hires resize"] = f"{to_x}x{to_y}"
        by_width = to_y == 0 or (to_x != 0 and width / height < to_x / to_y)
        if by_width:
            self.hr_upscale_to_x, self.hr_upscale_to_y = to_x, to_x * height // width
        else:
            self.hr_upscale_to_x, self.hr_upscale_to_y = to_y * width // height, to_y
        if to_x != 0 and to_y != 0:
            self.truncate_x = (self.hr_upscale_to_x - to_x) // opt_f
            self.truncate_y = (self.hr_upscale_to_y - to_y) // opt_f

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        """Resolve the second pass's checkpoint, upscaler and size."""
        del all_prompts, all_seeds, all_subseeds
        if not self.enable_hr:
            return
        info = self.extra_generation_params
        info["Denoising strength"] = self.denoising_strength
        if self.hr_checkpoint_name and self.hr_checkpoint_name != SAME_CHECKPOINT:
            self.hr_checkpoint_info = sd_models.get_closet_checkpoint_match(self.hr_checkpoint_name)
            if self.hr_checkpoint_info is None:
                msg = (
                    f"hires checkpoint '{self.hr_checkpoint_name}' is not known; expected one "
                    f"of: {', '.join(sd_models.checkpoint_tiles())}"
                )
                raise RuntimeError(msg)
            info["Hires checkpoint"] = self.hr_checkpoint_info.short_title
        if self.hr_sampler_name is not None and self.hr_sampler_name != self.sampler_name:
            info["Hires sampler"] = self.hr_sampler_name
        info["Hires prompt"] = _hires_text("all_hr_prompts", "prompt_text")
        info["Hires negative prompt"] = _hires_text("all_hr_negative_prompts", "negative_prompt")
        info["Hires schedule type"] = None  # known when the sampler makes its schedule
        self.hr_scheduler = self.hr_scheduler or self.scheduler
        self._resolve_upscaler()
        self.calculate_target_resolution()
        self._count_jobs()
        if self.hr_second_pass_steps:
            info["Hires steps"] = self.hr_second_pass_steps
        if self.hr_upscaler is not None:
            info["Hires upscaler"] = self.hr_upscaler

    def _resolve_upscaler(self) -> None:
        name = self.hr_upscaler
        if name is None:
            name = shared.latent_upscale_default_mode
        self.latent_scale_mode = shared.latent_upscale_modes.get(name)
        known = [upscaler.name for upscaler in shared.sd_upscalers]
        if self.latent_scale_mode is None and name not in known:
            choices = ", ".join([*shared.latent_upscale_modes, *known])
            msg = f"hires upscaler '{name}' is not known; expected one of: {choices}"
            raise RuntimeError(msg)

    def _count_jobs(self) -> None:
        if state.processing_has_refined_job_count:
            return
        if state.job_count == -1:
            state.job_count = self.n_iter
        state.job_count *= 2
        state.processing_has_refined_job_count = True

    def sample(
        self,
        conditioning: Any,
        unconditional_conditioning: Any,
        seeds: list[int],
        subseeds: list[int],
        subseed_strength: float,
        prompts: list[str],
    ) -> Tensor:
        """Latents (b, 4, h, w), or decoded pictures when there was a second pass."""
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        if self.firstpass_image is not None and self.enable_hr:
            samples, decoded = self._from_firstpass_image()
        else:
            x = self.rng.next()
            if self.scripts is not None:
                self.scripts.process_before_every_sampling(
                    p=self, x=x, noise=x, c=conditioning, uc=unconditional_conditioning
                )
            samples = self.sampler.sample(
                self,
                x,
                conditioning,
                unconditional_conditioning,
                image_conditioning=self.txt2img_image_conditioning(x),
            )
            if not self.enable_hr:
                return samples
            devices.torch_gc()
            decoded = None
            if self.latent_scale_mode is None:
                decoded = torch.stack(
                    decode_latent_batch(
                        self.sd_model, samples, target_device=devices.cpu, check_for_nans=True
                    )
                ).to(dtype=torch.float32)
        with sd_models.SkipWritingToConfig():
            sd_models.reload_model_weights(info=self.hr_checkpoint_info)
        return self.sample_hr_pass(samples, decoded, seeds, subseeds, subseed_strength, prompts)

    def _from_firstpass_image(self) -> tuple[Tensor | None, Tensor | None]:
        """(latents, decoded): the picture to be upscaled instead of a first pass's result."""
        array = to_tensor(self.firstpass_image.convert("RGB"))[None]
        if self.latent_scale_mode is None:
            return None, torch.from_numpy(array * 2.0 - 1.0)
        samples = sd_samplers_common.images_tensor_to_samples(as_float_tensor(array), 0)
        devices.torch_gc()
        return samples, None

    def sample_hr_pass(
        self,
        samples: Tensor | None,
        decoded_samples: Tensor | None,
        seeds: list[int],
        subseeds: list[int],
        subseed_strength: float,
        prompts: list[str],
    ) -> Any:
        """The second pass; gives decoded pictures, or `samples` when interrupted before it.

        Args:
            samples: latents (b, 4, h, w) of the first pass.
            decoded_samples: its pictures (b, 3, H, W) about [-1, 1], for picture upscalers.
            seeds: one per picture.
            subseeds: one per picture.
            subseed_strength: 0 to 1.
            prompts: unused; the prompts of this pass are `hr_prompts`.
        """
        del seeds, prompts
        if state.interrupted:
            return samples
        self.is_hr_pass = True
        name = self.hr_sampler_name or self.sampler_name
        self.sampler = sd_samplers.create_sampler(name, self.sd_model)
        if self.latent_scale_mode is not None:
            samples, image_conditioning = self._upscale_latents(samples)
        else:
            samples, image_conditioning = self._upscale_pictures(decoded_samples)
        state.nextjob()

        samples = self._truncated(samples)
        self.rng = rng.ImageRNG(
            samples.shape[1:],
            self.seeds,
            subseeds=subseeds,
            subseed_strength=subseed_strength,
        )
        noise = self.rng.next()
        self._prepare_hr_conds()
        if self.scripts is not None:
            self.scripts.before_hr(self)
            self.scripts.process_before_every_sampling(
                p=self, x=samples, noise=noise, c=self.hr_c, uc=self.hr_uc
            )
        samples = self.sampler.sample_img2img(
            self,
            samples,
            noise,
            self.hr_c,
            self.hr_uc,
            steps=self.hr_second_pass_steps or self.steps,
            image_conditioning=image_conditioning,
        )
        self.sampler = None
        devices.torch_gc()
        decoded = decode_latent_batch(
            self.sd_model, samples, target_device=devices.cpu, check_for_nans=True
        )
        self.is_hr_pass = False
        return decoded

    def _truncated(self, samples: Tensor) -> Tensor:
        """The centre of latents (b, 4, h, w) that are larger than asked on one side."""
        left, top = self.truncate_x // 2, self.truncate_y // 2
        right, bottom = (self.truncate_x + 1) // 2, (self.truncate_y + 1) // 2
        return samples[:, :, top : samples.shape[2] - bottom, left : samples.shape[3] - right]

    def _prepare_hr_conds(self) -> None:
        """Extra networks and prompts of the second pass."""
        devices.torch_gc()
        with devices.autocast():
            extra_networks.activate(self, self.hr_extra_network_data)
            self.calculate_hr_conds()

    def _upscale_latents(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        size = (self.hr_upscale_to_y // opt_f, self.hr_upscale_to_x // opt_f)
        samples = F.interpolate(
            samples,
            size=size,
            mode=self.latent_scale_mode["mode"],
            antialias=self.latent_scale_mode["antialias"],
        )
        if getattr(self, "inpainting_mask_weight", opts.inpainting_mask_weight) < 1.0:
            pictures = sd_samplers_common.decode_first_stage(self.sd_model, samples)
            return samples, self.img2img_image_conditioning(pictures, samples)
        # Parity: the WebUI sizes an inpainting model's conditioning by the first pass here, and so
        # cannot use such a model with this upscaler.
        return samples, self.txt2img_image_conditioning(samples)

    def _upscale_pictures(self, decoded_samples: Tensor) -> tuple[Tensor, Tensor]:
        pictures = torch.clamp((decoded_samples + 1.0) / 2.0, min=0.0, max=1.0)
        upscaled = []
        for sample in pictures:
            image = images.resize_image(
                0,
                to_picture(sample),
                self.hr_upscale_to_x,
                self.hr_upscale_to_y,
                upscaler_name=self.hr_upscaler,
            )
            upscaled.append(to_tensor(image))
        batch = as_float_tensor(np.array(upscaled))
        samples = sd_samplers_common.images_tensor_to_samples(batch, 0)
        # Parity: inpainting models get the 0..1 picture here, not -1..1, as in the WebUI.
        return samples, self.img2img_image_conditioning(batch, samples)

    # ---- prompts of the second pass ----

    def setup_prompts(self) -> None:
        """Lists of prompts for both passes."""
        super().setup_prompts()
        if not self.enable_hr:
            return
        self.hr_prompt = self.hr_prompt or self.prompt
        self.hr_negative_prompt = self.hr_negative_prompt or self.negative_prompt
        self.all_hr_prompts = self._hires_list(self.hr_prompt)
        self.all_hr_negative_prompts = self._hires_list(self.hr_negative_prompt)

    def _hires_list(self, prompt: str | list[str]) -> list[str]:
        return prompt if isinstance(prompt, list) else [prompt] * len(self.all_prompts)

    def calculate_hr_conds(self) -> None:
        """Encode the prompts of the second pass, unless done already."""
        if self.hr_c is not None:
            return
        name = self.hr_sampler_name or self.sampler_name
        self.hr_c, self.hr_uc = self.encode_prompts(
            (self.hr_prompts, self.hr_negative_prompts),
            (self.hr_upscale_to_x, self.hr_upscale_to_y),
            ([self.cached_hr_c, self.cached_c], [self.cached_hr_uc, self.cached_uc]),
            self.hr_extra_network_data,
            self.total_steps(name, self.hr_second_pass_steps or self.steps),
        )

    def setup_conds(self) -> None:
        """Encode the prompts of the current batch; in the second pass only its own."""
        if self.is_hr_pass:  # the refiner changed the checkpoint in the middle of it
            self.hr_c = None
            self.calculate_hr_conds()
            return
        super().setup_conds()
        self.hr_uc = None
        self.hr_c = None

    def get_conds(self) -> tuple[Any, Any]:
        """(conditions, negative conditions) of the pass that runs."""
        if self.is_hr_pass:
            return self.hr_c, self.hr_uc
        return super().get_conds()

    def parse_extra_network_prompts(self) -> None:
        """Take tags out of the prompts of the current batch, for both passes."""
        super().parse_extra_network_prompts()
        if not self.enable_hr:
            return
        first = self.iteration * self.batch_size
        batch = slice(first, first + self.batch_size)
        self.hr_negative_prompts = self.all_hr_negative_prompts[batch]
        self.hr_prompts, self.hr_extra_network_data = extra_networks.parse_prompts(
            self.all_hr_prompts[batch]
        )

    def close(self) -> None:
        """Let go of everything large."""
        super().close()
        self.hr_c = None
        self.hr_uc = None


def _hires_text(list_name: str, same_as: str) -> Callable[..., str | None]:
    """Infotext value: the second pass's prompt where it differs from the first pass's."""

    def value(p: Any, index: int, **context: Any) -> str | None:
        text = getattr(p, list_name)[index]
        return text if text != context[same_as] else None

    return value
