"""Every control family does in a member of the Forge family what it does in A1111.

On the tiny network that each family offers: the same latents, texts and pictures go through a U-Net
as A1111 calls it, and through the members' patchers, whose rows come in another order, whose linear
layers are of their own class, who walk through blocks themselves, and who store weights in 4 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import stored_weights
import support
import torch
from sessions import LATENT, FakeHost, info, prepared
from torch import Tensor, nn

from lib_controlnet import families
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.enums import BaseModel, ControlMode, ControlNetUnionControlType
from lib_controlnet.host.a1111.rows import build_layout

KINDS = ("SD1", "SDXL")
IMAGES = 2
LEVEL = 500
"""Of the noise: a whole timestep, which both kinds of hosts tell the U-Net alike."""

STYLE_ALIGN = "StyleAlign"
STORED = {"SD1": "bitsandbytes", "SDXL": "gguf"}
"""How a member stores the weights of each base's linear layers."""


def find_cases() -> Iterator[Any]:
    """A base, and what makes a network of each family for it; StyleAlign has none."""
    for kind in KINDS:
        for family in families.discover():
            if BaseModel(kind) in family.bases:
                for name in family.preprocessors or ("",):
                    yield pytest.param((kind, family, name), id=f"{name or family.name}-{kind}")
        yield pytest.param((kind, None, STYLE_ALIGN), id=f"{STYLE_ALIGN}-{kind}")


@lru_cache
def rounded(kind: str) -> nn.Module:
    """A random U-Net whose weights can be stored in every way; only ever copied."""
    unet = support.tiny_unet(kind)
    stored_weights.round_linear(unet)
    return unet


def arguments(kind: str) -> dict[str, Any]:
    """Texts and vectors of cond rows and uncond rows, and the pictures' noisy latents."""
    return support.inputs(kind, rows=2 * IMAGES, size=(LATENT.height, LATENT.width))


@pytest.fixture(scope="module")
def prediction(family_host: Any) -> Any:
    """Noise levels, as a member of the family keeps them."""
    from miniforge.patcher import Prediction

    return Prediction(FakeHost.alphas, False)


class Evaluation:
    """Noise that a U-Net finds in the same latents, controlled or not."""

    def __init__(self, case: tuple[str, Any, str]) -> None:
        self.kind, self.family, self.name = case

    def make(self, base: BaseUNet) -> Any:
        """The family's network for a base."""
        if self.family is None:
            return None
        if self.family.preprocessors:
            return self.family.make(base, self.name)
        return self.family.tiny(base, 0)

    def session(self, base: BaseUNet, is_controlled: bool) -> ControlSession:
        """A pass with a unit of the family on cond rows, if it knows of modes."""
        units = []
        if is_controlled and self.family is not None:
            fields = {
                "union_control_type": ControlNetUnionControlType.DEPTH,
                "control_mode": ControlMode.CONTROL,
            }
            units.append(prepared(self.make(base), **fields))
        aligns = is_controlled and self.family is None
        session = ControlSession(FakeHost(), units, aligns=aligns)
        session.begin_pass(info(base, images=IMAGES))
        return session

    def in_a1111(self, prediction: Any, is_controlled: bool = True) -> Tensor:
        """Noise of cond rows, then of uncond rows, (2 * images, 4, h, w)."""
        unet, given = support.twin(rounded(self.kind)), arguments(self.kind)
        base = support.base_of(unet, self.kind)
        session = self.session(base, is_controlled)
        sigma = prediction.sigmas[LEVEL].expand(2 * IMAGES)
        x = torch.cat([given["x"][:IMAGES]] * 2)
        given["x"] = prediction.calculate_input(sigma, x)
        given["timesteps"] = torch.full((2 * IMAGES,), float(LEVEL))
        layout = build_layout([1] * IMAGES, IMAGES, 2 * IMAGES)
        with torch.no_grad(), session.sampling(unet):
            session.begin_evaluation(layout, 0.0)
            return unet(**given)

    def in_forge(self, prediction: Any, like: str, way: str) -> Tensor:
        """The same from a member of the family."""
        from miniforge import sampling

        from lib_controlnet.host.members import member_of
        from lib_controlnet.host.runtime import runtime

        model, given = load(self.kind, like, way), arguments(self.kind)
        base = runtime().host.require_base()
        patcher = model.forge_objects.unet
        session = self.session(base, True)
        vectors = given["y"]
        marks = {sampling.COND: slice(0, IMAGES), sampling.UNCOND: slice(IMAGES, None)}
        chunks = {
            mark: (mark, given["context"][rows], None if vectors is None else vectors[rows])
            for mark, rows in marks.items()
        }
        x, sigma = given["x"][:IMAGES], prediction.sigmas[LEVEL].expand(IMAGES)
        texts = [given["context"][rows] for rows in marks.values()]
        params = SimpleNamespace(x=x, sigma=sigma, text_cond=texts[0], text_uncond=texts[1])
        layout = member_of(model).rows.read(params, session.needs_texts)
        with torch.inference_mode(), session.sampling(base.module):
            session.begin_evaluation(layout, 0.0)
            order = (sampling.UNCOND, sampling.COND)
            found = sampling.evaluate(patcher, params, [chunks[mark] for mark in order])
        by_mark = dict(zip(order, found, strict=True))
        x0 = torch.cat([by_mark[mark] for mark in marks])
        return (torch.cat([x] * 2) - x0) / prediction.sigmas[LEVEL]


def load(kind: str, like: str, way: str) -> Any:
    """A checkpoint of a member, in memory."""
    from miniforge import engine, shapes
    from modules import sd_models

    unet = support.twin(rounded(kind))
    if way:
        stored_weights.store(unet, way)
    shapes.use(like)
    core = SimpleNamespace(
        model=SimpleNamespace(diffusion_model=unet),
        alphas_cumprod=FakeHost.alphas,
        parameterization="eps",
        scale_factor=1.0,
        first_stage_model=nn.Identity(),
        cond_stage_model=None,
        **dict.fromkeys(engine.FLAGS, False),
    )
    model = engine.Engine(core)
    sd_models.model_data.sd_model = model
    return model


@pytest.fixture(scope="module", autouse=True)
def as_before(family_host: Any) -> Iterator[None]:
    """The host's own checkpoint and shape again."""
    from miniforge import shapes
    from modules import sd_models

    kept = sd_models.model_data.sd_model
    yield
    sd_models.model_data.sd_model = kept
    shapes.use("forge")


@pytest.fixture(autouse=True)
def _readers(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name, module in stored_weights.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="module")
def bare(prediction: Any) -> dict[str, Tensor]:
    """What each base does without a control."""
    return {kind: Evaluation((kind, None, "")).in_a1111(prediction, False) for kind in KINDS}


@pytest.mark.parametrize("case", find_cases())
def test_family_does_what_it_does_in_a1111(
    case: tuple[str, Any, str], prediction: Any, bare: dict[str, Tensor]
) -> None:
    evaluation, plain = Evaluation(case), bare[case[0]]
    expected = evaluation.in_a1111(prediction)
    assert float((expected - plain).abs().max()) > 0.01 * float(plain.std())
    scale = float(expected.abs().max())
    for like, way in (("forge", STORED[case[0]]), ("reforge", "")):
        found = evaluation.in_forge(prediction, like, way)
        assert torch.allclose(found, expected, atol=1e-4 * scale, rtol=0), (like, way)
