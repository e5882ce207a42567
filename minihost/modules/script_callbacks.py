"""Callbacks that extensions register; every one runs guarded: an exception is only printed.

Order is the order of registration, changed by `Before`/`After` in metadata.ini and by the
settings `prioritized_callbacks_<category>`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules import errors, extensions, util_sort


class ImageSaveParams:
    """A picture about to be saved or just saved."""

    def __init__(self, image: Any, p: Any, filename: str, pnginfo: dict) -> None:
        self.image = image
        self.p = p
        self.filename = filename
        self.pnginfo = pnginfo


class ExtraNoiseParams:
    """Extra noise of img2img: `noise` to add to latent `x`, which came from clean `xi`."""

    def __init__(self, noise: Any, x: Any, xi: Any) -> None:
        self.noise = noise
        self.x = x
        self.xi = xi


class CFGDenoiserParams:
    """Rows of one evaluation before the U-Net sees them: C cond rows, then B uncond rows."""

    def __init__(
        self, x: Any, image_cond: Any, sigma: Any, sampling_step: int, total_sampling_steps: int,
        text_cond: Any, text_uncond: Any, denoiser: Any = None,
    ) -> None:  # fmt: skip
        self.x = x
        self.image_cond = image_cond
        self.sigma = sigma
        self.sampling_step = sampling_step
        self.total_sampling_steps = total_sampling_steps
        self.text_cond = text_cond
        self.text_uncond = text_uncond
        self.denoiser = denoiser


class CFGDenoisedParams:
    """Rows of one evaluation after the U-Net, before they are combined."""

    def __init__(
        self, x: Any, sampling_step: int, total_sampling_steps: int, inner_model: Any
    ) -> None:
        self.x = x
        self.sampling_step = sampling_step
        self.total_sampling_steps = total_sampling_steps
        self.inner_model = inner_model


class AfterCFGCallbackParams:
    """The combined result of one evaluation."""

    def __init__(self, x: Any, sampling_step: int, total_sampling_steps: int) -> None:
        self.x = x
        self.sampling_step = sampling_step
        self.total_sampling_steps = total_sampling_steps


class UiTrainTabParams:
    """Inputs of a training tab; kept so that imports of the name work."""

    def __init__(self, txt2img_preview_params: Any) -> None:
        self.txt2img_preview_params = txt2img_preview_params


class ImageGridParams:
    """Pictures of a grid and its numbers of columns and rows."""

    def __init__(self, imgs: list, cols: int, rows: int) -> None:
        self.imgs = imgs
        self.cols = cols
        self.rows = rows


@dataclass
class BeforeTokenCounterParams:
    """What the token counter is about to count."""

    prompt: str
    steps: int
    styles: list
    is_positive: bool = True


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
    "app_started", "model_loaded", "ui_tabs", "ui_train_tabs", "ui_settings",
    "before_image_saved", "image_saved", "extra_noise", "cfg_denoiser", "cfg_denoised",
    "cfg_after_cfg", "before_component", "after_component", "image_grid", "infotext_pasted",
    "script_unloaded", "before_ui", "list_optimizers", "list_unets", "before_token_counter",
    "on_reload",
)  # fmt: skip
_categories = {name: _Category() for name in _CATEGORY_NAMES}
callback_map = {f"callbacks_{name}": entry.callbacks for name, entry in _categories.items()}


def _calling_file() -> str:
    for frame in inspect.stack(0):
        if frame.filename != __file__:
            return frame.filename
    return "unknown file"


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


def _run(category: str, *args: Any, job: str | None = None, **kwargs: Any) -> list[Any]:
    results = []
    for c in ordered_callbacks(category):
        try:
            results.append(c.callback(*args, **kwargs))
        except Exception:
            report_exception(c, job or f"{category}_callback")
    return results


def _run_joined(category: str) -> list[Any]:
    joined: list[Any] = []
    for part in _run(category):
        joined += part or []
    return joined


def app_started_callback(demo: Any, app: Any) -> None:
    """The server runs; `demo` is None without a page."""
    _run("app_started", demo, app)


def app_reload_callback() -> None:
    """The page is about to be rebuilt."""
    _run("on_reload", job="callbacks_on_reload")


def model_loaded_callback(sd_model: Any) -> None:
    """A checkpoint was loaded."""
    _run("model_loaded", sd_model)


def ui_tabs_callback() -> list[tuple]:
    """Collect `(blocks, title, id)` of the extensions' tabs."""
    return _run_joined("ui_tabs")


def ui_train_tabs_callback(params: UiTrainTabParams) -> None:
    """Let extensions add to the training tab; this host has none and never calls it."""
    _run("ui_train_tabs", params)


def ui_settings_callback() -> None:
    """Let extensions declare settings."""
    _run("ui_settings")


def before_image_saved_callback(params: ImageSaveParams) -> None:
    """A picture is about to be saved."""
    _run("before_image_saved", params)


def image_saved_callback(params: ImageSaveParams) -> None:
    """A picture was saved."""
    _run("image_saved", params)


def extra_noise_callback(params: ExtraNoiseParams) -> None:
    """Extra noise is about to be added."""
    _run("extra_noise", params, job="callbacks_extra_noise")


def cfg_denoiser_callback(params: CFGDenoiserParams) -> None:
    """An evaluation is about to run."""
    _run("cfg_denoiser", params)


def cfg_denoised_callback(params: CFGDenoisedParams) -> None:
    """The U-Net answered for all rows."""
    _run("cfg_denoised", params)


def cfg_after_cfg_callback(params: AfterCFGCallbackParams) -> None:
    """The rows were combined."""
    _run("cfg_after_cfg", params)


def before_component_callback(component: Any, **kwargs: Any) -> None:
    """A component or layout block of the page is about to be made."""
    _run("before_component", component, **kwargs)


def after_component_callback(component: Any, **kwargs: Any) -> None:
    """A component or layout block of the page was made."""
    _run("after_component", component, **kwargs)


def image_grid_callback(params: ImageGridParams) -> None:
    """A grid is about to be put together."""
    _run("image_grid", params, job="image_grid")


def infotext_pasted_callback(infotext: str, params: dict[str, Any]) -> None:
    """An infotext was parsed; `params` may be changed."""
    _run("infotext_pasted", infotext, params, job="infotext_pasted")


def script_unloaded_callback() -> None:
    """The script files are about to be executed again; called in reverse order."""
    for c in reversed(ordered_callbacks("script_unloaded")):
        try:
            c.callback()
        except Exception:
            report_exception(c, "script_unloaded")


def before_ui_callback() -> None:
    """All scripts are loaded and the page is not built yet."""
    _run("before_ui", job="before_ui")


def list_optimizers_callback() -> list[Any]:
    """Collect attention optimisers."""
    found: list[Any] = []
    _run("list_optimizers", found, job="list_optimizers")
    return found


def list_unets_callback() -> list[Any]:
    """Collect replacement U-Nets."""
    found: list[Any] = []
    _run("list_unets", found, job="list_unets")
    return found


def before_token_counter_callback(params: BeforeTokenCounterParams) -> None:
    """Tokens are about to be counted."""
    _run("before_token_counter", params, job="before_token_counter")


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


def on_app_started(callback: Callable, *, name: str | None = None) -> None:
    """`callback(demo, app)` once the server runs."""
    _register("app_started", callback, name)


def on_before_reload(callback: Callable, *, name: str | None = None) -> None:
    """`callback()` before the page is rebuilt."""
    _register("on_reload", callback, name)


def on_model_loaded(callback: Callable, *, name: str | None = None) -> None:
    """`callback(sd_model)` after a checkpoint was loaded."""
    _register("model_loaded", callback, name)


def on_ui_tabs(callback: Callable, *, name: str | None = None) -> None:
    """`callback()` returns a list of `(blocks, title, id)`."""
    _register("ui_tabs", callback, name)


def on_ui_train_tabs(callback: Callable, *, name: str | None = None) -> None:
    """`callback(UiTrainTabParams)`."""
    _register("ui_train_tabs", callback, name)


def on_ui_settings(callback: Callable, *, name: str | None = None) -> None:
    """`callback()` declares settings with `shared.opts.add_option`."""
    _register("ui_settings", callback, name)


def on_before_image_saved(callback: Callable, *, name: str | None = None) -> None:
    """`callback(ImageSaveParams)` before a picture is saved."""
    _register("before_image_saved", callback, name)


def on_image_saved(callback: Callable, *, name: str | None = None) -> None:
    """`callback(ImageSaveParams)` after a picture was saved."""
    _register("image_saved", callback, name)


def on_extra_noise(callback: Callable, *, name: str | None = None) -> None:
    """`callback(ExtraNoiseParams)`."""
    _register("extra_noise", callback, name)


def on_cfg_denoiser(callback: Callable, *, name: str | None = None) -> None:
    """`callback(CFGDenoiserParams)` once per evaluation, before the U-Net."""
    _register("cfg_denoiser", callback, name)


def on_cfg_denoised(callback: Callable, *, name: str | None = None) -> None:
    """`callback(CFGDenoisedParams)` once per evaluation, after the U-Net."""
    _register("cfg_denoised", callback, name)


def on_cfg_after_cfg(callback: Callable, *, name: str | None = None) -> None:
    """`callback(AfterCFGCallbackParams)` once per evaluation, after the combination."""
    _register("cfg_after_cfg", callback, name)


def on_before_component(callback: Callable, *, name: str | None = None) -> None:
    """`callback(component, **kwargs)` before every component and layout block."""
    _register("before_component", callback, name)


def on_after_component(callback: Callable, *, name: str | None = None) -> None:
    """`callback(component, **kwargs)` after every component and layout block."""
    _register("after_component", callback, name)


def on_image_grid(callback: Callable, *, name: str | None = None) -> None:
    """`callback(ImageGridParams)`."""
    _register("image_grid", callback, name)


def on_infotext_pasted(callback: Callable, *, name: str | None = None) -> None:
    """`callback(infotext, params)`."""
    _register("infotext_pasted", callback, name)


def on_script_unloaded(callback: Callable, *, name: str | None = None) -> None:
    """`callback()` before script files are executed again."""
    _register("script_unloaded", callback, name)


def on_before_ui(callback: Callable, *, name: str | None = None) -> None:
    """`callback()` before the page is built."""
    _register("before_ui", callback, name)


def on_list_optimizers(callback: Callable, *, name: str | None = None) -> None:
    """`callback(found)` appends attention optimisers."""
    _register("list_optimizers", callback, name)


def on_list_unets(callback: Callable, *, name: str | None = None) -> None:
    """`callback(found)` appends replacement U-Nets."""
    _register("list_unets", callback, name)


def on_before_token_counter(callback: Callable, *, name: str | None = None) -> None:
    """`callback(BeforeTokenCounterParams)`."""
    _register("before_token_counter", callback, name)
