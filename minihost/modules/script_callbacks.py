"""Callbacks that extensions register; every one runs guarded: an exception is only printed.

Order is the order of registration, changed by `Before`/`After` in metadata.ini and by the
settings `prioritized_callbacks_<category>`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from modules import errors, extensions, util_sort


@dataclass(eq=False)
class ImageSaveParams:
    """A picture about to be saved or just saved."""

    image: Any
    p: Any
    filename: str
    pnginfo: dict


@dataclass(eq=False)
class CFGDenoiserParams:
    """Rows of one evaluation before the U-Net sees them: C cond rows, then B uncond rows."""

    x: Any
    image_cond: Any
    sigma: Any
    sampling_step: int
    total_sampling_steps: int
    text_cond: Any
    text_uncond: Any
    denoiser: Any = None


@dataclass(eq=False)
class CFGDenoisedParams:
    """Rows of one evaluation after the U-Net, before they are combined."""

    x: Any
    sampling_step: int
    total_sampling_steps: int
    inner_model: Any


@dataclass(eq=False)
class AfterCFGCallbackParams:
    """The combined result of one evaluation."""

    x: Any
    sampling_step: int
    total_sampling_steps: int


@dataclass
class ScriptCallback:
    """One registered callback: file that registered it, function, full name."""

    script: str
    callback: Callable
    name: str = "unnamed"


@dataclass
class _Category:
    callbacks: list[ScriptCallback] = field(default_factory=list)
    ordered: list[ScriptCallback] | None = None


_CATEGORY_NAMES = (
    "app_started", "model_loaded", "ui_tabs", "ui_settings", "before_image_saved", "image_saved",
    "cfg_denoiser", "cfg_denoised", "cfg_after_cfg", "before_component", "after_component",
    "infotext_pasted", "script_unloaded", "before_ui", "list_unets", "on_reload",
)  # fmt: skip
_categories = {name: _Category() for name in _CATEGORY_NAMES}
callback_map = {f"callbacks_{name}": entry.callbacks for name, entry in _categories.items()}


def _calling_file() -> str:
    """Not by `inspect.stack`, which looks through all modules for each of some fifty frames."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return "unknown file" if frame is None else frame.f_code.co_filename


def _full_name(filename: str, category: str, name: str | None, taken: set[str]) -> str:
    extension = extensions.find_extension(filename)
    owner = extension.canonical_name if extension else "base"
    full = "/".join([owner, Path(filename).name, category, *([name] if name else [])])
    unique, number = full, 1
    while unique in taken:
        unique, number = f"{full}-{number}", number + 1
    return unique


def add_callback(
    callbacks: list[ScriptCallback],
    fun: Callable,
    *,
    name: str | None = None,
    category: str = "unknown",
    filename: str | None = None,
) -> None:
    """Append a callback under its full name `<extension>/<file>/<category>[/<name>]`."""
    filename = filename or _calling_file()
    taken = {c.name for c in callbacks}
    callbacks.append(ScriptCallback(filename, fun, _full_name(filename, category, name, taken)))


def _register(category: str, callback: Callable, name: str | None) -> None:
    entry = _categories[category]
    add_callback(entry.callbacks, callback, name=name, category=category)
    entry.ordered = None


def sort_callbacks(category: str, unordered: list[ScriptCallback]) -> list[ScriptCallback]:
    """Order callbacks by metadata.ini, then by the user's priority setting."""
    from modules import shared

    by_name = {c.name: c for c in unordered}
    after: dict[str, list[str]] = {name: [] for name in by_name}
    for extension in extensions.extensions:
        for section in extension.metadata.sections("callbacks/"):
            target = section.removeprefix("callbacks/")
            before_these, after_these = extension.metadata.get_load_order(section)
            for other in (x for x in before_these if x in after and target in by_name):
                after[other].append(target)
            if target in after:
                after[target] += [x for x in after_these if x in by_name]
    names = util_sort.topological_sort(after)
    priority = getattr(shared.opts, f"prioritized_callbacks_{category}", None) or []
    rank = {name: i for i, name in enumerate(priority)}
    names.sort(key=lambda name: rank.get(name, len(rank)))
    return [by_name[name] for name in names]


def ordered_callbacks(
    category: str, unordered: list[ScriptCallback] | None = None
) -> list[ScriptCallback]:
    """Callbacks of a category in calling order."""
    if unordered is not None:
        return sort_callbacks(category, unordered)
    entry = _categories[category]
    if entry.ordered is None:
        entry.ordered = sort_callbacks(category, entry.callbacks)
    return entry.ordered


def enumerate_callbacks() -> Any:
    """Yield `(category, callbacks)`, Script methods included."""
    from modules import scripts

    for category, entry in _categories.items():
        yield category, entry.callbacks
    yield from scripts.script_method_callbacks()


def callback_names_by_category() -> dict[str, list[str]]:
    """Full names of the callbacks per category."""
    found: dict[str, dict[str, None]] = {}
    for category, callbacks in enumerate_callbacks():
        found.setdefault(category, {}).update(dict.fromkeys(c.name for c in callbacks))
    return {category: list(names) for category, names in found.items()}


def report_exception(c: ScriptCallback, job: str) -> None:
    """Print the exception that a callback raised."""
    errors.report(f"Error executing callback {job} for {c.script}", exc_info=True)


def clear_callbacks() -> None:
    """Forget every callback."""
    for entry in _categories.values():
        entry.callbacks.clear()
        entry.ordered = None


def _run(category: str, callbacks: list[ScriptCallback], *args: Any, **kwargs: Any) -> list[Any]:
    results = []
    for c in callbacks:
        try:
            results.append(c.callback(*args, **kwargs))
        except Exception:
            report_exception(c, f"{category}_callback")
    return results


def _event(category: str) -> Callable[..., list[Any]]:
    """The function that tells the callbacks of a category; it gives what they returned."""

    def tell(*args: Any, **kwargs: Any) -> list[Any]:
        return _run(category, ordered_callbacks(category), *args, **kwargs)

    return tell


app_started_callback = _event("app_started")  # (demo, app); demo is None without a page
app_reload_callback = _event("on_reload")  # the page is about to be rebuilt
model_loaded_callback = _event("model_loaded")
ui_settings_callback = _event("ui_settings")
before_image_saved_callback = _event("before_image_saved")
image_saved_callback = _event("image_saved")
cfg_denoiser_callback = _event("cfg_denoiser")  # an evaluation is about to run
cfg_denoised_callback = _event("cfg_denoised")  # the U-Net answered for all rows
cfg_after_cfg_callback = _event("cfg_after_cfg")  # the rows were combined
before_component_callback = _event("before_component")  # of the page, or a layout block
after_component_callback = _event("after_component")
infotext_pasted_callback = _event("infotext_pasted")  # (infotext, params); params may be changed
before_ui_callback = _event("before_ui")  # all scripts are loaded, the page is not built yet


def ui_tabs_callback() -> list[tuple]:
    """Collect `(blocks, title, id)` of the extensions' tabs."""
    parts = _run("ui_tabs", ordered_callbacks("ui_tabs"))
    return [tab for part in parts for tab in part or []]


def script_unloaded_callback() -> None:
    """The script files are about to be executed again; called in reverse order."""
    _run("script_unloaded", ordered_callbacks("script_unloaded")[::-1])


def list_unets_callback() -> list[Any]:
    """Collect replacement U-Nets."""
    found: list[Any] = []
    _run("list_unets", ordered_callbacks("list_unets"), found)
    return found


def remove_current_script_callbacks() -> None:
    """Remove everything that the calling file registered."""
    filename = _calling_file()
    if filename != "unknown file":
        _remove(lambda c: c.script == filename)


def remove_callbacks_for_function(callback_func: Callable) -> None:
    """Remove every registration of a function."""
    _remove(lambda c: c.callback == callback_func)


def _remove(unwanted: Callable[[ScriptCallback], bool]) -> None:
    for entry in _categories.values():
        entry.callbacks[:] = [c for c in entry.callbacks if not unwanted(c)]
        entry.ordered = None


def _registrar(category: str) -> Callable[..., None]:
    """The function with which extensions register a callback of a category."""

    def register(callback: Callable, *, name: str | None = None) -> None:
        _register(category, callback, name)

    return register


on_app_started = _registrar("app_started")  # callback(demo, app) once the server runs
on_before_reload = _registrar("on_reload")  # callback() before the page is rebuilt
on_model_loaded = _registrar("model_loaded")  # callback(sd_model)
on_ui_tabs = _registrar("ui_tabs")  # callback() returns a list of (blocks, title, id)
on_ui_settings = _registrar("ui_settings")  # callback() declares with shared.opts.add_option
on_before_image_saved = _registrar("before_image_saved")  # callback(ImageSaveParams)
on_image_saved = _registrar("image_saved")  # callback(ImageSaveParams)
on_cfg_denoiser = _registrar("cfg_denoiser")  # callback(CFGDenoiserParams) once per evaluation
on_cfg_denoised = _registrar("cfg_denoised")  # callback(CFGDenoisedParams) once per evaluation
on_cfg_after_cfg = _registrar("cfg_after_cfg")  # callback(AfterCFGCallbackParams), likewise
on_before_component = _registrar("before_component")  # callback(component, **kwargs)
on_after_component = _registrar("after_component")  # callback(component, **kwargs)
on_infotext_pasted = _registrar("infotext_pasted")  # callback(infotext, params)
on_script_unloaded = _registrar("script_unloaded")  # callback() before files are executed again
on_before_ui = _registrar("before_ui")  # callback() before the page is built
on_list_unets = _registrar("list_unets")  # callback(found) appends replacement U-Nets
