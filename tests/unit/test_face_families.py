"""FaceID, InstantID, PuLID: published files, diffusers, and what a name or a file beside tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from minildm.unet import UNetModel
from random_weights import random_state
from safetensors.torch import save_file
from sessions import FakeHost, info, prepared
from support import golden, inputs, memory_checkpoint, tiny_base, tiny_controlnet

from annotator.embedding import (
    ANTELOPE,
    FACE,
    HIDDEN,
    ID_LEVELS,
    ID_PICTURE,
    RAW_FACE,
    UNCOND_HIDDEN,
    Embedding,
)
from lib_controlnet import families
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import PuLIDMode
from lib_controlnet.errors import UnitError, WrongBaseModelError
from lib_controlnet.families.attention import cross_attentions
from lib_controlnet.families.face_id import PLAIN, PLUS
from lib_controlnet.families.ip_adapter import file_number
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.face_id import FaceAdapter, FaceAdapterParams, FaceParams
from lib_controlnet.nets.ip_adapter import AdapterParams, IPAdapter, Projection
from lib_controlnet.nets.pulid import IdEncoder, IdFormer, IdParams
from lib_controlnet.nets.resampler import ResamplerParams

PAIR = build_layout([1], 1, 2)
STRUCTURES = {
    "sd15": {"channel_mult": (1, 2, 4, 4), "attention_resolutions": (4, 2, 1), "num_heads": 8}
    | {"context_dim": 768},
    "sdxl": {"channel_mult": (1, 2, 4), "attention_resolutions": (4, 2), "context_dim": 2048}
    | {"num_head_channels": 64, "use_linear_in_transformer": True, "adm_in_channels": 2816}
    | {"transformer_depth": (0, 2, 10), "num_classes": "sequential"},
}
PUBLISHED = {
    "sd15_face_id": ("IP-Adapter-FaceID", PLAIN),
    "sd15_face_id_plus": ("IP-Adapter-FaceID", PLUS),
    "sd15_face_id_portrait": ("IP-Adapter-FaceID", PLAIN),
    "sdxl_face_id": ("IP-Adapter-FaceID", PLAIN),
    "sdxl_face_id_plus": ("IP-Adapter-FaceID", PLUS),
    "sdxl_face_id_portrait": ("IP-Adapter-FaceID", PLAIN),
    "sdxl_instant_id": ("InstantID", "instant_id_face_embedding"),
    "sdxl_pulid_1.0": ("PuLID", "ip-adapter_pulid"),
    "sdxl_pulid_1.1": ("PuLID", "ip-adapter_pulid"),
    "sdxl_pulid_renamed": ("PuLID", "ip-adapter_pulid"),
}


@pytest.fixture(scope="module")
def bases() -> dict[str, BaseUNet]:
    """The published structures, without weights."""
    common = {"in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": 2}
    with torch.device("meta"):
        unets = {name: UNetModel(**common, **sizes) for name, sizes in STRUCTURES.items()}
    return {name: BaseUNet(unet, describe_unet(unet), name, name) for name, unet in unets.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_fit_their_base_alone(name: str, bases: dict[str, BaseUNet]) -> None:
    with torch.device("meta"):
        ckpt = memory_checkpoint({k: torch.empty(shape) for k, shape in golden(name).items()})
    family = families.identify(ckpt)
    assert (family.name, family.preprocessor_for(ckpt)) == PUBLISHED[name]
    own = name.partition("_")[0]
    family.check(ckpt, bases[own])
    loaded = family.load(ckpt, bases[own], torch.float32, "meta")
    assert sum(p.numel() for p in loaded.module.parameters()) == sum(
        torch.Size(shape).numel() for shape in golden(name).values()
    )
    (other,) = set(bases) - {own}
    with pytest.raises(WrongBaseModelError, match=f"the loaded checkpoint {other}"):
        family.check(ckpt, bases[other])


# ---- against diffusers -----------------------------------------------------------------------

FACE_NUMBERS, CLIP_WIDTH = 16, 40
VARIANTS = {"plain": (4, False), "plus": (4, True), "plus v2": (4, True)}


def face_state(base: BaseUNet, tokens: int, plus: bool, rank: int = 3) -> dict[str, Any]:
    """Random tensors in the layout of a file."""
    layers, width = cross_attentions(base), base.shape.context_dim
    sizes = ResamplerParams(CLIP_WIDTH, width, 64, 4 * width, 4, 0, width)
    low_rank = {
        (str(2 * layer.number + is_cross), kind): (
            width if is_cross and kind in ("to_k", "to_v") else layer.width,
            rank,
            layer.width,
        )
        for layer in layers
        for is_cross in (0, 1)
        for kind in ("to_q", "to_k", "to_v", "to_out")
    }
    face = FaceParams(FACE_NUMBERS, 32, tokens, width, sizes if plus else None)
    widths = {file_number(layer): layer.width for layer in layers}
    with torch.device("meta"):
        module = FaceAdapter(FaceAdapterParams(face, widths, low_rank))
    return random_state({key: value.shape for key, value in module.state_dict().items()}, 4)


def save_nested(state: dict[str, torch.Tensor], path: Path) -> Path:
    """As the authors save it: a pickle with two dictionaries."""
    content: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in state.items():
        part, _, rest = key.partition(".")
        content[part][rest] = tensor
    torch.save(content, path)
    return path


def face(seed: int) -> Embedding:
    generator = torch.Generator().manual_seed(seed)
    shapes = {FACE: (1, FACE_NUMBERS), RAW_FACE: (1, FACE_NUMBERS)}
    shapes |= {HIDDEN: (1, 6, CLIP_WIDTH), UNCOND_HIDDEN: (1, 6, CLIP_WIDTH)}
    return Embedding({k: torch.randn(s, generator=generator) for k, s in shapes.items()})


def run(base: BaseUNet, call: dict[str, Any], *units: Any) -> torch.Tensor:
    session = ControlSession(FakeHost(), list(units))
    session.begin_pass(info(base))
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(PAIR, 0.0)
        output = base.module(**call)
    session.end_pass(1)
    assert all(session.outcome_of(unit).acted for unit in units)
    return output


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_face_id_equals_diffusers(kind: str, variant: str, tmp_path: Path) -> None:
    base, (tokens, plus) = tiny_base(kind), VARIANTS[variant]
    state, weight = face_state(base, tokens, plus), 0.7
    name = "ip-adapter-faceid-plusv2_x.bin" if variant == "plus v2" else "faceid-plus.bin"
    network = oracle.load(save_nested(state, tmp_path / name), base)
    assert network.notes == ()
    given, call = face(1), inputs(kind)

    theirs = oracle.u_net_weights(base.module, oracle.TINY[kind])
    names = list(theirs.attn_processors)
    for key, up in state.items():
        if key.endswith("_lora.up.weight"):
            _, number, layer, *_rest = key.split(".")
            attention = theirs.get_submodule(names[int(number)].removesuffix(".processor"))
            place = attention.get_submodule(layer.removesuffix("_lora").replace("out", "out.0"))
            change = weight * up @ state[key.replace(".up.", ".down.")]
            place.weight = torch.nn.Parameter(place.weight + change)  # ours is the same tensor
    nested = {
        part: {k.partition(".")[2]: v for k, v in state.items() if k.startswith(part)}
        for part in ("image_proj", "ip_adapter")
    }
    theirs._load_ip_adapter_weights([nested], low_cpu_mem_usage=False)
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [weight]
    extra, call["y"] = oracle.vector_condition(theirs, rows=2)
    tensors = given.tensors
    rows = torch.stack([tensors[FACE], torch.zeros_like(tensors[FACE])])
    extra.setdefault("added_cond_kwargs", {})["image_embeds"] = [rows]
    if plus:
        (projection,) = theirs.encoder_hid_proj.image_projection_layers
        projection.clip_embeds = torch.stack([tensors[HIDDEN], tensors[UNCOND_HIDDEN]])
        projection.shortcut = variant == "plus v2"
    wanted = theirs(call["x"], call["timesteps"], call["context"], return_dict=False, **extra)[0]

    unit = prepared(network, weight=weight)
    unit.embeddings = ((given,),)
    plain = run(base, call)
    oracle.assert_close(run(base, call, unit), wanted)
    assert torch.equal(run(base, call), plain)


def test_version_2_is_told_by_name_or_a_file_beside(tmp_path: Path) -> None:
    base = tiny_base("SD1")
    state = face_state(base, 4, True)
    for name, keeps, is_noted in (
        ("ip-adapter-faceid-plusv2_sd15.bin", True, False),
        ("ip-adapter-faceid-plus_sd15.bin", False, False),
        ("FaceID_Plus_V2.pt", True, False),
        ("my_face.bin", False, True),
    ):
        network = oracle.load(save_nested(state, tmp_path / name), base)
        assert (network.keeps, bool(network.notes)) == (keeps, is_noted), name
    (tmp_path / "my_face.yaml").write_text("faceid_plus_v2: true\n")
    network = oracle.load(tmp_path / "my_face.bin", base)
    assert (network.keeps, network.notes) == (True, ())


def test_faces_of_a_portrait_stand_side_by_side_and_others_are_averaged(tmp_path: Path) -> None:
    base = tiny_base("SD1")
    for tokens in (4, 16):
        path = save_nested(face_state(base, tokens, False), tmp_path / f"{tokens}.bin")
        network = oracle.load(path, base)
        unit = prepared(network)
        unit.embeddings = ((face(1), face(2)),)
        session = ControlSession(FakeHost(), [unit])
        session.begin_pass(info(base))
        with torch.no_grad():
            made, nobody = session.active[0].make_tokens()
            each = [network.module.image_proj(face(seed).tensors[FACE]) for seed in (1, 2)]
        wanted = torch.cat(each, dim=1) if tokens == 16 else sum(each) / 2
        torch.testing.assert_close(made, wanted)
        assert nobody.shape == made.shape
        run(base, inputs("SD1"), unit)


def test_a_name_tells_that_the_embedding_is_read_raw(tmp_path: Path) -> None:
    base = tiny_base("SD1")
    path = save_nested(face_state(base, 16, False), tmp_path / "faceid-portrait_unnorm.bin")
    assert oracle.load(path, base).wants.tensors == ((RAW_FACE, FACE_NUMBERS),)


def test_low_rank_layers_of_another_width_are_refused(bases: dict[str, BaseUNet]) -> None:
    shapes = golden("sd15_face_id") | {"ip_adapter.0.to_q_lora.down.weight": (128, 640)}
    family = families.identify(memory_checkpoint(shapes))
    with pytest.raises(WrongBaseModelError, match="beside to_q of attention 0 from 640 to 320"):
        family.check(memory_checkpoint(shapes), bases["sd15"])


# ---- InstantID -------------------------------------------------------------------------------


def instant_id(base: BaseUNet) -> dict[str, torch.Tensor]:
    widths = {file_number(layer): layer.width for layer in cross_attentions(base)}
    sizes = {"inner": 64, "attended": 64, "depth": 2, "hidden": 96}
    params = AdapterParams(Projection.RESAMPLER, 512, base.shape.context_dim, 5, widths, **sizes)
    with torch.device("meta"):
        module = IPAdapter(params)
    return random_state({key: value.shape for key, value in module.state_dict().items()}, 6)


@torch.no_grad()
def test_instant_ids_network_reads_the_face(tmp_path: Path) -> None:
    base = tiny_base("SDXL")
    adapter = oracle.load(save_nested(instant_id(base), tmp_path / "ip-adapter.bin"), base)
    assert adapter.family == "InstantID"
    network, call = tiny_controlnet("SDXL", unet=base.module), inputs("SDXL")
    vector = torch.randn(1, 512, generator=torch.Generator().manual_seed(2))
    person = prepared(adapter, weight=0.8)
    person.embeddings = ((Embedding({ANTELOPE: vector}),),)
    points = prepared(network)
    points.partner = "InstantID"

    tokens = adapter.module.image_proj(torch.stack([vector, torch.zeros_like(vector)]))
    seen: list[torch.Tensor] = []
    evaluate = network.evaluate
    network.evaluate = lambda x, t, context, *rest: (
        seen.append(context.tokens),
        evaluate(x, t, context, *rest),
    )[1]
    both = run(base, call, points, person)
    torch.testing.assert_close(seen[0], tokens)
    del network.evaluate
    network.evaluate = lambda x, t, _context, *rest: evaluate(x, t, seen[0], *rest)
    points.partner = ""
    assert torch.equal(run(base, call, points, person), both)
    assert not torch.equal(run(base, call, person), both)


def test_the_face_of_another_recogniser_is_refused(tmp_path: Path) -> None:
    base = tiny_base("SDXL")
    adapter = oracle.load(save_nested(instant_id(base), tmp_path / "ip-adapter.bin"), base)
    unit = prepared(adapter)
    unit.embeddings = ((Embedding({FACE: torch.zeros(1, 512)}, "ip-adapter_face_id"),),)
    session = ControlSession(FakeHost(), [unit])
    with pytest.raises(UnitError, match="choose the preprocessor instant_id_face_embedding"):
        session.begin_pass(info(base))


# ---- PuLID -----------------------------------------------------------------------------------


class Freed(torch.nn.Module):
    """The attention to text and face for diffusers' U-Net, written out from the paper's formula."""

    def __init__(self, to_k: torch.Tensor, to_v: torch.Tensor, tokens: torch.Tensor) -> None:
        super().__init__()
        self.to_k, self.to_v, self.tokens = to_k, to_v, tokens
        self.weight, self.empty, self.is_style = 1.0, 8, False

    def __call__(
        self, attn: Any, hidden_states: Any, encoder_hidden_states: Any, attention_mask: Any
    ) -> Any:
        assert attention_mask is None
        heads = attn.heads
        query = attn.to_q(hidden_states).unflatten(-1, (heads, -1))
        key = attn.to_k(encoder_hidden_states).unflatten(-1, (heads, -1))
        value = attn.to_v(encoder_hidden_states).unflatten(-1, (heads, -1))
        scale = query.shape[-1] ** -0.5

        def attend(k: Any, v: Any) -> Any:
            map_ = torch.einsum("bqhd,bkhd->bhqk", query, k).mul(scale).softmax(-1)
            return torch.einsum("bhqk,bkhd->bqhd", map_, v).flatten(2)

        text = attend(key, value)
        nothing = self.tokens.new_zeros(len(self.tokens), self.empty, self.tokens.shape[-1])
        seen = torch.cat([self.tokens, nothing], dim=1)
        k, v = ((seen @ w.T).unflatten(-1, (heads, -1)) for w in (self.to_k, self.to_v))
        face_out = attend(k, v)
        along = (text * face_out).sum(1) / (text * text).sum(1)
        kept = torch.zeros(())
        if not self.is_style:
            looks = torch.einsum("bqhd,bkhd->bhqk", query, k).softmax(-1)
            kept = looks[..., :5].sum(-1).mean(1)[..., None]
        added = face_out - (1 - kept) * along[:, None] * text
        return attn.to_out[0](text + self.weight * added)


def id_state(base: BaseUNet, version: str) -> dict[str, torch.Tensor]:
    """Random tensors of a narrow PuLID under its own names."""
    context = base.shape.context_dim
    old = IdParams(516, 8, 16, 5, context)
    new = IdParams(516, 8, 16, 5, context, 12, 64, 24, 10, 7)
    with torch.device("meta"):
        encoder = IdEncoder(old) if version == "1.0" else IdFormer(new)
    shapes = {f"id_adapter.{key}": t.shape for key, t in encoder.state_dict().items()}
    for layer in cross_attentions(base):
        for name in ("id_to_k", "id_to_v"):
            key = f"id_adapter_attn_layers.{file_number(layer)}.{name}.weight"
            shapes[key] = torch.Size((layer.width, context))
    return random_state(shapes, 8)


def person(seed: int) -> Embedding:
    generator = torch.Generator().manual_seed(seed)
    shapes = {ANTELOPE: (1, 512), ID_PICTURE: (1, 4)} | dict.fromkeys(ID_LEVELS, (1, 6, 8))
    return Embedding({k: torch.randn(s, generator=generator) for k, s in shapes.items()})


@pytest.mark.parametrize(
    ("version", "mode"), [("1.0", PuLIDMode.STYLE), ("1.1", PuLIDMode.FIDELITY)]
)
@torch.no_grad()
def test_pulid_leaves_the_text_its_say(version: str, mode: PuLIDMode, tmp_path: Path) -> None:
    base, weight = tiny_base("SDXL"), 0.8
    state, given, call = id_state(base, version), person(1).tensors, inputs("SDXL")
    path = tmp_path / f"pulid_v{version}.safetensors"
    save_file(state, path)
    network = oracle.load(path, base)
    encode = network.module.image_proj
    vector = given[ID_PICTURE] / given[ID_PICTURE].norm(dim=-1, keepdim=True)
    read = torch.cat([given[ANTELOPE], vector], dim=-1)
    levels = [given[name] for name in ID_LEVELS]
    nobody = encode(torch.zeros_like(read), [torch.zeros_like(level) for level in levels])
    tokens = torch.cat([encode(read, levels), nobody])

    theirs = oracle.u_net_weights(base.module, oracle.TINY["SDXL"])
    processors = dict(theirs.attn_processors)
    for number, name in enumerate(processors):
        if name.endswith("attn2.processor"):
            pair = (state[f"id_adapter_attn_layers.{number}.id_to_{kind}.weight"] for kind in "kv")
            processors[name] = Freed(*pair, tokens)
            processors[name].weight, processors[name].is_style = weight, mode is PuLIDMode.STYLE
            processors[name].empty = 16 if mode is PuLIDMode.STYLE else 8
    theirs.set_attn_processor(processors)
    extra, call["y"] = oracle.vector_condition(theirs, rows=2)
    wanted = theirs(call["x"], call["timesteps"], call["context"], return_dict=False, **extra)[0]
    unit = prepared(network, weight=weight, pulid_mode=mode)
    unit.embeddings = ((person(1),),)
    plain = run(base, call)
    oracle.assert_close(run(base, call, unit), wanted)
    assert torch.equal(run(base, call), plain)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_several_faces_of_a_person_act_together(version: str, tmp_path: Path) -> None:
    base = tiny_base("SDXL")
    path = tmp_path / "pulid.safetensors"
    save_file(id_state(base, version), path)
    network = oracle.load(path, base)
    outputs = []
    for seeds in ((1,), (2,), (1, 2)):
        unit = prepared(network)
        unit.embeddings = (tuple(person(seed) for seed in seeds),)
        outputs.append(run(base, inputs("SDXL"), unit))
    one, two, both = outputs
    assert not torch.allclose(both, one, atol=1e-4)
    assert not torch.allclose(both, two, atol=1e-4)
