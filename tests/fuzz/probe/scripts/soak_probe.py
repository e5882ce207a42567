"""One route that counts what is left in this process: hooks, functions, objects, files, memory."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import gc
import threading
from pathlib import Path
from typing import Any

from modules import (
    processing,
    script_callbacks,
    sd_samplers_cfg_denoiser,
    sd_samplers_common,
    sd_samplers_kdiffusion,
    sd_samplers_timesteps,
    shared,
)

OWN = "lib_controlnet"
PASSING = ("session", "active", "patcher", "step", "injection", "effects", "batch")
"""Modules of ours whose objects belong to one generation."""
POOL = "AnyIO worker thread"
"""Threads of the web server, which come and go with requests."""


def hooks() -> list[str]:
    """Hooks of ours on the loaded model, and forwards that were put into objects."""
    found = []
    for name, module in shared.sd_model.named_modules():
        for table in [value for key, value in vars(module).items() if key.endswith("hooks")]:
            found += [f"{name}: {hook}" for hook in (table or {}).values() if _is_ours(hook)]
        if _is_ours(vars(module).get("forward")):
            found.append(f"{name}: forward")
    return found


def functions() -> list[str]:
    """Functions of ours in the places of the host's."""
    modules = (
        *(processing, sd_samplers_common, sd_samplers_kdiffusion),
        *(sd_samplers_timesteps, sd_samplers_cfg_denoiser),
    )
    owners = [*modules, *(c for m in modules for c in vars(m).values() if isinstance(c, type))]
    found = {
        f"{getattr(owner, '__name__', owner)}.{name}"
        for owner in owners
        for name, value in list(vars(owner).items())
        if _is_ours(value) and not isinstance(value, type)
    }
    return sorted(found)


def _is_ours(value: Any) -> bool:
    plain = getattr(value, "func", value)
    return callable(plain) and str(getattr(plain, "__module__", "")).startswith(OWN)


def objects() -> dict[str, int]:
    """Living objects that belong to one generation, by class."""
    counted: collections.Counter[str] = collections.Counter()
    for value in gc.get_objects():
        module = str(type(value).__module__)  # a few classes have something else there
        if module.startswith(f"{OWN}.") and module.split(".")[1] in PASSING:
            counted[f"{module}.{type(value).__qualname__}"] += 1
    return dict(counted)


def status() -> dict[str, int]:
    """Resident memory now and at its highest, in bytes; empty where the system does not tell."""
    file = Path("/proc/self/status")
    lines = file.read_text(encoding="ascii").splitlines() if file.exists() else []
    pairs = [line.split() for line in lines if line.startswith(("VmRSS", "VmHWM"))]
    return {name[2:-1]: int(size) * 1024 for name, size, _unit in pairs}


def open_files() -> list[str]:
    """What is open: files, pipes, connections; those of the web server's requests come and go."""
    found, folder = [], Path("/proc/self/fd")
    for entry in folder.iterdir() if folder.exists() else ():
        with contextlib.suppress(OSError):  # the listing's own is closed by now
            found.append(str(entry.readlink()))
    return sorted(name for name in found if not name.startswith("socket:"))


def state() -> dict[str, Any]:
    """All of it, after a collection."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    threads = [thread.name for thread in threading.enumerate()]
    return {
        "hooks": hooks(),
        "functions": functions(),
        "objects": objects(),
        "threads": sorted(name for name in threads if not name.startswith(POOL)),
        "files": open_files(),
        "memory": status(),
    }


def on_app_started(_demo: Any, app: Any) -> None:
    app.get("/soak-probe/state")(state)


script_callbacks.on_app_started(on_app_started)
