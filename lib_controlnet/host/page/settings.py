"""The extension's page in the host's Settings tab, and what is stored there.

What settings there are, and their defaults: `lib_controlnet.settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from lib_controlnet.errors import ControlNetError, quote
from lib_controlnet.host.page.logs import say_once
from lib_controlnet.settings import BY_KEY, OWN, SETTINGS, Setting

SECTION: Final = ("control_net", "ControlNet")
RENAMED: Final = {"control_net_max_models_num": "control_net_unit_count"}
"""Keys that older versions wrote, and what became of them."""


def option(key: str) -> Any:
    """A setting's present value in the type it has to have; its default where nothing is stored."""
    from modules import shared

    return read(key, getattr(shared.opts, key, BY_KEY[key].default))


def read(key: str, value: object) -> Any:
    """A setting's value in the type it has to have, whatever `config.json` holds."""
    item = BY_KEY[key]
    found = item.read(value)
    used = item.default if found is None else found
    if item.widget == "slider":
        used = min(max(used, item.limits["minimum"]), item.limits["maximum"])
    if found != used:
        say_once(f"the setting {key} is {quote(value)}, {item.expected}; {used!r} is used")
    return used


def is_shared() -> bool:
    """Whether the host keeps whoever reaches it from managing extensions."""
    from modules import shared

    return bool(getattr(shared.cmd_opts, "disable_extension_access", True))


def _is_restricted(item: Setting) -> bool:
    """Whether requests over HTTP may not set it on this server."""
    return item.restrict_api or (item.restrict_shared and is_shared())


def check_asked(asked: Mapping[str, object], present: Callable[[str], object]) -> None:
    """Refuse what a request may not set, or not to such a value; values that stay are passed over.

    Args:
        asked: settings by key, the host's among them.
        present: gives what is stored now, the default where nothing is.

    Raises:
        ControlNetError: the first setting that cannot be set so.
    """
    for key, value in asked.items():
        item, now = OWN.get(key), present(key)
        if item is None or _is_same(value, now):
            continue
        if _is_restricted(item):
            msg = f"the setting {key} cannot be set by requests; set it under Settings > ControlNet"
            raise ControlNetError(msg)
        if not _is_exact(item, value):
            msg = f"the setting {key} is {quote(value)}, {item.expected}"
            raise ControlNetError(msg)


def _is_same(value: object, now: object) -> bool:
    """Whether a value is what is stored; the host gives whole numbers out as 3.0."""
    return value == now and isinstance(value, bool) is isinstance(now, bool)


def _is_exact(item: Setting, value: object) -> bool:
    """Whether JSON brought the very type; what is typed into files is read more kindly."""
    if type(value) is not type(item.default):
        return False
    found = item.read(value)
    limits = item.limits
    in_range = item.widget != "slider" or limits["minimum"] <= value <= limits["maximum"]
    return found is not None and in_range


def register() -> None:
    """Add every option to the host's settings; call it from the host's `on_ui_settings`."""
    import gradio as gr
    from modules import shared

    stored = shared.opts.data
    for old, new in RENAMED.items():
        if old in stored:
            stored.setdefault(new, stored[old])
    for item in SETTINGS:  # the host builds its page of what is stored, and fails on other types
        if item.key in stored:
            stored[item.key] = read(item.key, stored[item.key])
    widgets = {"text": gr.Textbox, "box": gr.Checkbox, "slider": gr.Slider, "radio": gr.Radio}
    for item in SETTINGS:
        option = shared.OptionInfo(
            item.default,
            item.label,
            widgets[item.widget],
            dict(item.limits, interactive=True),
            section=SECTION,
            restrict_api=_is_restricted(item),
        )
        if item.note:
            option.info(item.note)
        if item.reload:
            option.needs_reload_ui()
        shared.opts.add_option(item.key, option)
