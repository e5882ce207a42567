"""Loading of script files, and the runners of the tabs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from modules import (
    errors,
    extensions,
    paths_internal,
    script_callbacks,
    script_loading,
    util_sort,
)
from modules.extensions import ScriptFile
from modules.script_base import (
    AlwaysVisible,
    MaskBlendArgs,
    OnComponent,
    PostprocessBatchListArgs,
    PostprocessImageArgs,
    PostProcessMaskOverlayArgs,
    PostSampleArgs,
    Script,
    ScriptBuiltinUI,
)
from modules.script_runner import ScriptRunner


class ScriptClassData(NamedTuple):
    """A registered script class and where it comes from."""

    script_class: type
    path: str
    basedir: str
    module: ModuleType


@dataclass
class ScriptWithDependencies:
    """A script file with its place in the loading order."""

    script_canonical_name: str
    file: ScriptFile
    requires: list[str]
    load_before: list[str] = field(default_factory=list)
    load_after: list[str] = field(default_factory=list)


scripts_data: list[ScriptClassData] = []
current_basedir = paths_internal.script_path

scripts_txt2img: ScriptRunner = ScriptRunner()
scripts_img2img: ScriptRunner = ScriptRunner()
scripts_current: ScriptRunner | None = None


def basedir() -> str:
    """Root folder of the extension whose script file is being loaded."""
    return current_basedir


def list_scripts(
    scriptdirname: str, extension: str, *, include_extensions: bool = True
) -> list[ScriptFile]:
    """Files with an ending in a folder of the host and of each extension, in loading order."""
    found: dict[str, ScriptWithDependencies] = {}
    by_extension: dict[str, list[ScriptWithDependencies]] = {}
    root = Path(paths_internal.script_path) / scriptdirname
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if path.suffix.lower() == extension and path.is_file():
                file = ScriptFile(paths_internal.script_path, path.name, str(path))
                found[path.name] = ScriptWithDependencies(path.name, file, [])
    for ext in extensions.active() if include_extensions else []:
        for file in ext.list_files(scriptdirname, extension):
            item = _with_dependencies(ext, scriptdirname, file)
            found[item.script_canonical_name] = item
            by_extension.setdefault(ext.canonical_name, []).append(item)
    after = _resolve_order(found, by_extension)
    for item in found.values():
        for wanted in item.requires:
            if wanted not in found and wanted not in by_extension:
                errors.report(
                    f'Script "{item.script_canonical_name}" requires "{wanted}" to be loaded, but '
                    "it is not.",
                    exc_info=False,
                )
    return [found[name].file for name in util_sort.topological_sort(after)]


def _with_dependencies(
    ext: extensions.Extension, folder: str, file: ScriptFile
) -> ScriptWithDependencies:
    section = f"{folder}/{file.filename}"
    metadata = ext.metadata
    return ScriptWithDependencies(
        script_canonical_name=f"{ext.canonical_name}/{file.filename}",
        file=file,
        requires=metadata.get_script_requirements("Requires", section, folder),
        load_before=metadata.get_script_requirements("Before", section, folder),
        load_after=metadata.get_script_requirements("After", section, folder),
    )


def _resolve_order(
    found: dict[str, ScriptWithDependencies],
    by_extension: dict[str, list[ScriptWithDependencies]],
) -> dict[str, list[str]]:
    """For each script the scripts it comes after; an extension's name means all its scripts."""

    def expand(name: str) -> list[str]:
        if name in found:
            return [name]
        return [x.script_canonical_name for x in by_extension.get(name, [])]

    after: dict[str, list[str]] = {name: [] for name in found}
    for name, item in found.items():
        for wanted in [*item.load_after, *item.requires]:
            after[name] += [x for x in expand(wanted) if x != name]
        for other in (x for wanted in item.load_before for x in expand(wanted)):
            after[other].append(name)
    return after


def list_files_with_name(filename: str) -> list[str]:
    """Paths of a file in the host's root and in the roots of the enabled extensions."""
    roots = [paths_internal.script_path, *(ext.path for ext in extensions.active())]
    return [str(Path(root) / filename) for root in roots if (Path(root) / filename).is_file()]


def register_scripts_from_module(module: ModuleType, file: ScriptFile) -> None:
    """Register every script class found among a module's names, imported ones included."""
    for value in list(vars(module).values()):
        if inspect.isclass(value) and issubclass(value, Script):
            scripts_data.append(ScriptClassData(value, file.path, file.basedir, module))


def load_scripts() -> None:
    """Forget all scripts and callbacks, execute every script file and make new runners."""
    # Names that extensions read.
    global current_basedir, scripts_txt2img, scripts_img2img  # noqa: PLW0603

    scripts_data.clear()
    script_callbacks.clear_callbacks()
    files = list_scripts("scripts", ".py")
    files += list_scripts("modules/processing_scripts", ".py", include_extensions=False)
    syspath = sys.path
    for file in files:
        try:
            if file.basedir != paths_internal.script_path:
                sys.path = [file.basedir, *sys.path]
            current_basedir = file.basedir
            register_scripts_from_module(script_loading.load_module(file.path), file)
        except Exception:
            errors.report(f"Error loading script: {file.filename}", exc_info=True)
        finally:
            sys.path = syspath
            current_basedir = paths_internal.script_path
    scripts_txt2img = ScriptRunner()
    scripts_img2img = ScriptRunner()


def reload_script_body_only() -> None:
    """Execute the script files again and swap the runners' instances."""
    cache: dict[str, Any] = {}
    scripts_txt2img.reload_sources(cache)
    scripts_img2img.reload_sources(cache)


reload_scripts = load_scripts


def script_method_callbacks() -> Iterator[tuple[str, list]]:
    """Yield `(category, entries)` of the Script methods that several scripts override."""
    methods = [name for name, value in vars(Script).items() if inspect.isfunction(value)]
    for runner in (scripts_txt2img, scripts_img2img):
        for method in methods:
            runner.create_ordered_callbacks_list(method)
            yield f"script_{method}", [entry for entry, _ in runner.callback_map[method]]
        runner.callback_map.clear()


__all__ = [
    "AlwaysVisible", "MaskBlendArgs", "OnComponent", "PostProcessMaskOverlayArgs",
    "PostSampleArgs", "PostprocessBatchListArgs", "PostprocessImageArgs", "Script",
    "ScriptBuiltinUI", "ScriptClassData", "ScriptFile", "ScriptRunner", "basedir",
    "list_files_with_name", "list_scripts", "load_scripts", "reload_scripts",
    "scripts_current", "scripts_data", "scripts_img2img", "scripts_txt2img",
]  # fmt: skip
