"""IP-Adapters against diffusers' own loader and attention, on random weights.

Diffusers reads the nested file, numbers its attentions, projects the embeddings and attends; both
U-Nets hold the same tensors. Tolerance as in `test_cldm_diffusers.py`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from data.make_keys import UNETS, linear_projection, perceptron, resampler
from einops import rearrange
from minildm.unet import UNetModel
from oracle import assert_close
from random_weights import random_state
from safetensors.torch import save_file
from sessions import FakeHost, info, prepared
from support import golden, inputs, memory_checkpoint, tiny_base

from annotator.embedding import HIDDEN, IMAGE_EMBEDS, UNCOND_HIDDEN, Embedding
from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.errors import BrokenCheckpointError, HostError, UnitError, WrongBaseModelError
from lib_controlnet.families import identify, load_network, preprocessor_for
from lib_controlnet.families.attention import cross_attentions, token_size
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry

PAIR = build_layout([1], 1, 2)
CONTEXTS = {"SD1": 48, "SDXL": 80}
READ = {"linear": 24, "perceptron": 40, "resampler": 40}
KINDS = [*(("SD1", form) for form in READ), ("SDXL", "linear"), ("SDXL", "resampler")]


def shapes_of(base: str, form: str) -> dict[str, Any]:
    """An IP-Adapter's file for a tiny U-Net; its attentions in the order of diffusers."""
    read, context = READ[form], CONTEXTS[base]
    if form == "linear":
        made = linear_projection(read, context)
    elif form == "perceptron":
        made = perceptron(read, context)
    else:
        made = resampler(read, context, 64, 2)
        made["latents"] = (1, 6, 64)
    shapes = {f"image_proj.{name}": shape for name, shape in made.items()}
    with torch.device("meta"):
        unet = oracle.u_net(oracle.TINY[base])
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            layer = unet.get_submodule(name.removesuffix(".processor"))
            for part in ("to_k_ip", "to_v_ip"):
                shapes[f"ip_adapter.{number}.{part}.weight"] = tuple(layer.to_k.weight.shape)
    return shapes


def weights_of(base: str, form: str, seed: int = 0) -> dict[str, torch.Tensor]:
    return random_state(shapes_of(base, form), seed, gain=2.0)


def nest(flat: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in flat.items():
        part, _, rest = name.partition(".")
        nested[part][rest] = tensor
    return nested


def picture(form: str, seed: int = 0) -> Embedding:
    generator = torch.Generator().manual_seed(seed)
    read = READ[form]
    tensors = {IMAGE_EMBEDS: torch.randn(1, read, generator=generator)}
    if form != "linear":
        names = (HIDDEN, UNCOND_HIDDEN)
        tensors = {name: torch.randn(1, 9, read, generator=generator) for name in names}
    return Embedding(tensors)


def rows_of(form: str, one: Embedding) -> torch.Tensor:
    """What diffusers is given for a cond and an uncond row: (2, 1, ...)."""
    if form == "linear":
        cond = one.tensors[IMAGE_EMBEDS]
        return torch.stack([cond, torch.zeros_like(cond)])
    return torch.stack([one.tensors[HIDDEN], one.tensors[UNCOND_HIDDEN]])


def transformer_of(base: str, name: str) -> int:
    """Number in the order of running, by diffusers' name: the statement of the facts."""
    found = re.match(r"(down|mid|up)_blocks?\.(?:(\d)\.)?attentions\.(\d)", name)
    assert found, name
    part, level, number = found[1], int(found[2] or 0), int(found[3])
    if base == "SD1":
        return {"down": 2 * level + number, "mid": 6, "up": 7 + 3 * (level - 1) + number}[part]
    return {"down": 2 * (level - 1) + number, "mid": 4, "up": 5 + 3 * level + number}[part]


def theirs(base: BaseUNet, kind: str, files: list[Any]) -> torch.nn.Module:
    unet = oracle.u_net_weights(base.module, oracle.TINY[kind])
    unet._load_ip_adapter_weights([nest(flat) for flat in files])
    return unet


def load(flat: dict[str, torch.Tensor], base: BaseUNet) -> Any:
    ckpt = memory_checkpoint(flat)
    return identify(ckpt).load(ckpt, base, torch.float32, "cpu")


def unit(network: Any, *embeddings: Embedding, **fields: Any) -> Any:
    made = prepared(network, **fields)
    made.embeddings = (embeddings,)
    return made


def ours(base: BaseUNet, call: dict[str, Any], *units: Any) -> torch.Tensor:
    session = ControlSession(FakeHost(), list(units))
    session.begin_pass(info(base))
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(PAIR, 0.0)
        return base.module(**call)


@pytest.mark.parametrize(("kind", "form"), KINDS)
@torch.no_grad()
def test_the_unet_agrees_with_diffusers(kind: str, form: str) -> None:
    """Two adapters, one of them with a strength of its own in each spatial transformer."""
    base = tiny_base(kind)
    files = [weights_of(kind, form, seed) for seed in (1, 2)]
    pictures = [picture(form, seed) for seed in (1, 2)]
    networks = [load(flat, base) for flat in files]
    curve = [0.3 + 0.1 * t for t in range(networks[0].layers)]
    unet = theirs(base, kind, files)
    for name, processor in unet.attn_processors.items():
        if name.endswith("attn2.processor"):
            processor.scale = [curve[transformer_of(kind, name)], 0.7]
    call = inputs(kind)
    extra, call["y"] = oracle.vector_condition(unet, rows=2)
    added = {"image_embeds": [rows_of(form, one) for one in pictures]}
    expected = unet(
        call["x"],
        call["timesteps"],
        call["context"],
        added_cond_kwargs={**extra.get("added_cond_kwargs", {}), **added},
        return_dict=False,
    )[0]
    plain = base.module(**call)
    found = ours(
        *(base, call),
        unit(networks[0], pictures[0], advanced_weighting=tuple(curve)),
        unit(networks[1], pictures[1], weight=0.7),
    )
    assert_close(found, expected)
    assert float((expected - plain).abs().max()) > 0.05 * float(plain.abs().max())


def test_tokens_of_several_pictures_are_averaged() -> None:
    base = tiny_base("SD1")
    network = load(weights_of("SD1", "linear"), base)
    pictures = [picture("linear", seed) for seed in range(3)]
    projected = [network.module.image_proj(one.tensors[IMAGE_EMBEDS]) for one in pictures]
    control = network.bind(_terms(network), (tuple(pictures),), info(base))
    cond, uncond = control.make_tokens()
    assert torch.allclose(cond, sum(projected) / 3, atol=1e-6)
    nothing = network.module.image_proj(torch.zeros(1, READ["linear"]))
    assert torch.allclose(uncond, nothing, atol=1e-6)


def _terms(network: Any) -> Any:
    from lib_controlnet.engine.network import Terms

    return Terms("unit 0", (1.0,) * network.layers)


LAYOUTS = {
    "flat.safetensors": save_file,
    "nested.bin": lambda flat, path: torch.save(nest(flat), path),
    "trainer.safetensors": lambda flat, path: save_file(
        {name.replace("ip_adapter.", "adapter_modules."): t for name, t in flat.items()}, path
    ),
    "half.bin": lambda flat, path: torch.save(nest({k: v.half() for k, v in flat.items()}), path),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_network(name: str, tmp_path: Any) -> None:
    base, flat = tiny_base("SD1"), weights_of("SD1", "resampler")
    LAYOUTS[name](flat, tmp_path / name)
    network = load_network(tmp_path / name, base, torch.float32, "cpu")
    found = network.module.state_dict()
    assert found.keys() == flat.keys()
    for key, tensor in found.items():
        assert torch.equal(tensor, flat[key].half().float() if "half" in name else flat[key])


PUBLISHED = {  # table: (base, projection's width, preprocessor, bytes of the published fp16 file)
    "ip-adapter_sd15": ("sd15", IMAGE_EMBEDS, 1024, "ip-adapter_clip_sd15", 44_600_000),
    "ip-adapter_sd15_vit-G": ("sd15", IMAGE_EMBEDS, 1280, "ip-adapter_clip_sdxl", 46_200_000),
    "ip-adapter-plus_sd15": ("sd15", HIDDEN, 1280, "ip-adapter_clip_sd15", 98_200_000),
    "ip-adapter-full-face_sd15": ("sd15", HIDDEN, 1280, "ip-adapter_clip_sd15", 43_600_000),
    "ip-adapter_sdxl": ("sdxl_full", IMAGE_EMBEDS, 1280, "ip-adapter_clip_sdxl", 702_585_376),
    "ip-adapter_sdxl_vit-h": ("sdxl_full", IMAGE_EMBEDS, 1024, "ip-adapter_clip_sd15", 698_400_000),
    "ip-adapter-plus_sdxl_vit-h": (
        *("sdxl_full", HIDDEN, 1280, "ip-adapter_clip_sd15", 847_517_512),
    ),
}


@pytest.fixture(scope="module")
def bases() -> dict[str, BaseUNet]:
    made = {}
    for name in ("sd15", "sdxl_full"):
        with torch.device("meta"):
            unet = UNetModel(**UNETS[name])
        made[name] = BaseUNet(unet, describe_unet(unet), name, name)
    return made


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_recognised_and_fit_their_base(
    name: str, bases: dict[str, BaseUNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tensor, width, preprocessor, size = PUBLISHED[name]
    ckpt = memory_checkpoint(golden(name))
    family = identify(ckpt)
    assert family.name == "IP-Adapter"
    assert family.preprocessor_for(ckpt) == preprocessor
    family.check(ckpt, bases[base])
    with pytest.raises(WrongBaseModelError, match="is an IP-Adapter for"):
        family.check(ckpt, bases["sd15" if base == "sdxl_full" else "sdxl_full"])
    numbers = sum(torch.Size(shape).numel() for shape in ckpt.shapes.values())
    assert abs(2 * numbers / size - 1) < 2e-3
    monkeypatch.setattr("lib_controlnet.families.ip_adapter.fill", _check_names)
    network = family.load(ckpt, bases[base], torch.float16, "meta")
    assert dict(network.wants.tensors)[tensor] == width
    assert network.wants.preprocessor == preprocessor
    assert network.layers == (16 if base == "sd15" else 11)


def _check_names(ckpt: Any, module: torch.nn.Module, _dtype: Any, _device: Any) -> None:
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == ckpt.shapes


def test_an_incomplete_file_names_what_is_missing(tmp_path: Any) -> None:
    flat = weights_of("SD1", "linear")
    part = {k: v for k, v in flat.items() if not k.startswith("ip_adapter.31.")}
    with pytest.raises(BrokenCheckpointError, match=r"has no ip_adapter\.31"):
        load(part, tiny_base("SD1"))
    part = {k: v for k, v in flat.items() if k != "image_proj.norm.bias"}
    with pytest.raises(BrokenCheckpointError, match="image_proj.norm.bias"):
        load(part, tiny_base("SD1"))
    save_file({k: v for k, v in flat.items() if "to_k" not in k}, tmp_path / "x.safetensors")
    with pytest.raises(BrokenCheckpointError, match=r"ip_adapter\.1\.to_k_ip"):
        preprocessor_for(tmp_path / "x.safetensors")


def test_strengths_are_one_for_each_spatial_transformer() -> None:
    base = tiny_base("SD1")
    network = load(weights_of("SD1", "linear"), base)
    made = unit(network, picture("linear"), advanced_weighting=(1.0,) * 13)
    with pytest.raises(UnitError, match="has 13 numbers, this control model needs 16"):
        ours(base, inputs("SD1"), made)


class Counted:
    """Counts the layers that compute keys and values."""

    def __init__(self, network: Any) -> None:
        self.calls = 0
        for part in network.module.ip_adapter.values():
            part.register_forward_hook(self._count)

    def _count(self, *_args: Any) -> None:
        self.calls += 1


def test_keys_and_values_are_made_once_and_only_where_they_act() -> None:
    base = tiny_base("SD1")
    network = load(weights_of("SD1", "linear"), base)
    counted = Counted(network)
    weights = tuple(float(t in (4, 5)) for t in range(16))
    made = unit(network, picture("linear"), advanced_weighting=weights, guidance_start=0.3)
    session = ControlSession(FakeHost(), [made])
    session.begin_pass(info(base))
    seen = []
    with torch.no_grad(), session.sampling(base.module):
        for progress in (0.0, 0.3, 0.6, 0.9):
            session.begin_evaluation(PAIR, progress)
            base.module(**inputs("SD1"))
            seen.append(counted.calls)
    assert seen == [0, 2, 2, 2]


@pytest.mark.parametrize("size", [Size(10, 6), Size(9, 7), Size(13, 5)])
def test_a_region_lies_on_the_tokens_of_every_size(size: Size) -> None:
    """Each token gets the share of its cell; odd sides are halved upwards, as convolutions do."""
    base = tiny_base("SD1")
    network = load(weights_of("SD1", "linear"), base)
    region = torch.zeros(64, 128, dtype=torch.uint8)
    region[:, 64:] = 255
    made = unit(network, picture("linear"), region=region.numpy())
    geometry = PassGeometry.of_latent(size)
    session = ControlSession(FakeHost(), [made])
    session.begin_pass(PassInfo(geometry, base, alphas=FakeHost.alphas))
    call = inputs("SD1", size=(size.height, size.width))
    seen: dict[str, list[torch.Tensor]] = {}

    def watch() -> None:
        """Note what the layers read, behind all hooks that are there."""
        for layer in cross_attentions(base):
            module = base.module.get_submodule(f"{layer.path}.to_out.0")
            kept = seen.setdefault(layer.path, [])
            module.register_forward_pre_hook(lambda _module, args, kept=kept: kept.append(args[0]))

    with torch.no_grad():
        with session.sampling(base.module):
            watch()
            session.begin_evaluation(PAIR, 0.0)
            base.module(**call)
        base.module(**call)
    steered, plain = seen[cross_attentions(base)[0].path]
    changed = (plain != steered).any(-1)[0].reshape(size.height, size.width)
    middle = size.width // 2
    assert not changed[:, :middle].any()
    assert changed[:, size.width - middle :].all()
    levels = {token_size(call["x"], one[0].shape[1], "unit") for one in seen.values()}
    assert len(levels) >= 3


def attend_in_parts(attention: Any) -> Any:
    """As sub-quadratic and sdp do: the layers of `to_out` are called one by one."""

    def forward(x: torch.Tensor, context: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        q, k, v = attention.to_q(x), attention.to_k(context), attention.to_v(context)
        q, k, v = (rearrange(t, "b n (h d) -> b h n d", h=attention.heads) for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        joined = rearrange(out, "b h n d -> b n (h d)")
        for layer in attention.to_out:
            joined = layer(joined)
        return joined

    return forward


def attend_in_slices(attention: Any) -> Any:
    """As the split ones do: slices of the queries, and `to_out` as a whole."""

    def forward(x: torch.Tensor, context: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        q, k, v = attention.to_q(x), attention.to_k(context), attention.to_v(context)
        q, k, v = (rearrange(t, "b n (h d) -> (b h) n d", h=attention.heads) for t in (q, k, v))
        parts = [
            (part @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v
            for part in q.split(5, dim=1)
        ]
        joined = rearrange(torch.cat(parts, 1), "(b h) n d -> b n (h d)", h=attention.heads)
        return attention.to_out(joined)

    return forward


def attend_in_tiles(attention: Any) -> Any:
    """Two tiles of each row's tokens, as rows of their own."""
    plain = attention.forward

    def forward(x: torch.Tensor, context: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        tiles = rearrange(x, "b (t n) c -> (b t) n c", t=2)
        return rearrange(
            plain(tiles, context.repeat_interleave(2, 0)), "(b t) n c -> b (t n) c", t=2
        )

    return forward


@pytest.mark.parametrize("way", [attend_in_parts, attend_in_slices, attend_in_tiles])
def test_every_way_to_compute_the_attention_is_steered_alike(way: Any) -> None:
    base = tiny_base("SD1")
    network = load(weights_of("SD1", "linear"), base)
    half = np.zeros((64, 128), np.uint8)
    half[:, :64] = 255
    regions = [None, half]
    call = inputs("SD1")
    expected = [ours(base, call, unit(network, picture("linear"), region=one)) for one in regions]
    assert not torch.allclose(*expected)
    for layer in cross_attentions(base):
        attention = base.module.get_submodule(layer.path)
        attention.forward = way(attention)
    assert_close(ours(base, call, unit(network, picture("linear"))), expected[0])
    placed = unit(network, picture("linear"), region=half)
    if way is attend_in_tiles:
        with pytest.raises(HostError, match="region cannot be placed on"):
            ours(base, call, placed)
    else:
        assert_close(ours(base, call, placed), expected[1])
