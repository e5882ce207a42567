"""The tab Settings, made from the declared options, and the quick settings above the tabs."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import script_callbacks, shared, shared_items, ui_common
from modules.call_queue import wrap_gradio_call
from modules.ui_components import FormRow

QUICKSETTINGS = ("sd_model_checkpoint",)


def get_value_for_setting(key: str) -> Any:
    """Update for a setting's component: value and current arguments."""
    info = shared.opts.data_labels[key]
    args = info.component_args() if callable(info.component_args) else info.component_args or {}
    args = {k: v for k, v in args.items() if k != "precision"}
    return gr.update(value=getattr(shared.opts, key), **args)


def create_setting_component(key: str, is_quicksettings: bool = False) -> Any:
    """Make the component of one setting, with its refresh button."""
    info = shared.opts.data_labels[key]
    args = (info.component_args() if callable(info.component_args) else info.component_args) or {}
    component = info.component or _component_for(info.default, key)
    elem_id = f"setting_{key}"
    value = shared.opts.data.get(key, info.default)

    def make() -> Any:
        return component(label=info.label, value=value, elem_id=elem_id, **args)

    if info.refresh is None:
        return make()
    if is_quicksettings:
        made = make()
        ui_common.create_refresh_button(made, info.refresh, info.component_args, f"refresh_{key}")
        return made
    with FormRow():
        made = make()
        ui_common.create_refresh_button(made, info.refresh, info.component_args, f"refresh_{key}")
    return made


def _component_for(default: Any, key: str) -> type:
    kinds = {str: gr.Textbox, int: gr.Number, float: gr.Number, bool: gr.Checkbox}
    if type(default) not in kinds:
        msg = f"setting {key}: no component for a default of type {type(default).__name__}"
        raise TypeError(msg)
    return kinds[type(default)]


class UiSettings:
    """Builds the tab and saves what it changes."""

    def __init__(self) -> None:
        self.components: list[Any] = []
        self.component_dict: dict[str, Any] = {}
        self.dummy_component: Any = None
        self.interface: Any = None
        self.submit: Any = None
        self.result: Any = None
        self.text_settings: Any = None

    def register_settings(self) -> None:
        """Let extensions declare their settings."""
        script_callbacks.ui_settings_callback()
        for key, info in shared_items.callbacks_order_settings().items():
            shared.opts.add_option(key, info)

    def run_settings(self, *args: Any) -> tuple[str, str]:
        """Save all settings of the page."""
        opts = shared.opts
        changed = []
        items = zip(opts.data_labels.items(), args, self.components, strict=True)
        for (key, info), value, component in items:
            if component == self.dummy_component or info.do_not_save:
                continue
            if not opts.same_type(value, info.default):
                msg = (
                    f"Bad value for setting {key}: {value}; expecting {type(info.default).__name__}"
                )
                raise TypeError(msg)
            if opts.set(key, value):
                changed.append(key)
        opts.save(shared.config_filename)
        names = f": {', '.join(changed)}" if changed else ""
        return opts.dumpjson(), f"{len(changed)} settings changed{names}."

    def run_settings_single(self, value: Any, key: str) -> tuple[Any, str]:
        """Save one setting above the tabs."""
        opts = shared.opts
        if not opts.same_type(value, opts.data_labels[key].default):
            return gr.update(visible=True), opts.dumpjson()
        if value is None or not opts.set(key, value):
            return gr.update(value=getattr(opts, key)), opts.dumpjson()
        opts.save(shared.config_filename)
        return get_value_for_setting(key), opts.dumpjson()

    def create_ui(self) -> None:
        """Build the tab."""
        opts = shared.opts
        with gr.Blocks(analytics_enabled=False) as self.interface:
            # Stands for settings without a component here; the browser must know it too.
            self.dummy_component = gr.Textbox(visible=False)
            with gr.Row():
                self.submit = gr.Button(
                    "Apply settings", variant="primary", elem_id="settings_submit"
                )
                restart = gr.Button(
                    "Reload UI", variant="primary", elem_id="settings_restart_gradio"
                )
            self.result = gr.HTML(elem_id="settings_result")
            with gr.Tabs(elem_id="settings"):
                self._build_sections()
            self.text_settings = gr.Textbox(
                elem_id="settings_json", value=opts.dumpjson, visible=False
            )
            restart.click(
                fn=shared.state.request_restart, _js="restart_reload", inputs=[], outputs=[]
            )

    def _build_sections(self) -> None:
        sections: dict[tuple, list[str]] = {}
        for key, info in shared.opts.data_labels.items():
            sections.setdefault(tuple(info.section or (None, "")), []).append(key)
        made: dict[str, Any] = {}
        for (section_id, title), keys in sections.items():
            if section_id is None:
                made |= dict.fromkeys(keys, self.dummy_component)
                continue
            elem_id = f"settings_{section_id}"
            with gr.TabItem(title, id=elem_id, elem_id=elem_id), gr.Column(variant="compact"):
                for key in keys:
                    if key in QUICKSETTINGS:
                        made[key] = self.dummy_component
                    else:
                        made[key] = create_setting_component(key)
                        self.component_dict[key] = made[key]
        self.components = [made[key] for key in shared.opts.data_labels]

    def add_quicksettings(self) -> None:
        """Build the settings above the tabs."""
        with gr.Row(elem_id="quicksettings", variant="compact"):
            for key in QUICKSETTINGS:
                self.component_dict[key] = create_setting_component(key, is_quicksettings=True)

    def add_functionality(self, demo: gr.Blocks) -> None:
        """Connect buttons and quick settings."""
        self.submit.click(
            fn=wrap_gradio_call(self.run_settings, extra_outputs=[gr.update()]),
            inputs=self.components,
            outputs=[self.text_settings, self.result],
        )
        for key in QUICKSETTINGS:
            component = self.component_dict[key]
            event = getattr(component, "release", None) or component.change
            if isinstance(component, gr.Textbox):
                event = component.submit
            event(
                fn=lambda value, k=key: self.run_settings_single(value, key=k),
                inputs=[component],
                outputs=[component, self.text_settings],
                show_progress=shared.opts.data_labels[key].refresh is not None,
            )
        names = [*self.component_dict]

        def values_at_load() -> list[Any]:
            return [get_value_for_setting(key) for key in names]

        demo.load(
            fn=values_at_load,
            inputs=[],
            outputs=[self.component_dict[key] for key in names],
            queue=False,
        )
