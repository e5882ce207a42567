"""Train one demo ControlNet (Zhang et al., arXiv 2302.05543) on the finished base model.

The base is locked; a copy of its encoder and middle learns with zero convolutions, and half of
the prompts are emptied so that it reads the hint rather than the words.
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
import torch
from minildm.checkpoint import LoadedCheckpoint, load_checkpoint
from minildm.schedule import add_noise, alphas_cumprod
from minildm.text import tokenize
from torch import Tensor
from tqdm import tqdm

from .assets import CHECKPOINT, RUNS, export_control, load_state, save_state
from .control import ControlNet, controlled_forward
from .data import SceneCache, load_latents, load_scenes, segment_picture
from .hints import HINTS, Source
from .loop import Average, Log, cosine, save_grid, to_pictures
from .sampling import decode, embed, sample, seeded_noise
from .train_base import noise_loss

log = logging.getLogger(__name__)
NEW_RATE = 1.5e-3
COPY_RATE = 1e-3
EMPTY_SHARE = 0.5
BATCHES = {128: 16, 256: 4}
LARGE_SHARE = 0.4
LARGE_FROM = 0.35
KINDS = ("canny", "inpaint", "scribble", "depth")


class HintPool:
    """Latents, context and hints of cached scenes, from which batches are drawn."""

    def __init__(self, base: LoadedCheckpoint, kind: str) -> None:
        self.make_hint = HINTS[kind]
        self.scenes: dict[int, SceneCache] = {s: load_scenes(s) for s in BATCHES}
        self.latents = {s: load_latents(base.vae, s) for s in BATCHES}
        self.empty = embed(base.text, base.tokenizer, [""])
        self.text = base.text
        self.tokens = {s: tokenize(base.tokenizer, c.captions) for s, c in self.scenes.items()}

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (b, 4, h, w), hints (b, 3, 8h, 8w), context (b, 77, d); half mirrored."""
        scenes, count = self.scenes[size], BATCHES[size]
        rows = rng.integers(len(scenes), size=count)
        z = self.latents[size][torch.from_numpy(rows)].float()
        hints = torch.stack([self._hint(scenes, row, rng) for row in rows])
        mirrored = torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None]
        z = torch.where(mirrored, z.flip(-1), z)
        hints = torch.where(mirrored, hints.flip(-1), hints)
        with torch.no_grad():
            context = self.text(self.tokens[size][torch.from_numpy(rows)])
        emptied = torch.from_numpy(rng.random(count) < EMPTY_SHARE)[:, None, None]
        return z, hints, torch.where(emptied, self.empty, context)

    def _hint(self, scenes: SceneCache, row: int, rng: np.random.Generator) -> Tensor:
        return hint_tensor(self.make_hint(source_of(scenes, row), rng))


def source_of(scenes: SceneCache, row: int) -> Source:
    """What the hints of one cached scene are made of."""
    return Source(
        picture=scenes.pictures[row],
        edges=scenes.edges[row],
        borders=scenes.borders[row],
        depth=scenes.depth[row],
        segments=segment_picture(scenes.classes[row]),
    )


def hint_tensor(hint: np.ndarray) -> Tensor:
    """Hint (s, s, 3) as float (3, s, s)."""
    return torch.from_numpy(np.ascontiguousarray(hint.transpose(2, 0, 1))).float()


def train(
    kind: str, minutes: float, start_from: str | None = None, save_every: float = 270
) -> ControlNet:
    """Train or resume until the clock has run for `minutes`; the averaged network.

    Args:
        start_from: kind of a finished ControlNet to begin with instead of the base's encoder;
            one that reads lines already learns another hint in fewer steps.
    """
    base = load_checkpoint(CHECKPOINT)
    control = ControlNet(base.unet)
    final = RUNS / f"control_{kind}_final.pt"
    finished = load_state(final)
    if finished is not None:
        control.load_state_dict(finished["model"])
        return control.eval()
    torch.manual_seed(3)
    control = ControlNet(base.unet)
    if start_from is not None:
        control.load_state_dict(load_state(RUNS / f"control_{start_from}_final.pt")["model"])
    average = Average(control, 0.996)
    optimizer = torch.optim.AdamW(_groups(control), betas=(0.9, 0.99), weight_decay=1e-3)
    path = RUNS / f"control_{kind}.pt"
    state = load_state(path)
    step = 0
    if state is not None:
        control.load_state_dict(state["model"])
        average.module.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    pool = HintPool(base, kind)
    rng = np.random.default_rng(step)
    record = Log(RUNS / "logs" / f"control_{kind}.csv", fresh=step == 0)
    bar = tqdm(initial=step, desc=kind, mininterval=5)
    saved, running = record.seconds, 0.0
    while (progress := record.seconds / (60 * minutes)) < 1:
        factor = min((step + 1) / 50, cosine(int(progress * 1000), 1000, 0, 0.5))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        large = progress > LARGE_FROM and rng.random() < LARGE_SHARE
        loss = _step(control, base, optimizer, pool.draw(rng, 256 if large else 128))
        average.update(control, step)
        running = loss if running == 0 else 0.98 * running + 0.02 * loss
        step += 1
        bar.update()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{running:.4f}", done=f"{progress:.0%}")
            record.write(step, running)
        if record.seconds - saved > save_every:
            saved = record.seconds
            everything = {"model": control.state_dict(), "average": average.module.state_dict()}
            save_state(path, {**everything, "optimizer": optimizer.state_dict(), "step": step})
            export_control(average.module, kind)
            show(base, average.module, kind, pool)
    export_control(average.module, kind)
    save_state(final, {"model": average.module.state_dict(), "steps": step})
    show(base, average.module, kind, pool)
    log.info("%s finished: %d steps in %.0f s", kind, step, record.seconds)
    return average.module


def _groups(control: ControlNet) -> list[dict[str, object]]:
    new, copied = [], []
    for name, p in control.named_parameters():
        fresh = name.startswith(("input_hint_block", "zero_convs", "middle_block_out"))
        (new if fresh else copied).append(p)
    return [
        {"params": new, "lr": NEW_RATE, "peak": NEW_RATE},
        {"params": copied, "lr": COPY_RATE, "peak": COPY_RATE},
    ]


def _step(
    control: ControlNet,
    base: LoadedCheckpoint,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor],
) -> float:
    latents, hints, context = batch
    alphas = alphas_cumprod()
    # More of the noisy timesteps: that is where the layout is decided.
    timesteps = (1000 * (1 - torch.rand(len(latents)) ** 2)).long().clamp(0, 999)
    noise = torch.randn_like(latents)
    noisy = add_noise(latents, noise, timesteps, alphas)
    residuals = control(noisy, control.guide(hints), timesteps, context)
    prediction = controlled_forward(base.unet, noisy, timesteps, context, residuals)
    loss = noise_loss(prediction, noise, timesteps, alphas)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(control.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def controlled(base: LoadedCheckpoint, control: ControlNet, hints: Tensor) -> object:
    """Noise prediction under control, for `sampling.sample`; hints (b, 3, s, s)."""
    with torch.no_grad():
        guided = control.guide(hints)
    both = torch.cat([guided, guided])

    def predict(x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        residuals = control(x, both, timesteps, context)
        return controlled_forward(base.unet, x, timesteps, context, residuals)

    return predict


@torch.no_grad()
def show(base: LoadedCheckpoint, control: ControlNet, kind: str, pool: HintPool) -> None:
    """Save a grid: scene, hint, result with its caption, result with an empty prompt."""
    scenes = pool.scenes[128]
    rows = list(range(8))
    rng = np.random.default_rng(0)
    hints = torch.stack([hint_tensor(HINTS[kind](source_of(scenes, r), rng)) for r in rows])
    empty = embed(base.text, base.tokenizer, [""])
    context = embed(base.text, base.tokenizer, [scenes.captions[r] for r in rows])
    predict = controlled(base, control, hints)
    out = []
    for cond in (context, empty.expand(len(rows), -1, -1)):
        latents = sample(predict, cond, empty, seeded_noise(rows, 128), steps=16)
        out.append(to_pictures(decode(base.vae, latents)))
    shown = to_pictures(hints.clamp(0, 1) * 2 - 1)
    save_grid(RUNS / f"control_{kind}.png", [np.stack(scenes.pictures[:8]), shown, *out])


def main() -> None:
    """Command line entry."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(HINTS))
    parser.add_argument("--minutes", type=float, default=18)
    parser.add_argument("--start-from", choices=sorted(HINTS))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    train(args.kind, args.minutes, args.start_from)


if __name__ == "__main__":
    main()
