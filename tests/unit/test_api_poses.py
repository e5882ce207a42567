"""Poses over HTTP: what `/controlnet/detect` finds, the render route draws again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_web import decode, encode, served
from pose_scenes import PatchNet, SceneNet, patches, picture, put_small_networks
from starlette.testclient import TestClient
from weights import weights_folder

from annotator import openpose as detectors
from annotator.nets import openpose

WIDTH, HEIGHT = 512, 384


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """The routes, with small networks in the place of the published ones."""
    monkeypatch.setattr(openpose, "build_body", lambda _: SceneNet(1, WIDTH, HEIGHT))
    monkeypatch.setattr(openpose, "build_hand", lambda _: PatchNet(22, 1))
    monkeypatch.setattr(openpose, "build_face", lambda _: PatchNet(71, 2))
    with served(tmp_path) as (found, _), weights_folder(tmp_path / "weights") as folder:
        put_small_networks(folder)
        for weight in (detectors.BODY, detectors.HAND, detectors.FACE):
            torch.save({"anchor": torch.zeros(1)}, folder / weight.places[0])
        yield found


@pytest.mark.parametrize(
    ("name", "people", "animals"),
    [
        ("openpose_full", 2, 0),
        ("openpose_faceonly", 2, 0),
        ("dw_openpose_full", 2, 0),
        ("animal_openpose", 0, 1),
    ],
)
def test_detected_pose_is_rendered_as_the_same_picture(
    client: TestClient, name: str, people: int, animals: int
) -> None:
    given = picture(1, WIDTH, HEIGHT) if name.startswith("openpose") else patches()
    body = {
        "controlnet_module": name,
        "controlnet_input_images": [encode(given), encode(given[:300, :333])],
        "controlnet_processor_res": min(given.shape[:2]),
    }
    answer = client.post("/controlnet/detect", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    first = found["poses"][0]
    assert (len(first["people"]), len(first["animals"])) == (people, animals)
    rendered = client.post("/controlnet/render_openpose_json", json=found["poses"])
    assert rendered.status_code == 200, rendered.text
    drawn = [decode(image) for image in rendered.json()["images"]]
    maps = [decode(image) for image in found["images"]]
    assert len(drawn) == len(maps) == 2
    assert drawn[0].any()
    for picture_of_json, detected in zip(drawn, maps, strict=True):
        assert np.array_equal(picture_of_json, detected)
