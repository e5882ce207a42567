"""The demo ControlNets are made by the trainer's own commands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from toy_base import ASSETS
from training import assets, control_data, data, loop, train_control, train_light
from training.hints import HINTS

from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.tools import __main__ as tools
from lib_controlnet.train.__main__ import main, parser
from lib_controlnet.train.base import open_base
from lib_controlnet.train.config import from_arguments
from lib_controlnet.train.dataset import read_control, read_items, read_picture
from lib_controlnet.train.kinds import kind_of_file
from lib_controlnet.train.steps import type_numbers


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Few scenes and few steps, in a folder of the test's own."""
    for module in (data, loop, train_light):
        monkeypatch.setattr(module, "RUNS", tmp_path)
    monkeypatch.setattr(data, "COUNTS", {128: 10})
    monkeypatch.setattr(data, "CHUNK", 1)
    monkeypatch.setattr(control_data, "DATA", tmp_path / "data")
    monkeypatch.setattr(train_control, "HOME", tmp_path / "controls")
    monkeypatch.setattr(train_control, "ASSETS", tmp_path / "assets")
    monkeypatch.setitem(train_control.RECIPE, "--sample-every", 0)
    return tmp_path


@pytest.mark.parametrize("kind", train_control.MADE)
def test_commands_are_the_trainers(kind: str, small: Path) -> None:
    made = train_control.MADE[kind]
    *first, run, export = [parser().parse_args(words) for words in train_control.commands(kind)]
    assert from_arguments(run).data == str(control_data.folder_of(made.data, 128))
    assert (export.source, export.out) == (run.out, str(train_control.asset(kind)))
    if made.start and made.kind == "controlnet":
        assert (first, Path(run.control).parent.name) == ([], made.start)
    else:
        assert [(begin.out, begin.kind) for begin in first] == [(run.control, made.kind)]
        assert first[0].start == (str(train_control.asset(made.start)) if made.start else None)


def test_every_file_of_the_demo_is_made() -> None:
    made = {train_control.asset(kind).name for kind in train_control.KINDS}
    there = {path.name for path in train_control.ASSETS.glob("*.safetensors")}
    assert there == {*made, "demo.safetensors"}


def test_control_lora_is_extracted_by_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(train_control, "call", lambda *given: called.append(given))
    train_control.train([train_control.LORA])
    options = tools.parser().parse_args(called[0][0])
    assert (called[0][1], options.command, options.control) == (
        *("tools", "to-lora"),
        train_control.asset("canny"),
    )


def test_light_adapter_learns_the_full_ones_features(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a few steps of it: nearer to them, in the published layout."""
    monkeypatch.setattr(train_light, "BATCH", 4)
    out, teacher = small / "light.safetensors", train_control.asset(train_control.TEACHER)
    data_set = control_data.write("lines", 128, workers=1)
    train_light.train(ASSETS / teacher.name, data_set, out, loop.Plan(30, 1e-3, 5))
    begin = small / "light_new.safetensors"
    base = open_base(assets.CHECKPOINT)
    item = read_items(data_set)[0][3]
    hint = torch.from_numpy(read_control(data_set / item.source)[0] / 255).float()
    full, new, light = (
        kind_of_file(path).open(base, open_checkpoint(path))
        for path in (ASSETS / teacher.name, begin, out)
    )
    with torch.no_grad():
        before, after = (
            float(train_light.compare(one, full, hint.permute(2, 0, 1)[None]))
            for one in (new, light)
        )
    assert after < 0.9 * before
    with safe_open(out, "pt") as file:
        assert file.metadata()["control_type"] == "Canny"


def test_data_of_a_union_have_hints_by_turns(small: Path) -> None:
    folder = control_data.write("union", 128, workers=1)
    items, faults = read_items(folder)
    assert (len(items), faults) == (10, [])
    assert type_numbers(folder, items) == [3, 1] * 5
    for row, item in enumerate(items):
        kind = control_data.JOINED["union"][row % 2]
        other = read_items(control_data.folder_of(kind, 128))[0][row]
        assert item.prompt == other.prompt
        for mine, theirs in ((item.source, other.source), (item.target, other.target)):
            path = control_data.folder_of(kind, 128) / theirs
            assert (folder / mine).resolve() == path.resolve()


@pytest.mark.parametrize("kind", control_data.CONTROLS)
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
