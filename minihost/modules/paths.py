"""Folders of the embedded host, under the names that extensions import."""

from modules.paths_internal import cwd, data_path, extensions_dir, models_path, script_path

__all__ = ["cwd", "data_path", "extensions_dir", "models_path", "script_path"]
