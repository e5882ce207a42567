"""Seed and its variations, in the section `seed` of both tabs."""

import json

import gradio as gr
from modules import errors, scripts
from modules.infotext_utils import PasteField
from modules.ui_components import ToolButton


class ScriptSeed(scripts.ScriptBuiltinUI):
    """Builds the components and copies their values to `p`."""

    section = "seed"
    create_group = False

    def __init__(self) -> None:
        self.seed = None
        self.reuse_seed = None
        self.reuse_subseed = None

    def title(self) -> str:
        return "Seed"

    def ui(self, is_img2img: bool) -> list:
        with gr.Row(elem_id=self.elem_id("seed_row")):
            self.seed = gr.Number(
                label="Seed", value=-1, elem_id=self.elem_id("seed"), min_width=100, precision=0
            )
            random_seed = ToolButton(
                "⚄",
                elem_id=self.elem_id("random_seed"),
                tooltip="Set seed to -1: a new one each time",
            )
            reuse_seed = ToolButton(
                "♻", elem_id=self.elem_id("reuse_seed"), tooltip="Reuse seed from last generation"
            )
            seed_checkbox = gr.Checkbox(
                label="Extra", elem_id=self.elem_id("subseed_show"), value=False
            )
        with gr.Group(visible=False, elem_id=self.elem_id("seed_extras")) as seed_extras:
            subseed, subseed_strength, random_subseed, reuse_subseed = self._variation()
        random_seed.click(fn=lambda: -1, inputs=[], outputs=[self.seed], show_progress=False)
        random_subseed.click(fn=lambda: -1, inputs=[], outputs=[subseed], show_progress=False)
        seed_checkbox.change(
            lambda x: gr.update(visible=x), inputs=[seed_checkbox], outputs=[seed_extras],
            show_progress=False,
        )  # fmt: skip
        self.infotext_fields = [
            PasteField(self.seed, "Seed", api="seed"),
            PasteField(seed_checkbox, lambda d: "Variation seed" in d),
            PasteField(subseed, "Variation seed", api="subseed"),
            PasteField(subseed_strength, "Variation seed strength", api="subseed_strength"),
        ]
        self.on_after_component(
            lambda x: connect_reuse_seed(self.seed, reuse_seed, x.component, False),
            elem_id=f"generation_info_{self.tabname}",
        )
        self.on_after_component(
            lambda x: connect_reuse_seed(subseed, reuse_subseed, x.component, True),
            elem_id=f"generation_info_{self.tabname}",
        )
        return [self.seed, seed_checkbox, subseed, subseed_strength]

    def _variation(self) -> tuple:
        with gr.Row(elem_id=self.elem_id("subseed_row")):
            subseed = gr.Number(
                label="Variation seed", value=-1, elem_id=self.elem_id("subseed"), precision=0
            )
            random_subseed = ToolButton("⚄", elem_id=self.elem_id("random_subseed"))
            reuse_subseed = ToolButton("♻", elem_id=self.elem_id("reuse_subseed"))
            strength = gr.Slider(
                label="Variation strength", value=0.0, minimum=0, maximum=1, step=0.01,
                elem_id=self.elem_id("subseed_strength"),
            )  # fmt: skip
        return subseed, strength, random_subseed, reuse_subseed

    def setup(
        self, p: object, seed: int, seed_checkbox: bool, subseed: int, subseed_strength: float
    ) -> None:
        p.seed = seed
        if seed_checkbox and subseed_strength > 0:
            p.subseed = subseed
            p.subseed_strength = subseed_strength


def connect_reuse_seed(
    seed: gr.Number, reuse_seed: gr.Button, generation_info: gr.Textbox, is_subseed: bool
) -> None:
    """Let a button copy the seed of the selected picture."""

    def copy_seed(gen_info_string: str, index: int) -> int:
        try:
            info = json.loads(gen_info_string)
            first = info.get("index_of_first_image", 0)
            index = max(int(index) - first, 0)
            if not is_subseed:
                return info.get("all_seeds", [-1])[index]
            if info.get("subseed_strength", 0) > 0:
                return info.get("all_subseeds", [-1])[index]
            return 0
        except (ValueError, IndexError, TypeError):
            if gen_info_string:
                errors.report(f"no seed in the generation info: {gen_info_string}")
            return -1

    reuse_seed.click(
        fn=copy_seed,
        _js="(x, y) => [x, selected_gallery_index()]",
        show_progress=False,
        inputs=[generation_info, seed],
        outputs=[seed],
    )
