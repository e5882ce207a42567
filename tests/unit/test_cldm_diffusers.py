"""Our ControlNet and our way of adding residuals against diffusers, on the same random weights.

Tolerance: 1e-5 of the largest output value in float32. The sums are the same; only the order in
which kernels add differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import oracle
import pytest
import torch
from minildm.unet import UNetModel
from oracle import assert_close, diffusers_file, load, run_theirs
from support import (
    inputs,
    memory_checkpoint,
    random_hint,
    save_controlnet,
    tiny_base,
    tiny_unet,
)
from torch import Tensor, nn

from lib_controlnet.engine.injection import Residuals, sum_residuals
from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.places import Places
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.step import StepContext, StepCursor
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.families import identify
from lib_controlnet.host.a1111.rows import build_layout

FULL_WIDTH = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": 2,
    "attention_resolutions": (4, 2, 1),
    "num_heads": 8,
    "context_dim": 768,
}


@pytest.fixture(autouse=True)
def _no_gradients() -> object:
    with torch.no_grad():
        yield


def run_ours(network: ControlNetwork, call: Mapping[str, Tensor], hint: Tensor) -> list[Tensor]:
    return network.evaluate(
        **call, guided_hint=network.encode_hint(hint), wanted=(True,) * network.layers
    )


def variant(name: str) -> tuple[str, Mapping[str, object]]:
    """Kind of the base, and the configuration of a reduced ControlNet for it."""
    if name in oracle.TINY:
        return name, oracle.TINY[name]
    published = oracle.PUBLISHED[name]
    keys = ("down_block_types", "transformer_layers_per_block", "mid_block_type")
    return "SDXL", oracle.TINY["SDXL"] | {k: published[k] for k in keys if k in published}


@pytest.mark.parametrize("name", ["SD1", "SD2", "SDXL", "sdxl_mid", "sdxl_small"])
def test_residuals_agree_with_diffusers(name: str, tmp_path: Path) -> None:
    kind, config = variant(name)
    theirs, path = diffusers_file(tmp_path, config)
    ours = load(path, tiny_base(kind))
    call, hint = inputs(kind), random_hint()
    extra, call["y"] = oracle.vector_condition(theirs, rows=2)
    results = run_theirs(theirs, call, hint, extra)
    assert len(results) == ours.layers
    for ours_out, theirs_out in zip(run_ours(ours, call, hint), results, strict=True):
        assert_close(ours_out, theirs_out)


@pytest.mark.parametrize("name", ["SD1", "SD2", "SDXL", "sdxl_mid", "sdxl_small"])
def test_diffusers_and_original_layout_give_identical_networks(name: str, tmp_path: Path) -> None:
    kind, config = variant(name)
    _theirs, path = diffusers_file(tmp_path, config)
    base = tiny_base(kind)
    first = load(path, base)
    second = load(save_controlnet(tmp_path / "original.pth", first, prefix="control_model."), base)
    weights, again = first.module.state_dict(), second.module.state_dict()
    assert weights.keys() == again.keys()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    call, hint = inputs(kind), random_hint()
    for a, b in zip(run_ours(first, call, hint), run_ours(second, call, hint), strict=True):
        assert torch.equal(a, b)


class Controls:
    """Answers the places with some networks' residuals."""

    def __init__(self, networks: Sequence[ControlNetwork], hints: Sequence, weights: Sequence):
        self.controls = list(zip(networks, hints, weights, strict=True))

    def residuals(self, step: StepContext) -> list[Residuals]:
        rows = tuple(range(step.x.shape[0]))
        call = {"x": step.x, "timesteps": step.timesteps, "context": step.context, "y": step.y}
        parts = [
            Residuals(rows, tuple(run_ours(network, call, hint))).scale((weight,) * network.layers)
            for network, hint, weight in self.controls
        ]
        return sum_residuals(parts)


def with_controls(unet: nn.Module, call: Mapping[str, Tensor], controls: Controls) -> Tensor:
    cursor = StepCursor()
    places = Places(unet, cursor, Residency(1, 0))
    places.skips(controls.residuals, lambda: None)
    with places.hook():
        cursor.begin(build_layout([1], 1, 2), 0.0)
        return unet(call["x"], call["timesteps"], context=call["context"], y=call["y"])


def diffusers_with_controls(
    theirs: nn.Module, call: Mapping[str, Tensor], extra: dict, results: Sequence, weights: Sequence
) -> Tensor:
    summed = [
        sum(weight * out for weight, out in zip(weights, outs, strict=True))
        for outs in zip(*results, strict=True)
    ]
    return theirs(
        call["x"],
        call["timesteps"],
        call["context"],
        down_block_additional_residuals=tuple(summed[:-1]),
        mid_block_additional_residual=summed[-1],
        return_dict=False,
        **extra,
    )[0]


@pytest.mark.parametrize("weights", [(1.0,), (0.7, 1.3, 0.4)], ids=["one", "three"])
@pytest.mark.parametrize("kind", ["SD1", "SD2", "SDXL"])
def test_unet_with_residuals_agrees_with_diffusers(
    kind: str, weights: tuple[float, ...], tmp_path: Path
) -> None:
    base = tiny_base(kind)
    unet_theirs = oracle.u_net_weights(base.module, oracle.TINY[kind])
    call = inputs(kind)
    extra, call["y"] = oracle.vector_condition(unet_theirs, rows=2)
    nets, hints, results = [], [], []
    for seed, _weight in enumerate(weights):
        theirs, path = diffusers_file(tmp_path, oracle.TINY[kind], seed)
        nets.append(load(path, base))
        hints.append(random_hint(seed=seed))
        results.append(run_theirs(theirs, call, hints[-1], extra))
    expected = diffusers_with_controls(unet_theirs, call, extra, results, weights)
    ours = with_controls(base.module, call, Controls(nets, hints, weights))
    assert_close(ours, expected)
    plain = base.module(call["x"], call["timesteps"], context=call["context"], y=call["y"])
    assert float((plain - ours).abs().max()) > 0.01 * float(plain.abs().max())


def fill_large(module: nn.Module, seed: int) -> nn.Module:
    """Random weights for a module on the meta device, in a fraction of its memory.

    Tensors with the same fan-in are pieces of one noise, each beginning elsewhere: no two are
    equal, so a mistaken name still shows.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    fan_in = {name: s[1:].numel() if len(s) > 1 else 0 for name, s in shapes.items()}
    shift = {name: 101 * position for position, name in enumerate(shapes)}
    noises = {}
    for fan in set(fan_in.values()):
        length = max(shift[n] + shapes[n].numel() for n in shapes if fan_in[n] == fan)
        bound = (3.0 / fan) ** 0.5 if fan else 0.2
        noises[fan] = torch.empty(length).uniform_(-bound, bound, generator=generator)
    gains = noises[0] + 1.0
    weights = {}
    for name, shape in shapes.items():
        is_gain = len(shape) == 1 and name.endswith("weight")
        noise = gains if is_gain else noises[fan_in[name]]
        weights[name] = noise[shift[name] : shift[name] + shape.numel()].view(shape)
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


def test_full_width_sd15_agrees_with_diffusers_slow() -> None:
    """361 million parameters, then 860; both sides share tensors, in little memory."""
    config = oracle.PUBLISHED["sd15"]
    with torch.device("meta"):
        unet = UNetModel(**FULL_WIDTH)
        theirs = oracle.control_net(config)
    fill_large(theirs, seed=1)
    assert sum(p.numel() for p in theirs.parameters()) == 361_279_120
    base = BaseUNet(unet, describe_unet(unet), "sd15", "sd15")
    ckpt = memory_checkpoint(theirs.state_dict())
    ours = identify(ckpt).load(ckpt, base, torch.float32, "cpu")
    generator = torch.Generator().manual_seed(2)
    call = {
        "x": torch.randn(2, 4, 8, 8, generator=generator),
        "timesteps": torch.tensor([901.25, 17.0]),
        "context": torch.randn(2, 77, 768, generator=generator),
        "y": None,
    }
    hint = random_hint((64, 64))
    expected = run_theirs(theirs, call, hint, {})
    outs = run_ours(ours, call, hint)
    for ours_out, theirs_out in zip(outs, expected, strict=True):
        assert_close(ours_out, theirs_out)
    del theirs, ours, ckpt  # make room for the U-Net
    fill_large(unet, seed=3)
    unet_theirs = oracle.u_net_weights(unet, config)
    expected_image = diffusers_with_controls(unet_theirs, call, {}, [expected], [1.0])
    fixed = Controls([], [], [])
    fixed.residuals = lambda _step: [Residuals((0, 1), tuple(outs))]
    assert_close(with_controls(unet, call, fixed), expected_image)


def test_base_without_control_agrees_with_diffusers() -> None:
    """The oracle's key mapping itself: a wrong one would hide in the residual tests' scale."""
    unet = tiny_unet("SDXL")
    theirs = oracle.u_net_weights(unet, oracle.TINY["SDXL"])
    call = inputs("SDXL")
    extra, call["y"] = oracle.vector_condition(theirs, rows=2)
    expected = theirs(call["x"], call["timesteps"], call["context"], return_dict=False, **extra)[0]
    ours = unet(call["x"], call["timesteps"], context=call["context"], y=call["y"])
    assert_close(ours, expected)
