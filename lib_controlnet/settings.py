"""Every setting that is read, with its default: ours, and the host's.

Keys, labels and defaults are data in users' `config.json`: they never change. A setting is read
by `option(key)` of the host or the runtime. Only settings that something reads are here; those of
the old extension for parts that are not here (Photopea, CLIP on the CPU) stay in `config.json`
untouched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lib_controlnet.enums import LastUsed, OnError, OnnxEngine, Speed, Storage, truth
from lib_controlnet.errors import printable

Widget = Literal["text", "box", "slider", "radio", "number"]


@dataclass(frozen=True)
class Setting:
    """One option: its key in `config.json`, default, label, and widget.

    Attributes:
        widget: "text", "box" (check box), "slider" (whole numbers), "radio" or "number".
        limits: widget arguments, for example the slider's range.
        reload: whether a change takes effect only after the page is built again.
        note: a remark shown in small print behind the label.
        restrict_api: requests over HTTP may not set it.
        restrict_shared: the same, where the host keeps whoever reaches it from managing extensions.
            Whoever may install one may point to folders as well.
    """

    key: str
    default: str | int | float | bool
    label: str = ""
    widget: Widget = "box"
    limits: dict[str, Any] = field(default_factory=dict)
    reload: bool = False
    note: str = ""
    restrict_api: bool = False
    restrict_shared: bool = False

    def read(self, value: object) -> Any:
        """A stored value in this setting's type; None if it has no meaning."""
        return _READERS[self.widget](self, value)

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.widget == "slider":
            return f"must be a whole number, {self.limits['minimum']} to {self.limits['maximum']}"
        if self.widget == "radio":
            return f"must be one of {', '.join(self.limits['choices'])}"
        return {"box": "must be true or false", "number": "must be a number"}.get(
            self.widget, "must be a text"
        )


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
        note="control models that stay in main memory when no generation uses them",
    ),
    Setting(
        "controlnet_store_8_bit",
        Storage.NEVER.value,
        "Store control models in 8 bits",
        "radio",
        {"choices": [choice.value for choice in Storage]},
        note="a half of the memory of half precision, a little slower, pictures differ slightly",
    ),
    Setting(
        "controlnet_speed",
        Speed.EXACT.value,
        "Speed of units that choose none",
        "radio",
        {"choices": [choice.value for choice in Speed if choice is not Speed.DEFAULT]},
        note="for ControlNets: how often the network is evaluated; what it gave is reused between",
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
        "controlnet_embedding_autosaving",
        False,
        "Save what embedding preprocessors make, as safetensors files where detected maps go",
    ),
    Setting(
        "control_net_allow_script_control", False, "Allow other script to control this extension"
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
    Setting("controlnet_disable_openpose_edit", False, "Disable openpose edit"),
    Setting(
        "controlnet_ignore_noninpaint_mask",
        False,
        "Ignore mask on ControlNet input image if control type is not inpaint",
    ),
    Setting(
        "controlnet_offline",
        False,
        "Never download control models or files of preprocessors",
        note="HF_HUB_OFFLINE=1 has the same effect",
    ),
    Setting(
        "controlnet_hub_mirror",
        "",
        "Mirror of huggingface.co for control models and files of preprocessors",
        "text",
        note="for example https://hf-mirror.com; empty: HF_ENDPOINT, or the hub itself",
        restrict_api=True,
    ),
    Setting(
        "controlnet_onnx_engine",
        OnnxEngine.AUTOMATIC.value,
        "What runs the ONNX files of preprocessors (poses, faces)",
        "radio",
        {"choices": [choice.value for choice in OnnxEngine]},
        note="onnxruntime or OpenVINO where you have installed one of them, else OpenCV",
        restrict_api=True,
    ),
    Setting(
        "controlnet_type_enables",
        True,
        "Choosing a control type enables its unit",
        note="an upload into a unit does so in any case",
    ),
    Setting(
        "controlnet_presets_folder",
        "",
        "Folder of the presets of units",
        "text",
        note="empty: controlnet-presets in the folder of the WebUI's data",
        restrict_api=True,
    ),
    Setting(
        "controlnet_last_used",
        LastUsed.AUTOMATIC.value,
        'Keep the units of the last generation as the preset "last used"',
        "radio",
        {"choices": [choice.value for choice in LastUsed]},
        note="Automatic: with their pictures, unless others reach this WebUI (--listen, --share). "
        "Everybody who opens the page can load it",
        restrict_api=True,
    ),
    Setting(
        "controlnet_control_type_dropdown", False, "Display control type as dropdown", reload=True
    ),
)
OTHERS: Final = (
    # Of older versions: read where `config.json` still holds them, and not shown.
    Setting(
        "control_net_models_sort_models_by",
        "name",
        widget="radio",
        limits={"choices": ["name", "date", "path name"]},
    ),
    Setting("control_net_models_name_filter", "", widget="text"),
    # The host's.
    Setting("api_enable_requests", False),
    Setting("img2img_background_color", "#ffffff", widget="text"),
    Setting("img2img_inpaint_mask_brush_color", "#ffffff", widget="text"),
    Setting("inpainting_mask_weight", 1.0, widget="number"),
    Setting("save_incomplete_images", False),
)
"""Settings that are read and not on our page."""

OWN: Final = {item.key: item for item in SETTINGS}
BY_KEY: Final = OWN | {item.key: item for item in OTHERS}
DEFAULTS: Final = {key: item.default for key, item in BY_KEY.items()}

_LONGEST_NUMBER: Final = 20
_EXACT: Final = 2**53


def _text(item: Setting, value: object) -> str | None:
    if value is None:
        return "" if item.key in OWN else None
    return value if isinstance(value, str) and value == printable(value) else None


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


def _number(_item: Setting, value: object) -> float | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _EXACT:
        return float(value)
    return value if isinstance(value, float) and math.isfinite(value) else None


_READERS: Final[Mapping[Widget, Callable[[Setting, object], Any]]] = {
    "text": _text,
    "box": lambda _item, value: truth(value),
    "slider": _whole,
    "radio": _choice,
    "number": _number,
}
