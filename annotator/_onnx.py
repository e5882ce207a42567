"""ONNX files: run by onnxruntime where that is installed, else by OpenCV."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from .networks import Place
from .registry import Requirement, RequirementError

log = logging.getLogger(__name__)

ONNXRUNTIME: Final = Requirement("onnxruntime", "onnxruntime>=1.17")

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

Run = Callable[[np.ndarray], "list[np.ndarray]"]


class OnnxNet:
    """A network of one input.

    Attributes:
        engine: what runs it.
    """

    def __init__(self, engine: str, run: Run, *, batches: bool) -> None:
        """Wrap an engine.

        Args:
            engine: its name.
            run: float32 (b, ...) -> every output, (b, ...) each.
            batches: whether `run` takes more than one row at a time.
        """
        self.engine, self._run, self._batches = engine, run, batches

    def __call__(self, given: np.ndarray) -> list[np.ndarray]:
        """Every output, float32 (b, ...), in the file's order.

        Args:
            given: float32 (b, ...), at least one row.

        Raises:
            RequirementError: OpenCV cannot run this file.
        """
        if self._batches:
            return self._run(given)
        rows = [self._run(given[i : i + 1]) for i in range(len(given))]
        return [np.concatenate(output) for output in zip(*rows, strict=True)]


def open_onnx(path: Path, place: Place) -> OnnxNet:
    """Open a file; the device counts only where onnxruntime was made for it.

    Raises:
        ValueError: it is no ONNX file, or damaged.
    """
    if ONNXRUNTIME.explain() is None:
        try:
            return _in_onnxruntime(path, place)
        except RequirementError as error:
            log.warning("%s; OpenCV runs %s instead", error, path.name)
    return _in_opencv(path)


def _in_onnxruntime(path: Path, place: Place) -> OnnxNet:
    runtime = ONNXRUNTIME.load()
    wanted = ["CUDAExecutionProvider"] if place.device.startswith("cuda") else []
    there = runtime.get_available_providers()
    providers = [name for name in (*wanted, "CPUExecutionProvider") if name in there]
    try:
        session = runtime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # its own kinds, one per fault
        raise ValueError(str(error)) from error
    given = session.get_inputs()[0]

    def run(rows: np.ndarray) -> list[np.ndarray]:
        return session.run(None, {given.name: rows})

    log.debug("%s is run by onnxruntime on %s", path.name, session.get_providers()[0])
    return OnnxNet("onnxruntime", run, batches=not isinstance(given.shape[0], int))


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


def _in_opencv(path: Path) -> OnnxNet:
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

    log.debug("%s is run by OpenCV; onnxruntime would be faster", path.name)
    return OnnxNet("OpenCV", run, batches=False)
