"""reference_only against its formula, written out here block by block.

Tolerance: 1e-5 of the largest value in float32; the kernels only add in another order. The
forward of the published diffusers pipeline gives the same within 3e-6 on such weights; it is not
part of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close
from sessions import FakeHost, info, prepared
from support import inputs, tiny_base, tiny_unet
from torch import Tensor, nn

from lib_controlnet import families
from lib_controlnet.detect import preprocess
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlMode
from lib_controlnet.families.controlnet import ControlNetFamily
from lib_controlnet.families.reference import ReferenceFamily, ReferenceNetwork
from lib_controlnet.families.t2i_adapter import T2IAdapterFamily
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.pictures.placement import to_hint

SEED = 7
COND, UNCOND = 0, 1


def blocks_by_width(unet: nn.Module) -> list[nn.Module]:
    """Transformer blocks, the widest first; those of one width in the order of the encoder,
    the middle and the decoder.
    """
    found = [module for module in unet.modules() if hasattr(module, "attn1")]
    return sorted(found, key=lambda block: -block.norm1.normalized_shape[0])


def noised(unit: object, timesteps: Tensor, seed: int, channels: int = 4) -> Tensor:
    """The reference picture with the noise of each row's timestep: (n, channels, h, w)."""
    host = FakeHost()
    latent = host.vae_encode(to_hint(unit.detected))
    rows = []
    for timestep in timesteps.tolist():
        low = int(timestep)
        between = timestep - low
        log_alphas = host.alphas.log()
        high = min(low + 1, len(log_alphas) - 1)
        alpha = (log_alphas[low] * (1 - between) + log_alphas[high] * between).exp()
        generator = torch.Generator().manual_seed(seed * 1000 + round(timestep))
        noise = torch.randn(latent.shape, generator=generator)
        row = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        rows.append(torch.cat([row, torch.zeros_like(row[:, :1]), latent], 1)[:, :channels])
    return torch.cat(rows)


def formula(
    unet: nn.Module,
    call: Mapping[str, Tensor],
    pictures: Sequence[Tensor],
    share: Tensor,
    count: int,
    read: Callable[[], Tensor] | None = None,
) -> Tensor:
    """The U-Net's output where the widest `count` blocks also attend to the pictures.

    Args:
        pictures: noised latents of each unit's picture, (n, c, h, w).
        share: (n,) of the attention to the pictures, against that without them.
        count: how many blocks.
        read: makes the real call; the U-Net's own if it is not given.
    """
    blocks = blocks_by_width(unet)[:count]
    banks: dict[nn.Module, list[Tensor]] = {block: [] for block in blocks}
    writing = True

    def hacked(block: nn.Module) -> Callable[..., Tensor]:
        def forward(x: Tensor, context: Tensor | None = None) -> Tensor:
            tokens = block.norm1(x)
            attended = block.attn1(tokens)
            if writing:
                banks[block].append(tokens)
            else:
                wide = block.attn1(tokens, context=torch.cat([tokens, *banks[block]], dim=1))
                attended = attended + share[:, None, None] * (wide - attended)
            x = x + attended
            x = x + block.attn2(block.norm2(x), context=context)
            return x + block.ff(block.norm3(x))

        return forward

    for block in blocks:
        block.forward = hacked(block)
    try:
        for picture in pictures:
            unet(**{**call, "x": picture})
        writing = False
        return unet(**call) if read is None else read()
    finally:
        for block in blocks:
            del block.forward


def reference(base: BaseUNet, seed: int = 3, fidelity: float = 0.5, **fields: object) -> object:
    unit = prepared(ReferenceFamily().make(base), seed, **fields)
    unit.values = (fidelity,)
    return unit


def run(base: BaseUNet, units: Sequence, call: Mapping[str, Tensor], **changes: object) -> Tensor:
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base, seeds=(SEED,), **changes))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        return base.module(**call)


BALANCED, PROMPT, CONTROL = ControlMode.BALANCED, ControlMode.PROMPT, ControlMode.CONTROL
CASES = {
    "balanced": ("SD1", {"fidelity": 0.5}, 0.5, 1.0),
    "balanced, all of it": ("SD1", {"fidelity": 0.0}, 1.0, 1.0),
    "balanced, cond rows": ("SD2", {"fidelity": 1.0}, 0.0, 1.0),
    "prompt": ("SD2", {"fidelity": 1.0, "control_mode": PROMPT}, 1.0, 1.0),
    "control": ("SD1", {"fidelity": 0.2, "control_mode": CONTROL}, 0.0, 1.0),
    "SDXL cubes it": ("SDXL", {"fidelity": 0.5}, 1 - 0.125, 1.0),
    "SDXL, control": ("SDXL", {"control_mode": CONTROL}, 0.0, 1.0),
    "half of the blocks": ("SD1", {"fidelity": 0.5, "weight": 0.5}, 0.5, 0.5),
    "more than all": ("SD1", {"fidelity": 0.5, "weight": 2.0}, 0.5, 1.0),
}
"""Base, what is asked, share of the picture in uncond rows, share of the blocks."""


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_unet_agrees_with_the_formula(case: str) -> None:
    kind, fields, share, part = CASES[case]
    base, call = tiny_base(kind), inputs(kind)
    unit = reference(base, **fields)
    shares = torch.ones(2)
    shares[UNCOND] = share
    picture = noised(unit, call["timesteps"], SEED)
    count = round(part * len(blocks_by_width(base.module)))
    expected = formula(base.module, call, [picture], shares, count)
    plain = base.module(**call)
    ours = run(base, [unit], call)
    assert_close(ours, expected)
    assert float((plain - ours)[COND].abs().max()) > 0.02 * float(plain.abs().max())
    assert torch.equal(base.module(**call), plain)


@torch.no_grad()
def test_a_hires_pass_gives_uncond_rows_all_of_it() -> None:
    base, call = tiny_base("SD1"), inputs("SD1")
    unit = reference(base, fidelity=0.5)
    picture = noised(unit, call["timesteps"], SEED)
    expected = formula(base.module, call, [picture], torch.ones(2), 16)
    assert_close(run(base, [unit], call, is_hires=True, has_hires=True), expected)


@torch.no_grad()
def test_the_pictures_of_two_units_are_seen_together() -> None:
    base, call = tiny_base("SD1"), inputs("SD1")
    units = [reference(base, 1, fidelity=0.2), reference(base, 2, fidelity=0.6)]
    pictures = [noised(unit, call["timesteps"], SEED) for unit in units]
    expected = formula(base.module, call, pictures, torch.tensor([1.0, 0.6]), 16)
    ours = run(base, units, call)
    assert_close(ours, expected)
    assert torch.equal(run(base, units[::-1], call), ours)


@torch.no_grad()
def test_other_controls_do_not_act_on_the_picture() -> None:
    base, call = tiny_base("SDXL"), inputs("SDXL")
    unit = reference(base, fidelity=0.0)
    others = [prepared(family.tiny(base), 5) for family in (T2IAdapterFamily(), ControlNetFamily())]
    picture = noised(unit, call["timesteps"], SEED)
    count = len(blocks_by_width(base.module))
    read = partial(run, base, others, call)
    expected = formula(base.module, call, [picture], torch.ones(2), count, read)
    assert_close(run(base, [unit, *others], call), expected)
    assert float((read() - expected).abs().max()) > 0.02 * float(expected.abs().max())


@torch.no_grad()
def test_an_inpainting_checkpoint_is_told_that_nothing_is_masked() -> None:
    unet = tiny_unet("SD1", in_channels=9)
    base = BaseUNet(unet, describe_unet(unet), "inpainting", "inpainting")
    call = inputs("SD1")
    call["x"] = torch.randn(2, 9, 8, 16, generator=torch.Generator().manual_seed(1))
    unit = reference(base)
    picture = noised(unit, call["timesteps"], SEED, channels=9)
    expected = formula(base.module, call, [picture], torch.tensor([1.0, 0.5]), 16)
    assert_close(run(base, [unit], call), expected)


@torch.no_grad()
def test_the_hosts_own_attention_stays_in_charge() -> None:
    """Optimisers replace the attention's forward; some split its rows and tokens."""
    base, call = tiny_base("SD1"), inputs("SD1")
    unit = reference(base)
    expected = run(base, [unit], call)
    used = []

    def sliced(layer: nn.Module) -> Callable[..., Tensor]:
        def forward(x: Tensor, context: Tensor | None = None, mask: object = None) -> Tensor:
            used.append(layer)
            context = x if context is None else context
            q, k, v = layer.to_q(x), layer.to_k(context), layer.to_v(context)
            split = lambda t: t.unflatten(2, (layer.heads, -1)).transpose(1, 2)  # noqa: E731
            q, k, v = split(q), split(k), split(v)
            scale = q.shape[-1] ** -0.5
            parts = [F.softmax(s @ k.mT * scale, -1) @ v for s in q.split(3, dim=2)]
            return layer.to_out(torch.cat(parts, dim=2).transpose(1, 2).flatten(2))

        return forward

    for block in blocks_by_width(base.module):
        block.attn1.forward = sliced(block.attn1)
    assert_close(run(base, [unit], call), expected)
    assert used


@torch.no_grad()
def test_split_calls_give_what_one_call_gives() -> None:
    """Hosts that call for cond and uncond rows apart: the picture has the same noise in both."""
    base, call = tiny_base("SD1"), inputs("SD1")
    call["timesteps"] = torch.full((2,), 501.0)
    unit = reference(base)
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(base, seeds=(SEED,)))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        parts = [
            base.module(**{k: None if v is None else v[i : i + 1] for k, v in call.items()})
            for i in (COND, UNCOND)
        ]
    assert_close(torch.cat(parts), run(base, [unit], call))


@torch.no_grad()
def test_no_random_number_of_the_user_is_taken() -> None:
    base, call = tiny_base("SD1"), inputs("SD1")
    state = torch.random.get_rng_state()
    run(base, [reference(base)], call)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_its_preprocessor_steers_without_a_model() -> None:
    detector = preprocess.get("reference_only")
    assert not (detector.needs_model or detector.unavailable)
    model = families.find_fileless("reference_only")
    assert model is not None
    assert isinstance(model.network(tiny_base("SD1")), ReferenceNetwork)
    assert families.find_fileless("canny") is None
