"""The reference units against their formula, written out here block by block.

Tolerance: 1e-5 of the largest value in float32; the kernels only add in another order. The
published diffusers pipelines give the same on such weights; they are not part of this project.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracle import assert_close
from sessions import FakeHost, info, prepared
from support import inputs, tiny_base, tiny_unet
from torch import Tensor, nn

from lib_controlnet import families
from lib_controlnet.detect import preprocess
from lib_controlnet.engine.places import Call
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlMode
from lib_controlnet.errors import HostError
from lib_controlnet.families.controlnet import ControlNetFamily
from lib_controlnet.families.reference import VARIANTS, ReferenceFamily, ReferenceNetwork
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
    return torch.cat(rows).to(timesteps.dtype)


FEATURES = {"SD1": ((4, 5, 7, 8, 10, 11), range(8)), "SDXL": ((4, 5, 7, 8), range(6))}
FEATURES["SD2"] = FEATURES["SD1"]
"""Blocks whose output gets the picture's moments, of the encoder and of the decoder."""


def matched_blocks(unet: nn.Module, kind: str, weight: float) -> list[nn.Module]:
    """The last layers of those that a weight chooses: the middle first, then its neighbours.

    What other controls add to a block's output comes on top.
    """
    inputs, outputs = FEATURES[kind]
    least = [(unet.middle_block, 0.0)]
    least += [(unet.input_blocks[n], 2 * (1 - j / len(inputs))) for j, n in enumerate(inputs)]
    least += [(unet.output_blocks[n], 2 * j / len(outputs)) for j, n in enumerate(outputs)]
    return [block[-1] for block, needed in least if weight > needed]


def matching(
    block: nn.Module, bank: list[Tensor], share: Tensor, is_writing: Callable[[], bool]
) -> Callable[..., Tensor]:
    """A block's forward that keeps moments, or takes them on."""
    plain = block.forward

    def forward(*args: object) -> Tensor:
        h = plain(*args)
        mean, variance = h.mean((2, 3), keepdim=True), h.var((2, 3), False, keepdim=True)
        if is_writing():
            bank.append(torch.stack([mean, variance]))
            return h
        seen_mean, seen_variance = sum(bank) / len(bank)
        z = (h - mean) / variance.clamp(min=1e-6).sqrt()
        changed = z * seen_variance.clamp(min=1e-6).sqrt() + seen_mean
        return h + share[:, None, None, None] * (changed - h)

    return forward


def formula(
    unet: nn.Module,
    call: Mapping[str, Tensor],
    pictures: Sequence[Tensor],
    share: Tensor,
    blocks: Sequence[nn.Module] = (),
    matched: Sequence[nn.Module] = (),
    read: Callable[[], Tensor] | None = None,
    layout: Callable[..., Tensor] | None = None,
) -> Tensor:
    """The U-Net's output where some blocks attend to the pictures, and some have their moments.

    Args:
        pictures: noised latents of each unit's picture, (n, c, h, w).
        share: (n,) of what sees the pictures, against what does not.
        blocks: transformer blocks.
        matched: last layers of blocks of the U-Net.
        read: makes the real call; the U-Net's own if it is not given.
        layout: gives a block's self-attention of tokens, and of further ones that they attend to.
    """
    banks: dict[nn.Module, list] = {block: [] for block in (*blocks, *matched)}
    writing = True

    def attending(block: nn.Module) -> Callable[..., Tensor]:
        def attend(tokens: Tensor, further: Sequence[Tensor]) -> Tensor:
            if layout is not None:
                return layout(block.attn1, tokens, further)
            return block.attn1(tokens, context=torch.cat([tokens, *further], dim=1))

        def forward(x: Tensor, context: Tensor | None = None) -> Tensor:
            tokens = block.norm1(x)
            attended = attend(tokens, [])
            if writing:
                banks[block].append(tokens)
            else:
                wide = attend(tokens, banks[block])
                attended = attended + share[:, None, None] * (wide - attended)
            x = x + attended
            x = x + block.attn2(block.norm2(x), context=context)
            return x + block.ff(block.norm3(x))

        return forward

    for block in blocks:
        block.forward = attending(block)
    for block in matched:
        block.forward = matching(block, banks[block], share, lambda: writing)
    try:
        for picture in pictures:
            unet(**{**call, "x": picture})
        writing = False
        return unet(**call) if read is None else read()
    finally:
        for block in (*blocks, *matched):
            del block.forward


def double(kind: str) -> tuple[BaseUNet, dict[str, Tensor]]:
    """In double precision: the moments of few pixels make much of a rounding."""
    base, call = tiny_base(kind), inputs(kind)
    base.module.double()
    return base, {k: None if v is None else v.double() for k, v in call.items()}


def reference(
    base: BaseUNet,
    seed: int = 3,
    fidelity: float = 0.5,
    name: str = "reference_only",
    **fields: object,
) -> object:
    unit = prepared(ReferenceFamily().make(base, name), seed, **fields)
    unit.values = (fidelity,)
    return unit


def run(base: BaseUNet, units: Sequence, call: Mapping[str, Tensor], **changes: object) -> Tensor:
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base, seeds=(SEED,), **changes))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        return base.module(**call)


BALANCED, PROMPT, CONTROL = ControlMode.BALANCED, ControlMode.PROMPT, ControlMode.CONTROL
ADAIN, BOTH = {"name": "reference_adain"}, {"name": "reference_adain+attn"}
CASES = {
    "balanced": ("SD1", {"fidelity": 0.5}, 0.5),
    "balanced, all of it": ("SD1", {"fidelity": 0.0}, 1.0),
    "balanced, cond rows": ("SD2", {"fidelity": 1.0}, 0.0),
    "prompt": ("SD2", {"fidelity": 1.0, "control_mode": PROMPT}, 1.0),
    "control": ("SD1", {"fidelity": 0.2, "control_mode": CONTROL}, 0.0),
    "SDXL cubes it": ("SDXL", {"fidelity": 0.5}, 1 - 0.125),
    "SDXL, control": ("SDXL", {"control_mode": CONTROL}, 0.0),
    "half of the blocks": ("SD1", {"fidelity": 0.5, "weight": 0.5}, 0.5),
    "more than all": ("SD1", {"fidelity": 0.5, "weight": 2.0}, 0.5),
    "adain": ("SD1", ADAIN, 0.5),
    "adain, little": ("SD1", {**ADAIN, "weight": 0.1}, 0.5),
    "adain, everywhere": ("SD2", {**ADAIN, "weight": 2.0, "fidelity": 0.2}, 0.8),
    "adain, cond rows": ("SD1", {**ADAIN, "control_mode": CONTROL}, 0.0),
    "adain, SDXL": ("SDXL", {**ADAIN, "weight": 1.6}, 1 - 0.125),
    "both": ("SD1", BOTH, 0.5),
    "both, half": ("SD2", {**BOTH, "weight": 0.5, "control_mode": PROMPT}, 1.0),
    "both, SDXL": ("SDXL", {**BOTH, "weight": 1.2, "fidelity": 1.0}, 0.0),
}
"""Base, what is asked, share of the picture in uncond rows."""


def chosen(base: BaseUNet, kind: str, name: str, weight: float) -> dict[str, list[nn.Module]]:
    """The blocks that a preprocessor and a weight choose."""
    blocks = blocks_by_width(base.module)
    count = min(round(weight * len(blocks)), len(blocks))
    return {
        "blocks": [] if name == "reference_adain" else blocks[:count],
        "matched": [] if name == "reference_only" else matched_blocks(base.module, kind, weight),
    }


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_the_unet_agrees_with_the_formula(case: str) -> None:
    kind, fields, share = CASES[case]
    base, call = double(kind)
    unit = reference(base, **fields)
    shares = torch.ones(2)
    shares[UNCOND] = share
    picture = noised(unit, call["timesteps"], SEED)
    seen = chosen(
        base, kind, fields.get("name", "reference_only"), float(fields.get("weight", 1.0))
    )
    expected = formula(base.module, call, [picture], shares, **seen)
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
    blocks = blocks_by_width(base.module)
    expected = formula(base.module, call, [picture], torch.ones(2), blocks)
    assert_close(run(base, [unit], call, is_hires=True, has_hires=True), expected)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_pictures_of_two_units_are_seen_together(name: str) -> None:
    base, call = double("SD1")
    units = [reference(base, 1, 0.2, name), reference(base, 2, 0.6, name)]
    pictures = [noised(unit, call["timesteps"], SEED) for unit in units]
    shares = torch.tensor([1.0, 0.6])
    expected = formula(base.module, call, pictures, shares, **chosen(base, "SD1", name, 1.0))
    ours = run(base, units, call)
    assert_close(ours, expected)
    assert torch.equal(run(base, units[::-1], call), ours)


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Rows of each call of a module."""
    calls: list[int] = []
    handle = module.register_forward_hook(lambda _module, _args, out: calls.append(len(out)))
    try:
        yield calls
    finally:
        handle.remove()


@torch.no_grad()
def test_all_pictures_go_through_the_unet_in_one_call_as_far_as_needed() -> None:
    """Two units with one picture look at it once; nothing behind the last chosen block runs."""
    base, call = tiny_base("SD1"), inputs("SD1")
    half = np.zeros((64, 128), np.uint8)
    half[:, 64:] = 255
    units = [
        reference(base, 1, name="reference_adain"),
        reference(base, 2, weight=0.5),
        reference(base, 1, weight=0.5, region=half, control_mode=CONTROL),
    ]
    with (
        counted(base.module.input_blocks[0]) as first,
        counted(base.module.output_blocks[-1]) as last,
    ):
        run(base, units, call)
    assert (first, last) == ([4, 2], [2])


@torch.no_grad()
def test_pictures_take_turns_where_memory_does_not_hold_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Said as devices other than CUDA's do."""
    base, call = double("SD1")
    units = [reference(base, seed, name="reference_adain+attn") for seed in (1, 2)]
    expected, inner, sizes = run(base, units, call), Call.inner, []

    def scarce(self: Call, x: Tensor, *args: object) -> None:
        sizes.append(len(x))
        if len(x) > 2:
            msg = "MPS backend out of memory"
            raise RuntimeError(msg)
        inner(self, x, *args)

    monkeypatch.setattr(Call, "inner", scarce)
    assert_close(run(base, units, call), expected)
    assert sizes == [4, 2, 2]


@torch.no_grad()
def test_other_controls_do_not_act_on_the_picture() -> None:
    base, call = double("SDXL")
    unit = reference(base, fidelity=0.0, name="reference_adain+attn")
    others = [prepared(family.tiny(base), 5) for family in (T2IAdapterFamily(), ControlNetFamily())]
    picture = noised(unit, call["timesteps"], SEED)
    read = partial(run, base, others, call)
    seen = chosen(base, "SDXL", "reference_adain+attn", 1.0)
    expected = formula(base.module, call, [picture], torch.ones(2), **seen, read=read)
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
    blocks = blocks_by_width(base.module)
    expected = formula(base.module, call, [picture], torch.tensor([1.0, 0.5]), blocks)
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


def tile(x: Tensor, parts: int) -> Tensor:
    """(n, tokens, c) as (n * parts, tokens / parts, c)."""
    return x.unflatten(1, (parts, -1)).flatten(0, 1)


@pytest.mark.parametrize("fields", [{}, {"control_mode": CONTROL}], ids=["both", "cond rows"])
@torch.no_grad()
def test_tiles_of_the_attention_see_the_whole_picture(fields: dict) -> None:
    """The host's hypertile: in each call an attention has tiles of another number."""
    base, call = tiny_base("SD1"), inputs("SD1")
    unit = reference(base, fidelity=0.5, **fields)
    numbers = itertools.cycle((2, 1, 4, 2, 2))

    def tiled(layer: nn.Module) -> Callable[..., Tensor]:
        plain = layer.forward

        def forward(x: Tensor, *args: object, **kwargs: object) -> Tensor:
            parts = math.gcd(x.shape[1], next(numbers) if layer.randomly else 2)
            return plain(tile(x, parts), *args, **kwargs).unflatten(0, (-1, parts)).flatten(1, 2)

        return forward

    def attend(layer: nn.Module, tokens: Tensor, further: Sequence[Tensor]) -> Tensor:
        parts = math.gcd(tokens.shape[1], 2)
        own = tile(tokens, parts)
        seen = [picture.repeat_interleave(parts, 0) for picture in further]
        out = type(layer).forward(layer, own, context=torch.cat([own, *seen], dim=1))
        return out.unflatten(0, (-1, parts)).flatten(1, 2)

    blocks = blocks_by_width(base.module)
    picture = noised(unit, call["timesteps"], SEED)
    shares = torch.tensor([1.0, 0.0 if fields else 0.5])
    expected = formula(base.module, call, [picture], shares, blocks, layout=attend)
    for block in blocks:
        block.attn1.randomly = False
        block.attn1.forward = tiled(block.attn1)
    assert_close(run(base, [unit], call), expected)
    for block in blocks:
        block.attn1.randomly = True
    out = run(base, [unit], call)
    assert bool(torch.isfinite(out).all())
    assert out.shape == expected.shape


@torch.no_grad()
def test_merged_tokens_see_the_pictures_merged_tokens() -> None:
    """The host's token merging; a region has no place on them, which is said."""
    base, call = tiny_base("SD1"), inputs("SD1")
    unit = reference(base, fidelity=0.5)

    def pairs(x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, 2)).mean(2)

    def attend(layer: nn.Module, tokens: Tensor, further: Sequence[Tensor]) -> Tensor:
        merged = [pairs(one) for one in (tokens, *further)]
        wide = type(layer).forward(layer, merged[0], context=torch.cat(merged, dim=1))
        return wide.repeat_interleave(2, 1)

    def merged(block: nn.Module) -> Callable[..., Tensor]:
        def forward(x: Tensor, context: Tensor | None = None) -> Tensor:
            x = x + block.attn1(pairs(block.norm1(x))).repeat_interleave(2, 1)
            x = x + block.attn2(block.norm2(x), context=context)
            return x + block.ff(block.norm3(x))

        return forward

    blocks = blocks_by_width(base.module)
    picture = noised(unit, call["timesteps"], SEED)
    shares = torch.tensor([1.0, 0.5])
    expected = formula(base.module, call, [picture], shares, blocks, layout=attend)
    for block in blocks:
        block.forward = merged(block)
    assert_close(run(base, [unit], call), expected)
    half = np.zeros((64, 128), np.uint8)
    half[:, 64:] = 255
    with pytest.raises(HostError, match=r"token merging.*leave out the region"):
        run(base, [reference(base, region=half)], call)


@torch.no_grad()
def test_moments_in_half_a_region_are_mixed_by_place() -> None:
    """In the last matched block: what the rest of the U-Net does would spread them."""
    base, call = tiny_base("SD1"), inputs("SD1")
    half = np.zeros((64, 128), np.uint8)
    half[:, 64:] = 255
    seen: list[Tensor] = []
    block = base.module.middle_block[-1]
    handle = block.register_forward_hook(lambda _module, _args, out: seen.append(out))
    run(base, [reference(base, name="reference_adain", weight=0.1, region=half)], call)
    handle.remove()
    after: list[Tensor] = []
    session = ControlSession(
        FakeHost(), [reference(base, name="reference_adain", weight=0.1, region=half)]
    )
    session.begin_pass(info(base, seeds=(SEED,)))
    with session.sampling(base.module):
        handle = block.register_forward_hook(lambda _module, _args, out: after.append(out))
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        base.module(**call)
        handle.remove()
    plain, changed = seen[-1], after[-1]
    width = plain.shape[-1]
    assert torch.equal(plain[..., : width // 2], changed[..., : width // 2])
    assert not torch.equal(plain[..., width // 2 :], changed[..., width // 2 :])


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


@pytest.mark.parametrize("name", VARIANTS)
def test_its_preprocessors_steer_without_a_model(name: str) -> None:
    detector = preprocess.get(name)
    assert not (detector.needs_model or detector.unavailable)
    model = families.find_fileless(name)
    assert model is not None
    network = model.network(tiny_base("SD1"))
    assert isinstance(network, ReferenceNetwork)
    assert network.name == name
    assert families.find_fileless("canny") is None
