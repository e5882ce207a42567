"""Steps, sampler and schedule, in the section `sampler` of both tabs."""

import gradio as gr
from modules import scripts, sd_samplers, sd_schedulers
from modules.infotext_utils import PasteField
from modules.ui_components import FormGroup, FormRow


class ScriptSampler(scripts.ScriptBuiltinUI):
    """Builds the components and copies their values to `p`."""

    section = "sampler"

    def __init__(self) -> None:
        self.steps = None
        self.sampler_name = None
        self.scheduler = None

    def title(self) -> str:
        return "Sampler"

    def ui(self, is_img2img: bool) -> list:
        names = [x.name for x in sd_samplers.samplers]
        labels = [x.label for x in sd_schedulers.schedulers]
        with FormRow(elem_id=f"sampler_selection_{self.tabname}"), FormGroup():
            with FormRow():
                self.sampler_name = gr.Dropdown(
                    label="Sampling method", elem_id=f"{self.tabname}_sampling",
                    choices=names, value=names[0],
                )  # fmt: skip
                self.scheduler = gr.Dropdown(
                    label="Schedule type", elem_id=f"{self.tabname}_scheduler",
                    choices=labels, value=labels[0],
                )  # fmt: skip
            self.steps = gr.Slider(
                minimum=1, maximum=150, step=1, elem_id=f"{self.tabname}_steps",
                label="Sampling steps", value=20,
            )  # fmt: skip

        def pair(d: dict) -> tuple[str, str]:
            return sd_samplers.get_sampler_and_scheduler(d.get("Sampler"), d.get("Schedule type"))

        self.infotext_fields = [
            PasteField(self.steps, "Steps", api="steps"),
            PasteField(self.sampler_name, lambda d: pair(d)[0], api="sampler_name"),
            PasteField(self.scheduler, lambda d: pair(d)[1], api="scheduler"),
        ]
        return [self.steps, self.sampler_name, self.scheduler]

    def setup(self, p: object, steps: int, sampler_name: str, scheduler: str) -> None:
        p.steps = steps
        p.sampler_name = sampler_name
        p.scheduler = scheduler
