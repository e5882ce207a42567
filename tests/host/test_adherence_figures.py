"""The shipped demo models obey their controls, on a few scenes that training never saw.

Small samples, so the margins are wide; the figures over 64 seeds are in the model card.
"""

from __future__ import annotations

import numpy as np
import pytest
from adherence import edge_f1
from controls import encoded, first
from training.hints import Source, source_of
from training.scenes import Scene, make_scene

SEEDS = (1_000_001, 1_000_002, 1_000_003)
SIZE = 128


def unseen() -> list[Scene]:
    """Scenes of shapes, which have a depth."""
    return [make_scene(seed, SIZE, mosaic_share=0.0) for seed in SEEDS]


def draw(host, scene: Scene, **fields) -> np.ndarray:
    asked = {"prompt": scene.caption, "seed": 7, "width": SIZE, "height": SIZE, "steps": 6}
    return first(host.txt2img(**asked, cfg_scale=3.5, sampler_name="DDIM", **fields))


@pytest.fixture(scope="module")
def free(host) -> list[np.ndarray]:
    """The pictures without control."""
    return [draw(host, scene) for scene in unseen()]


@pytest.mark.parametrize(
    ("model", "hint", "wanted", "reach", "margin"),
    [
        ("control_demo_canny", "edges", "edges", 2, 0.25),
        ("control_demo_scribble", "borders", "borders", 4, 0.2),
        ("control_demo_depth", "depth", "borders", 2, 0.2),
        ("control_lora_demo_canny", "edges", "edges", 2, 0.25),
        ("t2iadapter_demo_canny", "edges", "edges", 2, 0.25),
        ("t2iadapter_demo_canny_light", "edges", "edges", 2, 0.2),
        ("lllite_demo_canny", "edges", "edges", 2, 0.2),
        ("union_demo/Hard Edge", "edges", "edges", 2, 0.25),
        ("union_demo/Depth", "depth", "borders", 2, 0.2),
    ],
)
def test_control_is_obeyed_by_a_margin(host, free, model, hint, wanted, reach, margin) -> None:
    name, _, kind = model.partition("/")
    gains = []
    for scene, plain in zip(unseen(), free, strict=True):
        source: Source = source_of(scene)
        image = np.repeat(getattr(source, hint)[:, :, None], 3, axis=2)
        unit = {"module": "none", "model": name, "image": encoded(image)}
        unit |= {"union_control_type": kind} if kind else {}
        held = draw(host, scene, alwayson_scripts={"ControlNet": {"args": [unit]}})
        f1 = [edge_f1(picture, getattr(source, wanted), reach) for picture in (held, plain)]
        gains.append(f1[0] - f1[1])
    assert np.mean(gains) >= margin, gains


def test_inpaint_keeps_what_is_not_masked(host, free) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[32:96, 32:96] = 255
    errors = []
    for scene, plain in zip(unseen(), free, strict=True):
        unit = {"module": "inpaint", "model": "control_demo_inpaint"}
        unit |= {"image": encoded(scene.picture), "mask": encoded(mask)}
        held = draw(host, scene, alwayson_scripts={"ControlNet": {"args": [unit]}})
        kept = mask == 0
        both = [np.abs(x[kept].astype(float) - scene.picture[kept]).mean() for x in (held, plain)]
        errors.append(both[1] - both[0])
    assert np.mean(errors) >= 7.0, errors
