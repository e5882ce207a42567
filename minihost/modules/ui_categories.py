"""Settings that txt2img and img2img build alike, category by category."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import infotext_utils, shared, shared_items
from modules.ui_components import FormColumn, FormRow, ToolButton

switch_values_symbol = "\U000021c5"


def ordered_ui_categories() -> list[str]:
    """Categories of the settings column, reordered by the setting `ui_reorder_list`."""
    order = {name.strip(): i * 2 + 1 for i, name in enumerate(shared.opts.ui_reorder_list)}
    found = list(enumerate(shared_items.ui_reorder_categories()))
    found.sort(key=lambda x: order.get(x[1], x[0] * 2))
    return [name for _, name in found]


def create_dimensions(tab: str) -> tuple[Any, Any]:
    """Width and height with a button that swaps them."""
    with FormRow():
        with gr.Column(elem_id=f"{tab}_column_size", scale=4):
            width = gr.Slider(
                minimum=64, maximum=2048, step=8, label="Width", value=512, elem_id=f"{tab}_width"
            )
            height = gr.Slider(
                minimum=64, maximum=2048, step=8, label="Height", value=512,
                elem_id=f"{tab}_height",
            )  # fmt: skip
        with gr.Column(elem_id=f"{tab}_dimensions_row", scale=1, elem_classes="dimensions-tools"):
            switch = ToolButton(
                switch_values_symbol, elem_id=f"{tab}_res_switch_btn",
                tooltip="Switch width and height",
            )  # fmt: skip
    switch.click(
        lambda w, h: (h, w), inputs=[width, height], outputs=[width, height], show_progress=False
    )
    return width, height


def create_batch(tab: str) -> tuple[Any, Any]:
    """Batch count and batch size."""
    with FormColumn(elem_id=f"{tab}_column_batch"):
        count = gr.Slider(
            minimum=1, maximum=100, step=1, label="Batch count", value=1,
            elem_id=f"{tab}_batch_count",
        )  # fmt: skip
        size = gr.Slider(
            minimum=1, maximum=8, step=1, label="Batch size", value=1, elem_id=f"{tab}_batch_size"
        )
    return count, size


def create_override_settings_dropdown(tab: str, row: Any) -> Any:
    """Settings that a pasted infotext overrides; hidden while there are none."""
    dropdown = gr.Dropdown(
        [], label="Override settings", visible=False, elem_id=f"{tab}_override_settings",
        multiselect=True,
    )  # fmt: skip
    dropdown.change(
        fn=lambda x: gr.Dropdown.update(visible=bool(x)), inputs=[dropdown], outputs=[dropdown],
        show_progress=False,
    )  # fmt: skip
    del row
    return dropdown


def paste_fields_common(toprow: Any, scripts_fields: list, fields: dict[str, Any]) -> list:
    """Paste fields that both tabs share."""
    field = infotext_utils.PasteField
    return [
        field(toprow.prompt, "Prompt", api="prompt"),
        field(toprow.negative_prompt, "Negative prompt", api="negative_prompt"),
        field(fields["cfg_scale"], "CFG scale", api="cfg_scale"),
        field(fields["width"], "Size-1", api="width"),
        field(fields["height"], "Size-2", api="height"),
        field(fields["batch_size"], "Batch size", api="batch_size"),
        field(fields["denoising_strength"], "Denoising strength", api="denoising_strength"),
        *scripts_fields,
    ]
