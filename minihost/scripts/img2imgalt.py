"""The script "img2img alternative test": paint a picture again from the very noise it comes from.

It puts a function of its own in the place of `p.sample`: that walks the picture up to noise by
calling the model directly, then makes a sampler of its own and runs it from there. Neither of the
two is announced to other scripts.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import gradio as gr
import torch
from modules import processing, scripts, sd_samplers, shared
from torch import Tensor


def find_noise(p: Any, texts: tuple[Tensor, Tensor], cfg: float, steps: int) -> Tensor:
    """Noise (b, c, h, w) of unit variance from which an Euler walk leads to `p.init_latent`.

    Args:
        p: the processing object, initialised.
        texts: conditions of the prompts and of the negative prompts, (b, tokens, width) each.
        cfg: guidance scale of the walk.
        steps: steps of the walk.
    """
    wrap = sd_samplers.create_sampler(p.sampler_name, p.sd_model).model_wrap
    x = p.init_latent
    cond = {
        "c_crossattn": [torch.cat([texts[1], texts[0]])],
        "c_concat": [torch.cat([p.image_conditioning] * 2)],
    }
    levels = wrap.get_sigmas(steps).flip(0)
    for low, high in pairwise(levels):
        rows = torch.cat([x] * 2)
        sigma = high.expand(len(rows))
        scaled = rows / (high**2 + 1).sqrt()
        noise = shared.sd_model.apply_model(scaled, wrap.sigma_to_t(sigma), cond=cond)
        uncond, prompted = noise.chunk(2)
        x = x + (uncond + cfg * (prompted - uncond)) * (high - low)
    return x / x.std()


class Script(scripts.Script):
    """Selectable in img2img."""

    def title(self) -> str:
        return "img2img alternative test"

    def show(self, is_img2img: bool) -> bool:
        return is_img2img

    def ui(self, is_img2img: bool) -> list[Any]:
        del is_img2img
        return [
            gr.HTML("Finds the noise of the picture, then generates from it."),
            gr.Checkbox(label="Override `Sampling method` to Euler?", value=True),
            gr.Checkbox(label="Override `prompt`?", value=True),
            gr.Textbox(label="Original prompt", lines=1),
            gr.Textbox(label="Original negative prompt", lines=1),
            gr.Checkbox(label="Override `Sampling Steps`?", value=True),
            gr.Slider(label="Decode steps", minimum=1, maximum=150, step=1, value=50),
            gr.Checkbox(label="Override `Denoising strength` to 1?", value=True),
            gr.Slider(label="Decode CFG scale", minimum=0.0, maximum=15.0, step=0.1, value=1.0),
            gr.Slider(label="Randomness", minimum=0.0, maximum=1.0, step=0.01, value=0.0),
            gr.Checkbox(label="Sigma adjustment", value=False),
        ]

    def run(self, p: Any, *args: Any) -> processing.Processed:
        _text, euler, own_prompt, prompt, negative, own_steps, steps, full, cfg, share, _ = args
        if euler:
            p.sampler_name = "Euler"
        if own_prompt:
            p.prompt, p.negative_prompt = prompt, negative
        if own_steps:
            p.steps = steps
        if full:
            p.denoising_strength = 1.0

        def sample(
            conditioning: Any,
            unconditional_conditioning: Any,
            seeds: list[int],
            subseeds: list[int],
            subseed_strength: float,
            prompts: list[str],
        ) -> Tensor:
            del subseeds, subseed_strength, prompts
            learned = p.sd_model.get_learned_conditioning
            texts = learned(p.batch_size * [prompt]), learned(p.batch_size * [negative])
            found = find_noise(p, texts, cfg, steps)
            drawn = processing.create_random_tensors(p.init_latent.shape[1:], seeds)
            mixed = ((1 - share) * found + share * drawn) / (share**2 + (1 - share) ** 2) ** 0.5
            sampler = sd_samplers.create_sampler(p.sampler_name, p.sd_model)
            first = sampler.model_wrap.get_sigmas(p.steps)[0]
            return sampler.sample_img2img(
                p,
                p.init_latent,
                mixed - p.init_latent / first,
                conditioning,
                unconditional_conditioning,
                image_conditioning=p.image_conditioning,
            )

        p.sample = sample
        return processing.process_images(p)
