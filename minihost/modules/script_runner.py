"""Runs the scripts of one tab: builds their part of the page and calls their methods.

Every method except `run` is guarded: what it raises is printed, and the generation goes on.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import gradio as gr
from fastapi.encoders import jsonable_encoder
from modules import errors, script_callbacks
from modules.script_base import AlwaysVisible, OnComponent, Script

_COMPONENT_METHODS = ("before_component", "after_component")


def _guarded(method: str) -> Callable[..., None]:
    """The runner's function that calls a method of all scripts that override it."""

    def call(self: ScriptRunner, p: Any, *first: Any, **kwargs: Any) -> None:
        self._call(method, p, *first, **kwargs)

    return call


class ScriptRunner:
    """Instances of all scripts for one tab."""

    def __init__(self) -> None:
        self.scripts: list[Script] = []
        self.selectable_scripts: list[Script] = []
        self.alwayson_scripts: list[Script] = []
        self.titles: list[str] = []
        self.title_map: dict[str, Script] = {}
        self.infotext_fields: list = []
        self.paste_field_names: list[str] = []
        self.inputs: list[Any] = [None]
        self.callback_map: dict[str, list[tuple[Any, Script]]] = {}
        self.on_before_component_elem_id: dict[str, list[tuple[Callable, Script]]] = {}
        self.on_after_component_elem_id: dict[str, list[tuple[Callable, Script]]] = {}

    def initialize_scripts(self, is_img2img: bool) -> None:
        """Make one instance of every script class and ask it where it wants to be shown."""
        from modules import scripts

        self.scripts.clear()
        self.alwayson_scripts.clear()
        self.selectable_scripts.clear()
        for data in scripts.scripts_data:
            try:
                script = data.script_class()
            except Exception:
                errors.report(f"Error # failed to initialize Script {data.module}: ", exc_info=True)
                continue
            script.filename = data.path
            script.is_txt2img = not is_img2img
            script.is_img2img = is_img2img
            script.tabname = "img2img" if is_img2img else "txt2img"
            visibility = script.show(script.is_img2img)
            if visibility == AlwaysVisible:
                self.scripts.append(script)
                self.alwayson_scripts.append(script)
                script.alwayson = True
            elif visibility:
                self.scripts.append(script)
                self.selectable_scripts.append(script)
        self.callback_map.clear()
        self.apply_on_before_component_callbacks()

    def apply_on_before_component_callbacks(self) -> None:
        """Collect what scripts registered with `on_before_component` and `on_after_component`."""
        for script in self.scripts:
            for target, registered in (
                (self.on_before_component_elem_id, script.on_before_component_elem_id or []),
                (self.on_after_component_elem_id, script.on_after_component_elem_id or []),
            ):
                for elem_id, callback in registered:
                    target.setdefault(elem_id, []).append((callback, script))
                registered.clear()

    def prepare_ui(self) -> None:
        """Start a new list of inputs; index 0 is the script list's."""
        self.inputs = [None]

    def create_script_ui(self, script: Script) -> None:
        """Build one script's components; if that fails it keeps no arguments."""
        script.args_from = len(self.inputs)
        script.args_to = len(self.inputs)
        try:
            self._create_script_ui(script)
        except Exception:
            errors.report(f"Error creating UI for {script.name}: ", exc_info=True)

    def _create_script_ui(self, script: Script) -> None:
        import modules.api.models as api_models

        script.name = _title(script).lower()
        controls = script.ui(script.is_img2img)
        script.controls = controls
        if controls is None:
            return
        script.api_info = api_models.ScriptInfo(
            name=script.name,
            is_img2img=script.is_img2img,
            is_alwayson=script.alwayson,
            args=[_script_arg(api_models, control) for control in controls],
        )
        for control in controls:
            control.custom_script_source = _basename(script.filename)
        self.infotext_fields += script.infotext_fields or []
        self.paste_field_names += script.paste_field_names or []
        self.inputs += controls
        script.args_to = len(self.inputs)

    def setup_ui_for_section(self, section: str | None, scriptlist: list | None = None) -> None:
        """Build the components of the scripts that belong to a section of the tab."""
        for script in self.alwayson_scripts if scriptlist is None else scriptlist:
            if script.alwayson and script.section != section:
                continue
            if not script.create_group:
                self.create_script_ui(script)
                continue
            with gr.Group(visible=script.alwayson) as group:
                self.create_script_ui(script)
            script.group = group

    def setup_ui(self) -> list:
        """Build the scripts without a section, the script list, and the scripts in it."""
        all_titles = [_title(script) for script in self.scripts]
        self.title_map = {
            title.lower(): script for title, script in zip(all_titles, self.scripts, strict=True)
        }
        self.titles = [_title(script) for script in self.selectable_scripts]
        self.setup_ui_for_section(None)
        dropdown = gr.Dropdown(
            label="Script", elem_id="script_list", choices=["None", *self.titles],
            value="None", type="index",
        )  # fmt: skip
        self.inputs[0] = dropdown
        self.setup_ui_for_section(None, self.selectable_scripts)
        self._connect_script_list(dropdown)
        self.apply_on_before_component_callbacks()
        return self.inputs

    def _connect_script_list(self, dropdown: gr.Dropdown) -> None:
        groups = [script.group for script in self.selectable_scripts]
        if not groups:
            return

        def select_script(index: int | None) -> list | dict:
            updates = [gr.update(visible=i + 1 == index) for i in range(len(groups))]
            return updates if len(updates) > 1 else updates[0]  # gradio takes a list as one value

        dropdown.change(select_script, [dropdown], groups, show_progress=False)
        self.infotext_fields.append(
            (dropdown, lambda params: gr.update(value=params.get("Script", "None")))
        )
        for script, group in zip(self.selectable_scripts, groups, strict=True):
            title = _title(script)
            self.infotext_fields.append(
                (group, lambda d, title=title: gr.update(visible=d.get("Script") == title))
            )

    def run(self, p: Any, *args: Any) -> Any:
        """Run the selected script of the list; None if none is selected."""
        index = args[0] if args else 0
        if not index:
            return None
        script = self.selectable_scripts[index - 1]
        if script is None:
            return None
        return script.run(p, *args[script.args_from : script.args_to])

    def script(self, title: str) -> Script | None:
        """The script with this title, in any case."""
        return self.title_map.get(title.lower())

    def list_scripts_for_method(self, method: str) -> list[Script]:
        """Scripts whose class overrides a method, in the order of the tab."""
        among = self.scripts if method in _COMPONENT_METHODS else self.alwayson_scripts
        base = getattr(Script, method, None)
        return [script for script in among if getattr(script.__class__, method, None) != base]

    def create_ordered_callbacks_list(self, method: str) -> list[Script]:
        """Scripts to call for a method, in the order the settings give."""
        entries: list = []
        owners: dict[str, Script] = {}
        for script in self.list_scripts_for_method(method):
            script_callbacks.add_callback(
                entries, lambda: None, category=f"script_{method}",
                name=script.__class__.__name__, filename=script.filename,
            )  # fmt: skip
            owners[entries[-1].name] = script
        ordered = script_callbacks.sort_callbacks(f"script_{method}", entries)
        self.callback_map[method] = [(entry, owners[entry.name]) for entry in ordered]
        return [script for _, script in self.callback_map[method]]

    def ordered_scripts(self, method: str) -> list[Script]:
        """Like `create_ordered_callbacks_list`, made once per method."""
        if method not in self.callback_map:
            return self.create_ordered_callbacks_list(method)
        return [script for _, script in self.callback_map[method]]

    def _call(self, method: str, p: Any, *first: Any, **kwargs: Any) -> None:
        for script in self.ordered_scripts(method):
            try:
                args = p.script_args[script.args_from : script.args_to]
                getattr(script, method)(p, *first, *args, **kwargs)
            except Exception:
                errors.report(f"Error running {method}: {script.filename}", exc_info=True)

    def setup_scrips(self, p: Any, *, is_ui: bool = True) -> None:
        """`setup` of all scripts; those that only serve the page are left out for the API."""
        for script in self.ordered_scripts("setup"):
            if not is_ui and script.setup_for_ui_only:
                continue
            try:
                script.setup(p, *p.script_args[script.args_from : script.args_to])
            except Exception:
                errors.report(f"Error running setup: {script.filename}", exc_info=True)

    before_process = _guarded("before_process")
    process = _guarded("process")
    before_process_batch = _guarded("before_process_batch")
    after_extra_networks_activate = _guarded("after_extra_networks_activate")
    process_batch = _guarded("process_batch")
    before_hr = _guarded("before_hr")
    process_before_every_sampling = _guarded("process_before_every_sampling")
    postprocess = _guarded("postprocess")
    postprocess_batch_list = _guarded("postprocess_batch_list")
    post_sample = _guarded("post_sample")
    on_mask_blend = _guarded("on_mask_blend")
    postprocess_image = _guarded("postprocess_image")
    postprocess_maskoverlay = _guarded("postprocess_maskoverlay")
    postprocess_image_after_composite = _guarded("postprocess_image_after_composite")

    def postprocess_batch(self, p: Any, images: Any, **kwargs: Any) -> None:
        """Call `postprocess_batch`; it gets the pictures by name."""
        self._call("postprocess_batch", p, images=images, **kwargs)

    def before_component(self, component: Any, **kwargs: Any) -> None:
        """A component of the tab is about to be made."""
        self._on_component(self.on_before_component_elem_id, "before_component", component, kwargs)

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """A component of the tab was made."""
        self._on_component(self.on_after_component_elem_id, "after_component", component, kwargs)

    def _on_component(self, by_id: dict, method: str, component: Any, kwargs: dict) -> None:
        for callback, script in by_id.get(kwargs.get("elem_id"), []):
            try:
                callback(OnComponent(component=component))
            except Exception:
                errors.report(f"Error running on_{method}: {script.filename}", exc_info=True)
        for script in self.ordered_scripts(method):
            try:
                getattr(script, method)(component, **kwargs)
            except Exception:
                errors.report(f"Error running {method}: {script.filename}", exc_info=True)

    def reload_sources(self, cache: dict[str, Any]) -> None:
        """Give each script of the tab a new instance from its file, executed again.

        As in the host, `alwayson_scripts` keeps the old instances.
        """
        from modules import script_loading

        for index, script in enumerate(list(self.scripts)):
            if script.filename not in cache:
                cache[script.filename] = script_loading.load_module(script.filename)
            for value in vars(cache[script.filename]).values():
                if (
                    inspect.isclass(value)
                    and issubclass(value, Script)
                    and value.__name__ == type(script).__name__
                ):
                    self.scripts[index] = value()
                    self.scripts[index].filename = script.filename
                    self.scripts[index].args_from = script.args_from
                    self.scripts[index].args_to = script.args_to


def _title(script: Script) -> str:
    try:
        return script.title()
    except Exception:
        errors.report(f"Error calling: {script.filename}/title", exc_info=True)
        return script.filename


def _basename(filename: str) -> str:
    return filename.replace("\\", "/").rsplit("/", 1)[-1]


def _script_arg(api_models: Any, control: Any) -> Any:
    info = api_models.ScriptArg(label=getattr(control, "label", None) or "")
    for name in ("value", "minimum", "maximum", "step"):
        value = getattr(control, name, None)
        if value is not None:
            # Plain data: version 2 of pydantic answers with nothing else.
            setattr(info, name, jsonable_encoder(value))
    choices = getattr(control, "choices", None)
    if choices is not None:
        # Radio and CheckboxGroup keep (label, value) pairs, Dropdown plain strings.
        info.choices = [x[0] if isinstance(x, tuple) else x for x in choices]
    return info
