"""Guidance: chunks of all pictures, those of the negative prompt first, through the patcher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from modules import k_denoiser, prompt_parser, sd_samplers_common
from modules.latent_model import INPAINT_CHANNELS
from modules.script_callbacks import (
    AfterCFGCallbackParams,
    CFGDenoiserParams,
    cfg_after_cfg_callback,
    cfg_denoiser_callback,
)
from modules.sd_samplers_cfg_denoiser import CFGDenoiser, Cond, CondsList
from modules.shared import state
from torch import Tensor

from miniforge import memory, shapes
from miniforge.patcher import Prediction, UnetPatcher

COND, UNCOND = 0, 1
Chunk = tuple[int, Tensor, "Tensor | None"]
"""Which of the two, its text (b, tokens, width), and its vector of SDXL."""


class Schedule(k_denoiser.DiscreteSchedule):
    """The checkpoint's noise levels, whose timesteps are whole numbers.

    Args:
        engine: the checkpoint.
    """

    def __init__(self, engine: Any) -> None:
        super().__init__(prediction_of(engine).sigmas, quantize=True)
        self.inner_model = engine


def prediction_of(engine: Any) -> Prediction:
    """What a checkpoint predicts."""
    return engine.forge_objects.unet.model.prediction


class Denoiser(CFGDenoiser):
    """For samplers over noise levels."""

    walks_timesteps = False

    def wrap(self, model: Any) -> Schedule:
        """What samplers read noise levels from."""
        return Schedule(model)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        uncond: Any,
        cond: prompt_parser.MulticondLearnedConditioning,
        cond_scale: float,
        s_min_uncond: float,
        image_cond: Tensor,
    ) -> Tensor:
        """Guided result (B, c, h, w); see `CFGDenoiser.forward`, `uncond` may be None."""
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        walked = x
        if self.walks_timesteps:
            x, sigma = self._to_levels(x, sigma)
        if sd_samplers_common.apply_refiner(self):  # by the count of steps
            cond = self.sampler.sampler_extra_args["cond"]
            uncond = self.sampler.sampler_extra_args["uncond"]
            prepare(self.inner_model.inner_model.forge_objects.unet)
        conds_list, text = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        if uncond is not None:
            uncond = prompt_parser.reconstruct_cond_batch(uncond, self.step)
        counts = (state.sampling_step, state.sampling_steps)
        params = CFGDenoiserParams(x, image_cond, sigma, *counts, text, uncond, self)
        cfg_denoiser_callback(params)
        if self._skips_uncond(sigma, s_min_uncond, False):
            cond_scale = 1.0
        unet = self.inner_model.inner_model.forge_objects.unet
        scale = cond_scale * self.cond_scale_miltiplier
        denoised = guide(unet, params, conds_list, scale)
        if self.mask is not None:
            denoised = self.apply_blend(denoised, sigma)
        self.sampler.last_latent = denoised
        sd_samplers_common.store_latent(denoised)
        after = AfterCFGCallbackParams(denoised, *counts)
        cfg_after_cfg_callback(after)
        self.step += 1
        return self._to_noise(walked, after.x, sigma) if self.walks_timesteps else after.x

    def _to_levels(self, x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """A latent of preserved variance and its timesteps as one of exploding variance."""
        alpha = self.inner_model.inner_model.alphas_cumprod[timesteps.long()]
        return x / alpha.sqrt()[:, None, None, None], ((1 - alpha) / alpha).sqrt()

    def _to_noise(self, x: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
        """The noise in a latent of preserved variance."""
        wide = sigma[:, None, None, None]
        return (x * (wide**2 + 1).sqrt() - denoised) / wide


class TimestepsDenoiser(Denoiser):
    """For samplers over timesteps: what scripts see are noise levels and clean latents."""

    walks_timesteps = True

    def wrap(self, model: Any) -> Schedule:
        """Only from now on the checkpoint has the table that these samplers read."""
        model.alphas_cumprod = prediction_of(model).alphas_cumprod
        return super().wrap(model)


def guide(
    unet: UnetPatcher, params: CFGDenoiserParams, conds_list: CondsList, scale: float
) -> Tensor:
    """uncond + sum of weight * scale * (cond - uncond), (B, c, h, w); without guidance no uncond.

    Sub-prompts beyond the fewest that a picture has are lost.
    """
    parts = list(zip(*conds_list, strict=False))
    weights = [
        params.x.new_tensor([weight for _row, weight in part])[:, None, None, None]
        for part in parts
    ]
    chunks = [_chunk(COND, params.text_cond, [row for row, _weight in part]) for part in parts]
    is_free = math.isclose(scale, 1.0) and not unet.model_options.get("disable_cfg1_optimization")
    if params.text_uncond is None or is_free:
        found = evaluate(unet, params, chunks)
        total = sum(w * x0 for w, x0 in zip(weights, found, strict=True))
        return total / sum(weights)
    uncond = _chunk(UNCOND, params.text_uncond, range(len(params.x)))
    base, *found = evaluate(unet, params, [uncond, *chunks])
    return base + sum(w * scale * (x0 - base) for w, x0 in zip(weights, found, strict=True))


def _chunk(mark: int, text: Cond, rows: Sequence[int]) -> Chunk:
    index = list(rows)
    if isinstance(text, dict):
        return mark, text["crossattn"][index], text["vector"][index]
    return mark, text[index], None


def evaluate(unet: UnetPatcher, params: CFGDenoiserParams, chunks: Sequence[Chunk]) -> list[Tensor]:
    """Clean latents of each chunk, in one call of the U-Net or, with little memory, several."""
    step = memory.chunks_at_once[-1] if memory.chunks_at_once else len(chunks)
    found: list[Tensor] = []
    for start in range(0, len(chunks), step):
        found += _call(unet, params, chunks[start : start + step])
    return found


def _call(unet: UnetPatcher, params: CFGDenoiserParams, chunks: Sequence[Chunk]) -> list[Tensor]:
    count, images = len(chunks), len(params.x)
    marks = [mark for mark, _text, _vector in chunks]
    texts = [text for _mark, text, _vector in chunks]
    length = math.lcm(*(text.shape[1] for text in texts))
    c: dict[str, Any] = {
        "c_crossattn": torch.cat([text.repeat(1, length // text.shape[1], 1) for text in texts]),
        "transformer_options": _options(unet, marks, images, params.sigma),
    }
    vectors = [vector for _mark, _text, vector in chunks if vector is not None]
    if vectors:
        c["y"] = torch.cat(vectors)
    if unet.model.diffusion_model.in_channels == INPAINT_CHANNELS:
        c["c_concat"] = torch.cat([params.image_cond] * count)
    x, sigma = torch.cat([params.x] * count), torch.cat([params.sigma] * count)
    wrapper = unet.model_options.get("model_function_wrapper")
    if wrapper is None:
        output = unet.model.apply_model(x, sigma, **c)
    else:
        given = {"input": x, "timestep": sigma, "c": c, "cond_or_uncond": marks}
        output = wrapper(unet.model.apply_model, given)
    return list(output.chunk(count))


def _options(unet: UnetPatcher, marks: Sequence[int], images: int, sigma: Tensor) -> dict[str, Any]:
    options = {**unet.model_options["transformer_options"]}
    options |= {"cond_or_uncond": [*marks], "sigmas": sigma}
    if shapes.current().marks_rows:
        options["cond_mark"] = torch.tensor(marks).repeat_interleave(images)
    else:
        options["uuids"] = list(range(len(marks)))
    return options


def prepare(unet: UnetPatcher) -> None:
    """Right before a sampler runs: bring to the device what it needs."""
    memory.load_models_gpu(
        [unet, *unet.extra_model_patchers_during_sampling],
        hard_memory_preservation=unet.extra_preserved_memory_during_sampling,
    )
