"""Folders of the embedded host, under the names that extensions import."""

from __future__ import annotations

from modules.paths_internal import (
    assets_path,
    cwd,
    data_path,
    default_output_dir,
    extensions_builtin_dir,
    extensions_dir,
    models_path,
    modules_path,
    repository_path,
    script_path,
    sd_configs_path,
)

paths: dict[str, str] = {}

__all__ = [
    "assets_path",
    "cwd",
    "data_path",
    "default_output_dir",
    "extensions_builtin_dir",
    "extensions_dir",
    "models_path",
    "modules_path",
    "paths",
    "repository_path",
    "script_path",
    "sd_configs_path",
]
