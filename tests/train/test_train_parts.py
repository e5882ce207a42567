"""Parts of a training that need no training: settings, order of examples, tables, measures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lib_controlnet.train import cache, config
from lib_controlnet.train.__main__ import main
from lib_controlnet.train.adherence import adherence, correlation, edge_f1, is_lines
from lib_controlnet.train.cache import SHARD, Shards
from lib_controlnet.train.config import Settings
from lib_controlnet.train.control_file import write
from lib_controlnet.train.errors import TrainError
from lib_controlnet.train.record import Table, read_rows, smooth
from lib_controlnet.train.steps import example_at, positions_of, seed_of

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"base": "b", "control": "c", "data": "d", "out": "o"}


def parsed(*words: str) -> Settings:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", nargs="?")
    config.add_arguments(parser)
    return config.from_arguments(parser.parse_args(words))


def flags(**places: str) -> list[str]:
    return [word for name, value in {**PLACES, **places}.items() for word in (f"--{name}", value)]


def test_settings_start_with_the_papers_recipe() -> None:
    settings = Settings(**PLACES)
    assert (settings.lr, settings.empty_prompts, settings.unlock_decoder) == (1e-5, 0.5, False)
    assert settings.only_middle is False


def test_every_setting_has_an_option() -> None:
    words = [*flags(), "--steps", "7", "--lr", "0.5", "--only-middle", "--precision", "bf16"]
    settings = parsed(*words, "--empty-prompts", "0.25")
    expected = Settings(
        **PLACES, steps=7, lr=0.5, only_middle=True, precision="bf16", empty_prompts=0.25
    )
    assert settings == expected


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_options_count_before_the_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"settings.{suffix}"
    content = {**PLACES, "steps": 5, "lr": 1, "only-middle": True}
    path.write_text(json.dumps(content))  # JSON is YAML too
    settings = parsed(str(path), "--steps", "9", "--no-only-middle")
    assert settings == Settings(**PLACES, steps=9, lr=1.0)
    assert isinstance(settings.lr, float)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"step": 5}', "step, which is no setting"),
        ('{"steps": "many"}', "steps = 'many', expected int"),
        ('{"steps": true}', "steps = True, expected int"),
        ("[1]", "must be a mapping"),
        ("{", "cannot be read"),
        ("{}", "--base is missing"),
    ],
)
def test_unusable_settings_are_named(content: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(TrainError, match=text):
        parsed(str(path))
    with pytest.raises(TrainError, match="does not exist"):
        parsed(str(tmp_path / "gone.json"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("empty_prompts", 1.5), ("precision", "fp8"), ("accumulation", -1)],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(TrainError, match=f"--{name.replace('_', '-')} is"):
        Settings(**PLACES, **{name: value})


def test_continued_run_keeps_what_decides_its_numbers() -> None:
    settings = Settings(**PLACES)
    old = dataclasses.asdict(settings)
    config.refuse_changes(old, dataclasses.replace(settings, steps=99, save_every=3, out="else"))
    config.refuse_changes(old, dataclasses.replace(settings, accumulation=4, checkpointing=True))
    with pytest.raises(TrainError, match=r"batch 4 -> 8; seed 0 -> 1"):
        config.refuse_changes(old, dataclasses.replace(settings, batch=8, seed=1))


def test_every_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    epochs = [[example_at(epoch * 50 + i, 3, 50) for i in range(50)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [example_at(i, 4, 50) for i in range(50)] != epochs[0]
    assert [example_at(i, 3, 50) for i in range(50)] == epochs[0]


@pytest.mark.parametrize(("world", "parts"), [(1, 1), (2, 1), (1, 4), (2, 2), (3, 4)])
def test_processes_and_parts_share_a_batch_without_gap_or_overlap(world: int, parts: int) -> None:
    settings = Settings(**PLACES, batch=24, accumulation=parts)
    for step in (0, 5):
        shares = [
            position
            for part in range(parts)
            for rank in range(world)
            for position in positions_of(step, part, rank, world, settings)
        ]
        assert shares == list(range(step * 24, step * 24 + 24))


def test_seeds_differ_by_purpose_and_position() -> None:
    seeds = {seed_of(kind, seed, i) for kind in "ab" for seed in range(5) for i in range(50)}
    assert len(seeds) == 500
    assert max(seeds) < 2**63


def test_table_of_a_continued_run_drops_what_comes_after_its_state(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    table = Table(path, ("step", "loss"), 0)
    for step in (1, 2, 3):
        table.add(step, step / 7)
    with path.open("a") as stream:
        stream.write("4,0.")  # killed while it wrote
        stream.write("\n5")
    again = Table(path, ("step", "loss"), 2)
    assert [row[0] for row in again.rows] == [1, 2]
    again.add(3, 3 / 7)
    assert path.read_text() == "step,loss\n1,0.14285714\n2,0.28571429\n3,0.42857143\n"
    assert [row[0] for row in read_rows(path)] == [1, 2, 3]


def test_smoothed_curve_starts_with_the_mean_and_follows() -> None:
    assert smooth([4.0, 2.0, 0.0])[:2] == [4.0, 3.0]
    assert abs(smooth([1.0] * 100 + [0.0] * 200)[-1]) < 0.01


def ring(radius: int, thick: int = 1, shift: int = 0) -> np.ndarray:
    import cv2

    picture = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(picture, (32 + shift, 32), radius, (255, 255, 255), thick)
    return picture


def test_lines_within_two_pixels_agree_and_others_do_not() -> None:
    assert edge_f1(ring(20), ring(20)) == 1.0
    assert edge_f1(ring(20, shift=2), ring(20)) == 1.0
    assert edge_f1(ring(20, shift=8), ring(20)) < 0.5
    assert edge_f1(np.zeros((64, 64, 3), np.uint8), ring(20)) == 0.0
    half = ring(20)
    half[:32] = 0
    assert 0.6 < edge_f1(half, ring(20)) < 0.75, "all right, half found: F1 is 2/3"


def test_maps_that_are_no_lines_are_compared_by_correlation() -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 3, 64, axis=0).repeat(3, 2)
    assert not is_lines(ramp)
    assert is_lines(ring(20))
    assert not is_lines(255 - ring(20)), "black on white is a picture, not lines on black"
    assert adherence(ramp // 2, ramp) > 0.99
    assert adherence(255 - ramp, ramp) == 0.0
    assert correlation(np.zeros_like(ramp), ramp) == 0.0
    assert adherence(ring(20, shift=1), ring(20)) == 1.0


def test_runs_that_share_a_cache_share_its_work(tmp_path: Path) -> None:
    count = 5 * SHARD
    made: dict[str, list[int]] = {"one": [], "other": []}

    def make(name: str) -> Callable[[range], dict[str, torch.Tensor]]:
        def rows_of(rows: range) -> dict[str, torch.Tensor]:
            made[name].append(rows.start // SHARD)
            if name == "one" and len(made["one"]) == 2:  # another run comes in the middle
                Shards(tmp_path, "latents", count).fill(make("other"), "other")
            return {"value": torch.arange(rows.start, rows.stop)}

        return rows_of

    shards = Shards(tmp_path, "latents", count)
    shards.fill(make("one"), "one")
    assert shards.find_missing() == []
    assert len(made["one"]) == 2
    assert sorted({*made["one"], *made["other"]}) == list(range(5))
    assert shards.row(2 * SHARD + 7)["value"] == 2 * SHARD + 7


def test_numbers_and_words_as_yaml_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    places = "".join(f"{name}: {place}\n" for name, place in PLACES.items())
    path.write_text(f"{places}lr: 1e-5\nprecision: no\n", encoding="utf-8-sig")
    assert parsed(str(path)) == Settings(**PLACES, lr=1e-5, precision="no")
    for text, fault in (("lr: fast", "lr = 'fast', expected float"), ("a: [", "cannot be read")):
        path.write_text(text)
        with pytest.raises(TrainError, match=fault):
            parsed(str(path))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for it."""
    code = (
        "import resource, signal, sys, torch, pathlib\n"
        "from lib_controlnet.train.control_file import write\n"
        "from lib_controlnet.train.errors import TrainError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n    write({'a': torch.zeros(9999)}, pathlib.Path(sys.argv[1]))\n"
        "except TrainError as error:\n    print('sentence', error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.safetensors")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sentence")
    assert "cannot be written" in done.stdout
    assert not list(tmp_path.iterdir())


def test_what_the_system_refuses_is_one_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert main(["fill50k", str(tmp_path / "file/data"), "--count", "1"]) == 1
    assert str(tmp_path / "file") in caplog.text


def test_processes_of_one_number_take_files_in_orders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several machines that share a folder, as the first process of each container."""
    monkeypatch.setattr(cache, "SHARD", 1)
    orders: list[list[int]] = []
    for name in ("one", "other"):
        order: list[int] = []

        def make(rows: range, order: list[int] = order) -> dict[str, torch.Tensor]:
            order.append(rows.start)
            return {"value": torch.zeros(1)}

        Shards(tmp_path / name, "latents", 20).fill(make, name, quiet=True)
        orders.append(order)
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))


def test_whole_numbers_of_a_checkpoint_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    write({"position_ids": torch.arange(77), "weight": torch.ones(2)}, path, "fp16")
    found = load_file(path)
    assert torch.equal(found["position_ids"], torch.arange(77))
    assert found["position_ids"].dtype is torch.int64
    assert found["weight"].dtype is torch.float16
