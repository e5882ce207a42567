"""Settings: their declarations, values, file and restrictions."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from modules import errors
from modules.shared_cmd_options import cmd_opts


class OptionInfo:
    """Declaration of one setting."""

    def __init__(
        self,
        default: Any = None,
        label: str = "",
        component: type | Callable | None = None,
        component_args: dict | Callable[[], dict] | None = None,
        onchange: Callable[[], None] | None = None,
        section: tuple | None = None,
        refresh: Callable[[], None] | None = None,
        infotext: str | None = None,
        restrict_api: bool = False,
    ) -> None:
        self.default = default
        self.label = label
        self.component = component
        self.component_args = component_args
        self.onchange = onchange
        self.section = section
        self.refresh = refresh
        self.do_not_save = False
        self.comment_after = ""
        self.infotext = infotext
        self.restrict_api = restrict_api

    def info(self, info: str) -> OptionInfo:
        """Show a remark in brackets after the setting."""
        self.comment_after += f"<span class='info'>({info})</span>"
        return self

    def needs_reload_ui(self) -> OptionInfo:
        """Say that Reload UI is needed."""
        self.comment_after += " <span class='info'>(requires Reload UI)</span>"
        return self


class OptionHTML(OptionInfo):
    """Explanatory text among the settings."""

    def __init__(self, text: str) -> None:
        super().__init__(
            str(text).strip(),
            label="",
            component=lambda **kwargs: gr.HTML(elem_classes="settings-info", **kwargs),
        )
        self.do_not_save = True


def options_section(section_identifier: tuple, options_dict: dict) -> dict:
    """Set the section `(id, title)` of every option in a dict and return the dict."""
    for option in options_dict.values():
        option.section = tuple(section_identifier[:2])
    return options_dict


_BUILTIN_FIELDS = {"data", "data_labels", "restricted_opts", "typemap"}


class Options:
    """Values of the settings; reading an attribute gives the value or the default."""

    typemap = {int: float}

    def __init__(self, data_labels: dict[str, OptionInfo], restricted_opts: set[str]) -> None:
        self.data_labels = data_labels
        self.restricted_opts = restricted_opts
        self.data = {k: v.default for k, v in data_labels.items() if not v.do_not_save}

    def __setattr__(self, key: str, value: Any) -> None:
        if key in _BUILTIN_FIELDS or getattr(self, "data", None) is None:
            super().__setattr__(key, value)
            return
        if key not in self.data and key not in self.data_labels:
            super().__setattr__(key, value)
            return
        info = self.data_labels.get(key)
        if info and info.do_not_save:
            return
        if cmd_opts.hide_ui_dir_config and key in self.restricted_opts:
            msg = f"setting {key!r} is a folder; folders are fixed by --hide-ui-dir-config"
            raise RuntimeError(msg)
        self.data[key] = value

    def __getattr__(self, item: str) -> Any:
        data = self.__dict__.get("data")
        if data is not None and item in data:
            return data[item]
        labels = self.__dict__.get("data_labels") or {}
        if item in labels:
            return labels[item].default
        return super().__getattribute__(item)

    def set(self, key: str, value: Any, is_api: bool = False, run_callbacks: bool = True) -> bool:
        """Change a setting and run its `onchange`; return whether anything changed."""
        oldval = self.data.get(key)
        if oldval == value and key in self.data:
            return False
        info = self.data_labels.get(key)
        if info is not None and (info.do_not_save or (is_api and info.restrict_api)):
            return False
        try:
            setattr(self, key, value)
        except RuntimeError:
            return False
        if run_callbacks and info is not None and info.onchange is not None:
            try:
                info.onchange()
            except Exception as e:
                errors.display(e, f"changing setting {key} to {value}")
                setattr(self, key, oldval)
                return False
        return True

    def get_default(self, key: str) -> Any:
        """Return the declared default, or None for an unknown setting."""
        info = self.data_labels.get(key)
        return None if info is None else info.default

    def save(self, filename: str) -> None:
        """Write the values to a JSON file."""
        file = Path(filename)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.data, indent=4, ensure_ascii=False), encoding="utf8")

    def load(self, filename: str) -> None:
        """Read values from a JSON file; a missing or broken file changes nothing."""
        file = Path(filename)
        if not file.is_file():
            return
        try:
            loaded = json.loads(file.read_text(encoding="utf8"))
        except (OSError, ValueError):
            errors.report(
                f"Could not read the settings in {file}; defaults are used", exc_info=True
            )
            return
        self.data.update(loaded)
        for key, value in loaded.items():
            info = self.data_labels.get(key)
            if info is not None and not self.same_type(info.default, value):
                sys.stderr.write(
                    f"Warning: bad setting value: {key}: {value} ({type(value).__name__}; "
                    f"expected {type(info.default).__name__})\n"
                )

    def same_type(self, x: Any, y: Any) -> bool:
        """Whether two values count as the same type; None matches any, int matches float."""
        if x is None or y is None:
            return True
        type_x = self.typemap.get(type(x), type(x))
        type_y = self.typemap.get(type(y), type(y))
        return type_x == type_y

    def onchange(self, key: str, func: Callable[[], None], call: bool = True) -> None:
        """Set what runs after a change of `key`, and run it now unless `call` is false."""
        self.data_labels[key].onchange = func
        if call:
            func()

    def dumpjson(self) -> str:
        """Return the values, with descriptions for the page's script, as JSON."""
        labels = {k: v for k, v in self.data_labels.items() if not v.do_not_save}
        values = {k: self.data.get(k, v.default) for k, v in labels.items()}
        after = {k: v.comment_after for k, v in labels.items() if v.comment_after}
        values |= {"_comments_before": {}, "_comments_after": after, "_categories": []}
        return json.dumps(values, default=str)

    def add_option(self, key: str, info: OptionInfo) -> None:
        """Declare a setting; a value already loaded from the file is kept."""
        self.data_labels[key] = info
        if key not in self.data and not info.do_not_save:
            self.data[key] = info.default

    def cast_value(self, key: str, value: Any) -> Any:
        """Convert a text from the infotext to the type of the setting's default."""
        if value is None:
            return None
        default = self.data_labels[key].default
        if default is None:
            default = getattr(self, key)
        if default is None:
            return None
        kind = type(default)
        if kind is bool and value == "False":
            return False
        return kind(value)
