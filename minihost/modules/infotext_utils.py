"""Parsing of infotext and pasting of it into the page's fields."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from modules import errors, script_callbacks, shared
from modules.paths_internal import data_path
from PIL import Image

re_param = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
re_imagesize = re.compile(r"^(\d+)x(\d+)$")
type_of_gr_update = type(gr.update())
_MIN_PARAMS = 3

paste_fields: dict[str, dict[str, Any]] = {}
registered_param_bindings: list[ParamBinding] = []

_DEFAULTS: dict[str, Any] = {
    "Clip skip": "1",
    "Hires resize-1": 0,
    "Hires resize-2": 0,
    "Hires sampler": "Use same sampler",
    "Hires schedule type": "Use same scheduler",
    "Hires checkpoint": "Use same checkpoint",
    "Hires prompt": "",
    "Hires negative prompt": "",
    "Mask mode": "Inpaint masked",
    "Masked content": "original",
    "Inpaint area": "Whole picture",
    "Masked area padding": 32,
    "Schedule type": "Automatic",
}


@dataclass(eq=False)
class ParamBinding:
    """A button that pastes parameters or a picture into a tab."""

    paste_button: Any
    tabname: str
    source_text_component: Any = None
    source_image_component: Any = None
    source_tabname: str | None = None
    paste_field_names: list[str] = field(default_factory=list)


class PasteField(tuple):
    """A component and where its pasted value comes from: a label or a function of all values."""

    def __new__(cls, component: Any, target: Any, *, api: str | None = None) -> PasteField:
        """Behave as the pair `(component, target)`."""
        del api
        return super().__new__(cls, (component, target))

    def __init__(self, component: Any, target: Any, *, api: str | None = None) -> None:
        super().__init__()
        self.api = api
        self.component = component
        self.label = target if isinstance(target, str) else None
        self.function = target if callable(target) else None


def reset() -> None:
    """Forget fields and buttons, before the page is built again."""
    paste_fields.clear()
    registered_param_bindings.clear()


def quote(text: Any) -> Any:
    """Quote a value as a JSON string if it holds a comma, a colon or a line break."""
    if not any(c in str(text) for c in ",\n:"):
        return text
    return json.dumps(text, ensure_ascii=False)


def unquote(text: str) -> str:
    """Undo `quote`; text that is not a JSON string stays as it is."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_generation_parameters(x: str) -> dict[str, Any]:
    """Split an infotext into prompt, negative prompt and its `key: value` pairs.

    Keys that the text lacks but whose absence means something get that meaning.
    """
    lines = x.strip().split("\n")
    last = lines.pop() if lines else ""
    if len(re_param.findall(last)) < _MIN_PARAMS:
        lines.append(last)
        last = ""
    prompt, negative_prompt = _split_prompts(lines)
    res: dict[str, Any] = {"Prompt": prompt, "Negative prompt": negative_prompt}
    for key, value in re_param.findall(last):
        text = unquote(value) if value[:1] == '"' else value
        size = re_imagesize.match(str(text))
        if size is None:
            res[key] = text
        else:
            res[f"{key}-1"], res[f"{key}-2"] = size.group(1), size.group(2)
    if last:
        for key, value in _DEFAULTS.items():
            if key.startswith("Hires resize-") and "Hires resize-1" in res:
                continue
            res.setdefault(key, value)
    return res


def _split_prompts(lines: list[str]) -> tuple[str, str]:
    prompt: list[str] = []
    negative: list[str] = []
    target = prompt
    for line in (x.strip() for x in lines):
        if line.startswith("Negative prompt:"):
            target = negative
            target.append(line[len("Negative prompt:") :].strip())
        else:
            target.append(line)
    return "\n".join(prompt), "\n".join(negative)


def setting_names() -> list[tuple[str, str]]:
    """Pairs of infotext key and setting that can be overridden from infotext."""
    labels = shared.opts.data_labels.items()
    return [(info.infotext, name) for name, info in labels if info.infotext is not None]


def create_override_settings_dict(text_pairs: list[str]) -> dict[str, Any]:
    """Turn `["Clip skip: 2", ...]` into settings by their names."""
    params: dict[str, str] = {}
    for pair in text_pairs or []:
        key, value = pair.split(":", maxsplit=1)
        params[key] = value.strip()
    res: dict[str, Any] = {}
    for key, setting in setting_names():
        if key not in params:
            continue
        value = params[key]
        if setting == "sd_model_checkpoint":
            res[setting] = value
            continue
        try:
            res[setting] = shared.opts.cast_value(setting, value)
        except (TypeError, ValueError):
            errors.report(f"cannot read {value!r} as the setting {setting}; it is left out")
    return res


def get_override_settings(
    params: dict[str, Any], *, skip_fields: list[str] | None = None
) -> list[tuple[str, str, Any]]:
    """List `(infotext key, setting, value)` where an infotext differs from the settings."""
    found = []
    for key, setting in setting_names():
        if key in (skip_fields or []) or key not in params:
            continue
        if setting == "sd_model_checkpoint":
            continue  # the WebUI's default: a pasted text does not change the checkpoint
        try:
            value = shared.opts.cast_value(setting, params[key])
        except (TypeError, ValueError):
            continue
        if value is not None and value != getattr(shared.opts, setting, None):
            found.append((key, setting, value))
    return found


def add_paste_fields(
    tabname: str, init_img: Any, fields: list | None, override_settings_component: Any = None
) -> None:
    """Make a tab a target: its picture, its `(component, label or function)` pairs."""
    for i, entry in enumerate(fields or []):
        if not isinstance(entry, PasteField):
            fields[i] = PasteField(*entry)
    paste_fields[tabname] = {
        "init_img": init_img,
        "fields": fields,
        "override_settings_component": override_settings_component,
    }


def create_buttons(tabs_list: list[str]) -> dict[str, gr.Button]:
    """Make one `Send to` button per tab."""
    return {tab: gr.Button(f"Send to {tab}", elem_id=f"{tab}_tab") for tab in tabs_list}


def register_paste_params_button(binding: ParamBinding) -> None:
    """Register a button; it is connected when the page is complete."""
    registered_param_bindings.append(binding)


def connect_paste_params_buttons() -> None:
    """Connect all registered buttons."""
    for binding in registered_param_bindings:
        target = paste_fields.get(binding.tabname)
        if target is None:
            continue
        _connect_image(binding, target)
        if binding.source_text_component is not None and target["fields"] is not None:
            connect_paste(
                binding.paste_button, target["fields"], binding.source_text_component,
                target["override_settings_component"],
            )  # fmt: skip
        if binding.source_tabname is not None and target["fields"] is not None:
            _connect_fields(binding, target["fields"])
        binding.paste_button.click(
            fn=None, _js=f"switch_to_{binding.tabname}", inputs=None, outputs=None,
            show_progress=False,
        )  # fmt: skip


def _connect_image(binding: ParamBinding, target: dict[str, Any]) -> None:
    """Send the picture, and its size where the target has one of its own (inpaint has not)."""
    source, image = binding.source_image_component, target["init_img"]
    if source is None or image is None:
        return
    sizes = {name: field for field, name in target["fields"] or [] if name in ("Size-1", "Size-2")}
    with_size = len(sizes) == 2 and binding.tabname != "inpaint"
    binding.paste_button.click(
        fn=_image_and_size if with_size else _image_of,
        _js="extract_image_from_gallery" if isinstance(source, gr.Gallery) else None,
        inputs=[source],
        outputs=[image, sizes["Size-1"], sizes["Size-2"]] if with_size else [image],
        show_progress=False,
    )


def _image_of(sent: Any) -> Image.Image | None:
    return sent if isinstance(sent, Image.Image) else image_from_url_text(sent)


def _image_and_size(sent: Any) -> tuple[Any, Any, Any]:
    image = _image_of(sent)
    if image is None or not shared.opts.send_size:
        return image, gr.update(), gr.update()
    return image, image.width, image.height


def _connect_fields(binding: ParamBinding, fields: list) -> None:
    names = ["Prompt", "Negative prompt", "Steps", "Seed"]
    names += ["Size-1", "Size-2"] if shared.opts.send_size else []
    names += binding.paste_field_names
    source_fields = paste_fields[binding.source_tabname]["fields"]
    sources = {name: field for field, name in source_fields if name in names}
    targets = {name: field for field, name in fields if name in names}
    shared_names = [name for name in targets if name in sources]
    binding.paste_button.click(
        fn=lambda *values: values if len(values) > 1 else values[0],
        inputs=[sources[name] for name in shared_names],
        outputs=[targets[name] for name in shared_names],
        show_progress=False,
    )


def pasted_values(fields: list, params: dict[str, Any]) -> list[Any]:
    """Values or updates for the components of paste fields."""
    return [_pasted_value(output, key, params) for output, key in fields]


def _pasted_value(output: Any, key: str | Callable, params: dict[str, Any]) -> Any:
    value = key(params) if callable(key) else params.get(key)
    if value is None:
        return gr.update()
    if isinstance(value, type_of_gr_update):
        return value
    try:
        kind = type(output.value)
        if kind is bool and value == "False":
            return gr.update(value=False)
        return gr.update(value=float(value) if kind is int else kind(value))
    except Exception:
        return gr.update()


def connect_paste(
    button: Any, fields: list, input_comp: Any, override_settings_component: Any
) -> None:
    """Let a button fill fields from the infotext in a text box, or from the last generation."""

    def paste_func(prompt: str) -> list[Any]:
        if not prompt and not shared.cmd_opts.hide_ui_dir_config:
            prompt = _last_infotext()
        params = parse_generation_parameters(prompt)
        script_callbacks.infotext_pasted_callback(prompt, params)
        return pasted_values(fields, params)

    if override_settings_component is not None:
        already = [key for _, key in fields if isinstance(key, str)]

        def override_settings(params: dict[str, Any]) -> Any:
            found = get_override_settings(params, skip_fields=already)
            pairs = [f"{key}: {value}" for key, _, value in found]
            return gr.Dropdown.update(value=pairs, choices=pairs, visible=bool(pairs))

        fields = [*fields, PasteField(override_settings_component, override_settings)]
    button.click(
        fn=paste_func, inputs=[input_comp], outputs=[field for field, _ in fields],
        show_progress=False,
    )  # fmt: skip


def _last_infotext() -> str:
    file = Path(data_path) / "params.txt"
    return file.read_text(encoding="utf8") if file.is_file() else ""


def image_from_url_text(filedata: Any) -> Image.Image | None:
    """Open a picture as galleries and the page's script send it: list, file dict, data URL."""
    if filedata is None:
        return None
    if isinstance(filedata, list):
        if not filedata:
            return None
        filedata = filedata[0]
    if isinstance(filedata, dict) and filedata.get("is_file"):
        return _open_served_file(filedata["name"])
    if isinstance(filedata, dict):
        filedata = filedata.get("data") or ""
    text = filedata.split(",", 1)[1] if filedata.startswith("data:image/") else filedata
    return _opened(io.BytesIO(base64.b64decode(text)))


def _open_served_file(name: str) -> Image.Image:
    import tempfile

    path = Path(name.rsplit("?", 1)[0]).resolve()
    allowed = [Path(tempfile.gettempdir()), Path(data_path)]
    if not any(path.is_relative_to(folder.resolve()) for folder in allowed):
        msg = f"{path} is not a picture of this page"
        raise ValueError(msg)
    return _opened(path)


def _opened(source: Any) -> Image.Image:
    image = Image.open(source)
    image.load()
    return image
