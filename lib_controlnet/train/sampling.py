"""Sample pictures of a training: DDIM (Song et al., arXiv:2010.02502) on examples held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from lib_controlnet.detect import preprocess

from .adherence import adherence, correlation
from .annotate import Recipe, map_of
from .dataset import about, read_control, read_picture, write_picture
from .model import predict
from .steps import read_hint, seed_of, type_numbers

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL, UNet2DConditionModel
    from torch import Tensor, nn

    from .cache import Cache
    from .config import Settings


AT_ONCE: Final = 4
"""Pictures that are drawn at the same time; more take more memory than training does."""


@dataclass(frozen=True, eq=False)
class Networks:
    """What draws: a U-Net, a control or None, an autoencoder, and the constants of the base."""

    unet: UNet2DConditionModel
    control: nn.Module | None
    vae: AutoencoderKL
    alphas: Tensor
    scale: float
    objective: str


@dataclass(frozen=True, eq=False)
class Wish:
    """Pictures to draw, a row each.

    Attributes:
        context: (b, 77, c), and the pooled text (b, p) or None.
        empty: the same of the empty prompt, (1, ...).
        hint: (b, 3, H, W) in [0, 1], -1 where it is masked.
        types: (b,), numbers of a Union's types.
        guided_only: the control acts on the prompt's rows alone ("ControlNet is more important").
    """

    context: tuple[Tensor, Tensor | None]
    empty: tuple[Tensor, Tensor | None]
    hint: Tensor
    types: Tensor | None = None
    guided_only: bool = False


def start_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Unit noise (b, 4, h, w), each row from its own seed."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


@torch.no_grad()
def draw(networks: Networks, wish: Wish, noise: Tensor, steps: int, cfg: float) -> Tensor:
    """Pictures (b, 3, H, W) in [0, 1].

    Args:
        noise: unit noise (b, 4, h, w) on the networks' device.
        steps: evaluations.
        cfg: guidance scale.
    """
    times = torch.linspace(len(networks.alphas) - 1, 0, steps + 1).round().long()
    latent = noise
    for now, then in zip(times[:-1], times[1:], strict=True):
        answer = _guide(networks, wish, latent, int(now), cfg)
        alpha = float(networks.alphas[now])
        after = float(networks.alphas[then]) if then > 0 else 1.0
        if networks.objective == "v":
            answer = alpha**0.5 * answer + (1 - alpha) ** 0.5 * latent
        clean = (latent - (1 - alpha) ** 0.5 * answer) / alpha**0.5
        latent = after**0.5 * clean + (1 - after) ** 0.5 * answer
    # Half precision overflows in SDXL's autoencoder, so mixed precision ends before it.
    with torch.autocast(latent.device.type, enabled=False):
        pictures = [networks.vae.decode(row[None] / networks.scale).sample for row in latent]
    return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1)


def _guide(networks: Networks, wish: Wish, latent: Tensor, time: int, cfg: float) -> Tensor:
    """The prediction with the prompt, moved away from the one without."""
    count = len(latent)
    answers = []
    for (context, pooled), with_prompt in ((wish.context, True), (wish.empty, False)):
        control = None if wish.guided_only and not with_prompt else networks.control
        answers.append(
            predict(
                networks.unet,
                control,
                latent,
                torch.full((count,), time, device=latent.device),
                context.expand(count, -1, -1),
                None if pooled is None else pooled.expand(count, -1),
                wish.hint,
                wish.types,
            ).float()
        )
    return answers[1] + cfg * (answers[0] - answers[1])


def to_pictures(tensor: Tensor) -> np.ndarray:
    """Float (b, 3, H, W) in [0, 1] as uint8 (b, H, W, 3)."""
    return (tensor * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _recipe_of(data: Path, preprocessor: str) -> Recipe:
    """How the data's controls were made, if by this preprocessor; else with its defaults."""
    name, known = preprocess.get(preprocessor).name, about(data)
    if known.get("preprocessor") != name:
        return Recipe(name)
    return Recipe(name, tuple(known.get("values") or ()), known.get("resolution"))


class Sampler:
    """Draws the examples held out, with and without their prompts, and measures how they follow.

    Args:
        rows: examples of the cache that are drawn.
        preprocessor: asked for what is in a drawn picture.
    """

    def __init__(
        self, cache: Cache, settings: Settings, rows: Sequence[int], preprocessor: str
    ) -> None:
        self.cache, self.settings, self.rows = cache, settings, list(rows)
        self.recipe = _recipe_of(cache.data, preprocessor)
        self.items = [cache.items[row] for row in self.rows]
        controls = [read_control(cache.data / item.source) for item in self.items]
        self.hints = [picture for picture, _masked in controls]
        self.masks = [masked for _picture, masked in controls]
        self.targets = [read_picture(cache.data / item.target) for item in self.items]
        self.types = torch.tensor(type_numbers(cache.data, self.items))

    def _texts(self, prompts: Sequence[str], device: torch.device) -> tuple:
        found = [self.cache.text(prompt) for prompt in prompts]
        context = torch.stack([tokens for tokens, _ in found]).to(device)
        pooled = [row for _, row in found if row is not None]
        return context, torch.stack(pooled).to(device) if pooled else None

    def pictures(
        self, networks: Networks, prompts: Sequence[str], guided_only: bool = False
    ) -> np.ndarray:
        """One picture for each held-out example, uint8 (b, H, W, 3), from always the same noise."""
        parts = [
            self._part(networks, slice(first, first + AT_ONCE), prompts, guided_only)
            for first in range(0, len(self.rows), AT_ONCE)
        ]
        return np.concatenate(parts)

    def _part(
        self, networks: Networks, part: slice, prompts: Sequence[str], guided_only: bool
    ) -> np.ndarray:
        device = next(networks.unet.parameters()).device
        hints = [read_hint(self.cache.data, item) for item in self.items[part]]
        hint = torch.stack(hints).to(device)
        height, width = hint.shape[2] // 8, hint.shape[3] // 8
        seeds = [seed_of("sample", self.settings.seed, row) for row in self.rows[part]]
        noise = start_noise(seeds, (4, height, width)).to(device)
        empty = self._texts([""], device)
        types = self.types[part].to(device)
        wish = Wish(self._texts(prompts[part], device), empty, hint, types, guided_only)
        drawn = draw(networks, wish, noise, self.settings.sample_steps, self.settings.cfg)
        return to_pictures(drawn)

    def measure(self, pictures: np.ndarray) -> float:
        """Mean adherence of pictures to the held-out controls of the data set's own type."""
        rows = zip(pictures, self.hints, self.masks, self.items, strict=True)
        found = [self._measure_one(*row) for *row, item in rows if not item.control_type]
        return float(np.mean(found)) if found else 0.0

    def _measure_one(
        self, picture: np.ndarray, hint: np.ndarray, masked: np.ndarray | None
    ) -> float:
        if masked is not None:
            return correlation(picture[~masked], hint[~masked])
        return adherence(map_of(picture, self.recipe), hint)

    def sample(self, networks: Networks, path: Path) -> tuple[float, float]:
        """Write a sheet: controls, examples, drawn with and without prompts; their adherence."""
        prompted = self.pictures(networks, [item.prompt for item in self.items])
        promptless = self.pictures(networks, [""] * len(self.items))
        rows = [self.hints, self.targets, list(prompted), list(promptless)]
        write_picture(path, np.vstack([np.hstack(row) for row in rows]))
        return self.measure(prompted), self.measure(promptless)
