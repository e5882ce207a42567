"""LaMa: published keys, output of the reference class, and what the preprocessor makes of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import support
import torch
from PIL import Image
from random_weights import (
    random_input,
    random_state,
    read_keys,
    read_output,
    relative_error,
)
from sessions import FakeHost, info, prepared
from weights import weights_folder

import annotator.lama as detector
from annotator.lama import LAMA
from annotator.nets.lama import Lama, LamaParams, build
from annotator.networks import CACHE, Place, lend
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.engine.prepared import PreparedUnit
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ResizeMode
from lib_controlnet.pictures.maps import Size, fit_map, resize_with_pad
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units.request import GenerationRequest, InpaintRules
from lib_controlnet.units.unit import parse_unit

SMALL = LamaParams(base=8, blocks=3)
NAME = "inpaint_only+lama"


def small_state() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in Lama(SMALL).state_dict().items()}
    return random_state(shapes, 22, gain=1.3)


def holed(shape: tuple[int, ...]) -> torch.Tensor:
    """What the reference was given: noise, holes where its last channel is above a half."""
    x = random_input(shape, 0, 1)
    x[:, 3:] = (x[:, 3:] > 0.5).float()
    return x


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Path]:
    """A folder with a small file of random weights."""
    with weights_folder(tmp_path) as folder:
        path = folder / LAMA.folder / LAMA.name
        path.parent.mkdir()
        torch.save(small_state(), path)
        yield folder


def masked_picture(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (height, width, 4), np.uint8)
    picture[:, :, 3] = 0
    picture[height // 4 : height // 2 + 1, width // 3 : width // 2 + 1, 3] = 255
    return picture


def test_published_keys_load_strictly() -> None:
    keys = read_keys("lama")
    state = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    network = build(state)
    assert len(keys) == 989
    assert {k: list(t.shape) for k, t in network.state_dict().items()} == keys
    assert sum(p.numel() for p in network.parameters()) == 50_975_875
    del state["model.1.bn_l.weight"]
    with pytest.raises(RuntimeError, match="model.1.bn_l.weight"):
        build(state)


def test_output_equals_the_reference() -> None:
    network = build(small_state()).eval()
    x = holed((2, 4, 32, 48))
    with torch.no_grad():
        ours = network(x)
        singles = torch.cat([network(x[:1]), network(x[1:])])
    assert relative_error(ours, read_output("lama")) <= 1e-5
    assert relative_error(singles, ours.numpy()) <= 1e-5


def test_half_precision_stays_close() -> None:
    """Spectra are computed in float32 whatever the weights are in."""
    x = holed((1, 4, 24, 40))  # sides that no half precision transform knows
    with torch.no_grad():
        exact = build(small_state()).eval()(x)
        half = build(small_state()).eval().half()(x.half())
    assert half.dtype == torch.float16
    assert relative_error(half.float(), exact.numpy()) <= 0.05


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(("width", "height"), [(300, 211), (64, 64), (257, 700)])
def test_guess_follows_its_recipe(width: int, height: int) -> None:
    picture = masked_picture(width, height)
    picture[:, :, 3] //= 2
    picture[:, :, 3] += (picture[:, :, 3] > 0) * np.uint8(40)  # a mask of 167
    found = run_preprocessor(NAME, picture).image
    padded, remove_pad = resize_with_pad(picture, 256)
    x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    hole = (x[:, 3:] > 0.5).float()
    with torch.no_grad():
        made = build(small_state()).eval()(torch.cat((x[:, :3] * (1 - hole), hole), dim=1))
    made = torch.where(hole > 0, made, x[:, :3])[0].permute(1, 2, 0).numpy() * 255
    guess = cv2.resize(remove_pad(made.astype(np.uint8)), (width, height)).astype(float)
    share = picture[:, :, 3:] / 255
    expected = guess * share + picture[:, :, :3] * (1 - share)
    assert np.abs(found[:, :, :3] - expected).max() <= 1.0  # rounded down
    assert np.array_equal(found[:, :, 3], picture[:, :, 3])


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("size", [(96, 64), (83, 61), (96, 1), (1, 1), (1, 700), (1024, 40)])
def test_only_the_masked_part_changes(size: tuple[int, int]) -> None:
    picture = masked_picture(*size)
    before = picture.copy()
    found = run_preprocessor(NAME, picture)
    assert np.array_equal(picture, before)
    assert found.image.shape == picture.shape
    inside = picture[:, :, 3] > 0
    assert np.array_equal(found.image[~inside], picture[~inside])
    assert (found.image[inside] != picture[inside]).any()
    assert np.array_equal(found.display, found.image[:, :, :3])


@pytest.mark.usefixtures("stored")
def test_flat_and_grey_pictures_give_no_surprise() -> None:
    mask = np.zeros((64, 96), np.uint8)
    mask[20:40] = 255
    for picture in (np.full((64, 96, 3), 128, np.uint8), np.full((64, 96), 7, np.uint8)):
        found = run_preprocessor(NAME, picture, mask=mask).image
        assert found.shape == (64, 96, 4)
        assert (found[:20, :, :3] == picture.flat[0]).all()


def test_without_a_mask_no_weights_are_needed(tmp_path: Path) -> None:
    picture = np.full((64, 96, 3), 128, np.uint8)
    with weights_folder(tmp_path):
        found = run_preprocessor(NAME, picture).image
    assert (found[:, :, :3] == 128).all()
    assert not found[:, :, 3].any()


@pytest.mark.usefixtures("stored")
def test_memory_is_given_back() -> None:
    run_preprocessor(NAME, masked_picture(96, 64))
    with lend(LAMA, build) as network:
        alive = weakref.ref(network)
    del network
    assert alive() is not None
    CACHE.clear()
    assert alive() is None


@pytest.mark.usefixtures("stored")
def test_half_precision_place_gives_the_same_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "SHORT_SIDE", 64)  # half precision is slow on a CPU
    picture = masked_picture(96, 64)
    exact = run_preprocessor(NAME, picture).image
    monkeypatch.setattr(CACHE, "place", Place(half=True))
    half = run_preprocessor(NAME, picture).image
    assert np.abs(half.astype(int) - exact).max() <= 12


class Models:
    """Every model exists; none is loaded here."""

    def find_model(self, name: str) -> Path:
        return Path(name)

    def remark(self, _name: str) -> None:
        return None

    def network(self, path: Path, _base: object) -> Path:
        return path


def prepared_unit(request: GenerationRequest, **fields: object) -> PreparedUnit:
    unit = parse_unit({"module": NAME, "model": "m", **fields}, 0)
    (made,) = prepare_units([unit], Preparation(request, Models(), None), [])
    return made


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("has_hires", [False, True], ids=["one pass", "hires"])
def test_resize_and_fill_comes_first_so_that_the_border_is_painted(has_hires: bool) -> None:
    picture = masked_picture(60, 90)[:, :, :3]
    request = GenerationRequest(Size(128, 72), has_hires=has_hires)
    made = prepared_unit(request, image=picture, resize_mode=ResizeMode.OUTER_FIT)
    canvas = request.size.scale(2 if has_hires else 1)
    fitted = fit_map(picture_with_mask(picture), canvas, ResizeMode.OUTER_FIT)
    assert np.array_equal(made.detected[:, :, 3], fitted[:, :, 3])
    border = fitted[:, :, 3] > 0
    assert 0.3 < border.mean() < 0.7
    assert np.array_equal(made.detected[~border], fitted[~border])
    assert len(np.unique(fitted[border], axis=0)) == 1
    assert len(np.unique(made.detected[border], axis=0)) > 100
    assert (made.fills, made.effect) == (True, "inpaint_only")


def picture_with_mask(picture: np.ndarray) -> np.ndarray:
    return np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])


@pytest.mark.usefixtures("stored")
def test_other_resize_modes_paint_the_given_picture() -> None:
    picture = masked_picture(60, 90)
    made = prepared_unit(
        GenerationRequest(Size(128, 72)),
        image=picture[:, :, :3],
        mask=picture[:, :, 3],
        resize_mode=ResizeMode.INNER_FIT,
    )
    assert made.detected.shape == (90, 60, 4)


@pytest.mark.usefixtures("stored")
def test_where_the_host_keeps_the_rest_only_the_start_picture_acts() -> None:
    given = masked_picture(64, 64)
    mask = Image.fromarray(given[:, :, 3])
    made = prepared_unit(
        GenerationRequest(
            Size(64, 64),
            init_image=Image.fromarray(given[:, :, :3]),
            inpaint=InpaintRules(mask, 0, 0, False, False, False, 0),
        )
    )
    assert (made.fills, made.effect) == (True, None)
    assert (made.detected != given).any()


@pytest.mark.parametrize("effect", [None, "inpaint_only"])
def test_first_passes_start_from_the_filled_picture(effect: str | None) -> None:
    base = support.tiny_base("SD1")
    unit = prepared(support.tiny_controlnet("SD1", unet=base.module), effect=effect)
    mask = np.zeros((64, 128), np.uint8)
    mask[:32] = 255
    unit.detected = np.dstack([unit.detected, mask])
    unit.fills = True
    session = ControlSession(FakeHost(), [unit])
    session.begin_pass(info(base))
    (start,) = session.effects("under_noise")
    pixels = torch.from_numpy(unit.detected[:, :, :3]).permute(2, 0, 1)[None] / 255.0
    torch.testing.assert_close(start.latent, FakeHost().vae_encode(pixels))
    session.begin_pass(info(base, is_hires=True))
    assert session.effects("under_noise") == []
    unit.fills = False
    session.begin_pass(info(base))
    assert session.effects("under_noise") == []
