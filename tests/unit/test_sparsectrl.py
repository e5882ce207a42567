"""SparseCtrl against diffusers, on random weights of the published layouts; and its keyframes.

Tolerance as in `test_cldm_diffusers.py`. The authors' code normalises frame by frame in a motion
module, and the published weights were trained so; diffusers' own norm, over all frames of a clip,
is put right for clips of several frames.
"""

import copy
from functools import lru_cache

import oracle
import pytest
import torch
from data.make_keys import UNETS
from einops import rearrange
from minildm.unet import UNetModel
from oracle import assert_close
from sessions import FakeHost, info, picture, prepared
from support import golden, inputs, memory_checkpoint, tiny_base
from torch import nn

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.errors import HostError, UnitError
from lib_controlnet.families import identify
from lib_controlnet.families.controlnet import ControlNetFamily
from lib_controlnet.families.sparsectrl import SparseCtrlFamily, lay_out_frames
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.nets.cldm import read_params
from lib_controlnet.nets.sparsectrl import SparseControlNet, read_motion

KINDS = ("rgb", "scribble")
CHANNELS = {"rgb": 4, "scribble": 3}
LAYOUTS = ("original", "converted", "diffusers")
FRAMES = 3


@pytest.mark.parametrize("kind", KINDS)
def test_all_layouts_of_a_published_file_are_one_network(kind):
    tables = [memory_checkpoint(golden(f"sd15_sparsectrl_{kind}_{one}")) for one in LAYOUTS]
    shapes = tables[0].shapes
    assert all(table.shapes == shapes for table in tables)
    assert all(isinstance(identify(table), SparseCtrlFamily) for table in tables)
    with torch.device("meta"):
        base = UNetModel(**UNETS["sd15"])
        module = SparseControlNet(read_params(shapes, lambda *_: 8), read_motion(shapes))
    SparseCtrlFamily().check(tables[0], BaseUNet(base, describe_unet(base), "sd15", "sd15"))
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == shapes
    assert sorted(module.motion_modules, key=int) == ["1", "2", "4", "5", "7", "8", "10", "11"]


class FrameByFrame(nn.Module):
    """A norm that sees (clips, c, frames, h, w) one frame at a time."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        single = self.norm(rearrange(h, "n c f h w -> (n f) c h w"))
        return rearrange(single, "(n f) c h w -> n c f h w", f=h.shape[2])


@lru_cache
def make_theirs(kind):
    return oracle.randomise(oracle.sparse_net(oracle.TINY["SD1"], kind), 1)


def load(kind, layout="diffusers"):
    rename = {
        "diffusers": str,
        "original": oracle.sparse_original,
        "converted": lambda name: oracle.sparse_converted(oracle.sparse_original(name)),
    }[layout]
    weights = {rename(name): value for name, value in make_theirs(kind).state_dict().items()}
    ckpt = memory_checkpoint(weights)
    return identify(ckpt).load(ckpt, tiny_base("SD1"), torch.float32, "cpu")


def ask_theirs(kind, call, hint, frames):
    """Residuals of diffusers for rows that are clips of `frames`, from hints with their flags.

    In double precision: frames without a hint are nearly flat, and its norms lose digits on them.
    """
    theirs = copy.deepcopy(make_theirs(kind)).double()
    for module in list(theirs.modules()):
        if type(module).__name__ == "AnimateDiffTransformer3D":
            module.norm = FrameByFrame(module.norm)

    def clip(rows):
        return rearrange(rows.double(), "(n f) c h w -> n c f h w", f=frames)

    with torch.no_grad():
        down, middle = theirs(
            *(clip(call["x"]), call["timesteps"][::frames], call["context"].double()),
            controlnet_cond=clip(hint[:, :-1]),
            conditioning_mask=clip(hint[:, -1:]),
            return_dict=False,
        )
    return [*down, middle]


def frames_of(kind, count):
    """Hints of some frames: the first and the last are keyframes."""
    size = (8, 16) if kind == "rgb" else (64, 128)
    generator = torch.Generator().manual_seed(4)
    guide = torch.rand(min(count, 2), CHANNELS[kind], *size, generator=generator)
    return lay_out_frames(guide, (0, count - 1) if count > 1 else (), count)


@pytest.mark.parametrize("frames", [1, FRAMES])
@pytest.mark.parametrize("kind", KINDS)
def test_residuals_agree_with_diffusers(kind, frames):
    call = inputs("SD1", rows=2 * frames)
    call["timesteps"] = call["timesteps"][:2].repeat_interleave(frames)
    hint = frames_of(kind, frames).repeat(2, 1, 1, 1)
    network = load(kind)
    wide = hint.repeat_interleave(8, 2).repeat_interleave(8, 3) if kind == "rgb" else hint
    guided = network.encode_hint(wide)
    outs = network.evaluate(
        **call, guided_hint=guided, wanted=(True,) * network.layers, frames=frames
    )
    for ours_out, theirs_out in zip(outs, ask_theirs(kind, call, hint, frames), strict=True):
        assert_close(ours_out, theirs_out)


@pytest.mark.parametrize("layout", LAYOUTS[:2])
@pytest.mark.parametrize("kind", KINDS)
def test_other_layouts_hold_the_same_weights(kind, layout):
    first, second = (load(kind, one).module.state_dict() for one in ("diffusers", layout))
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---- in a session ----


def animated(network, keyframes, maps=1, **fields):
    unit = prepared(network, **fields)
    unit.frames = tuple(picture(seed) for seed in range(1, maps))
    unit.keyframes = keyframes
    return unit


def run(unit, layout, images, base, change=lambda _control: None):
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(base, images=images))
    change(session.active[0])
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(layout, 0.0)
        return base.module(**inputs("SD1", rows=len(layout.rows)))


@pytest.mark.parametrize("seed", [0, 1], ids=["scribble", "rgb"])
def test_a_keyframe_reaches_the_other_frames(seed):
    base = tiny_base("SD1")
    network = SparseCtrlFamily().tiny(base, seed)
    layout = build_layout([1] * FRAMES, FRAMES, 2 * FRAMES)
    outs = [run(animated(network, (1,), seed=one), layout, FRAMES, base) for one in (3, 4)]
    moved = (outs[0] - outs[1]).flatten(1).abs().amax(1)
    assert (moved > 0).all(), "each frame of both halves sees the keyframe"
    alone = run(animated(network, None, seed=3), layout, FRAMES, base)
    assert not torch.allclose(outs[0], alone, atol=1e-4)


def test_one_picture_and_no_number_is_the_first_frame():
    base = tiny_base("SD1")
    network = SparseCtrlFamily().tiny(base)
    layout = build_layout([1] * FRAMES, FRAMES, 2 * FRAMES)
    assert torch.equal(
        run(animated(network, ()), layout, FRAMES, base),
        run(animated(network, (0,)), layout, FRAMES, base),
    )


@pytest.mark.parametrize("seed", [0, 1], ids=["scribble", "rgb"])
def test_windows_of_another_extension_are_clips(seed):
    """It takes some frames' hints and calls with their rows, cond and uncond."""
    base = tiny_base("SD1")
    network = SparseCtrlFamily().tiny(base, seed)
    pair = build_layout([1, 1], 2, 4)
    expected = run(animated(network, (0,)), pair, 2, base)
    made = run(
        *(animated(network, (2,)), pair, 4, base),
        change=lambda control: control.replace_hint(control.hint[[2, 3]]),
    )
    assert torch.equal(made, expected)


def test_a_clip_that_is_too_long_stops_with_a_sentence():
    base = tiny_base("SD1")
    network = SparseCtrlFamily().tiny(base)
    network.module.frames = 2
    layout = build_layout([1] * FRAMES, FRAMES, 2 * FRAMES)
    with pytest.raises(HostError, match="clips of at most 2 frames, the U-Net was called with 3"):
        run(animated(network, ()), layout, FRAMES, base)


def test_keyframes_are_refused_where_every_frame_needs_a_picture():
    base = tiny_base("SD1")
    network = ControlNetFamily().tiny(base)
    session = ControlSession(FakeHost(), [animated(network, (0, 2), maps=2)])
    with pytest.raises(UnitError, match="unit 0: keyframes are for SparseCtrl, control model tiny"):
        session.begin_pass(info(base, images=3))
    session = ControlSession(FakeHost(), [animated(network, (0, 1), maps=2)])
    session.begin_pass(info(base, images=2))
