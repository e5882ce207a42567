"""A checkpoint of SDXL's kind as one object, as the WebUI makes it of the `sgm` classes.

What an extension meets otherwise than with SD1: conditions are dicts of `crossattn` and `vector`,
the U-Net gets the vector as `y`, and `encode_first_stage` gives no posterior, but a tensor that was
drawn from it and is already scaled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from minildm.text import OpenTextEncoder
from minildm.unet import timestep_embedding
from modules import devices
from modules.latent_model import LatentDiffusion
from modules.sd_hijack_clip import (
    FrozenCLIPEmbedderForSDXLWithCustomWords,
    FrozenCLIPEmbedderWithCustomWords,
    FrozenOpenCLIPEmbedder2WithCustomWords,
    PromptChunk,
)
from torch import Tensor, nn

NUMBER_WIDTH = 256
SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
REFINER_SIZES = ("original_size_as_tuple", "crop_coords_top_left", "aesthetic_score")
DEFAULT_SIZE = 1024
LOW_SCORE, HIGH_SCORE = 2.5, 6.0
"""How good a picture the refiner is told to make, by negative prompt and prompt."""


class OpenAIWrapper(nn.Module):
    """Feeds the U-Net from a dict of conditions.

    Args:
        diffusion_model: the U-Net.
    """

    def __init__(self, diffusion_model: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = diffusion_model
        self.conditioning_key = "crossattn"

    def forward(self, x: Tensor, t: Tensor, c: Mapping[str, Tensor], **kwargs: object) -> Tensor:
        """Predict from x (b, c, h, w), timesteps (b,) and conditions with b rows."""
        if "concat" in c:
            x = torch.cat((x, c["concat"].type_as(x)), dim=1)
        context, y = c.get("crossattn"), c.get("vector")
        return self.diffusion_model(x, timesteps=t, context=context, y=y, **kwargs)


class GeneralConditioner(nn.Module):
    """Prompts and sizes to the dict of conditions.

    Args:
        embedders: the text encoders, in the checkpoint's order.
    """

    def __init__(self, embedders: Sequence[FrozenCLIPEmbedderWithCustomWords]) -> None:
        super().__init__()
        self.embedders = nn.ModuleList(embedders)
        self.numbers = SIZES if len(embedders) > 1 else REFINER_SIZES

    def forward(
        self, batch: Mapping[str, object], force_zero_embeddings: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Conditions of `batch["txt"]`, with the numbers in tensors (b, n).

        Returns:
            `crossattn` (b, tokens, width) and `vector` (b, pooled + 256 for each number).
        """
        tokens, vectors = [], []
        for embedder in self.embedders:
            encoded = embedder(batch["txt"])
            context, *pooled = encoded if isinstance(encoded, tuple) else (encoded,)
            tokens.append(context)
            vectors += pooled
        if "txt" in force_zero_embeddings:
            tokens = [torch.zeros_like(part) for part in tokens]
            vectors = [torch.zeros_like(part) for part in vectors]
        for name in self.numbers:
            rows, count = batch[name].shape
            waves = timestep_embedding(batch[name].flatten(), NUMBER_WIDTH)
            vectors.append(waves.reshape(rows, count * NUMBER_WIDTH).to(vectors[0]))
        return {"crossattn": torch.cat(tokens, dim=2), "vector": torch.cat(vectors, dim=1)}

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without start and end."""
        return self.embedders[0].tokenize(texts)

    def process_texts(self, texts: Sequence[str]) -> tuple[list[list[PromptChunk]], int]:
        """Chunks of every text and the largest number of tokens."""
        return self.embedders[0].process_texts(texts)

    def get_target_prompt_token_count(self, token_count: int) -> int:
        """Tokens that fit into the chunks needed for `token_count`."""
        return self.embedders[0].get_target_prompt_token_count(token_count)


class DiffusionEngine(LatentDiffusion):
    """A checkpoint of SDXL's kind ready to sample.

    Args:
        loaded: result of `minildm.load_checkpoint`.
    """

    def _wrapped(self, unet: nn.Module) -> nn.Module:
        return OpenAIWrapper(unet)

    def _encoder(self, text: nn.Module, tokenizer: object) -> nn.Module:
        return GeneralConditioner(
            [
                FrozenOpenCLIPEmbedder2WithCustomWords(part, tokenizer)
                if isinstance(part, OpenTextEncoder)
                else FrozenCLIPEmbedderForSDXLWithCustomWords(part, tokenizer)
                for part in text.embedders
            ]
        )

    def apply_model(self, x_noisy: Tensor, t: Tensor, cond: Mapping[str, object]) -> Tensor:
        """U-Net prediction (rows, 4, h, w).

        Args:
            x_noisy: latent already scaled for the model.
            t: timesteps (rows,), 0 to 999, may be fractional.
            cond: `crossattn`, `vector`, and `c_concat`, a list, for inpainting checkpoints.
        """
        dtype = devices.dtype_unet
        cast = {key: value.to(dtype) for key, value in cond.items() if isinstance(value, Tensor)}
        x = x_noisy.to(dtype)
        if self.is_sdxl_inpaint:
            x = torch.cat([x, *(part.to(dtype) for part in cond["c_concat"])], dim=1)
        with devices.autocast():
            out = self.model(x, t.to(dtype), cast)
        return out.float() if devices.unet_needs_upcast else out

    def get_learned_conditioning(self, batch: Sequence[str]) -> dict[str, Tensor]:
        """Conditions of prompts, which may say (`SdConditioning`) for what picture they are."""
        width = getattr(batch, "width", None) or DEFAULT_SIZE
        height = getattr(batch, "height", None) or DEFAULT_SIZE
        is_negative = getattr(batch, "is_negative_prompt", False)
        numbers = {
            "original_size_as_tuple": [height, width],
            "crop_coords_top_left": [0, 0],
            "target_size_as_tuple": [height, width],
            "aesthetic_score": [LOW_SCORE if is_negative else HIGH_SCORE],
        }
        rows = {
            name: torch.tensor([values] * len(batch), device=devices.device, dtype=torch.float32)
            for name, values in numbers.items()
        }
        is_empty = is_negative and all(text == "" for text in batch)
        return self.cond_stage_model(
            {"txt": list(batch), **rows}, force_zero_embeddings=["txt"] if is_empty else []
        )

    def encode_first_stage(self, x: Tensor) -> Tensor:
        """A scaled latent of pictures x (b, 3, H, W) in [-1, 1], drawn by the global generator."""
        return self.scale_factor * super().encode_first_stage(x)

    def get_first_stage_encoding(self, encoder_posterior: Tensor) -> Tensor:
        """The argument: encoding has drawn and scaled it."""
        return encoder_posterior
