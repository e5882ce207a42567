"""Runs on a toy base: exact continuation after any stop, what learns and what stays, bad losses."""

from __future__ import annotations

import dataclasses
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from lib_controlnet.train import state
from lib_controlnet.train.__main__ import main
from lib_controlnet.train.config import Settings
from lib_controlnet.train.errors import TrainError
from lib_controlnet.train.record import Table, read_rows
from lib_controlnet.train.run import Training, run
from lib_controlnet.train.sampling import Sampler

Make = Callable[..., Settings]
ROOT = Path(__file__).resolve().parents[2]


def losses(settings: Settings) -> list[tuple[float, ...]]:
    """Step, loss and rate of every step; not the clock."""
    return [tuple(row[:3]) for row in read_rows(Path(settings.out) / "loss.csv")]


def weights(settings: Settings) -> dict[str, torch.Tensor]:
    return load_file(Path(settings.out) / "control.safetensors")


def assert_same_run(one: Settings, two: Settings) -> None:
    """Bit for bit: curve, measured samples, pictures, averaged weights."""
    assert losses(one) == losses(two)
    assert len(losses(one)) == one.steps
    for name in ("adherence.csv", f"samples/{one.steps:08d}.png"):
        assert (Path(one.out) / name).read_bytes() == (Path(two.out) / name).read_bytes()
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class Stopped(Exception):
    """Stands for whatever ends a run in the middle."""


def stop_in(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    """Let a function's n-th call do its work and end the run."""
    original, calls = getattr(owner, name), []

    def stopping(*arguments: object, **options: object) -> object:
        calls.append(1)
        found = original(*arguments, **options)
        if len(calls) == call:
            raise Stopped
        return found

    monkeypatch.setattr(owner, name, stopping)


@pytest.fixture
def whole(settings: Make) -> Settings:
    """A run that nothing stopped, with two parts a step."""
    asked = settings("whole", accumulation=2)
    run(asked)
    return asked


STOPS = {
    "before the first state": (Table, "add", 2),
    "between two states": (Table, "add", 7),
    "while a state is written": (state, "_save", 5),
    "before the state's last file": (state, "_optimizer_tensors", 2),
    "after a state": (state, "save", 1),
    "in samples": (Sampler, "pictures", 3),
}


def test_stopped_run_goes_on_to_the_same_numbers(
    whole: Settings, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (owner, name, call) in enumerate(STOPS.values()):
        asked = settings(f"stopped-{number}", accumulation=2)
        with monkeypatch.context() as patch:
            stop_in(patch, owner, name, call)
            with pytest.raises(Stopped):
                run(asked)
        assert len(losses(asked)) < asked.steps
        run(asked)
        assert_same_run(whole, asked)
        left = sorted(path.name for path in (Path(asked.out) / "states").iterdir())
        assert left == ["00000006", "00000008"], "old states and broken ones are gone"


def command(settings: Settings) -> list[str]:
    """The command line of a run."""
    words = ["run"]
    for name, value in dataclasses.asdict(settings).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif value != "":
            words += [flag, str(value)]
    return words


def start(settings: Settings, *launcher: str) -> subprocess.Popen:
    module = ["-m", "lib_controlnet.train", *command(settings)]
    return subprocess.Popen(
        [sys.executable, *launcher, *module],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_process_is_continued_exactly(settings: Make) -> None:
    whole, asked = settings("whole", steps=40), settings("killed", steps=40)
    run(whole)
    process = start(asked)
    try:
        for _ in range(6000):
            if len(losses(asked)) >= 5 or process.poll() is not None:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert 5 <= len(losses(asked)) < 40, "the process was killed in the middle"
    assert main(command(asked)) == 0
    assert_same_run(whole, asked)


def assert_close_runs(one: Settings, two: Settings) -> None:
    """Sums in another order: equal to rounding, which AdamW's first steps enlarge."""
    first, second = losses(one), losses(two)
    assert len(first) == len(second) == one.steps
    for a, b in zip(first, second, strict=True):
        assert a[1] == pytest.approx(b[1], rel=1e-4)
    mine, other = weights(one), weights(two)
    for name, tensor in mine.items():
        assert torch.allclose(tensor, other[name], atol=one.lr / 10), name


def test_two_processes_are_one_at_the_same_batch(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = settings("one", sample_every=0, accumulation=2)
    two = settings("two", sample_every=0)
    run(one)
    # `accelerate launch` on CPUs starts several processes through MPI only; torch's own launcher
    # needs nothing, and accelerate takes its processes as they are.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    process = start(two, *launcher)
    try:
        output, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, output[-3000:]
    assert "processes: 2" in output
    assert_close_runs(one, two)


def test_parts_of_a_batch_and_recomputed_activations_change_nothing(settings: Make) -> None:
    plain = settings("plain", sample_every=0, steps=4)
    parts = settings("parts", sample_every=0, steps=4, accumulation=4, checkpointing=True)
    run(plain)
    run(parts)
    assert_close_runs(plain, parts)


def test_only_the_control_learns(settings: Make, toy: Path) -> None:
    training = Training(settings(sample_every=0, steps=2))
    before = {name: t.clone() for name, t in training.model.unet.state_dict().items()}
    training.train()
    after = training.model.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    start_weights, found = load_file(toy / "new.safetensors"), weights(training.settings)
    still = [name for name in found if torch.equal(found[name], start_weights[name])]
    # Behind zero convolutions nothing learns in the first step; in the second everything does.
    assert not [name for name in still if "zero_convs" in name]
    assert len(still) < len(found) / 10


def test_only_middle_sets_the_other_outputs_to_zero(
    settings: Make, toy: Path, tmp_path: Path
) -> None:
    control = tmp_path / "gaussian.safetensors"
    assert main(["init", str(toy / "toy.safetensors"), str(control), "--gaussian"]) == 0
    asked = settings(sample_every=0, steps=3, only_middle=True, control=str(control))
    training = Training(asked)
    unused = "control.controlnet_down_blocks"  # processes would wait for its gradients
    assert not [name for name in training.trained if name.startswith(unused)]
    training.train()
    found = weights(asked)
    assert not any(found[name].any() for name in found if name.startswith("zero_convs."))
    name = "middle_block_out.0.weight"
    assert not torch.equal(found[name], load_file(control)[name])


def test_unlocked_decoder_learns_and_is_exported_with_the_base(
    settings: Make, toy: Path, tmp_path: Path
) -> None:
    asked = settings(sample_every=0, steps=4, unlock_decoder=True)
    run(dataclasses.replace(asked, steps=2))
    run(asked)  # continued: the decoder is part of the state
    out, base = tmp_path / "control.safetensors", tmp_path / "base.safetensors"
    assert main(["export", asked.out, str(out), "--base-out", str(base), "--dtype", "fp32"]) == 0
    old, new = load_file(toy / "toy.safetensors"), load_file(base)
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    decoder = ("model.diffusion_model.output_blocks.", "model.diffusion_model.out.")
    assert len(changed) > 20
    assert all(name.startswith(decoder) for name in changed)
    whole = settings("whole", sample_every=0, steps=4, unlock_decoder=True)
    run(whole)
    assert losses(asked) == losses(whole)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_close_to_full(settings: Make, precision: str) -> None:
    full, mixed = settings("full", steps=2), settings("mixed", steps=2, precision=precision)
    run(full)
    AcceleratorState._reset_state(reset_partial_state=True)
    run(mixed)
    for a, b in zip(losses(full), losses(mixed), strict=True):
        assert a[1] == pytest.approx(b[1], rel=0.05)
        assert a[1] != b[1]
    assert all(tensor.dtype is torch.float32 for tensor in weights(mixed).values())


def test_loss_that_is_no_number_stops_with_advice(
    settings: Make, caplog: pytest.LogCaptureFixture
) -> None:
    asked = settings(sample_every=0, lr=1e30, clip=0.0)
    assert main(command(asked)) == 1
    assert "lower --lr" in caplog.text
    assert all(row[1] == row[1] for row in losses(asked))


def test_run_is_not_continued_with_other_data_or_settings(
    settings: Make, toy: Path, tmp_path: Path
) -> None:
    asked = settings(sample_every=0, steps=1)
    run(asked)
    with pytest.raises(TrainError, match="batch 4 -> 2"):
        run(dataclasses.replace(asked, batch=2))
    assert (
        main(["fill50k", str(tmp_path / "data"), "--count", "12", "--size", "32", "--seed", "9"])
        == 0
    )
    with pytest.raises(TrainError, match="another data"):
        run(dataclasses.replace(asked, data=str(tmp_path / "data")))
    with pytest.raises(TrainError, match="multiple of 3"):
        run(settings("other", batch=4, accumulation=3))


def test_rate_rises_holds_and_falls_to_zero(settings: Make) -> None:
    asked = settings(sample_every=0, steps=8, warmup=2, decay=0.5)
    run(asked)
    found = [rate / asked.lr for _step, _loss, rate in losses(asked)]
    falling = [0.5 * (1 + math.cos(math.pi * part / 4)) for part in range(4)]
    assert found == pytest.approx([0.5, 1, 1, 1, *falling], abs=1e-6)
    with pytest.raises(TrainError, match="steps 8 -> 12"):
        run(dataclasses.replace(asked, steps=12))


def test_masked_controls_are_measured_by_what_they_keep(settings: Make, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert main(["fill50k", str(tmp_path / "plain"), "--count", "6", "--size", "32"]) == 0
    pictures, captions = str(tmp_path / "plain/target"), str(tmp_path / "plain/prompt.json")
    made = ["annotate", pictures, str(data), "--preprocessor", "inpaint_only", "--workers", "1"]
    assert main([*made, "--size", "32", "--captions", captions]) == 0
    training = Training(settings(data=str(data), steps=1))
    sampler, networks = training.sampler, training.networks()
    prompts = [item.prompt for item in sampler.items]
    noisy = sampler.measure(sampler.pictures(networks, prompts))
    changed = [
        np.where(masked[..., None], 255 - picture, picture)
        for picture, masked in zip(sampler.targets, sampler.masks, strict=True)
    ]
    assert sampler.measure(changed) == pytest.approx(1)  # only what is masked differs
    assert noisy < 0.9
    training.train()
    assert len(losses(training.settings)) == 1


def test_bad_data_is_listed_before_anything_is_made(
    settings: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    assert main(["fill50k", str(data), "--count", "5", "--size", "32"]) == 0
    (data / "source/000003.png").unlink()
    (data / "target/000001.png").write_bytes(b"")
    asked = settings(data=str(data))
    assert main(command(asked)) == 1
    assert "has 2 faults; nothing was trained" in caplog.text
    assert "source/000003.png: file is missing" in caplog.text
    assert "target/000001.png: cannot be decoded" in caplog.text
    assert not Path(asked.out).exists()
