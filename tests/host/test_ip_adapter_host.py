"""IP-Adapters in the embedded host, over its API: pictures, lists, regions, orders, taken down."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controls import encoded, first, host_folder, picture, request, unet_hooks, unit
from random_weights import random_state
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from weights import weights_folder

from annotator.clip_vision import VIT_H
from annotator.embedding import IMAGE_EMBEDS
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.families.attention import cross_attentions
from lib_controlnet.families.ip_adapter import file_number
from lib_controlnet.nets.ip_adapter import AdapterParams, IPAdapter, Projection
from lib_controlnet.prepare.embeddings import read_embeddings

MODEL = "tiny_ip_adapter"
READ = 1024
"""Width of ViT-H's pooled embedding, by which the file chooses its preprocessor."""
SEVERAL = [{"image": encoded(picture(seed=1))}, {"image": encoded(picture(seed=2))}]


def write_adapter(folder: Path, unet: torch.nn.Module) -> None:
    """A random IP-Adapter for a U-Net."""
    base = BaseUNet(unet, describe_unet(unet), "", "")
    widths = {file_number(layer): layer.width for layer in cross_attentions(base)}
    params = AdapterParams(Projection.LINEAR, READ, base.shape.context_dim, 4, widths)
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in IPAdapter(params).state_dict().items()}
    save_file(random_state(shapes, 1, gain=4.0), folder / f"{MODEL}.safetensors")


def write_encoder(folder: Path) -> None:
    """A small random network in the place of ViT-H."""
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, projection_dim=READ, num_hidden_layers=2,
        num_attention_heads=16, image_size=28, patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    with torch.device("meta"):
        model = CLIPVisionModelWithProjection(config)
    path = folder / VIT_H.places[0]
    path.parent.mkdir(exist_ok=True)
    save_file(random_state({k: t.shape for k, t in model.state_dict().items()}, 2), path)


@pytest.fixture(scope="module")
def webui(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from modules import shared

    write_adapter(host_folder(), shared.sd_model.model.diffusion_model)
    with weights_folder(tmp_path_factory.mktemp("weights")) as folder:
        write_encoder(folder)
        yield host


def ip_unit(**fields: Any) -> dict[str, Any]:
    return unit(**{"model": MODEL, "module": "ip-adapter-auto", "image": SEVERAL[0], **fields})


def made(webui: Any, *units: dict[str, Any], **fields: Any) -> np.ndarray:
    return first(webui.txt2img(**request(*units, **{"steps": 2, **fields}))).astype(int)


def test_pictures_steer_and_nothing_stays_behind(webui: Any) -> None:
    plain = made(webui)
    one = made(webui, ip_unit())
    assert np.abs(one - plain).mean() > 2
    assert np.array_equal(made(webui, ip_unit(module="ip-adapter_clip_h")), one)
    both = made(webui, ip_unit(image=SEVERAL))
    assert np.abs(both - one).mean() > 0.5
    assert np.array_equal(made(webui, ip_unit(image=SEVERAL[::-1])), both)
    pair = [ip_unit(weight=0.4), ip_unit(image=SEVERAL[1], weight=0.6)]
    assert np.array_equal(made(webui, *pair), made(webui, *pair[::-1]))
    assert unet_hooks() == 0
    assert np.array_equal(made(webui), plain)


def test_rows_in_one_call_or_in_two_and_both_passes(webui: Any) -> None:
    from modules import shared

    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    for fields in ({}, hires):
        together = made(webui, ip_unit(), **fields)
        shared.opts.set("batch_cond_uncond", False, run_callbacks=False)
        try:
            apart = made(webui, ip_unit(), **fields)
        finally:
            shared.opts.set("batch_cond_uncond", True, run_callbacks=False)
        assert np.abs(apart - together).max() <= 2
        assert np.abs(together - made(webui, **fields)).mean() > 2


def test_embeddings_are_detected_sent_and_described(webui: Any) -> None:
    asked = {
        "controlnet_module": "ip-adapter_clip_h",
        "controlnet_input_images": [encoded(picture(seed=1))],
    }
    answer = webui.client.post("/controlnet/detect", json=asked)
    assert answer.status_code == 200, answer.text
    (text,) = answer.json()["tensor"]
    assert "images" not in answer.json()
    (found,) = read_embeddings(text, "x")
    given = found.tensors[IMAGE_EMBEDS].flatten().tolist()
    one = made(webui, ip_unit())
    for value in (text, [text], {IMAGE_EMBEDS: given}):
        assert np.array_equal(made(webui, ip_unit(image=None, ipadapter_input=value)), one)
    answer = webui.txt2img(**request(ip_unit(advanced_weighting="ease in"), steps=2))
    assert "Module: ip-adapter_clip_sd15" in str(answer.info)
    assert "Advanced Weighting: ease in" in str(answer.info)


def test_embeddings_are_saved_where_maps_go(webui: Any, tmp_path: Path) -> None:
    from modules import shared

    options = {
        "controlnet_embedding_autosaving": True,
        "control_net_detectedmap_dir": str(tmp_path),
    }
    before = {name: shared.opts.data.get(name) for name in options}
    shared.opts.data.update(options)
    try:
        one = made(webui, ip_unit())
        made(webui, ip_unit(image=SEVERAL))
    finally:
        shared.opts.data.update(before)
    saved = sorted((tmp_path / "ip-adapter_clip_sd15").iterdir())
    assert [path.suffix for path in saved] == [".safetensors"] * 2  # one of them came twice
    texts = [base64.b64encode(path.read_bytes()).decode() for path in saved]
    given = [made(webui, ip_unit(image=None, ipadapter_input=text)) for text in texts]
    assert any(np.array_equal(picture, one) for picture in given)
