"""ControlNet Union against diffusers, on random weights of the published layout.

Tolerance as in `test_cldm_diffusers.py`. Diffusers' rows are equal copies of one hint, as in its
pipelines: its attention runs over the batch, where other rows would be seen.
"""

from functools import lru_cache

import oracle
import pytest
import torch
from data.make_keys import UNETS
from minildm.unet import UNetModel
from oracle import assert_close
from sessions import FakeHost, info, prepared
from support import golden, inputs, memory_checkpoint, random_hint, tiny_base

from lib_controlnet.engine.network import Terms
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.errors import BrokenCheckpointError, UnitError, WrongBaseModelError
from lib_controlnet.families import identify
from lib_controlnet.families.union import TYPES, UnionFamily, UnionNetwork
from lib_controlnet.host.a1111.rows import build_layout

CASES = [("SDXL", 6, 3), ("SDXL", 8, 7), ("SDXL", 9, 8), ("SD1", 12, 11)]


@lru_cache
def make_theirs(kind, types):
    return oracle.randomise(oracle.union_net(oracle.TINY[kind], types), 1)


def load(weights, kind):
    ckpt = memory_checkpoint(weights)
    return identify(ckpt).load(ckpt, tiny_base(kind), torch.float32, "cpu")


def run(network, kind, number, hint=None):
    """Residuals of a control bound to the type of that number."""
    control = bind(network, TYPES[number], random_hint() if hint is None else hint)
    wanted = (True,) * network.layers
    return control.evaluate(**inputs(kind), guided_hint=control.guide(), wanted=wanted)


def bind(network, kind, hint):
    terms = Terms("unit 0", (1.0,) * network.layers, control_type=kind)
    return network.bind(terms, hint, None)


@pytest.mark.parametrize(("kind", "types", "number"), CASES)
def test_residuals_agree_with_diffusers(kind, types, number):
    theirs = make_theirs(kind, types)
    network = load(theirs.state_dict(), kind)
    call, hint = inputs(kind), random_hint()
    extra, call["y"] = oracle.vector_condition(theirs, rows=2)
    given = torch.zeros(2, types)
    given[:, number] = 1
    with torch.no_grad():
        down, middle = theirs(
            *(call["x"], call["timesteps"], call["context"], [hint.expand(2, -1, -1, -1)]),
            *(given, [number]),
            return_dict=False,
            **extra,
        )
    control = bind(network, TYPES[number], hint)
    outs = control.evaluate(**call, guided_hint=control.guide(), wanted=(True,) * network.layers)
    for ours_out, theirs_out in zip(outs, [*down, middle], strict=True):
        assert_close(ours_out, theirs_out)


def test_the_number_of_types_is_read_from_the_file():
    for types in (1, 6, 8, 11):
        network = load(make_theirs("SD1", types).state_dict(), "SD1")
        assert isinstance(network, UnionNetwork)
        assert (network.module.types, network.family) == (types, "ControlNet Union")


def test_original_names_and_prefixes_give_the_same_network():
    weights = make_theirs("SDXL", 6).state_dict()
    first = load(weights, "SDXL").module.state_dict()
    second = load({f"control_model.{k}": v for k, v in first.items()}, "SDXL").module.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_types_steer_differently_and_pictures_do_not_see_each_other():
    network = load(make_theirs("SD1", 6).state_dict(), "SD1")
    hints = random_hint(rows=2)
    one, other = (run(network, "SD1", number, hints)[-1] for number in (0, 3))
    assert float((one - other).abs().max()) > 0.01 * float(one.abs().max())
    guided = bind(network, TYPES[0], hints).guide()
    for row in range(2):
        alone = bind(network, TYPES[0], hints[row : row + 1]).guide()
        assert torch.allclose(alone[0], guided[row], atol=1e-5)


def test_units_of_one_type_run_as_one_batch_and_of_two_as_one_evaluation():
    """With the same picture, one type is evaluated once; see `test_union_joint.py` for two."""
    base = tiny_base("SD1")
    network = UnionFamily().tiny(base)
    rows = []
    network.module.middle_block.register_forward_pre_hook(
        lambda _m, args: rows.append(len(args[0]))
    )
    depth, canny = ControlNetUnionControlType.DEPTH, ControlNetUnionControlType.HARD_EDGE
    for kinds, seeds, expected in (
        ((depth, depth), (3, 3), [2]),
        ((depth, depth), (3, 4), [4]),
        ((depth, canny), (3, 3), [2]),
    ):
        units = [
            prepared(network, seed, union_control_type=kind)
            for kind, seed in zip(kinds, seeds, strict=True)
        ]
        session = ControlSession(FakeHost(), units)
        session.begin_pass(info(base))
        rows.clear()
        with torch.no_grad(), session.sampling(base.module):
            session.begin_evaluation(build_layout([1], 1, 2), 0.0)
            base.module(**inputs("SD1", rows=2, size=(8, 16)))
        assert sorted(rows) == expected


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("Unknown", "control model model needs to be told what the picture shows"),
        ("Tile", r"control model model has 6 types of pictures, and Tile \(6\) is none of them"),
        ("6", r"control model model has 6 types of pictures, and Tile \(6\) is none of them"),
        ("8", r"control model model has 6 types of pictures, and Fuse \(8\) is none of them"),
        ("31", "control model model has 6 types of pictures, and 31 is none of them"),
    ],
)
def test_a_type_that_is_unsaid_or_not_in_the_file_is_refused_with_the_list(asked, said):
    network = load(make_theirs("SD1", 6).state_dict(), "SD1")
    with pytest.raises(UnitError, match=f"^unit 0: {said}") as caught:
        bind(network, ControlNetUnionControlType.parse(asked), random_hint())
    assert str(caught.value).endswith(
        "set union_control_type to one of OpenPose, Depth, Soft Edge, Hard Edge, Normal Map, "
        "Segmentation"
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("transformer_layes.0.attn.in_proj_bias", "1 missing .transformer_layes.0.attn.in_pro"),
        ("spatial_ch_projs.weight", "1 missing .spatial_ch_projs.weight"),
        ("control_add_embedding.linear_2.bias", "1 missing .control_add_embedding.linear_2.bia"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(name, said):
    weights = dict(make_theirs("SD1", 6).state_dict())
    del weights[name]
    with pytest.raises(BrokenCheckpointError, match=f"is a ControlNet Union, but damaged.*{said}"):
        load(weights, "SD1")
    weights = dict(make_theirs("SD1", 6).state_dict())
    weights["task_embedding"] = weights["task_embedding"][:5]
    with pytest.raises(BrokenCheckpointError, match=r"1 of wrong shape \(control_add_embedding"):
        load(weights, "SD1")


def test_another_base_is_refused():
    with pytest.raises(WrongBaseModelError, match="is made for SDXL"):
        load(make_theirs("SDXL", 6).state_dict(), "SD1")


@pytest.mark.parametrize(
    ("types", "last"), [(6, "Segmentation"), (8, "Inpaint"), (9, "Fuse"), (12, "11"), (40, "31")]
)
def test_a_file_tells_its_types_before_it_is_loaded(types, last):
    """Those without a published name by number; masked pixels are black in all of them."""
    shapes = golden("sdxl_union_6") | {"task_embedding": (types, 320)}
    ckpt = memory_checkpoint(shapes)
    facts = identify(ckpt).describe(ckpt)
    assert (len(facts.picture_types), facts.picture_types[-1]) == (min(types, 32), last)
    assert facts.masked == UnionNetwork.wants.masked == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_half_and_single_precision_files_load(dtype):
    weights = {k: v.to(dtype) for k, v in make_theirs("SD1", 6).state_dict().items()}
    network = load(weights, "SD1")
    assert network.dtype is torch.float32
    assert torch.isfinite(run(network, "SD1", 2)[-1]).all()


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize("types", [6, 8, 9])
def test_published_files_are_known_and_fit(types, layout):
    with torch.device("meta"):
        unet = UNetModel(**UNETS["sdxl_full"])
    base = BaseUNet(unet, describe_unet(unet), "xl", "xl")
    ckpt = memory_checkpoint(golden(f"sdxl_union_{types}"))
    if layout == "original":
        ckpt = memory_checkpoint({f"control_model.{k}": v for k, v in ckpt.shapes.items()})
    family = identify(ckpt)
    assert isinstance(family, UnionFamily)
    family.check(ckpt, base)
    with torch.device("meta"):
        module = family.build(ckpt.shapes, lambda _block, _width: 8)
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == ckpt.shapes
    plain = sum(torch.Size(shape).numel() for shape in golden("sdxl_full_original").values())
    added = sum(p.numel() for p in module.parameters()) - plain
    assert 2 * added == {6: 9_889_280, 8: 11_201_280, 9: 11_857_280}[types]


@pytest.mark.parametrize(
    ("asked", "drawn", "number"), [("Unknown", "Hard Edge", 3), ("Depth", "Hard Edge", 1)]
)
def test_the_unit_comes_before_its_preprocessor(asked, drawn, number):
    base = tiny_base("SD1")
    unit = prepared(UnionFamily().tiny(base), union_control_type=ControlNetUnionControlType(asked))
    unit.control_type = ControlNetUnionControlType(drawn)
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(base))
    (control,) = session.active
    assert control.kind == number
