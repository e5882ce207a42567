"""The T2I style adapter against its formula, written out here with torch's own attention.

Tolerance: 1e-5 of the largest value in float32. The U-Net's output is compared with that for longer
texts, which is how the authors' code applies the tokens. That code gives the same tokens to the bit
at published size; it is not part of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from oracle import assert_close
from sessions import FakeHost, info, prepared
from support import golden, inputs, memory_checkpoint, randomise, tiny_base
from torch import Tensor, nn

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlMode
from lib_controlnet.errors import BrokenCheckpointError, UnitError, WrongBaseModelError
from lib_controlnet.families import identify
from lib_controlnet.families.style_adapter import LAST_STATES, StyleNetwork
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.style_adapter import StyleAdapter, StyleParams, read_style_params

WIDTH, CONTEXT, TOKENS, DEPTH = 32, 48, 8, 3


def weights(seed: int, context: int = CONTEXT) -> dict[str, Tensor]:
    net = StyleAdapter(StyleParams(WIDTH, context, TOKENS, DEPTH))
    return randomise(net, seed).state_dict()


def formula(w: Mapping[str, Tensor], states: Tensor) -> Tensor:
    """Tokens (b, 8, context) for states (b, n, width), sequences first as in the authors' code."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    x = torch.cat([states, w["style_embedding"].repeat(len(states), 1, 1)], dim=1)
    x = norm(x, "ln_pre").permute(1, 0, 2)
    for block in range(DEPTH):
        name = f"transformer_layes.{block}"
        attention = nn.MultiheadAttention(WIDTH, 8)
        own = {k.removeprefix(f"{name}.attn."): v for k, v in w.items() if f"{name}.attn." in k}
        attention.load_state_dict(own)
        h = norm(x, f"{name}.ln_1")
        x = x + attention(h, h, h, need_weights=True)[0]
        h = norm(x, f"{name}.ln_2") @ w[f"{name}.mlp.c_fc.weight"].T + w[f"{name}.mlp.c_fc.bias"]
        h = h * (1.702 * h).sigmoid()
        x = x + h @ w[f"{name}.mlp.c_proj.weight"].T + w[f"{name}.mlp.c_proj.bias"]
    return norm(x.permute(1, 0, 2)[:, -TOKENS:], "ln_post") @ w["proj"]


def states_of(seed: int) -> Tensor:
    return torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(seed))


def load(table: Mapping[str, Tensor], kind: str = "SD1") -> StyleNetwork:
    ckpt = memory_checkpoint(table, "style.pth")
    return identify(ckpt).load(ckpt, tiny_base(kind), torch.float32, "cpu")


def unit_of(network: StyleNetwork, seed: int, **fields: object) -> SimpleNamespace:
    unit = prepared(network, **fields)
    unit.embeddings = (
        (SimpleNamespace(tensors={LAST_STATES: states_of(seed)}, digest=str(seed)),),
    )
    return unit


@torch.no_grad()
def test_tokens_agree_with_the_formula() -> None:
    states = torch.cat([states_of(1), states_of(2)])
    assert_close(load(weights(3)).module(states), formula(weights(3), states))


@pytest.mark.parametrize("seeds", [(1,), (1, 2), (1, 2, 5)], ids=str)
@pytest.mark.parametrize("mode", [ControlMode.BALANCED, ControlMode.CONTROL])
@torch.no_grad()
def test_cond_rows_read_a_longer_text(mode: ControlMode, seeds: tuple[int, ...]) -> None:
    """Tokens of several units stand one behind the other, as in the authors' code."""
    base, call = tiny_base("SD1"), inputs("SD1")
    network = load(weights(3))
    plain = base.module(**call)
    one = {name: None if value is None else value[:1] for name, value in call.items()}
    tokens = [formula(weights(3), states_of(seed)) * 0.7 for seed in seeds]
    one["context"] = torch.cat([one["context"], *tokens], dim=1)
    longer = base.module(**one)
    units = [unit_of(network, seed, weight=0.7, control_mode=mode) for seed in seeds]
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        ours = base.module(**call)
    assert_close(ours[:1], longer)
    assert torch.equal(ours[1:], plain[1:])
    assert float((plain - ours).abs().max()) > 0.02 * float(plain.abs().max())
    assert torch.equal(base.module(**call), plain)


LEFT = np.full((64, 128), 255, np.uint8)
LEFT[:, 64:] = 0
BESIDE: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "a region": ({}, {"region": LEFT}),
    "another region": ({"region": 255 - LEFT}, {"region": LEFT}),
    "the same region": ({"region": LEFT}, {"region": LEFT}),
    "turns": ({"turn": (0, 2)}, {"turn": (1, 2)}),
    "a turn and a region": ({"region": LEFT}, {"turn": (1, 2)}),
    "a window": ({}, {"guidance_start": 0.9}),
    "another file": ({}, {"file": 4}),
}


@pytest.mark.parametrize("case", BESIDE)
@torch.no_grad()
def test_each_token_reads_the_styles_that_act_there(case: str) -> None:
    """One softmax over the text and whatever acts at a row and a place."""
    base, call = tiny_base("SD1"), inputs("SD1", rows=4)
    units, read = [], []
    for seed, fields in enumerate(BESIDE[case], 1):
        chosen = dict(fields)
        file, turn = chosen.pop("file", 3), chosen.pop("turn", None)
        units.append(unit_of(load(weights(file)), seed, weight=0.7, **chosen))
        units[-1].turn = turn
        tokens = formula(weights(file), states_of(seed))[0] * 0.7
        rows = [turn[0]] if turn else [] if "guidance_start" in chosen else [0, 1]
        region = chosen.get("region", np.full_like(LEFT, 255))
        read.append((tokens, rows, region))
    session = ControlSession(FakeHost(), units)
    session.begin_pass(info(base, images=2))
    with session.sampling(base.module):
        session.begin_evaluation(build_layout([1, 1], 2, 4), 0.5)
        ours = base.module(**call)
    for path, attention in base.module.named_modules():
        if path.endswith(".attn2"):
            attention.register_forward_hook(_attend_to_all(read), with_kwargs=True)
    assert_close(ours, base.module(**call))


def _attend_to_all(read: list[tuple[Tensor, list[int], np.ndarray]]) -> Callable[..., Tensor]:
    def attend(layer: nn.Module, args: tuple[Tensor], given: dict, _output: Tensor) -> Tensor:
        (x,) = args
        seen, count = given["context"], x.shape[1]
        hidden = [torch.zeros(len(x), count, seen.shape[1])]
        size = (round((count / 2) ** 0.5), 2 * round((count / 2) ** 0.5))
        for tokens, rows, region in read:
            seen = torch.cat([seen, tokens.expand(len(x), -1, -1)], dim=1)
            there = F.adaptive_max_pool2d(torch.tensor(region)[None].float() / 255, size).flatten()
            bias = torch.full((len(x), count), -torch.inf)
            bias[rows] = there.log()
            hidden.append(bias[..., None].expand(-1, -1, len(tokens)))
        q, k, v = (
            rearrange(part, "n t (h d) -> n h t d", h=layer.heads)
            for part in (layer.to_q(x), layer.to_k(seen), layer.to_v(seen))
        )
        found = F.scaled_dot_product_attention(q, k, v, torch.cat(hidden, dim=-1)[:, None])
        return layer.to_out(rearrange(found, "n h t d -> n t (h d)"))

    return attend


def test_the_published_file_is_known_and_fits() -> None:
    ckpt = memory_checkpoint(golden("t2i_sd14_style"))
    size = sum(4 * torch.Size(shape).numel() for shape in ckpt.shapes.values())
    assert size / 1e6 == pytest.approx(154.4, abs=0.1)
    params = read_style_params(ckpt.shapes)
    with torch.device("meta"):
        ours = StyleAdapter(params).state_dict()
    assert {name: tuple(value.shape) for name, value in ours.items()} == ckpt.shapes
    assert params == StyleParams(1024, 768, 8, 3)
    assert identify(ckpt).preprocessor_for(ckpt) == "clip_vision"


@pytest.mark.parametrize("kind", ["SD2", "SDXL"])
def test_a_wrong_base_is_told_by_both_names(kind: str) -> None:
    ckpt = memory_checkpoint(weights(1), "style.pth")
    with pytest.raises(WrongBaseModelError, match=f"is made for SD1 .*choose .* for {kind}"):
        identify(ckpt).check(ckpt, tiny_base(kind))


def test_a_map_in_the_place_of_an_embedding_is_refused() -> None:
    session = ControlSession(FakeHost(), [unit_of(load(weights(1)), 1)])
    session.prepared[0].embeddings = ()
    with pytest.raises(UnitError, match="is steered by an embedding"):
        session.begin_pass(info(tiny_base("SD1")))


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("proj", None, "incomplete: proj is missing"),
        ("ln_post.bias", None, r"1 missing \(ln_post.bias\)"),
        ("style_embedding", (8,), "incomplete"),
        ("transformer_layes.1.mlp.c_fc.bias", (5,), "1 of wrong shape"),
    ],
)
def test_damage_is_told(name: str, shape: tuple[int, ...] | None, said: str) -> None:
    table = {key: tuple(value.shape) for key, value in weights(1).items()} | {name: shape}
    ckpt = memory_checkpoint({k: v for k, v in table.items() if v is not None}, "style.pth")
    with pytest.raises(BrokenCheckpointError, match=said):
        identify(ckpt).load(ckpt, tiny_base("SD1"), torch.float32, "cpu")


def test_the_row_is_offered() -> None:
    from lib_controlnet.detect import preprocess

    detector = preprocess.get("t2ia_style_clipvision")
    assert detector.unavailable is None
    assert LAST_STATES in detector.gives
