"""What the preprocessors get from the host: folders, downloads, a device, and their turn on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modules import call_queue, devices, paths, shared

from lib_controlnet.detect import preprocess
from lib_controlnet.detect.stopping import IsStopped, Turns, wait_for_turn
from lib_controlnet.engine.residency import Resident
from lib_controlnet.enums import OnnxEngine
from lib_controlnet.files.paths import parse_path

if TYPE_CHECKING:
    from lib_controlnet.host.adapter import WebUIHost


Listener = Callable[[str, float], None]
"""Is told a line about what is waited for, "" for nothing any more, and how much of it is there."""

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_IS_STOPPED: ContextVar[IsStopped] = ContextVar("is_stopped", default=bool)


@contextmanager
def report_to(listener: Listener | None, is_stopped: IsStopped = bool) -> Iterator[None]:
    """Tell somebody else than the host's progress bar what is waited for in here.

    Args:
        listener: who is told, None for nobody else.
        is_stopped: whether the user wants no more of it.
    """
    tokens = _LISTENER.set(listener), _IS_STOPPED.set(is_stopped)
    try:
        yield
    finally:
        _LISTENER.reset(tokens[0])
        _IS_STOPPED.reset(tokens[1])


FOLDER_FLAGS: Final = ("controlnet_annotator_models_path", "controlnet_preprocessor_models_dir")
"""For the folder of preprocessors' weights; the second is that of the Forge family."""


def set_up(host: WebUIHost) -> None:
    """Have the preprocessors use the user's folders, settings and device from now on."""
    chosen = parse_path(host.option("control_net_modules_path"))
    for flag in FOLDER_FLAGS:
        chosen = chosen or parse_path(host.flag(flag))
    preprocess.store.STORE.roots = preprocess.store.folders(
        chosen, Path(paths.data_path), Path(shared.models_path)
    )
    preprocess.store.STORE.options = lambda: download_options(host)
    preprocess.networks.CACHE.choose_place = lambda: network_place(host)
    preprocess.networks.CACHE.make_resident = Resident
    preprocess.networks.CACHE.make_room = host.residency.park


def download_options(host: WebUIHost) -> Any:
    """How files may be had, by the present settings; progress goes to the host's bar or, inside
    of `telling`, to the listener alone.
    """
    listener, is_stopped, share = _LISTENER.get(), _IS_STOPPED.get(), [0.0]

    def tell(line: str | None) -> None:
        if listener is not None:
            listener(line or "", share[0])

    return preprocess.weights.Options(
        hub=host.option("controlnet_hub_mirror").strip(),
        offline=host.option("controlnet_offline"),
        report=host.report if listener is None else tell,
        count=lambda done, whole: share.__setitem__(0, min(done / max(whole, 1), 1.0)),
        # What stopped an earlier job must not stop a preview.
        interrupted=lambda: is_stopped() or (bool(shared.state.job) and host.is_interrupted()),
    )


def network_place(host: WebUIHost) -> Any:
    """The device of `--use-cpu controlnet` or the U-Net's; half precision on CUDA alone; and what
    runs ONNX files there.
    """
    device = host.device
    full = host.flag("no_half_controlnet")
    half = device.type == "cuda" and str(devices.dtype) == "torch.float16" and not full
    engine = OnnxEngine.parse(host.option("controlnet_onnx_engine"))
    onnx = "" if engine is OnnxEngine.AUTOMATIC else engine.value
    return preprocess.networks.Place(str(device), half, onnx)


def computes_on_gpu(module: str) -> bool:
    """Whether a preprocessor runs a network on the device that pictures are made on."""
    detector = preprocess.find(module)
    if detector is None or not detector.files:
        return False
    return not preprocess.networks.CACHE.present_place.device.startswith("cpu")


@contextmanager
def take_turn(turns: Turns | None = None) -> Iterator[None]:
    """Wait for a turn, and say so; whoever stops meanwhile waits no longer.

    Whoever runs inside a generation has its turn already and would wait for itself.

    Args:
        turns: what is waited for; None: the host's queue, as generations do.

    Raises:
        StoppedError: it was stopped.
    """
    turns, listener = turns or call_queue.queue_lock, _LISTENER.get()
    if not turns.acquire(blocking=False):
        if listener is not None:
            listener("waiting for what the WebUI is doing", 0.0)
        wait_for_turn(turns, _IS_STOPPED.get())
        if listener is not None:
            listener("", 0.0)
    try:
        yield
    finally:
        turns.release()


def park() -> bool:
    """Take everything of the preprocessors off the device; whether there was anything.

    It waits on the CPU; with `--lowvram` and `--medvram`, where main memory tends to be short too,
    it is given back.
    """
    cache = preprocess.networks.CACHE
    if not any(getattr(shared.cmd_opts, flag, False) for flag in ("lowvram", "medvram")):
        return cache.park()
    had_any = bool(len(cache))
    cache.clear()
    return had_any
