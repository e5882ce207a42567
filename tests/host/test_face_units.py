"""FaceID in the embedded host, over its API: a picture with a face, a LoRA in the file, undone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controls import encoded, first, host_folder, request, unet_hooks, unit
from pose_scenes import patches
from random_weights import random_state
from weights import weights_folder

from annotator._faces import FACES, WEB_FACE
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.families.attention import cross_attentions
from lib_controlnet.families.ip_adapter import file_number
from lib_controlnet.nets.face_id import KINDS, FaceAdapter, FaceAdapterParams, FaceParams

MODEL = "ip-adapter-faceid_tiny"
ONNX = Path(__file__).resolve().parents[1] / "data" / "onnx"


def write_adapter(folder: Path, unet: torch.nn.Module) -> None:
    """A random FaceID for a U-Net, in the nested form of the published pickles."""
    layers = cross_attentions(BaseUNet(unet, describe_unet(unet), "", ""))
    context = layers[0].context
    low_rank = {
        (str(2 * layer.number + cross), kind): (
            context if cross and kind in ("to_k", "to_v") else layer.width,
            4,
            layer.width,
        )
        for layer in layers
        for cross in (0, 1)
        for kind in KINDS
    }
    widths = {file_number(layer): layer.width for layer in layers}
    with torch.device("meta"):
        module = FaceAdapter(FaceAdapterParams(FaceParams(512, 16, 4, context), widths, low_rank))
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    for key, tensor in random_state(shapes, 1, gain=2.0).items():
        part, _, rest = key.partition(".")
        nested[part][rest] = tensor
    torch.save(nested, folder / f"{MODEL}.bin")


@pytest.fixture(scope="module")
def webui(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from modules import shared

    write_adapter(host_folder(), shared.sd_model.model.diffusion_model)
    with weights_folder(tmp_path_factory.mktemp("weights")) as folder:
        for weight, name in ((FACES, "faces"), (WEB_FACE, "recogniser")):
            path = folder / weight.places[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ONNX / f"{name}.onnx", path)
        yield host


def made(webui: Any, *units: dict[str, Any]) -> tuple[np.ndarray, str]:
    answer = webui.txt2img(**request(*units, steps=2))
    return first(answer).astype(int), str(answer.info)


def test_a_face_steers_and_is_gone_afterwards(webui: Any) -> None:
    face = unit(model=MODEL, module="ip-adapter-auto", image=encoded(patches()))
    plain, _info = made(webui)
    steered, info = made(webui, face)
    assert np.abs(steered - plain).mean() > 5
    assert "the picture shows 2 faces, and the largest is taken" in info
    assert "Module: ip-adapter_face_id" in info
    assert np.array_equal(made(webui, face)[0], steered)
    vector = np.random.default_rng(1).normal(size=512).tolist()
    sent = unit(model=MODEL, module="ip-adapter_face_id", image=None, ipadapter_input=vector)
    assert np.abs(made(webui, sent)[0] - plain).mean() > 5
    assert unet_hooks() == 0
    assert np.array_equal(made(webui)[0], plain)


def test_a_picture_without_a_face_is_refused(webui: Any) -> None:
    grey = encoded(np.full((64, 64, 3), 128, np.uint8))
    with pytest.raises(Exception, match="unit 0: .*no face is found in the picture"):
        made(webui, unit(model=MODEL, module="ip-adapter_face_id", image=grey))
