"""OneFormer: published keys, output of the first implementation, votes of the queries."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from neural import smooth_picture
from random_weights import random_input, random_state, read_keys, read_output, relative_error
from transformers import OneFormerForUniversalSegmentation
from weights import weights_folder

from annotator.nets.oneformer import TASK, build, config_of, convert, semantic
from annotator.networks import CACHE, lend
from annotator.oneformer import ADE20K_FILE, COCO_FILE, OneFormerAde20k
from annotator.palettes import ADE20K, COCO, Palette
from lib_controlnet.detect.preprocess import run_preprocessor

WINDOW = 4
PREDICTOR = "sem_seg_head.predictor."


def small_state(classes: int = 7) -> dict[str, torch.Tensor]:
    """A small file: same keys as the published one, fewer layers and channels."""
    shapes = read_keys("oneformer_small")
    for part in ("weight", "bias"):
        shapes[f"{PREDICTOR}class_embed.{part}"][0] = classes + 1
    state = random_state(shapes, 18)
    for key in state:
        if key.endswith("relative_position_index"):
            state[key] = position_index()
    return {**state, "text_encoder.token_embedding.weight": torch.zeros(3, 2)}


def decided_state(classes: int) -> dict[str, torch.Tensor]:
    """The same with queries that each vote for one class, so that maps have several colours."""
    state = small_state(classes)
    state[f"{PREDICTOR}query_embed.weight"] *= 60
    state[f"{PREDICTOR}class_embed.weight"] *= 40
    return state


def position_index() -> torch.Tensor:
    """Number of the offset between each two places of a window (Swin, arXiv:2103.14030)."""
    rows, columns = np.divmod(np.arange(WINDOW * WINDOW), WINDOW)
    down = rows[:, None] - rows + WINDOW - 1
    across = columns[:, None] - columns + WINDOW - 1
    return torch.from_numpy(down * (2 * WINDOW - 1) + across)


@pytest.fixture
def _stored(tmp_path: Path) -> Iterator[None]:
    with weights_folder(tmp_path) as folder:
        (folder / "oneformer").mkdir()
        for file, classes in ((ADE20K_FILE, 150), (COCO_FILE, 133)):
            torch.save({"model": decided_state(classes)}, folder / file.folder / file.name)
        yield


picture = partial(smooth_picture, seed=5, sigma=3)


@pytest.mark.parametrize(("classes", "queries"), [(150, 250), (133, 150)], ids=["ade20k", "coco"])
def test_published_keys_fill_the_class_strictly(classes: int, queries: int) -> None:
    shapes = read_keys("oneformer_ade20k")
    shapes[f"{PREDICTOR}query_embed.weight"][0] = queries
    for part in ("weight", "bias"):
        shapes[f"{PREDICTOR}class_embed.{part}"][0] = classes + 1
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        network = OneFormerForUniversalSegmentation(config_of(state))
    network.criterion = None
    ours = {key: tensor.shape for key, tensor in convert(state).items()}
    assert ours == {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(218.8e6, rel=1e-3)


def test_missing_tensor_is_refused() -> None:
    state = small_state()
    del state["backbone.norm2.bias"]
    with pytest.raises(RuntimeError, match="hidden_states_norms.stage3.bias"):
        build({"model": state})


def test_output_equals_the_first_implementation() -> None:
    network = build({"model": small_state()}).eval()
    x = random_input((1, 3, 96, 160), -2, 2)
    with torch.no_grad():
        found = network(x, torch.tensor([TASK]))
    parts = found.class_queries_logits, found.masks_queries_logits
    reference = read_output("oneformer")
    count = parts[0].numel()
    assert relative_error(parts[0].ravel(), reference[:count]) <= 1e-5
    assert relative_error(parts[1].ravel(), reference[count:]) <= 1e-5


@pytest.mark.parametrize("at_once", [1, 5000, 1 << 25])
def test_semantic_is_the_vote_of_all_queries(at_once: int) -> None:
    classes, masks = random_input((5, 4), -3, 3), random_input((5, 6, 9), -6, 6, seed=2)
    enlarged = torch.nn.functional.interpolate(masks[None], (25, 31), mode="bilinear")[0]
    shares = classes.softmax(dim=1)[:, :3]
    scores = (shares[:, :, None, None] * enlarged.sigmoid()[:, None]).sum(dim=0)
    found = semantic(classes, masks, (25, 31), at_once)
    assert torch.equal(found, scores.argmax(dim=0))
    assert len(found.unique()) == 3


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize(
    ("name", "palette", "seen"),
    [("oneformer_ade20k", ADE20K, (640, 960)), ("oneformer_coco", COCO, (800, 1216))],
)
def test_map_has_the_colours_of_its_data_set(
    name: str, palette: Palette, seen: tuple[int, int]
) -> None:
    given = picture(128, 192)
    found = run_preprocessor(name, given, 128).image
    trained = cv2.resize(given, seen[::-1], interpolation=cv2.INTER_LINEAR)
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    x = torch.from_numpy((trained - mean) / std).permute(2, 0, 1)[None].float()
    network = build({"model": decided_state(len(palette.names))}).eval()
    with torch.no_grad():
        made = network(x, torch.tensor([TASK]))
    labels = semantic(made.class_queries_logits[0], made.masks_queries_logits[0], (128, 192))
    agree = (found == palette.colours[labels.numpy()]).all(axis=2).mean()
    assert agree > 0.99  # float32 against float64 where two classes tie
    assert len(labels.unique()) >= 2


@pytest.mark.usefixtures("_stored")
@pytest.mark.parametrize("given", [picture(61, 83), picture(1, 20), np.full((9, 9), 128, np.uint8)])
def test_odd_pictures_give_maps_of_the_detect_size(
    given: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneFormerAde20k, "short_side", 160)
    monkeypatch.setattr(OneFormerAde20k, "long_side", 640)
    found = run_preprocessor("oneformer_ade20k", given, 64).image
    height, width = given.shape[:2]
    factor = 64 / min(height, width)
    assert found.shape[:2] == (round(height * factor), round(width * factor))
    assert set(map(tuple, found.reshape(-1, 3).tolist())) <= set(
        map(tuple, ADE20K.colours.tolist())
    )


@pytest.mark.usefixtures("_stored")
def test_memory_is_given_back() -> None:
    with lend(ADE20K_FILE, build, half=False) as network:
        alive = weakref.ref(network)
    del network
    assert alive() is not None
    CACHE.clear()
    assert alive() is None
