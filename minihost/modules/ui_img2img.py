"""The tab img2img with its six ways of giving a picture."""

from __future__ import annotations

from typing import Any, ClassVar

import gradio as gr
import modules.img2img
from modules import shared
from modules.ui_components import FormColumn, FormGroup, FormRow
from modules.ui_tab import GenerationTab

_RESIZE_MODES = [
    "Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)",
]  # fmt: skip
_FILLS = ["fill", "original", "latent noise", "latent nothing"]
_PNG_INFO = ["Prompt", "Negative prompt", "Seed", "CFG scale", "Sampler", "Steps", "Model hash"]


class Img2ImgTab(GenerationTab):
    """Builds the tab and connects it."""

    name = "img2img"
    denoising_strength = 0.75
    pasted: ClassVar = {
        "resize_mode": "Resize mode",
        "mask_blur": "Mask blur",
        "inpainting_mask_invert": "Mask mode",
        "inpainting_fill": "Masked content",
        "inpaint_full_res": "Inpaint area",
        "inpaint_full_res_padding": "Masked area padding",
    }

    def __init__(self) -> None:
        super().__init__()
        self.mode_tabs: list[Any] = []
        self.inpaint_controls: Any = None

    # ---- pictures ----

    def _build_image(self) -> None:
        brush = {"brush_color": "#ffffff"}
        mask_brush = {"brush_color": shared.opts.img2img_inpaint_mask_brush_color}
        modes = (
            ("img2img", "img2img", "img2img", lambda: self._picture(
                "init_img", "Image for img2img", "img2img_image", "editor", "RGBA")),
            ("Sketch", "img2img_sketch", "img2img_sketch", lambda: self._picture(
                "sketch", "Image for img2img", "img2img_sketch", "color-sketch", **brush)),
            ("Inpaint", "inpaint", "inpaint", lambda: self._picture(
                "init_img_with_mask", "Image for inpainting with mask", "img2maskimg", "sketch",
                "RGBA", **mask_brush)),
            ("Inpaint sketch", "inpaint_sketch", "inpaint_sketch", self._build_inpaint_sketch),
            ("Inpaint upload", "inpaint_upload", "inpaint_upload", self._build_inpaint_upload),
            ("Batch", "batch", "batch", self._build_batch_files),
        )  # fmt: skip
        with gr.Tabs(elem_id="mode_img2img"):
            for label, tab_id, elem_id, build in modes:
                with gr.TabItem(label, id=tab_id, elem_id=f"img2img_{elem_id}_tab") as tab:
                    build()
                self.mode_tabs.append(tab)

    def _picture(
        self, field: str, label: str, elem_id: str, tool: str, mode: str = "RGB", **more: Any
    ) -> Any:
        self.fields[field] = gr.Image(
            label=label, elem_id=elem_id, tool=tool, image_mode=mode, height=720, source="upload",
            interactive=True, type="pil", show_label=False, **more,
        )  # fmt: skip
        return self.fields[field]

    def _build_inpaint_sketch(self) -> None:
        sketch = self._picture(
            "inpaint_color_sketch", "Color sketch inpainting", "inpaint_sketch", "color-sketch",
            brush_color="#ffffff",
        )  # fmt: skip
        original = self.fields["inpaint_color_sketch_orig"] = gr.State(None)

        def update_orig(image: Any, state: Any) -> Any:
            if image is None:
                return None
            return image if state is None or state.size != image.size else state

        sketch.change(update_orig, [sketch, original], original, show_progress=False)

    def _build_inpaint_upload(self) -> None:
        common = {"source": "upload", "interactive": True, "type": "pil", "show_label": False}
        self.fields["init_img_inpaint"] = gr.Image(
            label="Image for img2img", elem_id="img_inpaint_base", **common
        )
        self.fields["init_mask_inpaint"] = gr.Image(
            label="Mask", elem_id="img_inpaint_mask", image_mode="RGBA", **common
        )

    def _build_batch_files(self) -> None:
        fields = self.fields
        hidden = {"visible": not shared.cmd_opts.hide_ui_dir_config}
        with gr.Tabs(elem_id="img2img_batch_source"):
            source = fields["img2img_batch_source_type"] = gr.Textbox(visible=False, value="upload")
            with gr.TabItem("Upload", id="batch_upload", elem_id="img2img_batch_upload_tab") as up:
                fields["img2img_batch_upload"] = gr.Files(
                    label="Files", interactive=True, elem_id="img2img_batch_upload"
                )
            with gr.TabItem(
                "From directory", id="batch_from_dir", elem_id="img2img_batch_from_dir_tab"
            ) as from_dir:
                for name, label in (
                    ("img2img_batch_input_dir", "Input directory"),
                    ("img2img_batch_output_dir", "Output directory"),
                    ("img2img_batch_inpaint_mask_dir", "Inpaint batch mask directory"),
                ):
                    fields[name] = gr.Textbox(label=label, elem_id=name, **hidden)
        for tab, value in ((up, "upload"), (from_dir, "from dir")):
            tab.select(lambda value=value: value, outputs=[source], show_progress=False)
        with gr.Accordion("PNG info", open=False):
            name = "img2img_batch_use_png_info"
            fields[name] = gr.Checkbox(label="Append png info to prompts", elem_id=name)
            name = "img2img_batch_png_info_dir"
            fields[name] = gr.Textbox(
                label="PNG info directory", placeholder="Leave empty to use input directory",
                elem_id=name, **hidden,
            )  # fmt: skip
            name = "img2img_batch_png_info_props"
            fields[name] = gr.CheckboxGroup(
                _PNG_INFO, label="Parameters to take from png info", elem_id=name
            )

    # ---- settings ----

    def _build_inpaint(self) -> None:
        with FormRow():
            self._choice("resize_mode", "Resize mode", _RESIZE_MODES, elem_id="resize_mode")
        with FormGroup(elem_id="inpaint_controls", visible=False) as self.inpaint_controls:
            with FormRow():
                self.slider("mask_blur", "Mask blur", 4, (0, 64, 1))
                self.slider("mask_alpha", "Mask transparency", 0, (0, 100, 1), visible=False)
            modes = ["Inpaint masked", "Inpaint not masked"]
            with FormRow():
                self._choice(
                    "inpainting_mask_invert", "Mask mode", modes, elem_id="img2img_mask_mode"
                )
            with FormRow():
                self._choice("inpainting_fill", "Masked content", _FILLS, value="original")
            with FormRow():
                with gr.Column():
                    areas = ["Whole picture", "Only masked"]
                    self._choice("inpaint_full_res", "Inpaint area", areas)
                with gr.Column(scale=4):
                    label = "Only masked padding, pixels"
                    self.slider("inpaint_full_res_padding", label, 32, (0, 256, 4))

    def _choice(self, field: str, label: str, choices: list[str], **more: str) -> None:
        """Radio buttons whose value is the chosen one's number."""
        more = {"value": choices[0], "elem_id": f"img2img_{field}", **more}
        self.fields[field] = gr.Radio(label=label, choices=choices, type="index", **more)

    def _build_dimensions(self) -> None:
        chosen = self.fields["selected_scale_tab"] = gr.Number(value=0, visible=False, precision=0)
        with FormColumn(elem_id="img2img_column_size_tabs"), gr.Tabs(elem_id="img2img_tabs_resize"):
            with gr.Tab("Resize to", id="to", elem_id="img2img_tab_resize_to") as tab_to:
                super()._build_dimensions()
            with gr.Tab("Resize by", id="by", elem_id="img2img_tab_resize_by") as tab_by:
                scale = (0.05, 4.0, 0.01)
                self.slider("scale_by", "Scale", 1.0, scale, elem_id="img2img_scale")
        for index, tab in enumerate((tab_to, tab_by)):
            tab.select(lambda i=index: i, outputs=[chosen], show_progress=False)

    def _build_cfg(self) -> None:
        with gr.Row():
            self.slider("cfg_scale", "CFG Scale", 7.0, (1.0, 30.0, 0.5))
            self.slider("image_cfg_scale", "Image CFG Scale", 1.5, (0, 3.0, 0.05), visible=False)

    def _build_denoising(self) -> None:
        self.build_denoising_strength()

    # ---- connections ----

    def connect_settings(self) -> None:
        """Show the inpainting settings on the inpainting tabs."""
        targets = [self.inpaint_controls, self.fields["mask_alpha"]]
        for index, tab in enumerate(self.mode_tabs):
            inpaint, sketch = index in (2, 3, 4, 5), index == 3
            tab.select(
                lambda a=inpaint, b=sketch: (gr.update(visible=a), gr.update(visible=b)),
                outputs=targets, show_progress=False,
            )  # fmt: skip

    def _connect(self) -> None:
        handler = modules.img2img.img2img
        self.connect_generate(self.call_of(handler, handler, "submit_img2img"))
        fields = self.fields
        self.connect_paste({"img2img": fields["init_img"], "inpaint": fields["init_img_with_mask"]})
