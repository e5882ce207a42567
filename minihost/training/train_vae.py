"""Train the demo autoencoder on scenes, then fold its scale so that the stock factor fits."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from minildm.vae import AutoencoderKL
from torch import Tensor

from .assets import CONFIG, RUNS, load_state, new_vae, save_state
from .loop import Plan, fit, to_tensor
from .scenes import make_scene

FOLDED: Final = RUNS / "vae_folded.pt"
SCENES: Final = 1500
CROP: Final = 64
BATCH: Final = 16
PLAN: Final = Plan(1000, 1.5e-3, 50, 0.3)
REFINE_PLAN: Final = Plan(400, 8e-4, 30)


def train(plan: Plan = PLAN) -> AutoencoderKL:
    """Train or resume; the finished autoencoder."""
    vae = new_vae()
    finished = load_state(FOLDED)
    if finished is not None:
        vae.load_state_dict(finished["model"])
        return vae.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -6.0

    def loss_of(step: int) -> Tensor:
        return _loss(vae, _crops(step), _tie(step / plan.steps))

    fit("vae", vae, list(vae.parameters()), loss_of, plan)
    fold_scale(vae)
    save_state(FOLDED, {"model": vae.state_dict()})
    return vae


def refine_decoder(vae: AutoencoderKL, plan: Plan = REFINE_PLAN) -> AutoencoderKL:
    """Train the decoder alone; latents, and all that was trained on them, stay.

    A little noise on the latents prepares it for those that the U-Net makes.
    """

    def loss_of(step: int) -> Tensor:
        x = to_tensor(_crops(step))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                z = vae.encode(x).mean
                z = z + 0.08 / CONFIG.scale_factor * torch.randn_like(z)
            return _difference(vae.decode(z).float(), x)

    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    fit("vae_decoder", vae, trained, loss_of, plan)
    return vae


def _tie(progress: float) -> float:
    """Weight of the colour term: strong at first, nearly off once details are learnt."""
    if progress < 0.2:
        return 0.5
    return 0.1 if progress < 0.4 else 0.02


@cache
def _pictures() -> np.ndarray:
    return np.stack([make_scene(seed, mosaic_share=0.35).picture for seed in range(SCENES)])


def _crops(step: int) -> np.ndarray:
    """Parts of scenes, uint8 (b, CROP, CROP, 3), turned and mirrored at random."""
    rng, pictures, out = np.random.default_rng(step), _pictures(), []
    for _ in range(BATCH):
        picture = pictures[rng.integers(len(pictures))]
        y, x = rng.integers(0, picture.shape[0] - CROP + 1, 2)
        crop = picture[y : y + CROP, x : x + CROP]
        crop = np.rot90(crop, rng.integers(4))
        out.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return np.stack(out)


def _difference(decoded: Tensor, x: Tensor) -> Tensor:
    return F.l1_loss(decoded, x) + 2 * F.mse_loss(decoded, x)


def _loss(vae: AutoencoderKL, crops: np.ndarray, tie: float) -> Tensor:
    """L1 + 2 MSE + a little KL; `tie` binds three latent channels to the shrunk picture."""
    x = to_tensor(crops)
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x)
        decoded = vae.decode(posterior.sample()).float()
    posterior_kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    shrunk = F.avg_pool2d(x, vae.factor) * 2
    bound = F.mse_loss(posterior.mean[:, :3].float(), shrunk)
    return _difference(decoded, x) + 3e-4 * posterior_kl + tie * bound


@torch.no_grad()
def fold_scale(vae: AutoencoderKL, count: int = 128) -> None:
    """Rescale and centre the latent, channel by channel, in the two 1x1 convolutions.

    Afterwards the latent times the stock factor has zero mean and unit deviation, and the
    pictures are the same as before.
    """
    pictures = [make_scene(s).picture for s in range(count)]
    latents = torch.cat([vae.encode(to_tensor(p[None])).mean for p in pictures])
    mean = latents.mean((0, 2, 3))
    scale = 1 / (CONFIG.scale_factor * latents.std((0, 2, 3)))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= scale[None, :, None, None]
    quant.weight[:channels] *= scale[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) * scale
    quant.bias[channels:] += 2 * scale.log()
