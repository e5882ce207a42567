"""The extension's one always-on script: host callbacks to the session, and the error boundary.

`scripts/controlnet.py` executes this file by its path, anew at each "Reload UI".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules import script_callbacks, scripts

from lib_controlnet import api
from lib_controlnet.detect import preprocess
from lib_controlnet.host import adapter, generation, jobs, neighbours, sampling, sessions, steps
from lib_controlnet.host.folders import EXTENSION_ROOT
from lib_controlnet.host.page import logs, send_to, settings
from lib_controlnet.host.runs import animation, batch, xyz
from lib_controlnet.host.runtime import Runtime, find_runtime, runtime
from lib_controlnet.interop import aliases, plugins, services
from lib_controlnet.interop import api as python_api
from lib_controlnet.ui.batch import add_control_box
from lib_controlnet.ui.fallback import build_or_tell
from lib_controlnet.ui.panel import build_panel, paste_fields

log = logging.getLogger("lib_controlnet.script")  # this file is executed under another name

RUNTIME = find_runtime() or Runtime(adapter.WebUIHost())
SEND_TO = send_to.SendTo()
logs.set_up(str(RUNTIME.host.flag("controlnet_loglevel")))
log.info("ControlNet preprocessor location: %s", preprocess.store.STORE.roots[0])


class Script(neighbours.ScriptViews, scripts.Script):
    """Panel, units and pictures of one tab; everything of a generation lives on `p`."""

    controlnet_runtime = RUNTIME

    def title(self) -> str:
        return "ControlNet"

    def show(self, is_img2img: bool) -> object:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        tab = "img2img" if is_img2img else "txt2img"
        return build_or_tell(lambda: self._panel(is_img2img, tab), self.title(), RUNTIME.unit_count)

    def _panel(self, is_img2img: bool, tab: str) -> list[Any]:
        units = build_panel(is_img2img, tab, RUNTIME)
        if not hasattr(self, "infotext_fields") or self.infotext_fields is None:
            # The host calls `ui` again for its API defaults; only the first panel is on the page.
            self.infotext_fields = paste_fields(units, RUNTIME)
        return units

    def setup(self, p: Any, *_args: Any) -> None:
        animation.ready_units(p, self)

    def before_process(self, p: Any, *_args: Any) -> None:
        batch.restore(p)

    def process(self, p: Any, *args: Any) -> None:
        sampling.release(p)
        generation.begin(p, args, RUNTIME)
        self.show_generation(p)

    def before_process_batch(self, p: Any, *_args: Any, **kwargs: Any) -> None:
        generation.begin_batch(p, int(kwargs.get("batch_number", 0)), RUNTIME)
        self.show_generation(p)

    def process_batch(self, p: Any, *_args: Any, **_kwargs: Any) -> None:
        sampling.guard(p, RUNTIME)

    def process_before_every_sampling(self, p: Any, *_args: Any, **kwargs: Any) -> None:
        generation.begin_pass(p, kwargs.get("x"), RUNTIME, kwargs.get("noise"))
        sampling.follow(p)
        self.show_pass(p)

    def postprocess_batch(self, p: Any, *_args: Any, **kwargs: Any) -> None:
        generation.finish_batch(p, kwargs["images"], RUNTIME)

    def postprocess_image_after_composite(self, p: Any, pp: Any, *_args: Any) -> None:
        generation.finish_picture(p, pp.image)

    def postprocess(self, p: Any, processed: Any, *_args: Any) -> None:
        generation.end(p, processed, RUNTIME)
        self.hide_generation()

    @staticmethod
    def get_enabled_units(p: Any) -> list[python_api.ControlNetUnit]:
        """The enabled units among the arguments of a processing object."""
        return [unit for unit in python_api.get_all_units_in_processing(p) if unit.enabled]


def find_sampled() -> Any:
    """The session that is being sampled."""
    return RUNTIME.sampling


def on_cfg_denoiser(params: Any) -> None:
    if (session := RUNTIME.sampling) is not None:
        with sessions.keep_error(session):
            steps.on_cfg_denoiser(session, params, find_sampled)


def on_cfg_denoised(params: Any) -> None:
    if (session := RUNTIME.sampling) is not None:
        with sessions.keep_error(session):
            steps.on_cfg_denoised(session, params)


def on_cfg_after_cfg(params: Any) -> None:
    if (session := RUNTIME.sampling) is not None:
        with sessions.keep_error(session):
            steps.on_cfg_after_cfg(session, params)


def on_app_started(_demo: Any, app: Any) -> None:
    api.mount(app, RUNTIME)


def on_after_component(component: Any, **kwargs: Any) -> None:
    name = kwargs.get("elem_id")
    add_control_box(bool(RUNTIME.host.flag("hide_ui_dir_config")), name)
    SEND_TO.see(component, name)
    if name == send_to.PAGE:
        panel = python_api.find_cn_script(scripts.scripts_img2img)
        SEND_TO.connect(getattr(panel, "infotext_fields", None) or [])


def connect() -> list[tuple[Callable, Callable]]:
    """Enter everything but the callbacks; those, as (how to add it, what answers)."""
    services.provide(runtime)
    sampling.install()
    jobs.watch()
    xyz.register(RUNTIME)
    folders = (EXTENSION_ROOT, Path(scripts.basedir()))  # they differ if one is a link
    aliases.register(folders, {"Script": Script, **neighbours.FUNCTIONS}, neighbours.PUBLISHED)
    return [
        (script_callbacks.on_ui_settings, settings.register),
        (script_callbacks.on_before_ui, lambda: xyz.register(RUNTIME)),  # for a grid loaded later
        (script_callbacks.on_before_ui, animation.take_batch_tab),
        (script_callbacks.on_after_component, on_after_component),
        (script_callbacks.on_cfg_denoiser, on_cfg_denoiser),
        (script_callbacks.on_cfg_denoised, on_cfg_denoised),
        (script_callbacks.on_cfg_after_cfg, on_cfg_after_cfg),
        (script_callbacks.on_app_started, on_app_started),
        (script_callbacks.on_script_unloaded, RUNTIME.close),
        (script_callbacks.on_script_unloaded, jobs.unwatch),
        (script_callbacks.on_script_unloaded, sampling.uninstall),
        (script_callbacks.on_script_unloaded, animation.give_back_batch_tab),
        (script_callbacks.on_script_unloaded, plugins.forget_plugins),
        (script_callbacks.on_script_unloaded, aliases.unregister),
    ]
