"""One toy base, one new control and one data set for all tests of runs; and how to start one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from toy_base import SIZE, write_toy

from lib_controlnet.train import run as training
from lib_controlnet.train.__main__ import main
from lib_controlnet.train.config import Settings

EXAMPLES = 12
HELD_OUT = 2


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `toy.safetensors`, `new.safetensors` and `data/`."""
    folder = tmp_path_factory.mktemp("toy")
    base = write_toy(folder)
    assert main(["init", str(base), str(folder / "new.safetensors")]) == 0
    size = str(SIZE)
    assert main(["fill50k", str(folder / "data"), "--count", str(EXAMPLES), "--size", size]) == 0
    return folder


@pytest.fixture
def settings(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Settings of a short run into a folder of the test's own.

    Its curves are not drawn, which takes longer than its steps; whole trainings draw theirs.
    """
    monkeypatch.setattr(training, "plot", lambda _run: None)

    def make(out: str = "run", **changes: object) -> Settings:
        values = {
            **{"base": str(toy / "toy.safetensors"), "control": str(toy / "new.safetensors")},
            **{"data": str(toy / "data"), "out": str(tmp_path / out)},
            **{"steps": 8, "batch": 4, "lr": 1e-3, "save_every": 3, "average": 0.9, "keep": 2},
            **{"sample_every": 4, "samples": HELD_OUT, "sample_steps": 2},
        }
        return Settings(**{**values, **changes})

    return make


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums in one order, in this process and in those that tests start.

    accelerate keeps one configuration for a process; each test has its own.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
