"""Train the demo U-Net and text encoder together on cached latents of scenes.

Epsilon prediction on the stock schedule; the loss is weighted towards noise, because colours
and layout are decided there (Hang et al., arXiv 2303.09556).
"""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from minildm.schedule import add_noise, alphas_cumprod
from minildm.text import TextEncoder, load_tokenizer, tokenize
from minildm.unet import UNetModel
from minildm.vae import AutoencoderKL
from torch import Tensor, nn
from tqdm import tqdm

from lib_controlnet.train.model import Average

from .assets import (
    RUNS,
    TEXT_FOLDER,
    export_base,
    load_state,
    new_text_encoder,
    new_unet,
    new_vae,
    save_state,
)
from .data import load_latents, load_scenes
from .loop import Log, cosine, save_grid, to_pictures
from .sampling import decode, embed, sample, seeded_noise

log = logging.getLogger(__name__)
STATE = RUNS / "base.pt"
FINAL = RUNS / "base_final.pt"
RATE = 1e-3
WEIGHT_CAP = 20.0
EMPTY_SHARE = 0.1
MIXED_FROM = 0.72
BATCHES = {128: 32, 192: 14, 256: 8}
MIX = {128: 0.4, 192: 0.3, 256: 0.3}
PROMPTS = (
    "a red circle on a white background",
    "a blue star and a yellow square on a green background",
    "a purple heart in front of an orange triangle on a pink background",
    "a green ring on a background gradient from blue to pink",
    "a striped red square, a dotted blue circle and a yellow star on a white background",
    "an orange heart on a background of blue and white checker",
    "a mosaic of red and blue",
    "an ink drawing in green, yellow and white",
)


class BaseModel(nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.unet: UNetModel = new_unet()
        self.text: TextEncoder = new_text_encoder()


class LatentPool:
    """Cached latents and token ids of every size, from which batches are drawn."""

    def __init__(self, vae: AutoencoderKL) -> None:
        tokenizer = load_tokenizer(TEXT_FOLDER)
        self.empty = tokenize(tokenizer, [""])[0]
        self.vae, self.tokenizer = vae, tokenizer
        self.sizes: dict[int, tuple[Tensor, Tensor]] = {}

    def _of_size(self, size: int) -> tuple[Tensor, Tensor]:
        if size not in self.sizes:
            ids = tokenize(self.tokenizer, load_scenes(size).captions)
            self.sizes[size] = load_latents(self.vae, size), ids
        return self.sizes[size]

    def draw(self, size: int, count: int) -> tuple[Tensor, Tensor]:
        """Latents (b, 4, h, w), some mirrored, and token ids (b, 77), some empty."""
        latents, tokens = self._of_size(size)
        rows = torch.randint(len(latents), (count,))
        z = latents[rows].float()
        mirrored = torch.rand(count) < 0.5
        z = torch.where(mirrored[:, None, None, None], z.flip(-1), z)
        ids = tokens[rows]
        emptied = torch.rand(count) < EMPTY_SHARE
        return z, torch.where(emptied[:, None], self.empty, ids)


def noise_loss(
    prediction: Tensor, noise: Tensor, timesteps: Tensor, alphas: Tensor, cap: float = WEIGHT_CAP
) -> Tensor:
    """Squared error of the noise, weighted as velocity prediction would, up to a cap."""
    weight = (1 / alphas[timesteps]).clamp(max=cap)
    error = F.mse_loss(prediction, noise, reduction="none").mean((1, 2, 3))
    return (weight * error).mean()


class Team:
    """Processes with one thread each that train one model on different batches."""

    def __init__(self, rank: int, world: int, model: nn.Module) -> None:
        self.rank, self.world = rank, world
        self.parameters = list(model.parameters())
        self.buffer = torch.zeros(sum(p.numel() for p in self.parameters) + 1)

    def average_gradients(self, progress: float) -> float:
        """Average the gradients over the team; the first process's progress."""
        if self.world == 1:
            return progress
        grads = [p.grad.flatten() for p in self.parameters]
        last = torch.tensor([progress * self.world * (self.rank == 0)])
        torch.cat([*grads, last], out=self.buffer)
        dist.all_reduce(self.buffer)
        self.buffer /= self.world
        parts = self.buffer[:-1].split([p.numel() for p in self.parameters])
        for p, part in zip(self.parameters, parts, strict=True):
            p.grad.copy_(part.view_as(p))
        return float(self.buffer[-1])


def train(vae: AutoencoderKL, minutes: float, workers: int = 2) -> BaseModel:
    """Train or resume until the clock has run for `minutes`; the averaged model."""
    model = BaseModel()
    if load_state(FINAL) is None:
        for size in BATCHES:
            load_latents(vae, size)
        (RUNS / "team").unlink(missing_ok=True)
        if workers == 1:
            _work(0, 1, minutes)
        else:
            mp.spawn(_work, (workers, minutes), workers)
    model.load_state_dict(load_state(FINAL)["model"])
    return model.eval()


class Run:
    """State of one process: model, optimiser, averaged weights, step."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.model = BaseModel()
        self.average = Average(self.model, 0.999)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), RATE, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
        )
        self.step = 0
        state = load_state(STATE)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.average.module.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def set_rate(self, progress: float) -> None:
        """Warm up, hold for 45% of the time, fall to zero."""
        factor = min((self.step + 1) / 100, cosine(int(progress * 1000), 1000, 0, 0.45))
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * factor

    def save(self, vae: AutoencoderKL) -> None:
        """Write the state, the averaged weights as the shipped file, and a grid."""
        state = {"model": self.model.state_dict(), "average": self.average.module.state_dict()}
        save_state(STATE, {**state, "optimizer": self.optimizer.state_dict(), "step": self.step})
        export_base(self.average.module.unet, vae, self.average.module.text)
        show(self.average.module, vae, f"base_{self.step:05d}")

    def finish(self, vae: AutoencoderKL) -> None:
        """Write the averaged weights as final."""
        export_base(self.average.module.unet, vae, self.average.module.text)
        save_state(FINAL, {"model": self.average.module.state_dict(), "steps": self.step})
        show(self.average.module, vae, "base_final", size=256)


def _work(rank: int, world: int, minutes: float, save_every: float = 180) -> None:
    """One process of the team; the first one keeps the average, saves and shows."""
    if world > 1:
        torch.set_num_threads(1)
        meeting = f"file://{RUNS / 'team'}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    vae = new_vae()
    vae.load_state_dict(load_state(RUNS / "vae_final.pt")["model"])
    vae.eval()
    run = Run()
    torch.manual_seed(1000 * run.step + rank)
    team, pool = Team(rank, world, run.model), LatentPool(vae)
    share = {size: count // world for size, count in BATCHES.items()}
    record = Log(RUNS / "logs" / "base.csv", fresh=run.step == 0) if rank == 0 else None
    bar = tqdm(initial=run.step, desc="base", mininterval=5, disable=rank > 0)
    saved = record.seconds if record else 0.0
    progress, running = (record.seconds / (60 * minutes) if record else 0.0), 0.0
    while progress < 1:
        run.set_rate(progress)
        size = _size(progress, run.step)
        now = record.seconds / (60 * minutes) if record else 0.0
        loss, progress = _step(run, pool.draw(size, share[size]), team, now)
        run.step += 1
        if record is None:
            continue
        run.average.update(run.model, run.step)
        running = loss if running == 0 else 0.98 * running + 0.02 * loss
        bar.update()
        if run.step % 20 == 0:
            bar.set_postfix(loss=f"{running:.4f}", done=f"{progress:.0%}")
            record.write(run.step, running)
        if record.seconds - saved > save_every:
            saved = record.seconds
            run.save(vae)
    if record is not None:
        run.finish(vae)
        log.info("base finished: %d steps in %.0f s", run.step, record.seconds)


def _size(progress: float, step: int) -> int:
    """The picture size of a step; the same in every process."""
    if progress < MIXED_FROM:
        return 128
    generator = torch.Generator().manual_seed(step)
    pick = torch.multinomial(torch.tensor(list(MIX.values())), 1, generator=generator).item()
    return list(MIX)[pick]


def _step(
    run: Run, batch: tuple[Tensor, Tensor], team: Team, progress: float
) -> tuple[float, float]:
    """Train on one batch; its loss, and the first process's progress."""
    model, optimizer = run.model, run.optimizer
    latents, ids = batch
    alphas = alphas_cumprod()
    timesteps = torch.randint(1000, (len(latents),))
    noise = torch.randn_like(latents)
    noisy = add_noise(latents, noise, timesteps, alphas)
    prediction = model.unet(noisy, timesteps, model.text(ids))
    loss = noise_loss(prediction, noise, timesteps, alphas)
    optimizer.zero_grad(set_to_none=False)
    loss.backward()
    progress = team.average_gradients(progress)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), progress


@torch.no_grad()
def show(model: BaseModel, vae: AutoencoderKL, name: str, size: int = 128) -> None:
    """Save a grid of two seeds for each fixed prompt."""
    tokenizer = load_tokenizer(TEXT_FOLDER)
    context = embed(model.text, tokenizer, [*PROMPTS, *PROMPTS])
    empty = embed(model.text, tokenizer, [""])
    noise = seeded_noise(list(range(len(context))), size)
    latents = sample(model.unet, context, empty, noise)
    pictures = to_pictures(decode(vae, latents))
    half = len(PROMPTS)
    save_grid(RUNS / f"{name}.png", [pictures[:half], pictures[half:]])
