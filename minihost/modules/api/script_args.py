"""Arguments of scripts for requests: defaults from the components, then what the request gives."""

from __future__ import annotations

from typing import Any

import gradio as gr
from fastapi.exceptions import HTTPException
from modules import infotext_utils
from modules.script_base import Script
from modules.script_runner import ScriptRunner


def script_name_to_index(name: str, scripts: list[Script]) -> int:
    """Index of the first script with this title, in any case; 422 if there is none."""
    try:
        return [script.title().lower() for script in scripts].index(name.lower())
    except Exception as e:
        raise HTTPException(status_code=422, detail=f"Script '{name}' not found") from e


def get_selectable_script(
    name: str | None, runner: ScriptRunner
) -> tuple[Script | None, int | None]:
    """The script of the list with this title, and its index."""
    if name is None or name == "":
        return None, None
    index = script_name_to_index(name, runner.selectable_scripts)
    return runner.selectable_scripts[index], index


def default_script_args(runner: ScriptRunner) -> list[Any]:
    """Default arguments of a tab: `ui()` of every script is called, twice, to read its values.

    The components land in Blocks that are thrown away.
    """
    args: list[Any] = [None] * max([1, *(script.args_to or 0 for script in runner.scripts)])
    args[0] = 0
    with gr.Blocks():
        for script in runner.scripts:
            if script.ui(script.is_img2img):
                values = [element.value for element in script.ui(script.is_img2img)]
                args[script.args_from : script.args_to] = values
    return args


def init_script_args(
    request: Any,
    default_args: list[Any],
    selectable_script: Script | None,
    selectable_index: int | None,
    runner: ScriptRunner,
    *,
    input_script_args: dict[int, Any] | None = None,
) -> list[Any]:
    """Fill defaults with a request's arguments; missing ones keep defaults, surplus is ignored."""
    args = default_args.copy()
    for index, value in (input_script_args or {}).items():
        args[index] = value
    if selectable_script is not None:
        args[selectable_script.args_from : selectable_script.args_to] = request.script_args
        args[0] = selectable_index + 1
    for name, given in (request.alwayson_scripts or {}).items():
        script = runner.scripts[script_name_to_index(name, runner.scripts)]
        if not script.alwayson:
            msg = "Cannot have a selectable script in the always on scripts params"
            raise HTTPException(status_code=422, detail=msg)
        if "args" not in given:
            continue
        count = min(script.args_to - script.args_from, len(given["args"]))
        for i in range(count):
            args[script.args_from + i] = given["args"][i]
    return args


def apply_infotext(request: Any, tabname: str, runner: ScriptRunner) -> dict[int, Any]:
    """Fill fields that a request leaves out from its infotext; return script arguments by index."""
    if not request.infotext:
        return {}
    fields = infotext_utils.paste_fields[tabname]["fields"]
    given = _fields_set(request)
    params = infotext_utils.parse_generation_parameters(request.infotext)
    for field in fields:
        if not field.api or field.api in given or not hasattr(request, field.api):
            continue
        value = _field_value(field, params, type(getattr(request, field.api)))
        if value is not None:
            setattr(request, field.api, value)
    if request.override_settings is None:
        request.override_settings = {}
    for _, setting, value in infotext_utils.get_override_settings(params):
        request.override_settings.setdefault(setting, value)
    indexes = {id(component): i for i, component in enumerate(runner.inputs)}
    mentioned: dict[int, Any] = {}
    for field in fields:
        if id(field.component) not in indexes:
            continue
        value = _field_value(field, params, type(getattr(field.component, "value", None)))
        if value is not None:
            mentioned[indexes[id(field.component)]] = value
    return mentioned


def _fields_set(request: Any) -> set[str]:
    found = getattr(request, "model_fields_set", None)
    return set(request.__fields_set__ if found is None else found)


def _field_value(field: Any, params: dict[str, Any], kind: type) -> Any:
    value = field.function(params) if field.function else params.get(field.label)
    if value is None:
        return None
    if isinstance(value, dict) and value.get("__type__") in ("generic_update", "update"):
        value = value.get("value")
    if value is None or kind is type(None) or isinstance(value, kind):
        return None if kind is type(None) else value
    return kind(value)
