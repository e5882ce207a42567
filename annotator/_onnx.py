"""ONNX files: run by onnxruntime or OpenVINO where the user has one of them, else by OpenCV.

Nothing of them is imported before a file is opened. What cannot run a file is left for the next
one, with a sentence in the log.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np

from . import networks
from .networks import Place
from .registry import Requirement, RequirementError

log = logging.getLogger(__name__)

ONNXRUNTIME: Final = Requirement("onnxruntime", "onnxruntime>=1.17")
OPENVINO: Final = Requirement("openvino", "openvino>=2023.1")

PROVIDERS: Final = {
    "cuda": (
        *("CUDAExecutionProvider", "ROCMExecutionProvider", "MIGraphXExecutionProvider"),
        "DmlExecutionProvider",
    ),
    "privateuseone": ("DmlExecutionProvider",),  # how torch calls DirectML
    "mps": ("CoreMLExecutionProvider",),
    "xpu": ("OpenVINOExecutionProvider", "DmlExecutionProvider"),
    "cpu": ("OpenVINOExecutionProvider",),
}
"""Parts of onnxruntime that compute on a kind of device, the best first. TensorRT is none of them:
it builds an engine for minutes before the first picture."""
CPU_PROVIDER: Final = "CPUExecutionProvider"
NUMBERED: Final = (*PROVIDERS["cuda"], "DmlExecutionProvider")
"""Those that are told the number of the device."""

TRIAL: Final = """
import sys
sys.path += sys.argv[2:]  # behind Python's own folders: OpenCV's has a `typing` in it
import cv2, numpy
try:
    cv2.dnn.readNetFromONNX(numpy.fromfile(sys.argv[1], numpy.uint8))
except cv2.error:
    pass  # told again where it matters
"""
TRIAL_SECONDS: Final = 120


class Opened(NamedTuple):
    """A file in one of the engines.

    Attributes:
        run: float32 (b, ...) -> every output, (b, ...) each.
        batches: whether `run` takes more than one row at a time.
    """

    run: Callable[[np.ndarray], list[np.ndarray]]
    batches: bool


class OnnxNet:
    """A network of one input.

    Attributes:
        engine: name of what runs it.
    """

    def __init__(self, path: Path, place: Place, engines: Sequence[str]) -> None:
        """Open a file.

        Args:
            path: the file.
            place: where it shall run.
            engines: names of what may run it, in the order in which they are tried.

        Raises:
            ValueError: it is no ONNX file, or damaged.
            RequirementError: none of the engines can be used.
        """
        self._path, self._place, self._left = path, place, list(engines)
        self.engine = ""
        self._opened = self._open_next()

    def __call__(self, given: np.ndarray) -> list[np.ndarray]:
        """Every output, float32 (b, ...); in the file's order, but from OpenCV by name.

        Args:
            given: float32 (b, ...), at least one row.

        Raises:
            RequirementError: OpenCV cannot run this file.
        """
        try:
            if self._opened.batches:
                return self._opened.run(given)
            rows = [self._opened.run(given[i : i + 1]) for i in range(len(given))]
            return [np.concatenate(output) for output in zip(*rows, strict=True)]
        except Exception as error:  # foreign packages and drivers: anything
            if not self._left or networks.CACHE.is_out_of_memory(error):
                raise
            self._say(f"{self.engine} cannot run it", error)
        self._opened = self._open_next()
        return self(given)

    def _open_next(self) -> Opened:
        """The file in the next of the engines that takes it."""
        faults: list[Exception] = []
        while self._left:
            self.engine = self._left.pop(0)
            try:
                opened = ENGINES[self.engine].open(self._path, self._place)
            except (RequirementError, ValueError) as error:
                faults.append(error)
                if self._left:
                    self._say(f"{self.engine} cannot open it", error)
            else:
                log.debug("%s is run by %s", self._path.name, self.engine)
                return opened
        # What is wrong with the file says more than which packages there are.
        raise next((fault for fault in faults if isinstance(fault, ValueError)), faults[-1])

    def _say(self, what: str, error: Exception) -> None:
        said = (networks.reason(error), self._left[0])
        log.warning("%s: %s (%s); %s runs it instead", self._path.name, what, *said)


def open_onnx(path: Path, place: Place) -> OnnxNet:
    """Open a file in what the place says, or else in the first engine that is there.

    Raises:
        ValueError: it is no ONNX file, or damaged.
    """
    last = list(ENGINES)[-1]
    if place.onnx in ENGINES:
        return OnnxNet(path, place, list(dict.fromkeys([place.onnx, last])))
    there = [name for name, engine in ENGINES.items() if engine.is_there()]
    return OnnxNet(path, place, there)


def _in_onnxruntime(path: Path, place: Place) -> Opened:
    runtime = ONNXRUNTIME.load()
    kind, _, number = place.device.partition(":")
    there = runtime.get_available_providers()
    wanted = [name for name in PROVIDERS.get(kind, ()) if name in there]
    providers: list[Any] = [_name_device(name, kind, number) for name in wanted]
    named: dict[str, Any] = {}
    if "DmlExecutionProvider" in wanted:  # which refuses the default
        named["sess_options"] = runtime.SessionOptions()
        named["sess_options"].enable_mem_pattern = False
    try:
        session = runtime.InferenceSession(str(path), providers=[*providers, CPU_PROVIDER], **named)
    except Exception as error:  # its own kinds, one per fault
        if not wanted:
            raise ValueError(str(error)) from error
        log.debug("onnxruntime: %s: %s", ", ".join(wanted), error)
        try:
            session = runtime.InferenceSession(str(path), providers=[CPU_PROVIDER])
        except Exception as fault:
            raise ValueError(str(fault)) from fault
    used = session.get_providers()[0]
    if wanted and used not in wanted:
        log.warning("%s: onnxruntime cannot use %s; %s runs it", path.name, wanted[0], used)
    given = session.get_inputs()[0]

    def run(rows: np.ndarray) -> list[np.ndarray]:
        return session.run(None, {given.name: rows})

    return Opened(run, batches=not isinstance(given.shape[0], int))


def _name_device(provider: str, kind: str, number: str) -> str | tuple[str, dict[str, str]]:
    """A provider with what tells it which device is meant."""
    if provider == "OpenVINOExecutionProvider" and kind == "xpu":
        return provider, {"device_type": "GPU"}
    if provider in NUMBERED and number not in ("", "0"):
        return provider, {"device_id": number}
    return provider


def _in_openvino(path: Path, place: Place) -> Opened:
    openvino = OPENVINO.load()
    try:
        core = openvino.Core()
        model = core.read_model(str(path))
        has_gpu = any(name.startswith("GPU") for name in core.available_devices)
        device = "GPU" if has_gpu and place.device.startswith("xpu") else "CPU"
        # By itself it computes in 16 bits wherever the processor can.
        compiled = core.compile_model(model, device, {"INFERENCE_PRECISION_HINT": "f32"})
        batches = bool(model.inputs[0].partial_shape[0].is_dynamic)
    except Exception as error:  # RuntimeError for whatever it is
        raise ValueError(str(error)) from error

    def run(rows: np.ndarray) -> list[np.ndarray]:
        found = compiled([rows])
        return [np.array(found[output]) for output in compiled.outputs]

    return Opened(run, batches)


def _try_opencv(path: Path) -> None:
    """Let OpenCV read the file in a process of its own: over some damaged ones it dies.

    Raises:
        ValueError: it did.
    """
    command = [
        sys.executable,
        "-I",
        "-c",
        TRIAL,
        str(path),
        *(entry for entry in sys.path if entry),
    ]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TRIAL_SECONDS,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        fault = f"status {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        fault = f"no end after {TRIAL_SECONDS} seconds"
    except OSError as error:  # without processes it cannot be tried
        log.warning("%s is not tried before OpenCV reads it: %s", path.name, error)
        return
    if fault:
        msg = f"OpenCV breaks down over it ({fault}); if the file is whole, {ONNXRUNTIME.hint}"
        raise ValueError(msg)


def _in_opencv(path: Path, _place: Place) -> Opened:
    _try_opencv(path)
    try:
        network = cv2.dnn.readNetFromONNX(np.fromfile(path, np.uint8))
    except cv2.error as error:
        fault = str(error).strip().rpartition("error: ")[2]
        msg = f"OpenCV cannot read it; if the file is whole, {ONNXRUNTIME.hint} ({fault})"
        raise ValueError(msg) from error
    outputs = network.getUnconnectedOutLayersNames()

    def run(rows: np.ndarray) -> list[np.ndarray]:
        network.setInput(rows)
        try:
            return [np.array(output) for output in network.forward(outputs)]
        except cv2.error as error:
            msg = f"OpenCV {cv2.__version__} cannot run {path.name}; {ONNXRUNTIME.hint}"
            raise RequirementError(msg) from error

    return Opened(run, batches=False)


class Engine(NamedTuple):
    """What runs ONNX files.

    Attributes:
        is_there: whether the user has it; imports nothing.
        open: opens a file; ValueError where it cannot read it, RequirementError without itself.
    """

    is_there: Callable[[], bool]
    open: Callable[[Path, Place], Opened]


ENGINES: Final = {
    "onnxruntime": Engine(lambda: ONNXRUNTIME.explain() is None, _in_onnxruntime),
    "OpenVINO": Engine(lambda: OPENVINO.explain() is None, _in_openvino),
    "OpenCV": Engine(lambda: True, _in_opencv),
}
"""By name, the best first. The last one is always there, and takes what the others cannot run."""
