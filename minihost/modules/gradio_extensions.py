"""What the host adds to gradio: hooks around every component, `tooltip=`, class names.

The patches are applied once, when this module is imported.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.blocks import BlockContext
from gradio.components import IOComponent
from modules import patches, script_callbacks, scripts


def _class_name(component: Any) -> str:
    name = "input-accordion" if hasattr(component, "accordion_id") else component.get_block_name()
    return f"gradio-{name}"


def add_classes(component: Any) -> None:
    """Give a component the class `gradio-<kind>`."""
    classes = component.elem_classes or []
    component.elem_classes = [_class_name(component), *classes]
    if getattr(component, "multiselect", False):
        component.elem_classes.append("multiselect")


def _before(component: Any, kwargs: dict[str, Any]) -> None:
    script_callbacks.before_component_callback(component, **kwargs)
    if scripts.scripts_current is not None:
        scripts.scripts_current.before_component(component, **kwargs)


def _after(component: Any, kwargs: dict[str, Any]) -> None:
    script_callbacks.after_component_callback(component, **kwargs)
    if scripts.scripts_current is not None:
        scripts.scripts_current.after_component(component, **kwargs)


def io_component_init(self: Any, *args: Any, **kwargs: Any) -> None:
    """Constructor of every component: hooks before and after, tooltip remembered."""
    tooltip = kwargs.pop("tooltip", None)
    if tooltip is not None:
        self.webui_tooltip = tooltip
    _before(self, kwargs)
    original_io_component_init(self, *args, **kwargs)
    add_classes(self)
    _after(self, kwargs)


def block_context_init(self: Any, *args: Any, **kwargs: Any) -> None:
    """Constructor of every layout block: the same hooks."""
    _before(self, kwargs)
    original_block_context_init(self, *args, **kwargs)
    add_classes(self)
    _after(self, kwargs)


def blocks_get_config_file(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Configuration sent to the browser, with the tooltips put in."""
    config = original_blocks_get_config_file(self, *args, **kwargs)
    for entry in config["components"]:
        component = self.blocks.get(entry["id"])
        tooltip = getattr(component, "webui_tooltip", None)
        if tooltip:
            entry["props"]["webui_tooltip"] = tooltip
    return config


_KEY = __name__
original_io_component_init = patches.patch(_KEY, IOComponent, "__init__", io_component_init)
original_block_context_init = patches.patch(_KEY, BlockContext, "__init__", block_context_init)
original_blocks_get_config_file = patches.patch(
    _KEY, gr.blocks.Blocks, "get_config_file", blocks_get_config_file
)
