"""Folders of extensions: which exist, which are enabled, what they contain."""

from __future__ import annotations

import configparser
import os
import re
from dataclasses import dataclass
from pathlib import Path

from modules import errors, script_loading
from modules.launch_utils import disabled_extension_names
from modules.paths_internal import extensions_dir, script_path

Path(extensions_dir).mkdir(parents=True, exist_ok=True)

extensions: list[Extension] = []
extension_paths: dict[str, Extension] = {}


@dataclass(frozen=True)
class ScriptFile:
    """A file of the host or of an extension: root folder, name, full path."""

    basedir: str
    filename: str
    path: str


class ExtensionMetadata:
    """metadata.ini of an extension; a missing file gives defaults."""

    filename = "metadata.ini"

    def __init__(self, path: str, canonical_name: str) -> None:
        self.config = configparser.ConfigParser()
        file = Path(path) / self.filename
        try:
            self.config.read(file, encoding="utf8")
        except configparser.Error:
            errors.report(f"Error reading {file}; its contents are ignored", exc_info=True)
        name = self.config.get("Extension", "Name", fallback=canonical_name)
        self.canonical_name = name.lower().strip()
        self.requires = self.get_script_requirements("Requires", "Extension")

    def get_script_requirements(
        self, field: str, section: str, extra_section: str | None = None
    ) -> list[str]:
        """Names in a field, split at commas and spaces, lower-cased."""
        text = self.config.get(section, field, fallback="")
        if extra_section:
            text += ", " + self.config.get(extra_section, field, fallback="")
        return self.parse_list(text.lower())

    def get_load_order(self, section: str) -> tuple[list[str], list[str]]:
        """Names in `Before` and in `After` of a section."""
        before = self.parse_list(self.config.get(section, "Before", fallback=""))
        after = self.parse_list(self.config.get(section, "After", fallback=""))
        return before, after

    def sections(self, prefix: str) -> list[str]:
        """Names of the sections that start with `prefix`."""
        return [name for name in self.config.sections() if name.startswith(prefix)]

    @staticmethod
    def parse_list(text: str) -> list[str]:
        """Split at commas and spaces."""
        return [part for part in re.split(r"[,\s]+", text) if part]


class Extension:
    """One extension folder."""

    def __init__(self, name: str, path: str, enabled: bool = True) -> None:
        self.name = name
        self.path = path
        self.enabled = enabled
        self.metadata = ExtensionMetadata(path, name.lower())
        self.canonical_name = self.metadata.canonical_name

    def list_files(self, subdir: str, extension: str) -> list[ScriptFile]:
        """Files directly in a subfolder with the ending `extension`, by name."""
        folder = Path(self.path) / subdir
        if not folder.is_dir():
            return []
        return [
            ScriptFile(self.path, file.name, str(file))
            for file in sorted(folder.iterdir())
            if file.suffix.lower() == extension and file.is_file()
        ]


def active() -> list[Extension]:
    """The enabled extensions, in loading order."""
    return [x for x in extensions if x.enabled]


def list_extensions() -> None:
    """Find the extensions on disk and report clashes and missing requirements."""
    extensions.clear()
    extension_paths.clear()
    disabled = disabled_extension_names()
    seen: dict[str, Extension] = {}
    for name, path in script_loading.extension_folders():
        extension = Extension(name, path, name not in disabled)
        other = seen.get(extension.canonical_name)
        if other is not None:
            errors.report(
                f'Duplicate canonical name "{extension.canonical_name}" found in extensions '
                f'"{extension.name}" and "{other.name}". Former will be discarded.'
            )
            continue
        seen[extension.canonical_name] = extension
        extensions.append(extension)
        extension_paths[os.path.realpath(path)] = extension
        extension_paths[path] = extension
    for extension in active():
        _check_requirements(extension, seen)


def _check_requirements(extension: Extension, known: dict[str, Extension]) -> None:
    for requirement in extension.metadata.requires:
        choices = requirement.split("|")
        if any(choice in known and known[choice].enabled for choice in choices):
            continue
        states = (
            "which is disabled" if any(c in known for c in choices) else "which is not installed"
        )
        errors.report(f'Extension "{extension.name}" requires "{requirement}" {states}.')


def find_extension(filename: str) -> Extension | None:
    """The extension that a file belongs to, or None."""
    path = Path(os.path.realpath(filename))
    host = Path(script_path)
    for folder in path.parents:
        if folder == host:
            # The host lies inside the repository that it loads as an extension.
            return None
        extension = extension_paths.get(str(folder))
        if extension is not None:
            return extension
    return None
