"""The tab txt2img."""

from __future__ import annotations

from typing import Any, ClassVar

import gradio as gr
import modules.txt2img
from modules import sd_models, sd_samplers, sd_schedulers, shared
from modules.infotext_utils import PasteField
from modules.ui_components import FormColumn, FormHTML, FormRow, InputAccordion
from modules.ui_tab import GenerationTab


class Txt2ImgTab(GenerationTab):
    """Builds the tab and connects it."""

    name = "txt2img"
    denoising_strength = 0.7
    pasted: ClassVar = {
        "hr_scale": "Hires upscale",
        "hr_upscaler": "Hires upscaler",
        "hr_second_pass_steps": "Hires steps",
        "hr_resize_x": "Hires resize-1",
        "hr_resize_y": "Hires resize-2",
        "hr_checkpoint_name": "Hires checkpoint",
        "hr_prompt": "Hires prompt",
        "hr_negative_prompt": "Hires negative prompt",
    }

    def build_own_accordions(self) -> None:
        """Hires. fix."""
        upscalers = [*shared.latent_upscale_modes, *(x.name for x in shared.sd_upscalers)]
        with InputAccordion(False, label="Hires. fix", elem_id="txt2img_hr") as enable_hr:
            self.fields["enable_hr"] = enable_hr
            with enable_hr.extra():
                FormHTML(value="", elem_id="txtimg_hr_finalres", label="Upscaled resolution")
            with FormRow(elem_id="txt2img_hires_fix_row1", variant="compact"):
                self.fields["hr_upscaler"] = gr.Dropdown(
                    label="Upscaler", elem_id="txt2img_hr_upscaler", choices=upscalers,
                    value=shared.latent_upscale_default_mode,
                )  # fmt: skip
                steps = "hr_second_pass_steps"
                self.slider(steps, "Hires steps", 0, (0, 150, 1), elem_id="txt2img_hires_steps")
                self.build_denoising_strength()
            with FormRow(elem_id="txt2img_hires_fix_row2", variant="compact"):
                self.slider("hr_scale", "Upscale by", 2.0, (1.0, 4.0, 0.05))
                self.slider("hr_resize_x", "Resize width to", 0, (0, 2048, 8))
                self.slider("hr_resize_y", "Resize height to", 0, (0, 2048, 8))
            self._build_hires_overrides()

    def _build_hires_overrides(self) -> None:
        with FormRow(elem_id="txt2img_hires_fix_row3", variant="compact"):
            for field, label, elem_id, same, others in (
                ("hr_checkpoint_name", "checkpoint", "hr_checkpoint", "checkpoint",
                 sd_models.checkpoint_tiles(use_short=True)),
                ("hr_sampler_name", "sampling method", "hr_sampler", "sampler",
                 [x.name for x in sd_samplers.samplers]),
                ("hr_scheduler", "schedule type", "hr_scheduler", "scheduler",
                 [x.label for x in sd_schedulers.schedulers]),
            ):  # fmt: skip
                self.fields[field] = gr.Dropdown(
                    label=f"Hires {label}", elem_id=elem_id, value=f"Use same {same}",
                    choices=[f"Use same {same}", *others],
                )  # fmt: skip
        with FormRow(elem_id="txt2img_hires_fix_row4", variant="compact"), FormColumn(scale=80):
            for field, elem_id in (("prompt", "prompt"), ("negative_prompt", "neg_prompt")):
                words = field.replace("_", " ")
                self.fields[f"hr_{field}"] = gr.Textbox(
                    label=f"Hires {words}", elem_id=f"hires_{elem_id}", lines=2,
                    elem_classes=["prompt"],
                    placeholder=f"For the hires pass. Leave empty to use the same {words}.",
                )  # fmt: skip

    def _connect(self) -> None:
        function = modules.txt2img.txt2img_create_processing
        call = self.call_of(modules.txt2img.txt2img, function, "submit")
        self.connect_generate(call)
        upscale = self.call_of(modules.txt2img.txt2img_upscale, function, "submit_txt2img_upscale")
        task, *inputs = call["inputs"]
        panel = self.panel
        upscale["inputs"] = [task, panel.gallery, self.dummy, panel.generation_info, *inputs]
        panel.button_upscale.click(**upscale)
        self.connect_paste({"txt2img": None})

    def paste_fields(self) -> list[Any]:
        """The tab's fields; those of the hires pass are read together."""

        def has_hires(d: dict) -> bool:
            keys = ("Hires upscale", "Hires upscaler", "Hires resize-1")
            return "Denoising strength" in d and any(d.get(key) for key in keys)

        pair = sd_samplers.get_hr_sampler_and_scheduler
        return [
            PasteField(self.fields["enable_hr"], has_hires, api="enable_hr"),
            PasteField(self.fields["hr_sampler_name"], lambda d: pair(d)[0], api="hr_sampler_name"),
            PasteField(self.fields["hr_scheduler"], lambda d: pair(d)[1], api="hr_scheduler"),
            *super().paste_fields(),
        ]
