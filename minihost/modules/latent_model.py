"""The loaded checkpoint as one object, with the attributes extensions know from `sd_model`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from minildm.text import TextEncoder
from modules import devices
from modules.sd_hijack_clip import FrozenCLIPEmbedderWithCustomWords
from torch import Tensor, nn

CONTEXT_SD2 = 1024
INPAINT_CHANNELS = 9


class DiffusionWrapper(nn.Module):
    """Feeds the U-Net with what its kind of conditioning needs.

    Args:
        diffusion_model: the U-Net.
        conditioning_key: `"crossattn"`, or `"hybrid"` for U-Nets with further input channels.
    """

    def __init__(self, diffusion_model: nn.Module, conditioning_key: str) -> None:
        super().__init__()
        self.diffusion_model = diffusion_model
        self.conditioning_key = conditioning_key

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        c_concat: Sequence[Tensor] | None = None,
        c_crossattn: Sequence[Tensor] | None = None,
        y: Tensor | None = None,
    ) -> Tensor:
        """Predict from x (b, 4, h, w), timesteps (b,) and lists of conditions."""
        if self.conditioning_key == "hybrid":
            x = torch.cat([x, *c_concat], dim=1)
        context = torch.cat(list(c_crossattn), dim=1)
        if y is None:
            return self.diffusion_model(x, t, context=context)
        return self.diffusion_model(x, t, context=context, y=y)


class LatentDiffusion(nn.Module):
    """A checkpoint ready to sample.

    Args:
        loaded: result of `minildm.load_checkpoint`.
    """

    def __init__(self, loaded: object) -> None:
        super().__init__()
        self.model = self._wrapped(loaded.unet)
        self.first_stage_model = loaded.vae
        self.cond_stage_model = self._encoder(loaded.text, loaded.tokenizer)
        self.register_buffer("alphas_cumprod", loaded.alphas_cumprod.float(), persistent=False)
        self.register_buffer(
            "alphas_cumprod_original", loaded.alphas_cumprod.float().clone(), persistent=False
        )
        self.parameterization = loaded.parameterization
        self.scale_factor = float(loaded.scale_factor)
        params = loaded.config.raw.get("model", {}).get("params", {})
        self.cond_stage_key = str(params.get("cond_stage_key", "txt"))
        self.architecture = architecture_of(loaded)
        self.sd_checkpoint_info: object = None
        self.sd_model_hash: str | None = None
        self.sd_model_checkpoint: str | None = None
        self.lowvram = False
        self.filename: str | None = None
        self.cond_stage_model_empty_prompt: Tensor | None = None
        context = int(loaded.config.unet.get("context_dim") or 0)
        self.is_sdxl = bool(loaded.is_sdxl)
        self.is_sd2 = context == CONTEXT_SD2 and not self.is_sdxl
        self.is_sd1 = not (self.is_sd2 or self.is_sdxl)
        self.is_sdxl_inpaint = self.is_sdxl and loaded.unet.in_channels == INPAINT_CHANNELS
        self.is_ssd = self.is_sd3 = False

    def _wrapped(self, unet: nn.Module) -> nn.Module:
        """The U-Net behind what tells it the condition."""
        return DiffusionWrapper(unet, "crossattn" if unet.in_channels == 4 else "hybrid")

    def _encoder(self, text: nn.Module, tokenizer: object) -> nn.Module:
        """Prompts to conditions."""
        return FrozenCLIPEmbedderWithCustomWords(text, tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the U-Net's weights are."""
        return next(self.model.parameters()).device

    @property
    def first_stage_model_dtype(self) -> torch.dtype:
        """Type of the VAE's weights."""
        return next(self.first_stage_model.parameters()).dtype

    @contextlib.contextmanager
    def ema_scope(self, context: str | None = None) -> Iterator[None]:
        """Null context: the checkpoint holds only one set of weights."""
        del context
        yield

    def apply_model(self, x_noisy: Tensor, t: Tensor, cond: dict) -> Tensor:
        """U-Net prediction (rows, 4, h, w).

        Args:
            x_noisy: latent already scaled for the model.
            t: timesteps (rows,), 0 to 999, may be fractional.
            cond: `c_crossattn` and `c_concat`, lists of tensors with equally many rows.
        """
        cast = {
            key: [item.to(devices.dtype_unet) for item in value]
            if isinstance(value, (list, tuple))
            else value.to(devices.dtype_unet)
            for key, value in cond.items()
        }
        with devices.autocast():
            out = self.model(x_noisy.to(devices.dtype_unet), t.to(devices.dtype_unet), **cast)
        return out.float() if devices.unet_needs_upcast else out

    def get_learned_conditioning(self, prompts: Sequence[str]) -> Tensor:
        """Context (prompts, 77 * chunks, width)."""
        return self.cond_stage_model(list(prompts))

    def encode_first_stage(self, x: Tensor) -> object:
        """Posterior of pictures x (b, 3, H, W) in [-1, 1]; sides are cut to multiples of 8."""
        factor = getattr(self.first_stage_model, "factor", 8)
        height, width = (size // factor * factor for size in x.shape[-2:])
        return self.first_stage_model.encode(x[..., :height, :width])

    def get_first_stage_encoding(self, encoder_posterior: object) -> Tensor:
        """A sample of the posterior, scaled for the U-Net; uses torch's global generator."""
        if isinstance(encoder_posterior, Tensor):
            return self.scale_factor * encoder_posterior
        return self.scale_factor * encoder_posterior.sample()

    def decode_first_stage(self, z: Tensor) -> Tensor:
        """Pictures (b, 3, 8h, 8w), about [-1, 1], of scaled latents z (b, 4, h, w)."""
        return self.first_stage_model.decode(z / self.scale_factor)


def architecture_of(loaded: object) -> str:
    """A text that is equal for checkpoints whose weights fit the same objects."""
    clips = [part for part in loaded.text.modules() if isinstance(part, TextEncoder)]
    text = [part.transformer.config.to_diff_dict() for part in clips]
    texts = {key: tuple(value.shape) for key, value in loaded.text.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in loaded.unet.state_dict().items()}
    vae_shapes = {key: tuple(value.shape) for key, value in loaded.vae.state_dict().items()}
    config = loaded.config
    numbers = (config.parameterization, config.scale_factor, config.linear_start, config.linear_end)
    edits = config.raw.get("model", {}).get("params", {}).get("cond_stage_key") == "edit"
    heads = (config.unet.get("num_heads"), config.unet.get("num_head_channels"))
    tensors = [sorted(found.items()) for found in (shapes, vae_shapes, texts)]
    return repr((tensors, text, numbers, heads, edits))
