"""Fooocus' inpaint model against a second writing: the patch merged into the weights, the head.

Tolerance as in `test_cldm_diffusers.py`: sums of floats in another order.
"""

import copy
import dataclasses
import shutil

import numpy as np
import pytest
import support
import torch
import torch.nn.functional as F
from oracle import assert_close
from sessions import FakeHost, info, picture, prepared
from support import tiny_base

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet, is_placed
from lib_controlnet.errors import BrokenCheckpointError, UnitError, WrongBaseModelError
from lib_controlnet.families import load_network, look_into
from lib_controlnet.families.fooocus import find_distilled
from lib_controlnet.host.a1111.rows import build_layout

ROWS = build_layout([1], 1, 2)
PATCH, HEAD = "inpaint_v26.fooocus.patch", "fooocus_inpaint_head.pth"


@pytest.fixture(scope="module")
def base():
    return tiny_base("SDXL")


CHANGED = ("time_embed.0.", "input_blocks.1.0.", "input_blocks.4.", "middle_block.", "out.")


@pytest.fixture(scope="module")
def files(tmp_path_factory, base):
    """Patch and head as they are published: of each changed tensor numbers, least and greatest."""
    generator = torch.Generator().manual_seed(2)
    patch = {}
    for name, tensor in base.module.named_parameters():
        if name.startswith(CHANGED) and (tensor.dim() > 1 or "norm" in name):
            levels = torch.randint(0, 256, tensor.shape, generator=generator).to(torch.uint8)
            spread = 0.3 / max(tensor[0].numel(), 16) ** 0.5
            low, high = torch.tensor(-spread), torch.tensor(1.25 * spread)
            patch[f"diffusion_model.{name}"] = (levels, low, high)
    head = torch.randn(support.WIDTH, 5, 3, 3, generator=generator) * 0.1
    folder = tmp_path_factory.mktemp("fooocus")
    torch.save(patch, folder / PATCH)
    torch.save({"head": head}, folder / HEAD)
    return folder


def load(path, base):
    return load_network(path, base, torch.float32, "cpu")


def masked(seed=3):
    mask = np.zeros((64, 128), np.uint8)
    mask[9:30, 20:77] = 255
    return np.dstack([picture(seed), mask])


def unit(network, shown=None, **fields):
    made = prepared(network, **fields)
    made.detected = masked() if shown is None else shown
    return made


def run(base, *units, rows=ROWS, progress=0.0):
    session = ControlSession(FakeHost(), list(units))
    session.begin_pass(info(base))
    with torch.no_grad(), session.sampling(base.module):
        session.begin_evaluation(rows, progress)
        return base.module(**support.inputs("SDXL", rows=len(rows.rows)))


def write_again(base, folder, strength):
    """The formula: changed weights, and the head's output behind the first block."""
    patch, head = (torch.load(folder / name) for name in (PATCH, HEAD))
    unet = copy.deepcopy(base.module)
    for name, (levels, low, high) in patch.items():
        change = levels.double() / 255 * (high.double() - low.double()) + low.double()
        unet.get_parameter(name.removeprefix("diffusion_model.")).add_(strength * change)
    shown = torch.from_numpy(masked()).permute(2, 0, 1)[None].float() / 255
    hole = (shown[:, 3:] > 0.5).float()
    latent = FakeHost().vae_encode(shown[:, :3] * (1 - hole) + 0.5 * hole)
    given = torch.cat([F.max_pool2d(hole, 8).round(), latent], dim=1)
    feature = F.conv2d(F.pad(given, (1, 1, 1, 1), "replicate"), head["head"])
    block = unet.input_blocks[0]
    block.register_forward_hook(lambda _m, _a, out: out + strength * feature)
    with torch.no_grad():
        return unet(**support.inputs("SDXL"))


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("chosen", [PATCH, HEAD])
def test_it_equals_merged_weights_and_the_head(base, files, chosen, strength):
    network = load(files / chosen, base)
    made = run(base, unit(network, weight=strength))
    assert_close(made, write_again(base, files, strength))


def test_no_weight_is_touched_and_8_bits_are_kept(base, files):
    before = {name: value.clone() for name, value in base.module.state_dict().items()}
    network = load(files / PATCH, base)
    plain = run(base)
    run(base, unit(network))
    assert all(torch.equal(before[k], v) for k, v in base.module.state_dict().items())
    assert torch.equal(run(base), plain)
    changed = [levels for levels, *_ in torch.load(files / PATCH).values()]
    head = 4 * support.WIDTH * 45
    assert network.nbytes == sum(one.numel() for one in changed) + 8 * len(changed) + head


def test_in_a_region_only_layers_that_read_the_picture_change():
    paths = {"time_embed.0": False, "input_blocks.4.0.emb_layers.1": False}
    paths |= {"input_blocks.4.1.transformer_blocks.0.attn2.to_k": False, "out.2": True}
    paths |= {"input_blocks.4.1.transformer_blocks.0.attn2.to_q": True}
    assert {path: is_placed(path) for path in paths} == paths


def test_a_map_without_a_mask_is_refused(base, files):
    network = load(files / PATCH, base)
    empty = masked()
    empty[:, :, 3] = 0
    for shown in (picture(), empty):
        with pytest.raises(UnitError, match="unit 0: control model .* paints what is masked"):
            run(base, unit(network, shown))


def test_one_file_alone_is_refused_with_the_name_of_the_other(base, files):
    for gone, kept in ((HEAD, PATCH), (PATCH, HEAD)):
        moved = (files / gone).rename(files / "elsewhere")
        with pytest.raises(BrokenCheckpointError, match=f"put {gone} into the same folder"):
            load(files / kept, base)
        moved.rename(files / gone)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sd_xl_turbo_1.0_fp16.safetensors [e869ac7d]", "turbo"),
        ("realvisxlV50_v50LightningBakedvae.safetensors", "lightning"),
        ("Hyper-SDXL-8steps.safetensors", "hyper"),
        ("dreamshaperXL_v21TurboDPMSDE.safetensors", "turbo"),
        ("SDXL-LCM_v1.safetensors", "lcm"),
        ("DMD2_sdxl.safetensors", "dmd"),
        ("hyperRealism_xl.safetensors", ""),
        ("sd_xl_base_1.0.safetensors [31e35c80]", ""),
        ("juggernautXL_v9.safetensors", ""),
        ("helmcraftXL.safetensors", ""),
    ],
)
def test_a_distilled_checkpoint_is_refused_by_its_name(base, files, name, word):
    assert find_distilled(name) == word
    found = look_into(files / PATCH, dataclasses.replace(base, name=name))[1]
    assert (found is None) == (not word)
    if word:
        titled = dataclasses.replace(base, name="mine", described=name)
        assert (
            f"loaded checkpoint mine is a distilled one by its name ({word})"
            in look_into(files / PATCH, titled)[1].sentence
        )
        assert found.other_base
        assert f"is a distilled one by its name ({word})" in found.sentence


def changed(**arguments):
    unet = support.tiny_unet("SDXL", **arguments)
    return BaseUNet(unet, describe_unet(unet), "other", "other")


OTHER_BASES = {
    "SD1": (lambda: tiny_base("SD1"), "choose an SDXL checkpoint"),
    "inpainting": (
        lambda: changed(in_channels=9),
        "is made for inpainting itself",
    ),
    "fewer layers": (
        lambda: changed(transformer_depth=(0, 1, 1)),
        r"changes \d+ tensors that the loaded checkpoint",
    ),
}


@pytest.mark.parametrize("case", OTHER_BASES)
def test_another_base_is_refused(files, case):
    make, message = OTHER_BASES[case]
    with pytest.raises(WrongBaseModelError, match=message):
        load(files / PATCH, make())


def test_a_loaded_network_refuses_a_distilled_checkpoint(base, files):
    """It is found again for a checkpoint of the same structure."""
    with pytest.raises(WrongBaseModelError, match=r"distilled one by its name \(turbo\)"):
        run(dataclasses.replace(base, name="sd_xl_turbo"), unit(load(files / PATCH, base)))


def test_a_damaged_patch_is_refused(base, files, tmp_path):
    shutil.copy(files / HEAD, tmp_path)
    patch = torch.load(files / PATCH)
    name = next(iter(patch))
    levels, low, high = patch[name]
    for value in ((levels, low), (levels.float(), low, high), (levels, low, high, high), levels):
        torch.save(patch | {name: value}, tmp_path / PATCH)
        with pytest.raises(BrokenCheckpointError, match=r"damaged: 1 changes \(diffusion_model"):
            load(tmp_path / HEAD, base)
