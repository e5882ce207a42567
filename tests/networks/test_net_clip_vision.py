"""CLIP's vision networks: layouts, the class of `transformers`, and what preprocessors give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from neural import check_memory_is_given_back, smooth_picture
from random_weights import random_state
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from weights import weights_folder

from annotator.clip_vision import MEAN, STD, VIT_BIGG, VIT_H, VIT_L, embed
from annotator.embedding import HIDDEN, IMAGE_EMBEDS, LAST, UNCOND_HIDDEN
from annotator.nets.clip_vision import build
from annotator.networks import CACHE
from lib_controlnet.detect.preprocess import DetectionCache, run_preprocessor

WIDTH, SIDE, PROJECTION = 64, 28, 24
PUBLISHED = {  # hidden size, blocks, width of the MLP, projection, parameters
    "ViT-L": (1024, 24, 4096, 768, 303_966_208),
    "ViT-H": (1280, 32, 5120, 1024, 632_076_800),
    "ViT-bigG": (1664, 48, 8192, 1280, 1_844_907_264),
}


def config(width: int, blocks: int, mlp: int, projection: int, side: int) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=width,
        num_hidden_layers=blocks,
        intermediate_size=mlp,
        projection_dim=projection,
        image_size=side,
        patch_size=14,
        num_attention_heads=16,
        hidden_act="quick_gelu" if width == 1024 else "gelu",
    )


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a small network in the layout of Hugging Face."""
    with torch.device("meta"):
        theirs = CLIPVisionModelWithProjection(config(WIDTH, 3, 96, PROJECTION, SIDE))
    shapes = {k: v.shape for k, v in theirs.state_dict().items() if not k.endswith("position_ids")}
    return random_state(shapes, seed)


def as_open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as OpenCLIP names them, beside a text network."""
    made = {"text_projection": torch.zeros(2, 2), "logit_scale": torch.zeros(())}
    head = "vision_model."
    made["visual.class_embedding"] = state[f"{head}embeddings.class_embedding"]
    made["visual.conv1.weight"] = state[f"{head}embeddings.patch_embedding.weight"]
    made["visual.positional_embedding"] = state[f"{head}embeddings.position_embedding.weight"]
    made["visual.proj"] = state["visual_projection.weight"].t().contiguous()
    for leaf in ("weight", "bias"):
        made[f"visual.ln_pre.{leaf}"] = state[f"{head}pre_layrnorm.{leaf}"]
        made[f"visual.ln_post.{leaf}"] = state[f"{head}post_layernorm.{leaf}"]
        for i in range(3):
            theirs, ours = f"{head}encoder.layers.{i}", f"visual.transformer.resblocks.{i}"
            parts = [state[f"{theirs}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
            made[f"{ours}.attn.in_proj_{leaf}"] = torch.cat(parts)
            made[f"{ours}.attn.out_proj.{leaf}"] = state[f"{theirs}.self_attn.out_proj.{leaf}"]
            made[f"{ours}.ln_1.{leaf}"] = state[f"{theirs}.layer_norm1.{leaf}"]
            made[f"{ours}.ln_2.{leaf}"] = state[f"{theirs}.layer_norm2.{leaf}"]
            made[f"{ours}.mlp.c_fc.{leaf}"] = state[f"{theirs}.mlp.fc1.{leaf}"]
            made[f"{ours}.mlp.c_proj.{leaf}"] = state[f"{theirs}.mlp.fc2.{leaf}"]
    return made


@pytest.mark.parametrize("kind", PUBLISHED)
def test_structure_is_read_from_the_tensors_of_the_published_files(kind: str) -> None:
    width, blocks, mlp, projection, count = PUBLISHED[kind]
    with torch.device("meta"):
        theirs = CLIPVisionModelWithProjection(config(width, blocks, mlp, projection, 224))
    found = build(theirs.state_dict())
    own = found.clip.config
    asked = theirs.config
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", "projection_dim")
    names += ("image_size", "patch_size", "num_attention_heads", "hidden_act")
    assert [getattr(own, name) for name in names] == [getattr(asked, name) for name in names]
    assert sum(p.numel() for p in found.parameters()) == count


def theirs(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> object:
    model = CLIPVisionModelWithProjection(config(WIDTH, 3, 96, PROJECTION, SIDE)).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("position_ids") for name in missing)  # of transformers 4.30
    with torch.no_grad():
        return model(pixel_values=pixels, output_hidden_states=True)


LAYOUTS = {
    "hugging face": dict,
    "with text and positions": lambda state: {
        **state,
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
        "text_model.embeddings.token_embedding.weight": torch.zeros(3, 3),
        "logit_scale": torch.zeros(()),
    },
    "open clip": as_open_clip,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_what_the_class_of_transformers_gives(layout: str) -> None:
    state = weights()
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = theirs(state, pixels)
    network = build(LAYOUTS[layout](state)).eval()
    with torch.no_grad():
        seen = network(pixels)
    assert torch.equal(seen.pooled, expected.image_embeds)
    assert torch.equal(seen.hidden, expected.hidden_states[2])
    assert torch.equal(seen.last, expected.last_hidden_state)
    assert not torch.equal(seen.hidden, seen.last)


def test_a_file_of_something_else_is_named() -> None:
    state = weights()
    del state["vision_model.encoder.layers.1.mlp.fc1.bias"]
    with pytest.raises(RuntimeError, match="fc1.bias"):
        build(state)
    with pytest.raises(KeyError, match="class_embedding"):
        build({"text_model.x": torch.zeros(1)})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with weights_folder(tmp_path):
        for seed, weight in enumerate((VIT_L, VIT_H, VIT_BIGG)):
            path = tmp_path / weight.places[0]
            path.parent.mkdir(exist_ok=True)
            save_file(weights(seed), path)
        yield tmp_path
    CACHE.clear()


def pixels_of(picture: np.ndarray) -> torch.Tensor:
    """The statement of what CLIP is shown: squeezed to its square, centred and scaled."""
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) / 255
    return torch.from_numpy(((small - MEAN) / STD).astype(np.float32).transpose(2, 0, 1))[None]


ROWS = {
    "ip-adapter_clip_sd15": (1, (IMAGE_EMBEDS, HIDDEN, UNCOND_HIDDEN)),
    "ip-adapter_clip_sdxl": (2, (IMAGE_EMBEDS, HIDDEN, UNCOND_HIDDEN)),
    "ip-adapter_clip_sdxl_plus_vith": (1, (IMAGE_EMBEDS, HIDDEN, UNCOND_HIDDEN)),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.usefixtures("folder")
def test_a_preprocessor_gives_what_its_network_sees(name: str) -> None:
    seed, names = ROWS[name]
    picture = smooth_picture(40, 70)
    expected = theirs(weights(seed), pixels_of(picture))
    blank = theirs(weights(seed), torch.zeros(1, 3, SIDE, SIDE))
    found = run_preprocessor(name, picture)
    assert np.array_equal(found.image, picture)
    tensors = found.embedding.tensors
    assert set(tensors) == set(names)
    assert found.embedding.maker == name
    wanted = {
        IMAGE_EMBEDS: expected.image_embeds,
        HIDDEN: expected.hidden_states[-2],
        UNCOND_HIDDEN: blank.hidden_states[-2],
    }
    for key, tensor in tensors.items():
        assert torch.allclose(tensor, wanted[key], atol=1e-5), key


@pytest.mark.usefixtures("folder")
def test_what_is_masked_is_not_seen() -> None:
    picture = smooth_picture(SIDE, SIDE)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:14] = 255
    other = picture.copy()
    other[:14] = 7
    name = "ip-adapter_clip_sd15"
    seen = [run_preprocessor(name, one, mask=mask) for one in (picture, other)]
    first, second = (one.embedding for one in seen)
    assert first.digest == second.digest != run_preprocessor(name, picture).embedding.digest
    pixels = pixels_of(picture)
    pixels[:, :, :14] = 0
    expected = theirs(weights(1), pixels).image_embeds
    assert torch.allclose(first.tensors[IMAGE_EMBEDS], expected, atol=1e-5)
    assert np.array_equal(seen[0].image[:14, :, 0], np.full((14, SIDE), round(MEAN[0] * 255)))


@pytest.mark.usefixtures("folder")
def test_a_picture_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DetectionCache()
    first = run_preprocessor("ip-adapter_clip_sd15", smooth_picture(40, 70), cache=cache)
    monkeypatch.setattr("annotator.clip_vision.lend", None)
    again = run_preprocessor("ip-adapter_clip_sd15", smooth_picture(40, 70), cache=cache)
    assert again.embedding is first.embedding
    assert first.nbytes > first.embedding.nbytes > 0


@pytest.mark.usefixtures("folder")
def test_odd_pictures_and_a_state_that_is_given_back() -> None:
    for height, width in ((1, 1), (1, 20), (61, 83)):
        found = embed(smooth_picture(height, width), VIT_H, (LAST,))
        assert found.tensors[LAST].shape == (1, 5, WIDTH)
    check_memory_is_given_back("ip-adapter_clip_sd15")


def test_a_pickle_of_the_older_names_is_found(tmp_path: Path) -> None:
    with weights_folder(tmp_path):
        path = tmp_path / "clip_vision" / "clip_h.pth"
        path.parent.mkdir()
        torch.save(weights(1), path)
        assert embed(smooth_picture(9, 9), VIT_H, (IMAGE_EMBEDS,)).nbytes == 4 * PROJECTION
    CACHE.clear()
