"""The shipped demo models obey their controls and captions, on a few fixed seeds.

Small samples, so the margins are wide; the figures over 64 seeds are in the model card.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from minildm.checkpoint import load_checkpoint
from training import evaluate
from training.assets import ASSETS, CHECKPOINT

COUNT = 6
# Score name -> (better is higher, least mean difference between controlled and not).
MARGINS = {
    "edge_f1_2px": (True, 0.25),
    "edge_f1_4px": (True, 0.2),
    "border_recall_2px": (True, 0.3),
    "kept_error": (False, 7.0),
}


@pytest.fixture(scope="module")
def base():
    torch.set_num_threads(2)
    return load_checkpoint(CHECKPOINT)


@pytest.mark.parametrize("kind", evaluate.shipped())
def test_control_is_obeyed_by_a_margin(kind, base):
    cases = evaluate.cases(kind, COUNT)
    prompts = [c.scene.caption for c in cases]
    control = evaluate.load_control(base, kind)
    hints = [c.hint for c in cases]
    with_control = evaluate.generate(base, prompts, list(range(COUNT)), 128, control, hints)
    runs = {"on": with_control, "off": evaluate.uncontrolled(base, prompts)}
    means: dict[str, dict[str, float]] = {}
    for name, pictures in runs.items():
        scores = [evaluate.score(kind, p, c) for p, c in zip(pictures, cases, strict=True)]
        means[name] = {k: float(np.mean([s[k] for s in scores])) for k in scores[0]}
    for measure, (higher, margin) in MARGINS.items():
        if measure in means["on"]:
            gain = means["on"][measure] - means["off"][measure]
            assert (gain if higher else -gain) >= margin, means


def test_background_follows_the_caption(base):
    found = evaluate.measure_captions(base, COUNT)
    assert found["background"] >= 0.5


def test_vae_reconstructs_unseen_scenes(base):
    assert evaluate.measure_vae(base, 4) > 20.0


def test_four_controls_ship_with_figures_over_64_seeds():
    kinds = evaluate.shipped()
    assert len(kinds) >= 4
    figures = json.loads((ASSETS / "figures.json").read_text("utf-8"))
    assert figures["seeds"] >= 64
    assert {f"control_{k}" for k in kinds} <= figures.keys()
