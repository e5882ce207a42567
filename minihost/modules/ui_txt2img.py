"""The tab txt2img."""

from __future__ import annotations

from typing import Any

import gradio as gr
import modules.txt2img
from modules import infotext_utils, scripts, sd_models, sd_samplers, sd_schedulers, shared
from modules.call_queue import wrap_gradio_gpu_call
from modules.infotext_utils import PasteField
from modules.ui_categories import (
    create_batch,
    create_dimensions,
    create_override_settings_dropdown,
    ordered_ui_categories,
    paste_fields_common,
)
from modules.ui_common import create_output_panel
from modules.ui_components import (
    FormColumn,
    FormGroup,
    FormHTML,
    FormRow,
    InputAccordion,
    ResizeHandleRow,
)
from modules.ui_toprow import Toprow

_HR_FIELDS = (
    "enable_hr", "hr_scale", "hr_upscaler", "hr_second_pass_steps", "hr_resize_x", "hr_resize_y",
    "hr_checkpoint_name", "hr_sampler_name", "hr_scheduler", "hr_prompt", "hr_negative_prompt",
)  # fmt: skip


class Txt2ImgTab:
    """Builds the tab and connects it."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.custom_inputs: list[Any] = []
        self.toprow: Any = None
        self.panel: Any = None
        self.dummy: Any = None

    def build(self) -> gr.Blocks:
        """Build the tab's Blocks."""
        runner = scripts.scripts_txt2img
        with gr.Blocks(analytics_enabled=False) as interface:
            self.toprow = Toprow(is_img2img=False)
            self.dummy = gr.Label(visible=False)
            with gr.Tab("Generation", id="txt2img_generation"), ResizeHandleRow(equal_height=False):
                with gr.Column(variant="compact", elem_id="txt2img_settings"):
                    runner.prepare_ui()
                    for category in ordered_ui_categories():
                        self._build_category(category)
                        if category != "accordions":
                            runner.setup_ui_for_section(category)
                self.panel = create_output_panel("txt2img", None, self.toprow)
            self._connect()
        return interface

    def _build_category(self, category: str) -> None:
        fields = self.fields
        runner = scripts.scripts_txt2img
        if category == "dimensions":
            fields["width"], fields["height"] = create_dimensions("txt2img")
        elif category == "batch":
            fields["batch_count"], fields["batch_size"] = create_batch("txt2img")
        elif category == "cfg":
            with gr.Row():
                fields["cfg_scale"] = gr.Slider(
                    minimum=1.0, maximum=30.0, step=0.5, label="CFG Scale", value=7.0,
                    elem_id="txt2img_cfg_scale",
                )  # fmt: skip
        elif category == "accordions":
            with gr.Row(elem_id="txt2img_accordions", elem_classes="accordions"):
                self._build_hires()
                runner.setup_ui_for_section(category)
        elif category == "override_settings":
            with FormRow(elem_id="txt2img_override_settings_row") as row:
                fields["override_settings"] = create_override_settings_dropdown("txt2img", row)
        elif category == "scripts":
            with FormGroup(elem_id="txt2img_script_container"):
                self.custom_inputs = runner.setup_ui()

    def _build_hires(self) -> None:
        fields = self.fields
        upscalers = [*shared.latent_upscale_modes, *(x.name for x in shared.sd_upscalers)]
        with InputAccordion(False, label="Hires. fix", elem_id="txt2img_hr") as enable_hr:
            fields["enable_hr"] = enable_hr
            with enable_hr.extra():
                FormHTML(value="", elem_id="txtimg_hr_finalres", label="Upscaled resolution")
            with FormRow(elem_id="txt2img_hires_fix_row1", variant="compact"):
                fields["hr_upscaler"] = gr.Dropdown(
                    label="Upscaler", elem_id="txt2img_hr_upscaler", choices=upscalers,
                    value=shared.latent_upscale_default_mode,
                )  # fmt: skip
                fields["hr_second_pass_steps"] = gr.Slider(
                    minimum=0, maximum=150, step=1, label="Hires steps", value=0,
                    elem_id="txt2img_hires_steps",
                )  # fmt: skip
                fields["denoising_strength"] = gr.Slider(
                    minimum=0.0, maximum=1.0, step=0.01, label="Denoising strength", value=0.7,
                    elem_id="txt2img_denoising_strength",
                )  # fmt: skip
            with FormRow(elem_id="txt2img_hires_fix_row2", variant="compact"):
                fields["hr_scale"] = gr.Slider(
                    minimum=1.0, maximum=4.0, step=0.05, label="Upscale by", value=2.0,
                    elem_id="txt2img_hr_scale",
                )  # fmt: skip
                for side, label in (("x", "Resize width to"), ("y", "Resize height to")):
                    fields[f"hr_resize_{side}"] = gr.Slider(
                        minimum=0, maximum=2048, step=8, label=label, value=0,
                        elem_id=f"txt2img_hr_resize_{side}",
                    )  # fmt: skip
            self._build_hires_overrides()

    def _build_hires_overrides(self) -> None:
        fields = self.fields
        with FormRow(elem_id="txt2img_hires_fix_row3", variant="compact"):
            fields["hr_checkpoint_name"] = gr.Dropdown(
                label="Hires checkpoint", elem_id="hr_checkpoint", value="Use same checkpoint",
                choices=["Use same checkpoint", *sd_models.checkpoint_tiles(use_short=True)],
            )  # fmt: skip
            fields["hr_sampler_name"] = gr.Dropdown(
                label="Hires sampling method", elem_id="hr_sampler", value="Use same sampler",
                choices=["Use same sampler", *sd_samplers.visible_sampler_names()],
            )  # fmt: skip
            fields["hr_scheduler"] = gr.Dropdown(
                label="Hires schedule type", elem_id="hr_scheduler", value="Use same scheduler",
                choices=["Use same scheduler", *(x.label for x in sd_schedulers.schedulers)],
            )  # fmt: skip
        with FormRow(elem_id="txt2img_hires_fix_row4", variant="compact"), FormColumn(scale=80):
            fields["hr_prompt"] = gr.Textbox(
                label="Hires prompt", elem_id="hires_prompt", lines=2, elem_classes=["prompt"],
                placeholder="Prompt of the hires pass. Leave empty to use the same prompt.",
            )  # fmt: skip
            fields["hr_negative_prompt"] = gr.Textbox(
                label="Hires negative prompt", elem_id="hires_neg_prompt", lines=2,
                elem_classes=["prompt"],
                placeholder="Negative prompt of the hires pass. Leave empty to use the same.",
            )  # fmt: skip

    def _connect(self) -> None:
        fields, toprow, panel = self.fields, self.toprow, self.panel
        inputs = [
            self.dummy, toprow.prompt, toprow.negative_prompt, toprow.ui_styles,
            fields["batch_count"], fields["batch_size"], fields["cfg_scale"], fields["height"],
            fields["width"], fields["enable_hr"], fields["denoising_strength"],
            *(fields[name] for name in _HR_FIELDS[1:]), fields["override_settings"],
            *self.custom_inputs,
        ]  # fmt: skip
        outputs = [panel.gallery, panel.generation_info, panel.infotext, panel.html_log]
        call = {
            "fn": wrap_gradio_gpu_call(modules.txt2img.txt2img, extra_outputs=[None, "", ""]),
            "_js": "submit", "inputs": inputs, "outputs": outputs, "show_progress": False,
        }  # fmt: skip
        toprow.prompt.submit(**call)
        toprow.submit.click(**call)
        if hasattr(modules.txt2img, "txt2img_upscale"):
            panel.button_upscale.click(
                fn=wrap_gradio_gpu_call(
                    modules.txt2img.txt2img_upscale, extra_outputs=[None, "", ""]
                ),
                _js="submit_txt2img_upscale",
                inputs=[inputs[0], panel.gallery, self.dummy, panel.generation_info, *inputs[1:]],
                outputs=outputs,
                show_progress=False,
            )
        infotext_utils.add_paste_fields(
            "txt2img", None, self._paste_fields(), fields["override_settings"]
        )
        infotext_utils.register_paste_params_button(
            infotext_utils.ParamBinding(
                paste_button=toprow.paste, tabname="txt2img", source_text_component=toprow.prompt
            )
        )

    def _paste_fields(self) -> list:
        fields = self.fields

        def has_hires(d: dict) -> bool:
            keys = ("Hires upscale", "Hires upscaler", "Hires resize-1")
            return "Denoising strength" in d and any(d.get(key) for key in keys)

        labels = {
            "hr_scale": "Hires upscale",
            "hr_upscaler": "Hires upscaler",
            "hr_second_pass_steps": "Hires steps",
            "hr_resize_x": "Hires resize-1",
            "hr_resize_y": "Hires resize-2",
            "hr_checkpoint_name": "Hires checkpoint",
            "hr_prompt": "Hires prompt",
            "hr_negative_prompt": "Hires negative prompt",
        }
        return [
            *paste_fields_common(self.toprow, [], fields),
            PasteField(fields["enable_hr"], has_hires, api="enable_hr"),
            *(PasteField(fields[name], label, api=name) for name, label in labels.items()),
            PasteField(
                fields["hr_sampler_name"], sd_samplers.get_hr_sampler_from_infotext,
                api="hr_sampler_name",
            ),
            PasteField(
                fields["hr_scheduler"], sd_samplers.get_hr_scheduler_from_infotext,
                api="hr_scheduler",
            ),
            *scripts.scripts_txt2img.infotext_fields,
        ]  # fmt: skip
