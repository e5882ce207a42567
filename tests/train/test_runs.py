"""Runs on a toy base: exact continuation after any stop, what learns and what stays, bad losses."""

from __future__ import annotations

import dataclasses
import gc
import math
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import load_file

from lib_controlnet.errors import ControlNetError
from lib_controlnet.train import run as module
from lib_controlnet.train import sampling, state
from lib_controlnet.train.__main__ import main
from lib_controlnet.train.base import open_base
from lib_controlnet.train.cache import Cache
from lib_controlnet.train.config import Settings
from lib_controlnet.train.dataset import read_items, write_picture
from lib_controlnet.train.errors import TrainError
from lib_controlnet.train.record import Table, read_rows
from lib_controlnet.train.run import Training, check_data, run
from lib_controlnet.train.sampling import Sampler
from lib_controlnet.train.text import TextEncoder

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


def test_run_killed_after_its_last_state_has_its_last_weights(
    whole: Settings, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = settings("stopped", accumulation=2)
    with monkeypatch.context() as patch:
        stop_in(patch, state, "save", 3)
        with pytest.raises(Stopped):
            run(asked)
    assert len(losses(asked)) == asked.steps
    run(asked)
    assert_same_run(whole, asked)


def test_run_is_continued_in_other_parts(settings: Make) -> None:
    whole, asked = settings("whole", sample_every=0), settings("asked", sample_every=0)
    run(whole)
    run(dataclasses.replace(asked, steps=3))
    run(dataclasses.replace(asked, accumulation=4))
    assert_close_runs(whole, asked)


def test_loss_scale_of_half_precision_skips_steps_and_is_continued(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs there is a loss scale; here it is put in, too large for the second step."""
    skipped = []

    class Scaled(Training):
        def _step(self, step: int, batches: Iterator[object]) -> float:
            if step == 1:
                self.accelerator.scaler.load_state_dict({**usual, "scale": 1e38})
            if step == 2:
                self.accelerator.scaler.load_state_dict(usual)
            before = {name: p.detach().clone() for name, p in self.trained.items()}
            loss = super()._step(step, batches)
            kept = all(torch.equal(before[name], p) for name, p in self.trained.items())
            assert kept == self.optimizer.step_was_skipped
            skipped.append(kept)
            return loss

    usual = torch.amp.GradScaler("cpu").state_dict()
    accelerator = module._accelerator

    def scaled(settings: Settings) -> object:
        made = accelerator(settings)
        made.scaler, made.native_amp = torch.amp.GradScaler("cpu"), True
        return made

    monkeypatch.setattr(module, "_accelerator", scaled)
    whole, asked = (settings(name, precision="fp16", sample_every=0, steps=5) for name in "ab")
    Scaled(whole).train()
    assert skipped == [False, True, False, False, False]
    Scaled(dataclasses.replace(asked, steps=3)).train()
    Scaled(asked).train()
    assert losses(whole) == losses(asked)
    one, two = weights(whole), weights(asked)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which files are mapped")
def test_no_state_is_held_open_after_it_was_read(settings: Make) -> None:
    """Windows cannot remove files that are mapped, and old states are removed."""
    asked = settings(sample_every=0, steps=3)
    run(asked)
    training = Training(dataclasses.replace(asked, steps=6))
    assert training.done == 3
    assert "optimizer.safetensors" not in Path("/proc/self/maps").read_text()


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
    whole, asked = (settings(name, steps=40, sample_every=20) for name in ("whole", "killed"))
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


def test_samples_are_measured_as_the_controls_were_made(settings: Make, tmp_path: Path) -> None:
    """With the sliders and the resolution of the data, the examples follow their controls."""
    data = tmp_path / "data"
    for i in range(4):
        faint = np.random.default_rng(i).integers(100, 130, (32, 32, 3)).astype(np.uint8)
        write_picture(tmp_path / f"pictures/a {'bcde'[i]}.png", faint)
    made = ["annotate", str(tmp_path / "pictures"), str(data), "--workers", "1", "--size", "32"]
    sliders = ["--preprocessor", "canny", "--values", "5", "10", "--resolution", "64"]
    assert main([*made, *sliders, "--captions", "names"]) == 0
    sampler = Training(settings(data=str(data))).sampler
    assert all(hint.any() for hint in sampler.hints)
    assert sampler.measure(np.stack(sampler.targets)) == pytest.approx(1)


def test_many_samples_are_drawn_in_parts(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(settings(samples=7))
    sampler, networks, sizes = training.sampler, training.networks(), []
    prompts = [item.prompt for item in sampler.items]
    original = sampling.predict

    def predict(*arguments: torch.Tensor) -> torch.Tensor:
        sizes.append(len(arguments[2]))
        return original(*arguments)

    monkeypatch.setattr(sampling, "predict", predict)
    parts = sampler.pictures(networks, prompts)
    assert set(sizes) == {4, 3}
    monkeypatch.setattr(sampling, "AT_ONCE", 7)
    once = sampler.pictures(networks, prompts)
    assert np.abs(parts.astype(int) - once).max() <= 1  # sums in another order


def test_missing_preprocessor_is_said_before_anything_is_made(
    settings: Make, toy: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(toy / "data", data, ignore=shutil.ignore_patterns(".cache", "dataset.json"))
    for changes, text in (({}, "add --preprocessor"), ({"preprocessor": "cany"}, "cany")):
        asked = settings(data=str(data), **changes)
        with pytest.raises(ControlNetError, match=text):
            run(asked)
        assert not (data / ".cache").exists()
        assert not Path(asked.out).exists()


def test_pictures_are_encoded_one_by_one_after_the_prompts(
    settings: Make, toy: Path, tmp_path: Path
) -> None:
    """Large pictures take gigabytes; text encoders are gone by then."""
    base = open_base(toy / "toy.safetensors")
    items, _faults = read_items(toy / "data")
    cache = Cache(tmp_path, base, toy / "data", items)
    vae, texts, encoders, sizes = base.vae(), base.texts, [], []
    encode = vae.encode

    def remembered() -> list[TextEncoder]:
        found = texts()
        encoders.extend(weakref.ref(encoder.module) for encoder in found)
        return found

    def watched(pictures: torch.Tensor) -> object:
        gc.collect()
        assert not [encoder for encoder in encoders if encoder() is not None]
        sizes.append(len(pictures))
        return encode(pictures)

    vae.encode, base.vae, base.texts = watched, lambda: vae, remembered
    cache.compute(base, torch.device("cpu"))
    assert encoders
    assert sizes == [1] * len(items)


def test_only_the_first_process_looks_at_every_picture(
    settings: Make, toy: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(toy / "data", data)
    (data / "source/000003.png").write_bytes(b"")
    asked = settings(data=str(data))
    assert len(check_data(asked, 16, thorough=False)) == len(read_items(data)[0])
    with pytest.raises(TrainError, match="cannot be decoded"):
        check_data(asked, 16)


def test_every_process_encodes_and_the_first_alone_writes_the_run(
    settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Training, "is_first", False)
    asked = settings(cache=str(tmp_path / "cache"))
    Training(asked)
    names = sorted(path.name for path in (tmp_path / "cache").glob("*/*"))
    assert names == ["latents-00000.safetensors", "texts-00000.safetensors"]
    assert not Path(asked.out).exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("tried to allocate 20.00 GiB"),
        RuntimeError("MPS backend out of memory (tried to allocate 20.00 GiB)"),
        MemoryError("tried to allocate 20.00 GiB"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_full_device_is_said_with_advice(
    settings: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def fail(_training: Training) -> None:
        raise error

    monkeypatch.setattr(Training, "train", fail)
    assert main(command(settings(sample_every=0))) == 1
    assert "--accumulation" in caplog.text
    assert "20.00 GiB" in caplog.text


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


def test_weights_name_the_preprocessor_of_the_data_not_the_one_that_measures(
    settings: Make,
) -> None:
    asked = settings(steps=1, preprocessor="none")
    run(asked)
    with safe_open(Path(asked.out) / "control.safetensors", "pt") as file:
        assert file.metadata()["preprocessor"] == "canny"
