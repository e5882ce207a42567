"""New ControlNets change nothing, and base checkpoints are read right, whatever their layout."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from sessions import FakeHost, info, prepared
from support import describe_unet, inputs, randomise, tiny_unet
from toy_base import (
    ASSETS,
    describe,
    open_clip_tensors,
    parts,
    text_config,
    tokenizer_folder,
    write_kind,
    write_toy,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.families import load_network
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.train.__main__ import main
from lib_controlnet.train.base import open_base
from lib_controlnet.train.control_file import network
from lib_controlnet.train.errors import MissingPackageError, TrainError
from lib_controlnet.train.model import predict
from lib_controlnet.train.packages import PIP, need
from lib_controlnet.train.run import choose_objective
from lib_controlnet.train.text import encode_prompts

KINDS = ("SD1", "SD2", "SDXL")
PROMPTS = ["a red circle", "a blue square on white background", ""]


def made(tmp_path: Path, kind: str, *options: str) -> tuple[Path, Path]:
    """A base and the ControlNet that init makes for it."""
    base, control = write_kind(tmp_path, kind), tmp_path / "new.safetensors"
    assert main(["init", str(base), str(control), *options]) == 0
    return base, control


@torch.no_grad()
def through_engine(kind: str, control: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The U-Net's output without and with the control, as the extension computes it."""
    unet = tiny_unet(kind)
    base = BaseUNet(unet, describe_unet(unet), kind, kind)
    loaded = load_network(control, base, torch.float32, "cpu")
    call = inputs(kind)
    plain = unet(**call)
    session = ControlSession(FakeHost(), [prepared(loaded, weight=1.0)])
    session.begin_pass(info(base))
    with session.sampling(unet):
        session.begin_evaluation(build_layout([1], 1, 2), 0.5)
        return plain, unet(**call)


@torch.no_grad()
def through_diffusers(kind: str, base: Path, control: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The same through diffusers' own classes."""
    opened = open_base(base)
    unet, module = opened.unet(), network(opened, control)
    call = inputs(kind)
    pooled = torch.randn(2, 48) if kind == "SDXL" else None
    hint = torch.rand(2, 3, 64, 128)
    rest = (call["x"], call["timesteps"], call["context"], pooled)
    plain = predict(unet, None, *rest, None)
    return plain, predict(unet, module, *rest, hint)


@pytest.mark.parametrize("kind", KINDS)
def test_new_control_changes_no_bit_of_the_output(kind: str, tmp_path: Path) -> None:
    base, control = made(tmp_path, kind)
    for plain, controlled in (
        through_engine(kind, control),
        through_diffusers(kind, base, control),
    ):
        assert float(plain.abs().max()) > 1e-2, "the comparison would pass on zeros"
        assert torch.equal(plain, controlled)


def test_gaussian_ablation_changes_the_output(tmp_path: Path) -> None:
    base, control = made(tmp_path, "SD1", "--gaussian")
    for plain, controlled in (
        through_engine("SD1", control),
        through_diffusers("SD1", base, control),
    ):
        assert float((plain - controlled).abs().max()) > 1e-2


def test_encoder_and_middle_are_the_bases_own(tmp_path: Path) -> None:
    base, control = made(tmp_path, "SDXL")
    ours, theirs = load_file(control), load_file(base)
    copied = [name for name in ours if f"model.diffusion_model.{name}" in theirs]
    assert len(copied) > 60
    assert all(torch.equal(ours[n], theirs[f"model.diffusion_model.{n}"]) for n in copied)
    rest = set(ours) - set(copied)
    assert {name.split(".")[0] for name in rest} == {
        *("input_hint_block", "zero_convs", "middle_block_out")
    }


def test_inpainting_base_gives_a_control_for_four_channels(tmp_path: Path) -> None:
    unet = tiny_unet("SD1", in_channels=9)
    path = tmp_path / "inpaint.safetensors"
    save_file({f"model.diffusion_model.{k}": v.clone() for k, v in unet.state_dict().items()}, path)
    assert main(["init", str(path), str(tmp_path / "new.safetensors")]) == 0
    first = load_file(tmp_path / "new.safetensors")["input_blocks.0.0.weight"]
    assert torch.equal(first, unet.state_dict()["input_blocks.0.0.weight"][:, :4])


def test_hint_reaches_the_encoder_and_follows_the_seed(tmp_path: Path) -> None:
    """A one-pixel line must not fade on its way through the fresh hint encoder."""
    base, control = made(tmp_path, "SD1")
    opened = open_base(base)
    hint = torch.zeros(1, 3, 64, 64)
    hint[:, :, 32, :] = 1
    with torch.no_grad():
        module = network(opened, control).controlnet_cond_embedding
        features = module(hint) - module(torch.zeros_like(hint))
    assert float(features.std()) > 0.01
    other = tmp_path / "other.safetensors"
    assert main(["init", str(base), str(other), "--seed", "1"]) == 0
    one, two = load_file(control), load_file(other)
    different = {name.split(".")[0] for name in one if not torch.equal(one[name], two[name])}
    assert different == {"input_hint_block"}


def test_init_does_not_overwrite_without_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base, control = made(tmp_path, "SD1")
    before = control.read_bytes()
    assert main(["init", str(base), str(control), "--seed", "4"]) == 1
    assert "--force" in caplog.text
    assert control.read_bytes() == before
    assert main(["init", str(base), str(control), "--seed", "4", "--force"]) == 0
    assert control.read_bytes() != before
    assert {path.name for path in tmp_path.iterdir()} == {
        *("SD1.safetensors", "SD1.yaml", "new.safetensors")
    }


@torch.no_grad()
def test_networks_of_a_file_compute_what_the_original_ones_do(tmp_path: Path) -> None:
    """Against networks that were written independently; rounding of another order of sums."""
    opened = open_base(write_toy(tmp_path))
    unet, vae, text = parts()
    x, picture = torch.randn(2, 4, 4, 4), torch.rand(1, 3, 32, 32) * 2 - 1
    context, pooled = encode_prompts(opened.texts(), PROMPTS[:2])
    assert pooled is None
    assert context.shape == (2, 77, 32)
    ids = opened.texts()[0].tokenizer(PROMPTS[:2], padding="max_length", return_tensors="pt")
    steps = torch.tensor([10.0, 900.0])
    pairs = (
        (context, text(ids["input_ids"])),
        (opened.unet()(x, steps, context).sample, unet(x, steps, context)),
        (opened.vae().encode(picture).latent_dist.mean, vae.encode(picture).mean),
        (opened.vae().decode(x).sample, vae.decode(x)),
    )
    for theirs, ours in pairs:
        scale = float(ours.abs().max())
        assert scale > 1e-2
        assert float((theirs - ours).abs().max()) < 1e-5 * max(scale, 1)


def test_demo_checkpoint_is_read_with_its_own_words() -> None:
    opened = open_base(ASSETS / "demo.safetensors")
    assert opened.unet_arguments["block_out_channels"] == (64, 128, 128)
    assert opened.unet_arguments["attention_head_dim"] == 8
    assert (opened.scale_factor, opened.schedule) == (0.18215, (0.00085, 0.012, 1000))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tokenizer_folder(tmp_path_factory.mktemp("words")))


def open_clip_config() -> dict:
    """OpenCLIP's encoders have heads of 64 channels, here one, and the exact GELU."""
    return {**text_config(), "num_attention_heads": 1, "hidden_act": "gelu"}


@torch.no_grad()
def test_two_text_encoders_of_sdxl(tmp_path: Path, words: str) -> None:
    """Both before their last layer, not normed; pooled text of the second, after all layers."""
    config = text_config()
    first = randomise(CLIPTextModel(CLIPTextConfig(**config)), 1)
    second = CLIPTextModelWithProjection(CLIPTextConfig(**open_clip_config()))
    randomise(second, 2)
    places = {"0.transformer": first.state_dict(), "1.model": open_clip_tensors(second)}
    tensors = {
        f"conditioner.embedders.{place}.{name}": tensor
        for place, own in places.items()
        for name, tensor in own.items()
    }
    unet = tiny_unet("SDXL")
    tensors |= {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    path = tmp_path / "xl.safetensors"
    save_file({k: v.clone() for k, v in tensors.items()}, path)
    opened = open_base(path, [words, words])
    encoders = opened.texts()
    context, pooled = encode_prompts(encoders, PROMPTS)
    ids = encoders[0].tokenizer(PROMPTS, padding="max_length", return_tensors="pt")["input_ids"]
    filled = ids.clone()
    for row in filled:  # OpenCLIP fills with token 0 what is behind the first end token
        end = (row == config["eos_token_id"]).nonzero()[0, 0]
        row[end + 1 :] = 0
    expected_first = first(ids, output_hidden_states=True).hidden_states[-2]
    expected_second = second(filled, output_hidden_states=True)
    assert torch.allclose(context[:, :, :32], expected_first, atol=1e-6)
    assert torch.allclose(context[:, :, 32:], expected_second.hidden_states[-2], atol=1e-6)
    assert torch.allclose(pooled, expected_second.text_embeds, atol=1e-6)
    # 16 of the vector's 96 numbers are pooled text, six sinusoids share the rest.
    arguments = opened.unet_arguments
    assert arguments["addition_time_embed_dim"] == (96 - 16) // 6


@torch.no_grad()
def test_text_encoder_of_sd2_stops_before_the_last_layer(tmp_path: Path, words: str) -> None:
    module = randomise(CLIPTextModel(CLIPTextConfig(**open_clip_config())), 3)
    tensors = {f"cond_stage_model.model.{k}": v for k, v in open_clip_tensors(module).items()}
    unet = tiny_unet("SD2")
    tensors |= {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}
    path = tmp_path / "sd2.safetensors"
    save_file({k: v.clone() for k, v in tensors.items()}, path)
    encoder = open_base(path, [words]).texts()[0]
    context, pooled = encode_prompts([encoder], PROMPTS[:1])
    ids = encoder.tokenizer(PROMPTS[:1], padding="max_length", return_tensors="pt")["input_ids"]
    end = (ids[0] == text_config()["eos_token_id"]).nonzero()[0, 0]
    ids[0, end + 1 :] = 0
    before = module(ids, output_hidden_states=True).hidden_states[-2]
    assert pooled is None
    assert torch.allclose(context, module.text_model.final_layer_norm(before), atol=1e-6)


def diffusers_folder(tmp_path: Path) -> Path:
    """The toy base as a folder of diffusers."""
    opened, folder = open_base(write_toy(tmp_path)), tmp_path / "folder"
    opened.unet().save_pretrained(folder / "unet")
    opened.vae().save_pretrained(folder / "vae")
    text = opened.texts()[0]
    text.module.save_pretrained(folder / "text_encoder")
    text.tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def test_diffusers_folder_is_the_same_base(tmp_path: Path) -> None:
    folder, file = diffusers_folder(tmp_path), tmp_path / "toy.safetensors"
    opened = open_base(file)
    (folder / "scheduler").mkdir()
    scheduler = {"prediction_type": "v_prediction", "beta_start": 0.001, "beta_end": 0.02}
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    other = open_base(folder)
    assert (other.shape, other.objective) == (opened.shape, "v")
    assert other.schedule == (0.001, 0.02, 1000)
    for name, base in (("file", file), ("folder", folder)):
        assert main(["init", str(base), str(tmp_path / f"{name}.safetensors")]) == 0
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("file", "folder"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    prompts = encode_prompts(other.texts(), PROMPTS)[0]
    assert torch.equal(prompts, encode_prompts(opened.texts(), PROMPTS)[0])


class Asked:
    """Settings that only say which objective was asked for."""

    objective = "auto"


@pytest.mark.parametrize(
    ("kind", "params", "expected"),
    [
        ("SD1", {}, "eps"),
        ("SD1", {"parameterization": "v"}, "v"),
        ("SD2", {"parameterization": "eps"}, "eps"),
    ],
)
def test_objective_comes_from_the_base(
    kind: str, params: dict, expected: str, tmp_path: Path
) -> None:
    path = write_kind(tmp_path, kind)
    describe(path, {"num_heads": 8}, **params)
    assert choose_objective(Asked(), open_base(path)) == expected


def test_objective_of_published_sd2_must_be_said(tmp_path: Path) -> None:
    unet = tiny_unet("SD2", context_dim=1024)
    path = tmp_path / "v2.safetensors"
    save_file({f"model.diffusion_model.{k}": v.clone() for k, v in unet.state_dict().items()}, path)
    with pytest.raises(TrainError, match="--objective v"):
        choose_objective(Asked(), open_base(path))


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    control = tmp_path / "control.safetensors"
    save_file({"zero_convs.0.0.weight": torch.zeros(1)}, control)
    for path, text in (
        (tmp_path / "gone.safetensors", "does not exist"),
        (control, "no Stable Diffusion checkpoint"),
        (tmp_path, "no diffusers folder"),
    ):
        with pytest.raises(TrainError, match=text):
            open_base(path)


def test_control_of_another_base_is_refused(tmp_path: Path) -> None:
    _base, control = made(tmp_path, "SD1")
    with pytest.raises(TrainError, match="no ControlNet for SDXL"):
        network(open_base(write_kind(tmp_path, "SDXL")), control)


@pytest.mark.parametrize("name", sorted(PIP))
def test_missing_package_is_named_with_the_pip_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError) as caught:
        need(name)
    assert f'pip install "{PIP[name]}"' in str(caught.value)


def test_diffusers_folder_of_half_precision_files_is_read(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path)
    before = encode_prompts(open_base(folder).texts(), PROMPTS)[0]
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    opened = open_base(folder)
    assert torch.equal(encode_prompts(opened.texts(), PROMPTS)[0], before)
    assert opened.unet().dtype is opened.vae().dtype is torch.float32


def test_diffusers_folder_in_several_files_is_read(tmp_path: Path) -> None:
    """As diffusers saves the U-Net of SDXL in full precision."""
    folder = diffusers_folder(tmp_path)
    one = open_base(folder)
    shape, tensors, unet = one.shape, dict(one.encoder()), one.unet()
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet", max_shard_size="500KB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    several = open_base(folder)
    assert several.shape == shape
    found = dict(several.encoder())
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in found)
    whole = several.unet().state_dict()
    assert all(torch.equal(whole[name], value) for name, value in unet.state_dict().items())


def test_another_tokenizer_is_another_cache(toy: Path) -> None:
    path = toy / "toy.safetensors"
    assert open_base(path).identity == open_base(path).identity
    assert open_base(path, ["other"]).identity != open_base(path).identity


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_every_network_of_a_folder_counts_for_its_identity(part: str, tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path)
    before = open_base(folder).identity, open_base(folder).contents
    path = next((folder / part).glob("*.safetensors"))
    tensors = load_file(path)
    save_file(tensors | {"more": torch.zeros(1)}, path, metadata={"format": "pt"})
    assert open_base(folder).identity != before[0]
    assert open_base(folder).contents != before[1]


@torch.no_grad()
def test_text_encoder_names_of_older_files_are_read(tmp_path: Path) -> None:
    path = write_toy(tmp_path)
    before = encode_prompts(open_base(path).texts(), PROMPTS)[0]
    old = {
        name.replace("transformer.text_model.", "transformer."): tensor.clone()
        for name, tensor in load_file(path).items()
    }
    assert "cond_stage_model.transformer.final_layer_norm.bias" in old
    path.unlink()
    save_file(old, path)
    assert torch.equal(encode_prompts(open_base(path).texts(), PROMPTS)[0], before)


def test_noise_of_bases_that_end_in_noise(tmp_path: Path) -> None:
    """As diffusers rescales it, but for the last level, which the WebUI keeps above zero."""
    path = write_kind(tmp_path, "SDXL")
    plain = open_base(path).alphas()
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    path.unlink()
    save_file(tensors | {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, path)
    base = open_base(path)
    assert base.objective == "v"
    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    theirs = DDIMScheduler(rescale_betas_zero_snr=True, **options).alphas_cumprod
    assert torch.allclose(base.alphas()[:-1], theirs[:-1], atol=1e-6)
    assert 0 < base.alphas()[-1] < 1e-7
    assert plain[-1] > 1e-3
