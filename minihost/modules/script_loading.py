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


def extension_folders() -> list[tuple[str, str, bool]]:
    """List `(name, path, is_builtin)` of every folder that may hold an extension.

    Built-in folders come first, then the user's; each group by case-sensitive name. Folders from
    `--extension-dir` belong to the user's group.
    """
    found = _subfolders(paths_internal.extensions_builtin_dir, is_builtin=True)
    user = {name: path for name, path, _ in _subfolders(paths_internal.extensions_dir, False)}
    for folder in _extra_folders():
        is_repository = str(folder) == paths_internal.repository_path
        name = paths_internal.repository_extension_name if is_repository else folder.name
        user.setdefault(name, str(folder))
    return found + [(name, user[name], False) for name in sorted(user)]


def _subfolders(parent: str, is_builtin: bool) -> list[tuple[str, str, bool]]:
    folder = Path(parent)
    if not folder.is_dir():
        return []
    entries = sorted(p for p in folder.iterdir() if p.is_dir())
    return [(p.name, str(p), is_builtin) for p in entries]


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
    for name, path, is_builtin in extension_folders():
        file = Path(path) / "preload.py"
        blocked = "*" in disabled if is_builtin else disabled & {"*", "extra", name}
        if blocked or name in disabled or not file.is_file():
            continue
        try:
            module = load_module(os.fspath(file))
            if hasattr(module, "preload"):
                module.preload(parser)
        except Exception:
            errors.report(f"Error running preload() for {file}", exc_info=True)
