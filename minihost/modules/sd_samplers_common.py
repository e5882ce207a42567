"""What all samplers share: latents to pictures and back, previews, the sampler base class."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from modules import devices, images, sd_models, shared
from modules.shared import opts, state
from PIL import Image
from torch import Tensor, nn

log = logging.getLogger(__name__)

# It compares the ends of a walk in different precisions and clamps them itself.
warnings.filterwarnings("ignore", message="Should have t[ab]", module="torchsde")

approximation_indexes = {"Full": 0, "Approx NN": 1, "Approx cheap": 2}


@dataclass
class SamplerData:
    """One entry of the sampler list; `constructor(model)` makes the sampler."""

    name: str
    constructor: Callable[[nn.Module], Sampler]
    aliases: list[str] = field(default_factory=list)
    options: dict = field(default_factory=dict)

    def total_steps(self, steps: int) -> int:
        """Evaluations that the progress fraction is measured against."""
        return steps * 2 if self.options.get("second_order", False) else steps


class InterruptedException(BaseException):  # the WebUI's name
    """Ends sampling; the last latent is used. Passes every `except Exception` on purpose."""


# ---- latents and pictures ------------------------------------------------------------------


def setup_img2img_steps(p: object, steps: int | None = None) -> tuple[int, int]:
    """(length of the schedule, index counted from its end where sampling starts)."""
    strength = min(p.denoising_strength, 0.999)
    if opts.img2img_fix_steps or steps is not None:
        requested = steps or p.steps
        length = int(requested / strength) if p.denoising_strength > 0 else 0
        return length, requested - 1
    return p.steps, int(strength * p.steps)


def decode_first_stage(model: nn.Module, x: Tensor) -> Tensor:
    """Pictures (b, 3, 8h, 8w), about [-1, 1], of scaled latents x (b, 4, h, w)."""
    return samples_to_images_tensor(x, 0, model)


def samples_to_images_tensor(
    sample: Tensor, approximation: int | None = None, model: nn.Module | None = None
) -> Tensor:
    """Pictures (b, 3, 8h, 8w), about [-1, 1].

    Args:
        sample: scaled latents (b, 4, h, w).
        approximation: 0 decodes; other numbers give a rough colour picture for previews.
            None takes the preview setting.
        model: default: the loaded checkpoint.
    """
    if approximation is None:
        approximation = approximation_indexes.get(opts.show_progress_type, 0)
    if approximation != 0:
        return cheap_approximation(sample)
    model = model or shared.sd_model
    with torch.no_grad(), devices.without_autocast():
        decoded = model.decode_first_stage(sample.to(model.first_stage_model_dtype))
    return decoded.float()


def cheap_approximation(sample: Tensor) -> Tensor:
    """Rough picture (b, 3, 8h, 8w) in [-1, 1] of latents (b, 4, h, w), without any network.

    The first three channels, each stretched to its own range: enough to see shapes appear.
    """
    rgb = sample[:, :3].float()
    low = rgb.amin(dim=(2, 3), keepdim=True)
    high = rgb.amax(dim=(2, 3), keepdim=True)
    rgb = (rgb - low) / (high - low).clamp(min=1e-6) * 2 - 1
    return F.interpolate(rgb, scale_factor=8, mode="bilinear")


def sample_to_image(
    samples: Tensor, index: int = 0, approximation: int | None = None
) -> Image.Image:
    """RGB picture of one of the scaled latents (b, 4, h, w)."""
    x = samples_to_images_tensor(samples[index][None], approximation)[0] * 0.5 + 0.5
    x = torch.clamp(x, 0.0, 1.0)
    array = 255.0 * np.moveaxis(x.cpu().float().numpy(), 0, 2)
    return Image.fromarray(array.astype(np.uint8))


def samples_to_image_grid(samples: Tensor, approximation: int | None = None) -> Image.Image:
    """One picture of all latents (b, 4, h, w)."""
    return images.image_grid([sample_to_image(x[None], 0, approximation) for x in samples])


def images_tensor_to_samples(
    image: Tensor, approximation: int | None = None, model: nn.Module | None = None
) -> Tensor:
    """Scaled latents (b, 4, H//8, W//8) of pictures (b, 3, H, W) in [0, 1], one at a time.

    Samples the posterior with torch's global generator, as the WebUI does.
    """
    del approximation
    model = model or shared.sd_model
    image = image.to(device=shared.device or devices.device, dtype=model.first_stage_model_dtype)
    image = image * 2 - 1
    encoded = [
        model.get_first_stage_encoding(model.encode_first_stage(single[None]))[0]
        for single in image
    ]
    return torch.stack(encoded)


def store_latent(decoded: Tensor) -> None:
    """Keep the latent for live previews."""
    state.current_latent = decoded
    every = opts.show_progress_every_n_steps
    is_its_turn = every > 0 and state.sampling_step % every == 0
    if is_its_turn and not shared.parallel_processing_allowed:
        state.assign_current_image(sample_to_image(decoded))


# ---- refiner -------------------------------------------------------------------------------


def apply_refiner(cfg_denoiser: object, sigma: Tensor | None = None) -> bool:
    """Change to the refiner checkpoint when its share of the noise begins; True if changed."""
    p = cfg_denoiser.p
    info = p.refiner_checkpoint_info
    switch_at = p.refiner_switch_at
    done = _share_done(cfg_denoiser, sigma)
    if switch_at is not None and done < switch_at:
        return False
    if info is None or shared.sd_model.sd_checkpoint_info is info:
        return False
    if getattr(p, "enable_hr", False) and not p.is_hr_pass:
        return False
    p.extra_generation_params["Refiner"] = info.short_title
    p.extra_generation_params["Refiner switch at"] = switch_at
    with sd_models.SkipWritingToConfig():
        sd_models.reload_model_weights(info=info)
    devices.torch_gc()
    p.setup_conds()
    cfg_denoiser.update_inner_model()
    return True


def _share_done(cfg_denoiser: object, sigma: Tensor | None) -> float:
    """How far a run has come, 0 to 1: by the present timestep, or by steps if the settings say so.

    Args:
        cfg_denoiser: the guided denoiser.
        sigma: noise level, or timestep for samplers over timesteps; None counts steps.
    """
    if opts.refiner_switch_by_sample_steps or sigma is None:
        cfg_denoiser.p.extra_generation_params["Refiner switch by sampling steps"] = True
        return cfg_denoiser.step / max(cfg_denoiser.total_steps or 0, 1)
    levels = getattr(cfg_denoiser.inner_model, "sigmas", None)
    if levels is None:
        timestep = int(sigma.max())
    else:
        timestep = int((levels.to(sigma.device) - sigma.max()).abs().argmin())
    return (999 - timestep) / 1000


# ---- noise ---------------------------------------------------------------------------------


class BrownianNoise:
    """Noise between two levels out of a Brownian path, one path per picture.

    Args:
        x: latent (b, c, h, w); gives shape, type and device.
        sigma_min: lowest positive noise level.
        sigma_max: highest noise level.
        seeds: one seed per picture.
    """

    def __init__(
        self, x: Tensor, sigma_min: Tensor, sigma_max: Tensor, seeds: Sequence[int]
    ) -> None:
        import torchsde

        start, end = sorted((torch.as_tensor(sigma_min), torch.as_tensor(sigma_max)))
        origin = torch.zeros_like(x[0])
        self.trees = [
            torchsde.BrownianTree(start, origin, end, entropy=int(seed)) for seed in seeds
        ]

    def __call__(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Unit noise (b, c, h, w) for the step from `sigma` to `sigma_next`."""
        first, second = torch.as_tensor(sigma), torch.as_tensor(sigma_next)
        low, high = (first, second) if first < second else (second, first)
        sign = 1 if first < second else -1
        increments = torch.stack([tree(low, high) for tree in self.trees])
        return increments * sign / (second - first).abs().sqrt()


# ---- sampler -------------------------------------------------------------------------------


class Sampler:
    """One run of a sampling function with guidance.

    Args:
        funcname: name of the function, or the function.
    """

    def __init__(self, funcname: str | Callable[..., Tensor]) -> None:
        self.funcname = funcname
        self.func: Callable[..., Tensor] | None = None
        self.eta: float | None = None
        self.config: SamplerData | None = None
        self.last_latent: Tensor | None = None
        self.s_min_uncond: float | None = None
        self.eta_infotext_field = "Eta"
        self.eta_default = 1.0
        wrapper = getattr(shared.sd_model, "model", None)
        self.conditioning_key = getattr(wrapper, "conditioning_key", "crossattn")
        self.p: object = None
        self.model_wrap_cfg = self.make_denoiser()
        self.model_wrap = self.model_wrap_cfg.inner_model
        self.sampler_extra_args: dict | None = None
        self.options: dict = {}

    def callback_state(self, d: dict) -> None:
        """Called by the sampling function after each step."""
        state.sampling_step = d["i"]

    def launch_sampling(self, steps: int, func: Callable[[], Tensor]) -> Tensor:
        """Run `func`; an interrupt gives the last latent."""
        self.model_wrap_cfg.steps = steps
        self.model_wrap_cfg.total_steps = self.config.total_steps(steps)
        state.sampling_steps = steps
        state.sampling_step = 0
        try:
            return func()
        except InterruptedException:
            return self.last_latent

    def initialize(self, p: object) -> dict:
        """Bind to `p`; gives the keyword arguments of the sampling function."""
        self.p = p
        self.model_wrap_cfg.p = p
        self.model_wrap_cfg.mask = getattr(p, "mask", None)
        self.model_wrap_cfg.nmask = getattr(p, "nmask", None)
        self.model_wrap_cfg.step = 0
        self.model_wrap_cfg.image_cfg_scale = getattr(p, "image_cfg_scale", None)
        self.eta = self.eta_default if p.eta is None else p.eta
        self.s_min_uncond = getattr(p, "s_min_uncond", 0.0)

        accepted = inspect.signature(self.func).parameters
        kwargs = {}
        if "eta" in accepted:
            if self.eta != self.eta_default:
                p.extra_generation_params[self.eta_infotext_field] = self.eta
            kwargs["eta"] = self.eta
        if "noise_sampler" in accepted:
            kwargs["noise_sampler"] = lambda sigma, sigma_next: p.rng.next()
        return kwargs

    def create_noise_sampler(self, x: Tensor, sigmas: Tensor, p: object) -> BrownianNoise:
        """Brownian noise seeded per picture."""
        positive = sigmas[sigmas > 0]
        sigma_min = positive.min() if positive.numel() else torch.zeros(())
        first = p.iteration * p.batch_size
        seeds = p.all_seeds[first : first + p.batch_size]
        return BrownianNoise(x, sigma_min, sigmas.max(), seeds[: x.shape[0]])

    def sample(
        self,
        p: object,
        x: Tensor,
        conditioning: object,
        unconditional_conditioning: object,
        steps: int | None = None,
        image_conditioning: Tensor | None = None,
    ) -> Tensor:
        """Latents (B, c, h, w) from unit noise `x`; arguments as in `sample_img2img`."""
        steps = steps or p.steps
        schedule = self.get_schedule(p, steps).to(x.device)
        x = self.scaled_noise(p, x, schedule)
        conditions = (conditioning, unconditional_conditioning, image_conditioning)
        return self._walk(p, (x, x), (schedule, schedule), steps, conditions)

    def sample_img2img(
        self,
        p: object,
        x: Tensor,
        noise: Tensor,
        conditioning: object,
        unconditional_conditioning: object,
        steps: int | None = None,
        image_conditioning: Tensor | None = None,
    ) -> Tensor:
        """Latents (B, c, h, w) from `x` with `noise` added up to the denoising strength.

        Args:
            p: the processing object.
            x: clean latents (B, c, h, w).
            noise: unit noise (B, c, h, w).
            conditioning: conditions of the prompts.
            unconditional_conditioning: conditions of the negative prompts.
            steps: exactly so many steps; None: `p.steps` times the denoising strength.
            image_conditioning: latents for inpainting models.
        """
        steps, t_enc = setup_img2img_steps(p, steps)
        schedule = self.get_schedule(p, steps).to(x.device)
        part, xi = self.noised(x, noise, schedule, (steps, t_enc))
        self.model_wrap_cfg.init_latent = x
        conditions = (conditioning, unconditional_conditioning, image_conditioning)
        return self._walk(p, (xi, x), (part, schedule), t_enc + 1, conditions)

    def _walk(
        self,
        p: object,
        latents: tuple[Tensor, Tensor],
        schedules: tuple[Tensor, Tensor],
        steps: int,
        conditions: tuple[object, object, Tensor | None],
    ) -> Tensor:
        """Run the sampling function.

        Args:
            p: the processing object.
            latents: where the walk starts, and what stands for its result until the first step.
            schedules: the part of the schedule that is walked, and the whole.
            steps: how many the progress counts.
            conditions: of prompts and negative prompts, and latents for inpainting models.
        """
        start, self.last_latent = latents
        kwargs = {**self.initialize(p), **self.schedule_arguments(p, self.last_latent, *schedules)}
        cond, uncond, image_cond = conditions
        self.sampler_extra_args = {
            "cond": cond,
            "image_cond": image_cond,
            "uncond": uncond,
            "cond_scale": p.cfg_scale,
            "s_min_uncond": self.s_min_uncond,
        }

        def walk() -> Tensor:
            return self.func(
                self.model_wrap_cfg,
                start,
                extra_args=self.sampler_extra_args,
                disable=False,
                callback=self.callback_state,
                **kwargs,
            )

        samples = self.launch_sampling(steps, walk)
        self.add_infotext(p)
        return samples

    def add_infotext(self, p: object) -> None:
        """Note what prompt padding did."""
        if self.model_wrap_cfg.padded_cond_uncond:
            p.extra_generation_params["Pad conds"] = True
