"""Which program runs an ONNX file, and what becomes of the file where that one fails."""

from __future__ import annotations

import logging
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotator import _onnx
from annotator._onnx import CPU_PROVIDER, ENGINES, open_onnx
from annotator.networks import Place
from annotator.registry import Requirement
from lib_controlnet.enums import OnnxEngine

FILES = Path(__file__).resolve().parents[1] / "data" / "onnx"
PEOPLE = FILES / "people.onnx"
SHAPES = {
    "animals": (2, 3, 256, 256),
    "boxes": (1, 3, 640, 640),
    "faces": (1, 3, 640, 640),
    "people": (2, 3, 384, 288),
    "recogniser": (2, 3, 112, 112),
}
PACKAGES = {"onnxruntime": "ONNXRUNTIME", "OpenVINO": "OPENVINO"}
GIVEN = np.random.default_rng(0).random((2, 3, 384, 288), dtype=np.float32)


class Fake:
    """Stands for onnxruntime and for OpenVINO; computes what OpenCV does, unless it is to fail."""

    def __init__(
        self, name: str, fails: str = "", there: tuple[str, ...] = (CPU_PROVIDER,)
    ) -> None:
        self.name, self.fails, self.there = name, fails, there
        self.providers: list[Any] = []
        self.network = open_onnx(PEOPLE, Place(onnx="OpenCV"))
        self.available_devices = ["CPU"]

    def _stumble(self, moment: str) -> None:
        if self.fails == moment:
            msg = f"{self.name} fails"
            raise RuntimeError(msg)

    def get_available_providers(self) -> list[str]:
        return list(self.there)

    def InferenceSession(self, _path: str, providers: list[Any], **_options: Any) -> Fake:
        self.providers.append(providers)
        self._stumble("open")
        if self.fails == "provider" and providers[0] != CPU_PROVIDER:
            raise RuntimeError(self.fails)
        return self

    def SessionOptions(self) -> types.SimpleNamespace:
        return types.SimpleNamespace()

    def get_providers(self) -> list[str]:
        named = [one if isinstance(one, str) else one[0] for one in self.providers[-1]]
        return named if self.fails != "silently" else [CPU_PROVIDER]

    def get_inputs(self) -> list[types.SimpleNamespace]:
        return [types.SimpleNamespace(name="input", shape=["b", 3, 384, 288])]

    def run(self, _names: None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        self._stumble("run")
        return self.network(given["input"])

    def Core(self) -> Fake:
        return self

    def read_model(self, _path: str) -> types.SimpleNamespace:
        batch = types.SimpleNamespace(is_dynamic=True)
        return types.SimpleNamespace(inputs=[types.SimpleNamespace(partial_shape=[batch])])

    def compile_model(self, _model: Any, device: str, options: dict[str, str]) -> Any:
        assert (device, options) == ("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._stumble("open")

        class Compiled:
            outputs = (0, 1)

            def __call__(compiled, given: list[np.ndarray]) -> dict[int, np.ndarray]:
                return dict(enumerate(self.run(None, {"input": given[0]})))

        return Compiled()


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV reads these files without the trial in another process, which takes a second each."""
    monkeypatch.setattr(_onnx, "_try_opencv", lambda _path: None)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have these packages, as fakes, and no others."""

    def put(*fakes: Fake) -> None:
        given = {fake.name: fake for fake in fakes}
        for name, requirement in PACKAGES.items():
            module = f"{name.lower()}_of_the_test"
            monkeypatch.setattr(_onnx, requirement, Requirement(module, f"{name.lower()}>=1"))
            if name in given:
                monkeypatch.setitem(sys.modules, module, given[name])  # type: ignore[arg-type] # it will do

    return put


CHOICES = [
    # what is there and where it fails, what is chosen, what runs, what is said
    ({}, "", "OpenCV", ""),
    ({"onnxruntime": ""}, "", "onnxruntime", ""),
    ({"OpenVINO": ""}, "", "OpenVINO", ""),
    ({"onnxruntime": "", "OpenVINO": ""}, "", "onnxruntime", ""),
    ({"onnxruntime": "", "OpenVINO": ""}, "OpenVINO", "OpenVINO", ""),
    ({"onnxruntime": "", "OpenVINO": ""}, "OpenCV", "OpenCV", ""),
    ({}, "onnxruntime", "OpenCV", "needs the Python package"),
    ({"onnxruntime": ""}, "OpenVINO", "OpenCV", "needs the Python package"),
    ({"onnxruntime": "open"}, "", "OpenCV", "onnxruntime cannot open it"),
    ({"onnxruntime": "open", "OpenVINO": ""}, "", "OpenVINO", "onnxruntime cannot open it"),
    ({"OpenVINO": "open"}, "OpenVINO", "OpenCV", "OpenVINO cannot open it"),
    ({"onnxruntime": "run"}, "", "OpenCV", "onnxruntime cannot run it"),
    ({"onnxruntime": "run", "OpenVINO": ""}, "", "OpenVINO", "onnxruntime cannot run it"),
    ({"OpenVINO": "run"}, "OpenVINO", "OpenCV", "OpenVINO cannot run it"),
]


@pytest.mark.parametrize(("there", "chosen", "runs", "said"), CHOICES)
def test_what_is_there_runs_the_file_and_opencv_what_that_cannot(
    there: dict[str, str],
    chosen: str,
    runs: str,
    said: str,
    install: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install(*(Fake(name, fails) for name, fails in there.items()))
    expected = open_onnx(PEOPLE, Place(onnx="OpenCV"))(GIVEN)
    with caplog.at_level(logging.WARNING):
        network = open_onnx(PEOPLE, Place(onnx=chosen))
        for _ in range(2):
            found = network(GIVEN)
    assert network.engine == runs
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == bool(said), lines
    assert all(said in line and f"; {runs} runs it instead" in line for line in lines)


CUDA, DML, OPENVINO_PROVIDER = (f"{n}ExecutionProvider" for n in ("CUDA", "Dml", "OpenVINO"))


@pytest.mark.parametrize(
    ("device", "there", "fails", "asked", "said"),
    [
        ("cpu", (CUDA, CPU_PROVIDER), "", [[CPU_PROVIDER]], ""),
        ("cpu", (OPENVINO_PROVIDER, CPU_PROVIDER), "", [[OPENVINO_PROVIDER, CPU_PROVIDER]], ""),
        ("cuda", (CUDA, CPU_PROVIDER), "", [[CUDA, CPU_PROVIDER]], ""),
        ("cuda:1", (CUDA, CPU_PROVIDER), "", [[(CUDA, {"device_id": "1"}), CPU_PROVIDER]], ""),
        ("cuda:0", (DML, CPU_PROVIDER), "", [[DML, CPU_PROVIDER]], ""),
        ("privateuseone:0", (DML, CPU_PROVIDER), "", [[DML, CPU_PROVIDER]], ""),
        ("mps", (CUDA, CPU_PROVIDER), "", [[CPU_PROVIDER]], ""),
        (
            *("xpu:0", (OPENVINO_PROVIDER, CPU_PROVIDER), ""),
            [[(OPENVINO_PROVIDER, {"device_type": "GPU"}), CPU_PROVIDER]],
            "",
        ),
        ("a new kind", (CUDA, CPU_PROVIDER), "", [[CPU_PROVIDER]], ""),
        ("cuda:0", (CUDA,), "provider", [[CUDA, CPU_PROVIDER], [CPU_PROVIDER]], f"use {CUDA}; "),
        ("cuda:0", (CUDA,), "silently", [[CUDA, CPU_PROVIDER]], f"use {CUDA}; {CPU_PROVIDER}"),
    ],
)
def test_onnxruntime_computes_where_the_networks_do(
    device: str,
    there: tuple[str, ...],
    fails: str,
    asked: list[Any],
    said: str,
    install: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = Fake("onnxruntime", fails, there)
    install(fake)
    with caplog.at_level(logging.WARNING):
        assert open_onnx(PEOPLE, Place(device)).engine == "onnxruntime"
    assert fake.providers == asked
    assert said in caplog.text
    assert bool(said) == bool(caplog.records)


def test_setting_offers_every_engine() -> None:
    assert set(ENGINES) | {"Automatic"} == {choice.value for choice in OnnxEngine}
    assert list(ENGINES)[-1] == "OpenCV"


def test_damaged_file_is_told_by_what_was_asked_first(tmp_path: Path, install: Any) -> None:
    install(Fake("onnxruntime", "open"))
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no network")
    with pytest.raises(ValueError, match="onnxruntime fails"):
        open_onnx(damaged, Place())


@pytest.mark.parametrize("engine", PACKAGES)
@pytest.mark.parametrize("name", SHAPES)
def test_engines_agree(engine: str, name: str) -> None:
    pytest.importorskip(engine.lower())
    given = (np.random.default_rng(1).random(SHAPES[name], dtype=np.float32) - 0.5) * 4
    one, other = (open_onnx(FILES / f"{name}.onnx", Place(onnx=e)) for e in (engine, "OpenCV"))
    assert (one.engine, other.engine) == (engine, "OpenCV")
    pairs = zip(_by_size(one(given)), _by_size(other(given)), strict=True)
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def _by_size(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs in one order; OpenCV sorts them by name."""
    return sorted(outputs, key=lambda output: output.shape) if len(outputs) > 2 else outputs
