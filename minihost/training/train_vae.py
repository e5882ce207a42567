"""Train the demo autoencoder on scenes, then fold its scale so that the stock factor fits."""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from minildm.vae import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from .assets import RUNS, SCALE_FACTOR, load_state, new_vae, save_state
from .loop import Log, cosine, save_grid, to_pictures, to_tensor
from .scenes import make_scene

log = logging.getLogger(__name__)
STATE = RUNS / "vae.pt"
FINAL = RUNS / "vae_final.pt"
REFINED = RUNS / "vae_refined.pt"
SCENES = 1500
CROP = 64
RATE = 1.5e-3
REFINE_RATE = 8e-4
HOLD_OUT = 1_000_000


def train(steps: int = 1500, batch: int = 16, save_every: int = 50) -> AutoencoderKL:
    """Train or resume; the finished autoencoder."""
    finished = load_state(FINAL)
    vae = new_vae()
    if finished is not None:
        vae.load_state_dict(finished["model"])
        return vae.eval()
    torch.manual_seed(1)
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -6.0
    optimizer = torch.optim.AdamW(vae.parameters(), RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    state = load_state(STATE)
    first = 0
    if state is not None:
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    rng = np.random.default_rng(first)
    pictures = np.stack([make_scene(s, mosaic_share=0.35).picture for s in range(SCENES)])
    record = Log(RUNS / "logs" / "vae.csv", fresh=first == 0)
    bar = tqdm(range(first, steps), initial=first, total=steps, desc="vae", mininterval=5)
    for step in bar:
        rate = RATE * cosine(step, steps, 50, 0.3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = to_tensor(_crops(rng, pictures, batch))
        loss = _loss(vae, x, _tie(step / steps))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")
            record.write(step, loss.item())
        if (step + 1) % save_every == 0:
            model = vae.state_dict()
            save_state(
                STATE, {"model": model, "optimizer": optimizer.state_dict(), "step": step + 1}
            )
            tqdm.write(f"vae step {step + 1}: PSNR {psnr(vae):.2f} dB, {record.seconds:.0f} s")
    fold_scale(vae)
    save_state(FINAL, {"model": vae.state_dict()})
    log.info("vae finished: PSNR %.2f dB", psnr(vae))
    return vae.eval()


def refine_decoder(vae: AutoencoderKL, minutes: float, batch: int = 16) -> AutoencoderKL:
    """Train the decoder alone for `minutes`; latents, and all that was trained on them, stay.

    A little noise on the latents prepares it for those that the U-Net makes. The result is
    kept beside the finished autoencoder, and read from there on the next call.
    """
    finished = load_state(REFINED)
    if finished is not None:
        vae.load_state_dict(finished["model"])
        return vae.eval()
    decoder = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(decoder, REFINE_RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    torch.manual_seed(4)
    rng = np.random.default_rng(4)
    pictures = np.stack([make_scene(s, mosaic_share=0.35).picture for s in range(SCENES)])
    record = Log(RUNS / "logs" / "vae_decoder.csv", fresh=True)
    bar = tqdm(desc="decoder", mininterval=5)
    step = 0
    while (progress := record.seconds / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = REFINE_RATE * min((step + 1) / 30, cosine(int(progress * 1000), 1000, 0))
        x = to_tensor(_crops(rng, pictures, batch))
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                z = vae.encode(x).mean
                z = z + 0.08 / SCALE_FACTOR * torch.randn_like(z)
            decoded = vae.decode(z).float()
        loss = F.l1_loss(decoded, x) + 2 * F.mse_loss(decoded, x)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder, 1.0)
        optimizer.step()
        step += 1
        bar.update()
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", done=f"{progress:.0%}")
            record.write(step, loss.item())
    save_state(REFINED, {"model": vae.state_dict()})
    log.info("decoder finished: %d steps, PSNR %.2f dB", step, psnr(vae))
    return vae.eval()


def _tie(progress: float) -> float:
    """Weight of the colour term: strong at first, nearly off once details are learnt."""
    if progress < 0.2:
        return 0.5
    return 0.1 if progress < 0.4 else 0.02


def _crops(rng: np.random.Generator, pictures: np.ndarray, batch: int) -> np.ndarray:
    out = []
    for _ in range(batch):
        picture = pictures[rng.integers(len(pictures))]
        y, x = rng.integers(0, picture.shape[0] - CROP + 1, 2)
        crop = picture[y : y + CROP, x : x + CROP]
        crop = np.rot90(crop, rng.integers(4))
        out.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return np.stack(out)


def _loss(vae: AutoencoderKL, x: Tensor, tie: float) -> Tensor:
    """L1 + 2 MSE + a little KL; `tie` binds three latent channels to the shrunk picture."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(x)
        decoded = vae.decode(posterior.sample()).float()
    posterior_kl = posterior.kl().float().mean() / posterior.mean[0].numel()
    shrunk = F.avg_pool2d(x, vae.factor) * 2
    bound = F.mse_loss(posterior.mean[:, :3].float(), shrunk)
    return F.l1_loss(decoded, x) + 2 * F.mse_loss(decoded, x) + 3e-4 * posterior_kl + tie * bound


@torch.no_grad()
def psnr(vae: AutoencoderKL, count: int = 32) -> float:
    """Mean PSNR in dB of reconstructed unseen scenes; also saves a grid."""
    was_training = vae.training
    vae.eval()
    pictures = np.stack([make_scene(HOLD_OUT + s).picture for s in range(count)])
    decoded = torch.cat([vae(to_tensor(p[None])) for p in pictures])
    out = to_pictures(decoded)
    error = ((out.astype(np.float32) - pictures) ** 2).mean((1, 2, 3))
    save_grid(RUNS / "vae.png", [pictures[:8], out[:8], pictures[8:16], out[8:16]])
    vae.train(was_training)
    return float((10 * np.log10(255**2 / error)).mean())


@torch.no_grad()
def fold_scale(vae: AutoencoderKL, count: int = 128) -> None:
    """Rescale and centre the latent, channel by channel, in the two 1x1 convolutions.

    Afterwards the latent times SCALE_FACTOR has zero mean and unit deviation, and the
    pictures are the same as before.
    """
    vae.eval()
    pictures = [make_scene(s).picture for s in range(count)]
    latents = torch.cat([vae.encode(to_tensor(p[None])).mean for p in pictures])
    mean = latents.mean((0, 2, 3))
    scale = 1 / (SCALE_FACTOR * latents.std((0, 2, 3)))
    channels = len(mean)
    quant, post = vae.quant_conv, vae.post_quant_conv
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= scale[None, :, None, None]
    quant.weight[:channels] *= scale[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) * scale
    quant.weight[channels:] *= 1.0
    quant.bias[channels:] += 2 * scale.log()
