"""The demo ControlNets are made by the trainer's own commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from safetensors import safe_open
from training import control_data, data, train_control
from training.hints import HINTS

from lib_controlnet.train.__main__ import main, parser
from lib_controlnet.train.config import from_arguments
from lib_controlnet.train.dataset import read_control, read_items, read_picture


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Few scenes and few steps, in a folder of the test's own."""
    monkeypatch.setattr(data, "RUNS", tmp_path)
    monkeypatch.setattr(data, "COUNTS", {128: 10})
    monkeypatch.setattr(data, "CHUNK", 1)
    monkeypatch.setattr(control_data, "DATA", tmp_path / "data")
    monkeypatch.setattr(train_control, "HOME", tmp_path / "controls")
    monkeypatch.setattr(train_control, "ASSETS", tmp_path / "assets")
    monkeypatch.setitem(train_control.RECIPE, "--sample-every", 0)
    return tmp_path


@pytest.mark.parametrize("kind", train_control.KINDS)
def test_commands_are_the_trainers(kind: str) -> None:
    run, export = [parser().parse_args(words) for words in train_control.commands(kind)]
    assert from_arguments(run).data == str(control_data.folder_of(kind, 128))
    assert Path(run.control).parent.name == train_control.START_FROM.get(kind, "controls")
    assert (export.source, Path(export.out).name) == (
        run.out,
        f"control_demo_{kind}.safetensors",
    )


@pytest.mark.parametrize("kind", train_control.KINDS)
def test_data_sets_hold_the_hints_of_the_scenes(kind: str, small: Path) -> None:
    folder = control_data.write(kind, 128, workers=1)
    items, faults = read_items(folder)
    assert (len(items), faults) == (10, [])
    scenes, number = data.load_scenes(128), list(control_data.CONTROLS).index(kind)
    for row, item in enumerate(items):
        assert item.prompt == scenes.captions[row]
        assert np.array_equal(read_picture(folder / item.target), scenes.source(row).picture)
        rng = np.random.default_rng((number, 128, row))
        hint = HINTS[kind](scenes.source(row), rng)
        picture, masked = read_control(folder / item.source)
        if masked is not None:
            assert np.array_equal(masked, hint[:, :, 0] < 0)
        assert np.abs(picture / 255 - hint.clip(0, 1)).max() <= 0.5 / 255 + 1e-6
    assert (kind == "inpaint") == any(
        read_control(folder / item.source)[1] is not None for item in items
    )
    told = json.loads((folder / "dataset.json").read_text())
    assert told["control_type"] == control_data.CONTROLS[kind].control_type


def test_controls_are_made_one_from_the_other(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(arguments: Sequence[str]) -> None:
        assert main(arguments) == 0
        AcceleratorState._reset_state(reset_partial_state=True)

    monkeypatch.setattr(train_control, "call", call)
    train_control.train(["canny", "scribble"], effort=0.001, workers=1)
    for kind, steps in (("canny", 2), ("scribble", 1)):
        with safe_open(small / f"assets/control_demo_{kind}.safetensors", "pt") as file:
            told = file.metadata()
            assert told["control_type"] == control_data.CONTROLS[kind].control_type
            assert told["preprocessor"] == control_data.CONTROLS[kind].preprocessor
            assert json.loads(told["training"])["steps"] == steps
            zero = file.get_tensor("zero_convs.0.0.weight")
        assert zero.any(), "has learned"
    settings = json.loads((small / "controls/scribble/settings.json").read_text())
    assert settings["control"] == str(small / "controls/canny/control.safetensors")
