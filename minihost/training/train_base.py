"""Train the demo U-Net and text encoder together on cached latents of scenes.

Epsilon prediction on the stock schedule; the loss is weighted towards noise, because colours
and layout are decided there (Hang et al., arXiv 2303.09556).
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from minildm.checkpoint import load_checkpoint
from minildm.schedule import add_noise, alphas_cumprod
from minildm.text import load_tokenizer, tokenize
from minildm.vae import AutoencoderKL
from safetensors.torch import load_file
from torch import Tensor, nn

from .assets import CHECKPOINT, TEXT_FOLDER, export_base, new_text_encoder, new_unet, save_half
from .data import load_latents, load_scenes
from .loop import Plan, fit

PLAN: Final = Plan(
    5860, 1e-3, 100, 0.45, betas=(0.9, 0.99), weight_decay=1e-2, average=0.999
)  # fmt: skip
WEIGHT_CAP: Final = 20.0
EMPTY_SHARE: Final = 0.1
MIXED_FROM: Final = 0.72
BATCHES: Final = {128: 32, 192: 14, 256: 8}
MIX: Final = {128: 0.4, 192: 0.3, 256: 0.3}
MEAN: Final = 0.3
NORM_BIAS: Final = "cond_stage_model.transformer.text_model.final_layer_norm.bias"
VALUE: Final = ".attn2.to_v.weight"
PROMPTS: Final = ("", "a red circle", "a blue star and a yellow square on a green background")


def train(vae: AutoencoderKL, plan: Plan = PLAN) -> None:
    """Train or resume, and write the base model's file."""
    torch.manual_seed(2)
    model = nn.ModuleDict({"unet": new_unet(), "text": new_text_encoder()})
    tokenizer = load_tokenizer(TEXT_FOLDER)
    empty = tokenize(tokenizer, [""])[0]

    @cache
    def of_size(size: int) -> tuple[Tensor, Tensor]:
        return load_latents(vae, size), tokenize(tokenizer, load_scenes(size).captions)

    def loss_of(step: int) -> Tensor:
        size = _size(step / plan.steps)
        latents, tokens = of_size(size)
        rows = torch.randint(len(latents), (BATCHES[size],))
        mirrored, emptied = torch.rand(2, len(rows)) < torch.tensor([[0.5], [EMPTY_SHARE]])
        z = latents[rows].float()
        z = torch.where(mirrored[:, None, None, None], z.flip(-1), z)
        ids = torch.where(emptied[:, None], empty, tokens[rows])
        return _loss(model, z, ids)

    fit("base", model, list(model.parameters()), loss_of, plan)
    export_base(model["unet"], vae, model["text"])
    _move_mean()


def _size(progress: float) -> int:
    """The picture size of a step: at first 128, in the last part mixed."""
    if progress < MIXED_FROM:
        return 128
    return list(MIX)[torch.multinomial(torch.tensor(list(MIX.values())), 1).item()]


def _loss(model: nn.ModuleDict, latents: Tensor, ids: Tensor) -> Tensor:
    """Squared error of the noise, weighted as velocity prediction would, up to a cap."""
    alphas = alphas_cumprod()
    timesteps = torch.randint(1000, (len(latents),))
    noise = torch.randn_like(latents)
    noisy = add_noise(latents, noise, timesteps, alphas)
    prediction = model["unet"](noisy, timesteps, model["text"](ids))
    weight = (1 / alphas[timesteps]).clamp(max=WEIGHT_CAP)
    error = F.mse_loss(prediction, noise, reduction="none").mean((1, 2, 3))
    return (weight * error).mean()


def shift(tensors: dict[str, Tensor], amount: float) -> dict[str, Tensor]:
    """Tensors of a checkpoint whose text embedding is larger by `amount` in every channel.

    That leaves cross attention as it is: all keys move alike, which the softmax does not see, and
    every value moves by W_v c, which the output bias takes back.
    """
    moved = {name: tensor.float() for name, tensor in tensors.items()}
    moved[NORM_BIAS] = moved[NORM_BIAS] + amount
    for name in [name for name in moved if name.endswith(VALUE)]:
        output = name.removesuffix(VALUE) + ".attn2.to_out.0"
        value = moved[name].sum(dim=1) * amount
        moved[f"{output}.bias"] = moved[f"{output}.bias"] - moved[f"{output}.weight"] @ value
    return moved


@torch.no_grad()
def _move_mean() -> None:
    """Move the mean of the text embedding away from zero without changing any picture.

    WebUIs restore the mean of an embedding after weighting words, by dividing by the mean of the
    weighted one. An embedding whose mean is near zero then gets an arbitrary scale.
    """
    base = load_checkpoint(CHECKPOINT)
    mean = float(base.text(tokenize(base.tokenizer, list(PROMPTS))).mean())
    save_half(shift(load_file(CHECKPOINT), MEAN - mean), CHECKPOINT)
