"""Measuring on a device: every call is waited for, its memory counted, nothing left behind."""

from __future__ import annotations

from dataclasses import dataclass, field

import bench_budgets
import bench_device
import pytest
import torch
from bench_device import Device, Rig, measure, table

from lib_controlnet.families.controlnet import ControlNetNetwork


@dataclass(frozen=True)
class CountingDevice(Device):
    """The CPU, which notes what it is asked."""

    precision: torch.dtype = torch.float32
    asked: list[str] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        return self.precision

    def wait(self) -> None:
        self.asked.append("wait")

    def forget_peak(self) -> None:
        self.asked.append("forget")

    def peak(self) -> int:
        self.asked.append("peak")
        return 5_000_000 * len(self.asked)


@pytest.mark.parametrize("kind", ["SD1", "SDXL"])
def test_steps_are_waited_for_and_their_memory_counted(kind, tmp_path, monkeypatch) -> None:
    few = bench_device.VARIANTS[:2] if kind == "SD1" else bench_device.VARIANTS[::3]
    monkeypatch.setattr(bench_device, "VARIANTS", few)
    device = CountingDevice("cpu", torch.bfloat16 if kind == "SD1" else torch.float32)
    rig = Rig(kind, 32, 4, device, tmp_path)
    with torch.inference_mode():
        before = rig.call()
        taken = measure(rig, 1)
        assert torch.equal(rig.call(), before)
    assert before.dtype == device.dtype
    assert device.asked == ["forget", "wait", "wait", "peak"] * len(few)
    assert all(len(found.seconds) == len(found.peaks) == 1 for found in taken.values())
    lines = table(kind, taken).splitlines()
    assert len(lines) == 2 + len(few)
    assert {line.count("|") for line in lines} == {6}
    assert lines[3].endswith("| 40 | 20 |")  # four questions later than without units


def test_every_variant_acts_otherwise(tmp_path) -> None:
    rig = Rig("SD1", 32, 4, CountingDevice("cpu"), tmp_path)
    made = []
    with torch.inference_mode():
        for variant in bench_device.VARIANTS:
            with rig.running(variant) as step:
                made.append(step())
    for index, one in enumerate(made):
        assert not any(torch.equal(one, other) for other in made[index + 1 :]), index


@pytest.mark.parametrize(
    ("name", "told"), [("gpu", "must be cpu, cuda, mps"), ("cuda:99", "cannot be used")]
)
def test_device_that_is_not_there_is_told(name, told, capsys) -> None:
    assert bench_device.bench_device(name, 32, 4, 1) == 1
    assert told in capsys.readouterr().out


def test_budgets_are_compared_with_none(tmp_path, monkeypatch) -> None:
    """What steps and results of a budget are, and of one in which nothing fits."""
    device = CountingDevice("cpu")
    rig = Rig("SDXL", 32, 4, device, tmp_path, {"context_dim": 40})
    few = bench_budgets.VARIANTS[:2]
    with torch.inference_mode():
        exact = {variant: bench_budgets.measure_variant(rig, variant, 2) for variant in few}
        monkeypatch.setattr(ControlNetNetwork, "evaluate", lambda *_: raise_no_memory())
        taken = {variant: bench_budgets.measure_variant(rig, variant, 2) for variant in few}
    assert [len(found.seconds) for found in (*exact.values(), *taken.values())] == [2, 2, 2, 0]
    lines = bench_budgets.table("SDXL", exact, taken).splitlines()
    assert lines[2].startswith("| no unit | ")
    assert lines[2].endswith(" | 0 | keep |")
    assert "HostError: there is not enough memory to evaluate" in lines[3]


def raise_no_memory() -> None:
    raise torch.cuda.OutOfMemoryError


def test_budgets_need_a_device_that_can_be_limited(capsys) -> None:
    assert bench_budgets.bench_budgets("cpu", [8], 1) == 1
    assert "--budgets needs a CUDA device" in capsys.readouterr().out
