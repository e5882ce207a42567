"""What the tabs txt2img and img2img have in common: prompts, settings column, output, Generate."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import gradio as gr
from modules import infotext_utils, scripts, shared_items
from modules.call_queue import wrap_gradio_gpu_call
from modules.infotext_utils import PasteField
from modules.ui_common import create_output_panel
from modules.ui_components import FormColumn, FormGroup, FormRow, ResizeHandleRow, ToolButton
from modules.ui_toprow import Toprow

_SWITCH_SYMBOL = "\U000021c5"


class GenerationTab:
    """Builds a tab and connects it.

    `fields` holds the components under the names that the tab's handler has for their values.
    """

    name: ClassVar[str]
    denoising_strength: ClassVar[float]
    pasted: ClassVar[dict[str, str]]
    """For each of the tab's own fields its key in the infotext."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.custom_inputs: list[Any] = []
        self.toprow: Any = None
        self.panel: Any = None
        self.dummy: Any = None
        self.runner = getattr(scripts, f"scripts_{self.name}")

    def build(self) -> gr.Blocks:
        """Build the tab's Blocks."""
        name = self.name
        with gr.Blocks(analytics_enabled=False) as interface:
            self.toprow = Toprow(is_img2img=name == "img2img")
            self.fields |= {
                "prompt": self.toprow.prompt, "negative_prompt": self.toprow.negative_prompt,
                "prompt_styles": self.toprow.ui_styles,
            }  # fmt: skip
            self.dummy = gr.Label(visible=False)
            with gr.Tab("Generation", id=f"{name}_generation"), ResizeHandleRow(equal_height=False):
                with gr.Column(variant="compact", elem_id=f"{name}_settings"):
                    self.runner.prepare_ui()
                    for category in shared_items.ui_reorder_categories():
                        getattr(self, f"_build_{category}", lambda: None)()
                        if category != "accordions":
                            self.runner.setup_ui_for_section(category)
                self.connect_settings()
                self.panel = create_output_panel(name)
            self._connect()
        return interface

    # ---- categories of the settings column ----

    def slider(
        self, field: str, label: str, value: float, scale: tuple[float, float, float], **more: Any
    ) -> Any:
        """A slider; its element's id is the tab and the field's name unless given."""
        low, high, step = scale
        more.setdefault("elem_id", f"{self.name}_{field}")
        self.fields[field] = gr.Slider(
            minimum=low, maximum=high, step=step, label=label, value=value, **more
        )
        return self.fields[field]

    def _build_dimensions(self) -> None:
        """Width and height with a button that swaps them."""
        with FormRow():
            with gr.Column(elem_id=f"{self.name}_column_size", scale=4):
                width = self.slider("width", "Width", 512, (64, 2048, 8))
                height = self.slider("height", "Height", 512, (64, 2048, 8))
            with gr.Column(
                elem_id=f"{self.name}_dimensions_row", scale=1, elem_classes="dimensions-tools"
            ):
                switch = ToolButton(
                    _SWITCH_SYMBOL, elem_id=f"{self.name}_res_switch_btn",
                    tooltip="Switch width and height",
                )  # fmt: skip
        switch.click(lambda w, h: (h, w), [width, height], [width, height], show_progress=False)

    def _build_batch(self) -> None:
        with FormColumn(elem_id=f"{self.name}_column_batch"):
            elem_id = f"{self.name}_batch_count"
            self.slider("n_iter", "Batch count", 1, (1, 100, 1), elem_id=elem_id)
            self.slider("batch_size", "Batch size", 1, (1, 8, 1))

    def _build_cfg(self) -> None:
        with gr.Row():
            self.slider("cfg_scale", "CFG Scale", 7.0, (1.0, 30.0, 0.5))

    def build_denoising_strength(self) -> None:
        """How much of the picture is drawn anew."""
        value = self.denoising_strength
        self.slider("denoising_strength", "Denoising strength", value, (0.0, 1.0, 0.01))

    def _build_accordions(self) -> None:
        with gr.Row(elem_id=f"{self.name}_accordions", elem_classes="accordions"):
            self.build_own_accordions()
            self.runner.setup_ui_for_section("accordions")

    def build_own_accordions(self) -> None:
        """The tab's accordions, before those of scripts."""

    def _build_override_settings(self) -> None:
        """Settings that a pasted infotext overrides; hidden while there are none."""
        with FormRow(elem_id=f"{self.name}_override_settings_row"):
            dropdown = self.fields["override_settings_texts"] = gr.Dropdown(
                [], label="Override settings", visible=False, multiselect=True,
                elem_id=f"{self.name}_override_settings",
            )  # fmt: skip
        dropdown.change(
            lambda x: gr.Dropdown.update(visible=bool(x)), [dropdown], [dropdown],
            show_progress=False,
        )  # fmt: skip

    def _build_scripts(self) -> None:
        with FormGroup(elem_id=f"{self.name}_script_container"):
            self.custom_inputs = self.runner.setup_ui()

    # ---- connections ----

    def connect_settings(self) -> None:
        """Connect components of the settings column with each other."""

    def call_of(self, handler: Callable[..., tuple], function: Callable, js: str) -> dict[str, Any]:
        """What an event needs to run `handler`, whose arguments are named as in `function`."""
        known = {"id_task": self.dummy, "mode": self.dummy, **self.fields}
        names = [name for name in inspect.signature(function).parameters if name in known]
        panel = self.panel
        return {
            "fn": wrap_gradio_gpu_call(handler, extra_outputs=[None, "", ""]),
            "_js": js,
            "inputs": [*(known[name] for name in names), *self.custom_inputs],
            "outputs": [panel.gallery, panel.generation_info, panel.infotext, panel.html_log],
            "show_progress": False,
        }

    def connect_generate(self, call: dict[str, Any]) -> None:
        """Let button and prompt run the handler."""
        self.toprow.prompt.submit(**call)
        self.toprow.submit.click(**call)

    def _connect(self) -> None:
        raise NotImplementedError

    def connect_paste(self, pictures: dict[str, Any]) -> None:
        """Make the tab, under each name, a target for infotexts and for a picture."""
        fields = self.paste_fields()
        override = self.fields["override_settings_texts"]
        for name, picture in pictures.items():
            infotext_utils.add_paste_fields(name, picture, fields, override)
        infotext_utils.register_paste_params_button(
            infotext_utils.ParamBinding(
                self.toprow.paste, self.name, source_text_component=self.toprow.prompt
            )
        )

    def paste_fields(self) -> list[PasteField]:
        """The components and where their pasted values come from."""
        common = {
            "prompt": "Prompt", "negative_prompt": "Negative prompt", "cfg_scale": "CFG scale",
            "width": "Size-1", "height": "Size-2", "batch_size": "Batch size",
            "denoising_strength": "Denoising strength",
        }  # fmt: skip
        return [
            *(
                PasteField(self.fields[name], label, api=name)
                for name, label in {**common, **self.pasted}.items()
            ),
            *self.runner.infotext_fields,
        ]
