"""Preprocessors that look for a face, with small networks in the places of the published ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from neural import save_weights
from pose_scenes import patches
from random_weights import random_state
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from weights import weights_folder

from annotator import facexlib
from annotator._faces import FACES, GLINT, WEB_FACE, find_face, recognise_face
from annotator.clip_vision import VIT_H, embed
from annotator.embedding import (
    ANTELOPE,
    FACE,
    HIDDEN,
    ID_LEVELS,
    ID_PICTURE,
    RAW_FACE,
    UNCOND_HIDDEN,
)
from annotator.nets.eva_clip import EvaClip, EvaParams
from annotator.pose.arcface import turn_upright
from annotator.pulid import EVA_CLIP
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.errors import ImageError
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units.request import GenerationRequest
from lib_controlnet.units.unit import parse_unit

ONNX = Path(__file__).resolve().parents[1] / "data" / "onnx"
NAMES = ("ip-adapter_face_id", "ip-adapter_face_id_plus", "instant_id_face_embedding")
TWO = "the picture shows 2 faces, and the largest is taken"


def clip_weights() -> dict[str, torch.Tensor]:
    """Random weights of a small CLIP."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "projection_dim": 24}
    config = CLIPVisionConfig(
        **sizes, num_hidden_layers=2, num_attention_heads=16, image_size=28, patch_size=14
    )
    with torch.device("meta"):
        state = CLIPVisionModelWithProjection(config).state_dict()
    return random_state({key: value.shape for key, value in state.items()})


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    with torch.device("meta"):
        eva = EvaClip(EvaParams(64, 24, 21, 14, 5, 12)).state_dict()
    with weights_folder(tmp_path / "weights") as folder:
        for weight, name in ((FACES, "faces"), (GLINT, "recogniser"), (WEB_FACE, "recogniser")):
            path = folder / weight.places[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ONNX / f"{name}.onnx", path)
        clip = folder / VIT_H.places[0]
        clip.parent.mkdir()
        save_file(clip_weights(), clip)
        shapes = {f"visual.{key}": value.shape for key, value in eva.items()}
        save_weights(folder, EVA_CLIP, random_state(shapes))
        yield folder


def test_face_id_is_of_length_one_and_instant_ids_is_not(files: Path) -> None:
    given = patches()
    raw = recognise_face(given, find_face(given), GLINT)
    made = {name: run_preprocessor(name, given) for name in NAMES}
    assert all(one.notes == (TWO,) for one in made.values())
    for name in NAMES[:2]:
        vector = made[name].embedding.tensors[FACE].numpy()
        assert np.allclose(vector, raw / np.linalg.norm(raw), atol=1e-6), name
        assert np.array_equal(made[name].embedding.tensors[RAW_FACE].numpy(), raw)
    assert np.array_equal(made[NAMES[2]].embedding.tensors[ANTELOPE].numpy(), raw)
    assert float(np.linalg.norm(raw)) > 2


def test_clip_sees_the_upright_face(files: Path) -> None:
    given = patches()
    made = run_preprocessor("ip-adapter_face_id_plus", given)
    upright = turn_upright(given, find_face(given).points, 224)
    assert np.array_equal(made.image, upright)
    wanted = embed(upright, VIT_H, (HIDDEN, UNCOND_HIDDEN)).tensors
    for name in (HIDDEN, UNCOND_HIDDEN):
        assert torch.equal(made.embedding.tensors[name], wanted[name])


@pytest.mark.parametrize("name", NAMES)
def test_without_a_face_there_is_nothing_to_recognise(name: str, files: Path) -> None:
    with pytest.raises(ImageError, match="no face is found in the picture"):
        run_preprocessor(name, np.full((64, 96, 3), 128, np.uint8))


@pytest.mark.parametrize("module", [*NAMES, "instant_id_face_keypoints"])
def test_several_faces_are_said(module: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib_controlnet.prepare.units._choose_model", lambda *_args: None)
    unit = parse_unit({"enabled": True, "module": module, "model": "x", "image": patches()})
    comments: list[str] = []

    class Models:
        def remark(self, _name: str) -> None:
            return None

    request = GenerationRequest(Size(64, 64))
    prepared = prepare_units([unit], Preparation(request, Models(), None), comments)
    assert comments == [f"ControlNet {unit.name}: {TWO}"]
    assert prepared[0].partner == ("InstantID" if module.endswith("keypoints") else "")


@pytest.mark.parametrize("is_seen", [True, False])
def test_pulid_sees_the_clean_face(
    is_seen: bool, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = np.array([[100.0, 100.0, 400.0, 400.0]])
    points = np.array([[[180.0, 220], [330, 225], [255, 300], [195, 360], [310, 362]]])
    monkeypatch.setattr(facexlib, "_faces", lambda _image: (box, points))
    parts = np.ones((512, 512), int)
    parts[:, :100] = 0
    monkeypatch.setattr(facexlib, "find_parts", lambda _face: parts)
    given = patches() if is_seen else np.tile(np.uint8([[[60, 60, 60]]]), (640, 640, 1))
    made = run_preprocessor("ip-adapter_pulid", given)
    assert (made.image[:, :100] == 255).all()
    tensors = made.embedding.tensors
    assert tensors[ANTELOPE].shape == (1, 512)
    assert tensors[ID_PICTURE].shape == (1, 12)
    assert [tensors[name].shape for name in ID_LEVELS] == [(1, 5, 64)] * 5
    assert made.notes == ((TWO,) if is_seen else ())


def test_pictures_are_shrunk_as_the_authors_shrink_them(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EVA-CLIP reads means of what a pixel of the smaller picture covers, not single pixels."""
    seen: list[torch.Tensor] = []
    forward = EvaClip.forward
    monkeypatch.setattr(EvaClip, "forward", lambda net, x: (seen.append(x), forward(net, x))[1])
    from annotator.pulid import _look_at

    board = np.indices((512, 512)).sum(axis=0) % 2 * 255
    _look_at(cv2.cvtColor(board.astype(np.uint8), cv2.COLOR_GRAY2RGB))
    assert float(seen[0].std(dim=(2, 3)).max()) < 0.05
