"""Revision for SDXL (Stability AI): a picture in the place of the pooled text, without a file.

CLIP ViT-bigG's embedding of the picture takes the first part of the vector condition of cond rows;
that of uncond rows is zero. `revision_ignore_prompt`, and prompts without a word, leave nothing of
the text tokens either. Noise augmentation noises the embedding as a diffusion model's training does
(Ho et al., arXiv:2006.11239).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Guide, GuideKind
from lib_controlnet.enums import BaseModel, ControlMode
from lib_controlnet.errors import HostError, WrongBaseModelError
from lib_controlnet.families.base import ControlFamily
from lib_controlnet.gate import own_module

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import Rows
    from lib_controlnet.engine.network import Embeddings, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Call, Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet

IMAGE_EMBEDS: Final = own_module("embedding").IMAGE_EMBEDS

WITH_PROMPT: Final = "revision_clipvision"
IGNORE_PROMPT: Final = "revision_ignore_prompt"

POOLED: Final = 1280
"""Width of the pooled text, with which SDXL's vector condition begins, and of bigG's embedding."""

TIMESTEPS: Final = 1000
BETAS: Final = (1e-4, 2e-2)
"""Of the first and the last timestep of noise augmentation, linear between them."""


class RevisionNetwork(ControlNetwork):
    """Nothing but the place of the pooled text.

    Args:
        base: the U-Net.
        name: of the preprocessor.

    Attributes:
        ignores_prompt: the text tokens are zero as well.
        width: numbers of the vector condition that are replaced.
    """

    family = "Revision"
    layers = 1
    has_modes = False
    has_regions = False

    def __init__(self, base: BaseUNet, name: str) -> None:
        self.name = name
        self.ignores_prompt = name == IGNORE_PROMPT
        self.base = base.shape.kind
        self.width = min(POOLED, base.shape.adm_channels or 0)
        self.wants = Guide(
            GuideKind.EMBEDDING, tensors=((IMAGE_EMBEDS, self.width),), preprocessor=name
        )
        self.module = nn.Module()

    def curve(self, strength: float, mode: ControlMode) -> tuple[float, ...]:
        """The factor of the embedding, see `ControlNetwork.curve`."""
        del mode
        return (strength,)

    def bind(self, terms: Terms, guide: Embeddings, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`."""
        return RevisionControl(self, terms, guide, info)


class RevisionControl(ActiveControl):
    """One unit in one pass.

    Attributes:
        vectors: what each picture of the batch gets at strength 1, float32 (images, width).
        ignores_prompt: its rows have no text tokens.
    """

    network: RevisionNetwork

    def __init__(
        self, network: RevisionNetwork, terms: Terms, embeddings: Embeddings, info: PassInfo
    ) -> None:
        super().__init__(network, terms)
        self.ignores_prompt = network.ignores_prompt or not info.has_words
        shown = [sum(one.tensors[IMAGE_EMBEDS][0] for one in frame) for frame in embeddings]
        level = int(TIMESTEPS * terms.values[0]) if terms.values else 0
        self.vectors = torch.stack(
            [
                add_noise(
                    torch.as_tensor(shown[min(image, len(shown) - 1)]),
                    level,
                    info.seeds[image % len(info.seeds)],
                )
                for image in range(info.images)
            ]
        )

    def attach(self, places: Places) -> None:
        """Ask for the whole call."""
        self.attach_all([self], places)

    @classmethod
    def attach_all(cls, controls: Sequence[ActiveControl], places: Places) -> None:
        """Ask for it once for all units: their embeddings sum in the place of the text's."""
        units = [control for control in controls if isinstance(control, cls)]
        places.call(lambda step, call: _replace(units, step, call))


def _replace(units: Sequence[RevisionControl], step: StepContext, call: Call) -> None:
    """Put the units' sum into the vector condition of their rows.

    Raises:
        HostError: the call has no vector condition.
    """
    acting = [(unit, rows) for unit in units if (rows := unit.rows_in(step))]
    if not acting:
        return
    if call.y is None or call.context is None:
        msg = (
            f"{acting[0][0].terms.name}: the U-Net was called without the conditions in whose "
            "place Revision stands; another extension may call it in a way of its own: switch it "
            "off, or the unit"
        )
        raise HostError(msg)
    pooled = torch.zeros(len(step.rows), units[0].network.width)
    for unit, rows in acting:
        vectors = unit.strengths_in(step)[0] * unit.vectors
        for row in rows:
            if step.rows[row].is_cond:
                pooled[row] += vectors[min(step.rows[row].image, len(vectors) - 1)]
        unit.acted = True
    y = call.y.clone()
    changed = _all_rows(rows for _unit, rows in acting)
    y[changed, : pooled.shape[1]] = pooled[changed].to(y)
    call.y = y
    wordless = _all_rows(rows for unit, rows in acting if unit.ignores_prompt)
    if wordless:
        call.context = call.context.clone()
        call.context[wordless] = 0.0


def _all_rows(parts: Iterable[Rows]) -> list[int]:
    return sorted({row for rows in parts for row in rows})


def add_noise(embedding: Tensor, level: int, seed: int) -> Tensor:
    """An embedding (width,) with the noise of a timestep; level 0 leaves it as it is.

    Args:
        embedding: float32.
        level: 0 to 1000; the last is that of the last timestep.
        seed: of the picture that is made, so that no random number of the user is taken.
    """
    if level <= 0:
        return embedding
    timestep = min(level, TIMESTEPS - 1)
    betas = torch.linspace(*BETAS, TIMESTEPS, dtype=torch.float64)
    alpha_bar = float((1.0 - betas).cumprod(0)[timestep])
    generator = torch.Generator().manual_seed((seed * TIMESTEPS + timestep) % 2**63)
    noise = torch.randn(embedding.shape, generator=generator)
    return alpha_bar**0.5 * embedding + (1.0 - alpha_bar) ** 0.5 * noise


class RevisionFamily(ControlFamily):
    """Steers by a picture in the place of the prompt."""

    name = "Revision"
    preprocessors = (WITH_PROMPT, IGNORE_PROMPT)
    bases = (BaseModel.SDXL,)
    networks = RevisionNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> RevisionNetwork:
        """See `ControlFamily.tiny`."""
        del seed
        return self.make(base, WITH_PROMPT)

    def make(self, base: BaseUNet, preprocessor: str) -> RevisionNetwork:
        """See `ControlFamily.make`."""
        if not _fits(base):
            msg = (
                f"{preprocessor} needs an SDXL checkpoint, whose pooled text it replaces; the "
                f"loaded checkpoint {base.name} is {base.shape}: load one, or use an IP-Adapter"
            )
            raise WrongBaseModelError(msg)
        return RevisionNetwork(base, preprocessor)


def _fits(base: BaseUNet) -> bool:
    return base.shape.kind is BaseModel.SDXL and base.shape.adm_channels is not None
