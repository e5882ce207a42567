"""Executes extension files by path, outside `sys.modules`, and runs their `preload.py`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from modules import errors, paths_internal

loaded_scripts: dict[str, ModuleType] = {}


def load_module(path: str) -> ModuleType:
    """Execute the file at `path` as a module named like the file, `.py` included.

    The module is not entered in `sys.modules`, as in the host that extensions are written for.
    """
    spec = importlib.util.spec_from_file_location(Path(path).name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded_scripts[path] = module
    return module


def extension_folders() -> list[tuple[str, str]]:
    """List `(name, path)` of every folder that may hold an extension, by case-sensitive name."""
    folder = Path(paths_internal.extensions_dir)
    found = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    by_name = {path.name: str(path) for path in found}
    for path in _extra_folders():
        is_repository = str(path) == paths_internal.repository_path
        name = paths_internal.repository_extension_name if is_repository else path.name
        by_name.setdefault(name, str(path))
    return sorted(by_name.items())


def _extra_folders() -> list[Path]:
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--extension-dir", action="append", default=None)
    given = early.parse_known_args(sys.argv[1:])[0].extension_dir
    if given is None:
        return [Path(paths_internal.repository_path)]
    return [Path(folder).resolve() for folder in given if folder.lower() not in ("", "none")]


def preload_all(parser: argparse.ArgumentParser) -> None:
    """Call `preload(parser)` of every enabled extension's `preload.py`; errors are reported."""
    from modules.launch_utils import disabled_extension_names

    disabled = disabled_extension_names()
    for name, path in extension_folders():
        file = Path(path) / "preload.py"
        if name in disabled or not file.is_file():
            continue
        try:
            module = load_module(os.fspath(file))
            if hasattr(module, "preload"):
                module.preload(parser)
        except Exception:
            errors.report(f"Error running preload() for {file}", exc_info=True)
