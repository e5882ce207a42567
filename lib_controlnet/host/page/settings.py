"""The extension's page in the host's Settings tab.

Keys, labels and defaults are data in users' `config.json`: they never change. How they are read:
`Runtime.option(key, default)`. Only settings that something reads are here; those of the old
extension for parts that are not built yet (OpenPose editor, Photopea, CLIP on the CPU) stay in
`config.json` untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lib_controlnet.enums import OnError
from lib_controlnet.errors import ControlNetError, printable, shown
from lib_controlnet.host.page.logs import say_once

SECTION: Final = ("control_net", "ControlNet")


@dataclass(frozen=True)
class Setting:
    """One option: its key in `config.json`, default, label, and widget.

    Attributes:
        widget: "text", "box" (check box), "slider" or "radio".
        limits: widget arguments, for example the slider's range.
        reload: whether a change takes effect only after the page is built again.
        note: a remark shown in small print behind the label.
        restrict_api: requests over HTTP may not set it.
        restrict_shared: the same, where the host keeps whoever reaches it from managing extensions.
            Whoever may install one may point to folders as well.
    """

    key: str
    default: str | int | bool
    label: str
    widget: Literal["text", "box", "slider", "radio"] = "box"
    limits: dict[str, Any] = field(default_factory=dict)
    reload: bool = False
    note: str = ""
    restrict_api: bool = False
    restrict_shared: bool = False

    @property
    def is_restricted(self) -> bool:
        """Whether requests over HTTP may not set it on this server."""
        from modules import shared

        is_shared = bool(getattr(shared.cmd_opts, "disable_extension_access", True))
        return self.restrict_api or (self.restrict_shared and is_shared)


def _slider(minimum: int, maximum: int) -> dict[str, int]:
    return {"minimum": minimum, "maximum": maximum, "step": 1}


SETTINGS: Final = (
    Setting(
        "control_net_detectedmap_dir",
        "detected_maps",
        "Directory for detected maps auto saving",
        "text",
    ),
    Setting(
        "control_net_models_path",
        "",
        "Extra path to scan for ControlNet models (e.g. training output directory)",
        "text",
        note="several folders: separated by ;",
        restrict_shared=True,
    ),
    Setting(
        "control_net_modules_path",
        "",
        "Path to directory containing annotator model directories "
        "(overrides corresponding command line flag)",
        "text",
        reload=True,
        restrict_api=True,
    ),
    Setting(
        "control_net_unit_count",
        3,
        "Multi-ControlNet: ControlNet unit number",
        "slider",
        _slider(1, 10),
        reload=True,
    ),
    Setting(
        "control_net_model_cache_size",
        2,
        "Model cache size",
        "slider",
        _slider(1, 10),
        reload=True,
    ),
    Setting(
        "control_net_inpaint_blur_sigma",
        7,
        "ControlNet inpainting Gaussian blur sigma",
        "slider",
        _slider(0, 64),
    ),
    Setting(
        "control_net_on_error",
        OnError.STOP.value,
        "When a ControlNet unit cannot do what it was asked",
        "radio",
        {"choices": [choice.value for choice in OnError]},
        note="stop the generation with a message, or skip the unit and say so under the picture",
    ),
    Setting(
        "control_net_allowed_image_folder",
        "",
        "Folder whose pictures API requests may name by path",
        "text",
        note="empty: requests have to send pictures as base64",
        restrict_api=True,
    ),
    Setting("control_net_no_detectmap", False, "Do not append detectmap to output"),
    Setting("control_net_detectmap_autosaving", False, "Allow detectmap auto saving"),
    Setting(
        "control_net_allow_script_control",
        False,
        "Allow other script to control this extension",
    ),
    Setting("control_net_sync_field_args", True, "Paste ControlNet parameters in infotext"),
    Setting(
        "controlnet_show_batch_images_in_ui", False, "Show batch images in gradio gallery output"
    ),
    Setting(
        "controlnet_increment_seed_during_batch",
        False,
        "Increment seed after each controlnet batch iteration",
    ),
    Setting(
        "controlnet_ignore_noninpaint_mask",
        False,
        "Ignore mask on ControlNet input image if control type is not inpaint",
    ),
    Setting(
        "controlnet_offline",
        False,
        "Never download files of preprocessors",
        note="HF_HUB_OFFLINE=1 has the same effect",
    ),
    Setting(
        "controlnet_hub_mirror",
        "",
        "Mirror of huggingface.co for files of preprocessors",
        "text",
        note="for example https://hf-mirror.com; empty: HF_ENDPOINT, or the hub itself",
        restrict_api=True,
    ),
    Setting(
        "controlnet_control_type_dropdown",
        False,
        "Display control type as dropdown",
        reload=True,
    ),
)
DEFAULTS: Final[dict[str, str | int | bool]] = {item.key: item.default for item in SETTINGS}
UNIT_COUNT_MAX: Final = 10
RENAMED: Final = {"control_net_max_models_num": "control_net_unit_count"}
"""Keys that older versions wrote, and what became of them."""

_BY_KEY: Final = {item.key: item for item in SETTINGS}
_WORDS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0", ""), False),
}
_LONGEST_NUMBER: Final = 20


def settled(key: str, value: object, default: object) -> object:
    """A setting's value in the type it has to have, whatever `config.json` holds.

    Args:
        key: of the setting, ours or the host's.
        value: what is stored.
        default: for settings that are not ours.
    """
    item = _BY_KEY.get(key)
    if item is None:
        return value if default is None or type(value) is type(default) else default
    found = _READERS[item.widget](item, value)
    used = item.default if found is None else found
    if item.widget == "slider":
        used = min(max(used, item.limits["minimum"]), item.limits["maximum"])
    if found != used:
        say_once(f"the setting {key} is {shown(value)}, {_expected(item)}; {used!r} is used")
    return used


def check_asked(asked: Mapping[str, object], present: Callable[[str], object]) -> None:
    """Refuse what a request may not set, or not to such a value; values that stay are passed over.

    Args:
        asked: settings by key, the host's among them.
        present: gives what is stored now, the default where nothing is.

    Raises:
        ControlNetError: the first setting that cannot be set so.
    """
    for key, value in asked.items():
        item, now = _BY_KEY.get(key), present(key)
        if item is None or _is_same(value, now):
            continue
        if item.is_restricted:
            msg = f"the setting {key} cannot be set by requests; set it under Settings > ControlNet"
            raise ControlNetError(msg)
        if not _is_exact(item, value):
            msg = f"the setting {key} is {shown(value)}, {_expected(item)}"
            raise ControlNetError(msg)


def _is_same(value: object, now: object) -> bool:
    """Whether a value is what is stored; the host gives whole numbers out as 3.0."""
    return value == now and isinstance(value, bool) is isinstance(now, bool)


def _is_exact(item: Setting, value: object) -> bool:
    """Whether JSON brought the very type; what is typed into files is read more kindly."""
    if type(value) is not type(item.default):
        return False
    found = _READERS[item.widget](item, value)
    limits = item.limits
    in_range = item.widget != "slider" or limits["minimum"] <= value <= limits["maximum"]
    return found is not None and in_range


def _expected(item: Setting) -> str:
    if item.widget == "slider":
        return f"must be a whole number, {item.limits['minimum']} to {item.limits['maximum']}"
    if item.widget == "radio":
        return f"must be one of {', '.join(item.limits['choices'])}"
    return "must be true or false" if item.widget == "box" else "must be a text"


def _text(_item: Setting, value: object) -> str | None:
    if value is None:
        return ""
    return value if isinstance(value, str) and value == printable(value) else None


def _truth(_item: Setting, value: object) -> bool | None:
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    return bool(value) if isinstance(value, (bool, int, float)) and value in (0, 1) else None


def _whole(_item: Setting, value: object) -> int | None:
    if isinstance(value, str) and len(value) <= _LONGEST_NUMBER:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value


def _choice(item: Setting, value: object) -> str | None:
    wanted = value.strip().lower() if isinstance(value, str) else None
    return next((choice for choice in item.limits["choices"] if choice.lower() == wanted), None)


_READERS: Final[Mapping[str, Callable[[Setting, object], Any]]] = {
    "text": _text,
    "box": _truth,
    "slider": _whole,
    "radio": _choice,
}


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
            stored[item.key] = settled(item.key, stored[item.key], item.default)
    widgets = {
        "text": gr.Textbox,
        "box": gr.Checkbox,
        "slider": gr.Slider,
        "radio": gr.Radio,
    }
    for item in SETTINGS:
        option = shared.OptionInfo(
            item.default,
            item.label,
            widgets[item.widget],
            dict(item.limits, interactive=True),
            section=SECTION,
            restrict_api=item.is_restricted,
        )
        if item.note:
            option.info(item.note)
        if item.reload:
            option.needs_reload_ui()
        shared.opts.add_option(item.key, option)
