"""What makes tokens of faces: against diffusers' classes, and the authors' of PuLID.

`data/networks/pulid_*` hold names and shapes of those of PuLID at reduced width, and what they gave
with the random weights of `random_weights` (seed 5).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from diffusers.loaders.unet import UNet2DConditionLoadersMixin
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from torch import nn

from lib_controlnet.nets.face_id import FaceParams, FaceProjection, read_face_params
from lib_controlnet.nets.pulid import LEVELS, IdEncoder, IdFormer, read_id_params
from lib_controlnet.nets.resampler import Resampler, ResamplerParams, read_resampler_params

RESAMPLER = ResamplerParams(40, 128, 128, 512, 4, 0, 128)
FACES = {
    "plain": FaceParams(16, 32, 4, 128),
    "portrait": FaceParams(16, 32, 16, 128),
    "plus": FaceParams(16, 32, 4, 128, RESAMPLER),
}


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def _twins(module: nn.Module) -> nn.Module:
    """Fill a network with random weights; diffusers' with the same."""
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    state = random_state(shapes, seed=2)
    module.eval().load_state_dict(state)
    convert = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers
    return convert(state, low_cpu_mem_usage=False).eval()


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in module.state_dict().items()}


@pytest.mark.parametrize("kind", FACES)
def test_face_projections_equal_diffusers(kind: str) -> None:
    network = FaceProjection(FACES[kind])
    assert read_face_params(_shapes(network)) == FACES[kind]
    reference = _twins(network)
    faces = random_input((2, 16), -1, 1)
    if FACES[kind].resampler is None:
        wanted = reference(faces)
        assert relative_error(network(faces), wanted.numpy()) <= 1e-5
        return
    pictures = random_input((2, 7, 40), -1, 1, seed=2)
    # Its picture tokens have an axis of images, and faces come as rows.
    reference.clip_embeds = pictures[:, None]
    for keep in (False, True):
        reference.shortcut, reference.shortcut_scale = keep, 1.0
        wanted = reference(faces).reshape(2, 4, 128)
        assert relative_error(network(faces, pictures, keep), wanted.numpy()) <= 1e-5


def test_resampler_equals_diffusers() -> None:
    params = ResamplerParams(40, 128, 192, 512, 4, 5, 48)
    network = Resampler(params)
    assert read_resampler_params(_shapes(network)) == params
    reference, given = _twins(network), random_input((2, 3, 40), -1, 1)
    assert relative_error(network(given), reference(given).numpy()) <= 1e-5


@pytest.mark.parametrize(("name", "encoder"), [("pulid_v1", IdEncoder), ("pulid_v11", IdFormer)])
def test_id_encoders_equal_the_authors(name: str, encoder: type[nn.Module]) -> None:
    shapes = {key: tuple(shape) for key, shape in read_keys(name).items()}
    network = encoder(read_id_params(shapes)).eval()
    network.load_state_dict(random_state(shapes, seed=5))
    levels = [random_input((2, 7, 32), -1, 1, seed=2 + number) for number in range(LEVELS)]
    made = network(random_input((2, 40), -1, 1), levels)
    assert relative_error(made, read_output(name)) <= 1e-5
