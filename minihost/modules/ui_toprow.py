"""Top row of a tab: prompts, Generate, Interrupt, Skip, paste."""

from __future__ import annotations

from typing import Any

import gradio as gr
from modules import shared
from modules.ui_components import ToolButton


def interrupt_function() -> None:
    """Stop: after the current picture at first if there are several, at once when asked again."""
    state = shared.state
    if not state.stopping_generation and state.job_count > 1:
        state.stop_generating()
        gr.Info("Generation will stop after this picture; click again to stop at once.")
    else:
        state.interrupt()


class Toprow:
    """Components of the top row."""

    def __init__(self, is_img2img: bool, id_part: str | None = None) -> None:
        self.id_part = id_part or ("img2img" if is_img2img else "txt2img")
        self.is_img2img = is_img2img
        self.ui_styles: Any = None
        with gr.Row(elem_id=f"{self.id_part}_toprow", variant="compact", elem_classes=["toprow"]):
            self._create_prompts()
            with gr.Column(
                scale=1, elem_id=f"{self.id_part}_actions_column", elem_classes=["actions-column"]
            ):
                self._create_submit_box()
                self._create_tools_row()

    def _create_prompts(self) -> None:
        name = self.id_part
        with gr.Column(elem_id=f"{name}_prompt_container", scale=6):
            with gr.Row(elem_id=f"{name}_prompt_row", elem_classes=["prompt-row"]):
                self.prompt = gr.Textbox(
                    label="Prompt", elem_id=f"{name}_prompt", show_label=False, lines=3,
                    placeholder="Prompt (Ctrl+Enter to generate)", elem_classes=["prompt"],
                )  # fmt: skip
            with gr.Row(elem_id=f"{name}_neg_prompt_row", elem_classes=["prompt-row"]):
                self.negative_prompt = gr.Textbox(
                    label="Negative prompt", elem_id=f"{name}_neg_prompt", show_label=False,
                    lines=3, placeholder="Negative prompt (Ctrl+Enter to generate)",
                    elem_classes=["prompt"],
                )  # fmt: skip

    def _create_submit_box(self) -> None:
        name = self.id_part
        with gr.Row(elem_id=f"{name}_generate_box", elem_classes=["generate-box"]):
            self.interrupt = gr.Button(
                "Interrupt", elem_id=f"{name}_interrupt", elem_classes="generate-box-interrupt",
                tooltip="Stop; the latest picture is kept",
            )  # fmt: skip
            self.skip = gr.Button(
                "Skip", elem_id=f"{name}_skip", elem_classes="generate-box-skip",
                tooltip="Stop the current batch and go on with the next",
            )  # fmt: skip
            self.interrupting = gr.Button(
                "Interrupting...", elem_id=f"{name}_interrupting",
                elem_classes="generate-box-interrupting",
            )  # fmt: skip
            self.submit = gr.Button(
                "Generate", elem_id=f"{name}_generate", variant="primary", tooltip="Ctrl+Enter"
            )
        self.skip.click(fn=shared.state.skip, show_progress=False)
        self.interrupt.click(
            fn=interrupt_function, _js=f"function(){{ showInterruptingButtons('{name}'); }}",
            show_progress=False,
        )  # fmt: skip
        self.interrupting.click(fn=shared.state.interrupt, show_progress=False)

    def _create_tools_row(self) -> None:
        with gr.Row(elem_id=f"{self.id_part}_tools"):
            self.paste = ToolButton(
                "↙", elem_id="paste",
                tooltip="Read generation parameters from the prompt, or from the last generation "
                "if the prompt is empty",
            )  # fmt: skip
            self.clear_prompt_button = ToolButton(
                "✕", elem_id=f"{self.id_part}_clear_prompt", tooltip="Clear prompt"
            )
            self.clear_prompt_button.click(
                fn=lambda: ("", ""), outputs=[self.prompt, self.negative_prompt],
                show_progress=False,
            )  # fmt: skip
        # Styles are not offered; the value keeps its place in the handlers' arguments.
        self.ui_styles = gr.Dropdown(
            label="Styles", elem_id=f"{self.id_part}_styles", choices=[], value=[],
            multiselect=True, visible=False,
        )  # fmt: skip
