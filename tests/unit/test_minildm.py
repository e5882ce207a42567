"""The small latent diffusion modules against diffusers, on the same random weights."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
import toy_base
from minildm.checkpoint import checkpoint_tensors, load_checkpoint, save_half
from minildm.config import config_from_shapes, unet_config_from_shapes
from minildm.schedule import add_noise, alphas_cumprod
from minildm.text import OpenClip, tokenize
from minildm.unet import UNetModel, timestep_embedding
from minildm.vae import AutoencoderKL
from training import assets
from training.vocabulary import WORDS

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

SIZES = {
    "sd1": dict(num_heads=8, context_dim=48, transformer_depth=1),
    "sd2": dict(
        num_head_channels=32, context_dim=40, transformer_depth=1, use_linear_in_transformer=True
    ),
    "sdxl": dict(
        num_head_channels=32,
        context_dim=56,
        transformer_depth=[0, 1, 2],
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=24 + 6 * 8,
        channel_mult=[1, 2, 2],
        attention_resolutions=[4, 2],
    ),
}
COMMON = dict(
    in_channels=4,
    out_channels=4,
    model_channels=32,
    num_res_blocks=2,
    channel_mult=[1, 2, 4, 4],
    attention_resolutions=[4, 2, 1],
)


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """Fill with weights that leave no part without effect; zero ones would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        noise = torch.randn(p.shape, generator=generator)
        p.data = noise * 0.5 / max(p[0].numel(), 1) ** 0.5 if p.ndim > 1 else 0.6 + 0.1 * noise


def hf_unet_key(key: str, blocks: int) -> str:  # noqa: PLR0911
    """Key of diffusers' U-Net as an LDM key."""
    names = {"conv1": "in_layers.2", "conv2": "out_layers.3", "norm1": "in_layers.0"}
    names |= {"norm2": "out_layers.0", "time_emb_proj": "emb_layers.1"}
    names |= {"conv_shortcut": "skip_connection"}
    down = blocks + 1

    def resnet(text: str) -> str:
        head, part, rest = text.rsplit(".", 2)
        return f"{head}.{names[part]}.{rest}"

    simple = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for hf, ldm in simple.items():
        if key.startswith(hf + "."):
            return ldm + key[len(hf) :]
    if m := re.match(r"down_blocks\.(\d+)\.resnets\.(\d+)(\..*)", key):
        return resnet(f"input_blocks.{down * int(m[1]) + int(m[2]) + 1}.0{m[3]}")
    if m := re.match(r"down_blocks\.(\d+)\.attentions\.(\d+)(\..*)", key):
        return f"input_blocks.{down * int(m[1]) + int(m[2]) + 1}.1{m[3]}"
    if m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv(\..*)", key):
        return f"input_blocks.{down * (int(m[1]) + 1)}.0.op{m[2]}"
    if m := re.match(r"mid_block\.resnets\.(\d)(\..*)", key):
        return resnet(f"middle_block.{2 * int(m[1])}{m[2]}")
    if m := re.match(r"mid_block\.attentions\.0(\..*)", key):
        return f"middle_block.1{m[1]}"
    if m := re.match(r"up_blocks\.(\d+)\.resnets\.(\d+)(\..*)", key):
        return resnet(f"output_blocks.{down * int(m[1]) + int(m[2])}.0{m[3]}")
    if m := re.match(r"up_blocks\.(\d+)\.attentions\.(\d+)(\..*)", key):
        return f"output_blocks.{down * int(m[1]) + int(m[2])}.1{m[3]}"
    if m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv(\..*)", key):
        return f"output_blocks.{down * int(m[1]) + blocks}.UP.conv{m[2]}"
    raise AssertionError(key)


def hf_unet(name: str) -> torch.nn.Module:
    xl, sd1 = name == "sdxl", name == "sd1"
    plain, cross = ("DownBlock2D", "UpBlock2D"), ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
    kinds = [plain, cross, cross] if xl else [cross, cross, cross, plain]
    widths = (32, 64, 64) if xl else (32, 64, 128, 128)
    heads = {"sd1": 8, "sd2": (1, 2, 4, 4), "sdxl": (1, 2, 2)}[name]
    extra = {}
    if xl:
        extra = dict(
            transformer_layers_per_block=(1, 1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 48,
        )
    return diffusers.UNet2DConditionModel(
        block_out_channels=widths,
        down_block_types=tuple(k[0] for k in kinds),
        up_block_types=tuple(k[1] for k in kinds[::-1]),
        layers_per_block=2,
        cross_attention_dim=SIZES[name]["context_dim"],
        attention_head_dim=heads,
        use_linear_projection=not sd1,
        **extra,
    ).eval()


@pytest.mark.parametrize("name", sorted(SIZES))
def test_unet_equals_diffusers(name):
    theirs, ours = hf_unet(name), UNetModel(**{**COMMON, **SIZES[name]}).eval()
    randomise(theirs)
    own = set(ours.state_dict())
    weights = {}
    for key, value in theirs.state_dict().items():
        mapped = hf_unet_key(key, 2)
        if ".UP." in mapped:
            mapped = next(m for i in (2, 1) if (m := mapped.replace("UP", str(i))) in own)
        weights[mapped] = value
    ours.load_state_dict(weights, strict=True)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 16, 24, generator=generator)
    context = torch.randn(2, 77, SIZES[name]["context_dim"], generator=generator)
    times = torch.tensor([999.0, 3.0])
    added, y = None, None
    if name == "sdxl":
        pooled, ids = torch.randn(2, 24, generator=generator), torch.rand(2, 6) * 100
        added = {"text_embeds": pooled, "time_ids": ids}
        sinusoids = timestep_embedding(ids.flatten(), 8).reshape(2, -1)
        y = torch.cat([pooled, sinusoids], dim=1)
    with torch.no_grad():
        wanted = theirs(x, times, context, added_cond_kwargs=added).sample
        got = ours(x, times, context, y=y)
    # float32 rounding through some 60 layers
    assert (got - wanted).abs().max() / wanted.abs().max() < 1e-4


def vae_key(key: str, levels: int) -> str:
    """Key of diffusers' autoencoder as an LDM key."""
    up = re.match(r"decoder\.up_blocks\.(\d+)\.(.*)", key)
    if up:
        key = f"decoder.up.{levels - 1 - int(up[1])}.{up[2]}"
    for hf, ldm in (
        ("down_blocks", "down"),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0", "mid.attn_1"),
        ("resnets", "block"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("group_norm", "norm"),
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
    ):
        key = key.replace(hf, ldm)
    return key


def test_vae_equals_diffusers():
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
    ).eval()
    ours = AutoencoderKL(32, [1, 1, 2, 2], 1).eval()
    randomise(theirs)
    own = ours.state_dict()
    mapped = {vae_key(k, 4): v for k, v in theirs.state_dict().items()}
    ours.load_state_dict({k: v.reshape(own[k].shape) for k, v in mapped.items()}, strict=True)
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, got = theirs.encode(x).latent_dist, ours.encode(x)
        assert torch.allclose(got.mean, wanted.mean, atol=1e-4)
        assert torch.allclose(got.logvar, wanted.logvar, atol=1e-4)
        decoded = theirs.decode(wanted.mean).sample
        assert torch.allclose(ours.decode(got.mean), decoded, atol=1e-3)


def test_schedule_equals_diffusers():
    theirs = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    assert torch.allclose(alphas_cumprod(), theirs.alphas_cumprod, rtol=1e-4)
    x, noise, times = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([5, 900])
    wanted = theirs.add_noise(x, noise, times)
    assert torch.allclose(add_noise(x, noise, times, alphas_cumprod()), wanted, atol=1e-4)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_unet_sizes_are_read_from_shapes(name):
    sizes = {**COMMON, **SIZES[name]}
    read = unet_config_from_shapes(UNetModel(**sizes).state_dict())
    heads = {"num_heads", "num_head_channels"}  # not in the shapes
    read = {k: v for k, v in read.items() if k not in heads}
    again = UNetModel(**read, **{k: v for k, v in sizes.items() if k in heads})
    first = {k: v.shape for k, v in UNetModel(**sizes).state_dict().items()}
    assert {k: v.shape for k, v in again.state_dict().items()} == first


def test_odd_latent_size_works():
    unet = UNetModel(**{**COMMON, **SIZES["sd1"]}).eval()
    x = torch.randn(1, 4, 9, 13)
    with torch.no_grad():
        assert unet(x, torch.tensor([1.0]), torch.randn(1, 7, 48)).shape == x.shape


def test_both_head_settings_are_refused():
    with pytest.raises(ValueError, match="num_heads or num_head_channels"):
        UNetModel(**COMMON, num_heads=8, num_head_channels=64, context_dim=8)


def test_every_domain_word_is_one_token(demo_files):
    model = load_checkpoint(demo_files)
    for word in WORDS:
        assert len(model.tokenizer.tokenize(word)) == 1, word
    assert len(model.tokenizer.tokenize("zebra")) > 1


@pytest.fixture(scope="module")
def demo_files(tmp_path_factory, request):
    """The demo checkpoint's layout with random weights."""
    folder = tmp_path_factory.mktemp("demo")
    patch = pytest.MonkeyPatch()
    request.addfinalizer(patch.undo)
    shutil.copytree(assets.TEXT_FOLDER, folder / "demo-clip")
    shutil.copy(assets.CHECKPOINT.with_suffix(".yaml"), folder)
    patch.setattr(assets, "CHECKPOINT", folder / "demo.safetensors")
    torch.manual_seed(0)
    assets.export_base(assets.new_unet(), assets.new_vae(), assets.new_text_encoder())
    return folder / "demo.safetensors"


def test_checkpoint_survives_saving_and_loading(demo_files, tmp_path):
    model = load_checkpoint(demo_files)
    assert model.parameterization == "eps"
    ids = tokenize(model.tokenizer, ["a red circle", ""])
    context = model.text(ids)
    assert context.shape == (2, 77, assets.CONFIG.unet["context_dim"])
    copy = demo_files.with_name("copy.safetensors")
    save_half(checkpoint_tensors(model.unet, model.vae, model.text), copy)
    copy.with_suffix(".yaml").write_text(demo_files.with_suffix(".yaml").read_text())
    again = load_checkpoint(copy)
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(tensor, again.unet.state_dict()[name]), name


def test_shapes_alone_give_the_demo_sizes(demo_files):
    with_yaml = load_checkpoint(demo_files).config
    tensors = assets.checkpoint_tensors(
        assets.new_unet(), assets.new_vae(), assets.new_text_encoder()
    )
    read = config_from_shapes(tensors)
    unet, vae = UNetModel(**read.unet), AutoencoderKL(**read.vae)
    assert unet.state_dict().keys() == UNetModel(**with_yaml.unet).state_dict().keys()
    assert vae.state_dict().keys() == AutoencoderKL(**with_yaml.vae).state_dict().keys()


def test_missing_tensors_are_reported_with_the_part(demo_files):
    model = load_checkpoint(demo_files)
    tensors = checkpoint_tensors(model.unet, model.vae, model.text)
    tensors.pop("first_stage_model.quant_conv.weight")
    broken = demo_files.with_name("broken.safetensors")
    save_half(tensors, broken)
    broken.with_suffix(".yaml").write_text(demo_files.with_suffix(".yaml").read_text())
    with pytest.raises(ValueError, match="1 tensors missing under first_stage_model"):
        load_checkpoint(broken)


def test_open_clip_equals_transformers_on_the_same_weights() -> None:
    sizes = {**toy_base.text_config(), "intermediate_size": 128}
    config = transformers.CLIPTextConfig(**sizes, hidden_act="gelu")
    theirs = transformers.CLIPTextModelWithProjection(config)
    randomise(theirs)
    tensors = toy_base.open_clip_tensors(theirs)
    with torch.device("meta"):
        ours = OpenClip({k: tuple(v.shape) for k, v in tensors.items()}, heads=2)
    ours.load_state_dict(tensors, assign=True)
    ids = torch.full((2, 77), config.eos_token_id)
    ids[:, 0], ids[0, 1:9], ids[1, 1:30] = config.bos_token_id, 5, 6
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids, output_hidden_states=True)
        tokens, pooled = ours.eval()(ids)
    torch.testing.assert_close(tokens, expected.hidden_states[-2], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pooled, expected.text_embeds, atol=1e-5, rtol=1e-4)
