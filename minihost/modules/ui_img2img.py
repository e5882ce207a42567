"""The tab img2img with its six ways of giving a picture."""

from __future__ import annotations

from typing import Any

import gradio as gr
import modules.img2img
from modules import infotext_utils, scripts, shared
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
from modules.ui_components import FormColumn, FormGroup, FormRow, ResizeHandleRow
from modules.ui_toprow import Toprow

_RESIZE_MODES = [
    "Just resize", "Crop and resize", "Resize and fill", "Just resize (latent upscale)",
]  # fmt: skip
_IMAGES = (
    "init_img", "sketch", "init_img_with_mask", "inpaint_color_sketch",
    "inpaint_color_sketch_orig", "init_img_inpaint", "init_mask_inpaint",
)  # fmt: skip
_HANDLER_ORDER = (
    *_IMAGES, "mask_blur", "mask_alpha", "inpainting_fill", "batch_count", "batch_size",
    "cfg_scale", "image_cfg_scale", "denoising_strength", "selected_scale_tab", "height", "width",
    "scale_by", "resize_mode", "inpaint_full_res", "inpaint_full_res_padding",
    "inpainting_mask_invert", "batch_input_dir", "batch_output_dir", "batch_inpaint_mask_dir",
    "override_settings", "batch_use_png_info", "batch_png_info_props", "batch_png_info_dir",
    "batch_source_type", "batch_upload",
)  # fmt: skip


class Img2ImgTab:
    """Builds the tab and connects it."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}
        self.custom_inputs: list[Any] = []
        self.toprow: Any = None
        self.panel: Any = None
        self.dummy: Any = None
        self.mode_tabs: list[Any] = []
        self.inpaint_controls: Any = None
        self.mask_alpha_row: Any = None

    def build(self) -> gr.Blocks:
        """Build the tab's Blocks."""
        runner = scripts.scripts_img2img
        with gr.Blocks(analytics_enabled=False) as interface:
            self.toprow = Toprow(is_img2img=True)
            self.dummy = gr.Label(visible=False)
            with gr.Tab("Generation", id="img2img_generation"), ResizeHandleRow(equal_height=False):
                with gr.Column(variant="compact", elem_id="img2img_settings"):
                    runner.prepare_ui()
                    for category in ordered_ui_categories():
                        self._build_category(category)
                        if category != "accordions":
                            runner.setup_ui_for_section(category)
                self._connect_modes()
                self.panel = create_output_panel("img2img", None, self.toprow)
            self._connect()
        return interface

    def _build_category(self, category: str) -> None:
        fields = self.fields
        runner = scripts.scripts_img2img
        builders = {
            "image": self._build_image, "inpaint": self._build_inpaint, "cfg": self._build_cfg,
            "dimensions": self._build_dimensions,
        }  # fmt: skip
        if category in builders:
            builders[category]()
        elif category == "batch":
            fields["batch_count"], fields["batch_size"] = create_batch("img2img")
        elif category == "denoising":
            fields["denoising_strength"] = gr.Slider(
                minimum=0.0, maximum=1.0, step=0.01, label="Denoising strength", value=0.75,
                elem_id="img2img_denoising_strength",
            )  # fmt: skip
        elif category == "accordions":
            with gr.Row(elem_id="img2img_accordions", elem_classes="accordions"):
                runner.setup_ui_for_section(category)
        elif category == "override_settings":
            with FormRow(elem_id="img2img_override_settings_row") as row:
                fields["override_settings"] = create_override_settings_dropdown("img2img", row)
        elif category == "scripts":
            with FormGroup(elem_id="img2img_script_container"):
                self.custom_inputs = runner.setup_ui()

    def _build_image(self) -> None:
        fields, opts = self.fields, shared.opts
        height = opts.img2img_editor_height
        common = {"source": "upload", "interactive": True, "type": "pil", "show_label": False}
        with gr.Tabs(elem_id="mode_img2img"):
            with gr.TabItem("img2img", id="img2img", elem_id="img2img_img2img_tab") as tab:
                fields["init_img"] = gr.Image(
                    label="Image for img2img", elem_id="img2img_image", tool="editor",
                    image_mode="RGBA", height=height, **common,
                )  # fmt: skip
            self.mode_tabs.append(tab)
            with gr.TabItem(
                "Sketch", id="img2img_sketch", elem_id="img2img_img2img_sketch_tab"
            ) as tab:
                fields["sketch"] = gr.Image(
                    label="Image for img2img", elem_id="img2img_sketch", tool="color-sketch",
                    image_mode="RGB", height=height,
                    brush_color=opts.img2img_sketch_default_brush_color, **common,
                )  # fmt: skip
            self.mode_tabs.append(tab)
            with gr.TabItem("Inpaint", id="inpaint", elem_id="img2img_inpaint_tab") as tab:
                fields["init_img_with_mask"] = gr.Image(
                    label="Image for inpainting with mask", elem_id="img2maskimg", tool="sketch",
                    image_mode="RGBA", height=height,
                    brush_color=opts.img2img_inpaint_mask_brush_color, **common,
                )  # fmt: skip
            self.mode_tabs.append(tab)
            with gr.TabItem(
                "Inpaint sketch", id="inpaint_sketch", elem_id="img2img_inpaint_sketch_tab"
            ) as tab:
                self._build_inpaint_sketch(common, height)
            self.mode_tabs.append(tab)
            with gr.TabItem(
                "Inpaint upload", id="inpaint_upload", elem_id="img2img_inpaint_upload_tab"
            ) as tab:
                fields["init_img_inpaint"] = gr.Image(
                    label="Image for img2img", source="upload", interactive=True, type="pil",
                    show_label=False, elem_id="img_inpaint_base",
                )  # fmt: skip
                fields["init_mask_inpaint"] = gr.Image(
                    label="Mask", source="upload", interactive=True, type="pil",
                    image_mode="RGBA", show_label=False, elem_id="img_inpaint_mask",
                )  # fmt: skip
            self.mode_tabs.append(tab)
            with gr.TabItem("Batch", id="batch", elem_id="img2img_batch_tab") as tab:
                self._build_batch()
            self.mode_tabs.append(tab)

    def _build_inpaint_sketch(self, common: dict[str, Any], height: int) -> None:
        fields = self.fields
        fields["inpaint_color_sketch"] = gr.Image(
            label="Color sketch inpainting", elem_id="inpaint_sketch", tool="color-sketch",
            image_mode="RGB", height=height,
            brush_color=shared.opts.img2img_inpaint_sketch_default_brush_color, **common,
        )  # fmt: skip
        original = gr.State(None)
        fields["inpaint_color_sketch_orig"] = original

        def update_orig(image: Any, state: Any) -> Any:
            if image is None:
                return None
            return image if state is None or state.size != image.size else state

        fields["inpaint_color_sketch"].change(
            update_orig, [fields["inpaint_color_sketch"], original], original, show_progress=False
        )

    def _build_batch(self) -> None:
        fields = self.fields
        hidden = {"visible": not shared.cmd_opts.hide_ui_dir_config}
        with gr.Tabs(elem_id="img2img_batch_source"):
            fields["batch_source_type"] = gr.Textbox(visible=False, value="upload")
            with gr.TabItem("Upload", id="batch_upload", elem_id="img2img_batch_upload_tab") as up:
                fields["batch_upload"] = gr.Files(
                    label="Files", interactive=True, elem_id="img2img_batch_upload"
                )
            with gr.TabItem(
                "From directory", id="batch_from_dir", elem_id="img2img_batch_from_dir_tab"
            ) as from_dir:
                for key, label in (
                    ("input_dir", "Input directory"),
                    ("output_dir", "Output directory"),
                    ("inpaint_mask_dir", "Inpaint batch mask directory"),
                ):
                    fields[f"batch_{key}"] = gr.Textbox(
                        label=label, elem_id=f"img2img_batch_{key}", **hidden
                    )
        up.select(fn=lambda: "upload", outputs=[fields["batch_source_type"]], show_progress=False)
        from_dir.select(
            fn=lambda: "from dir", outputs=[fields["batch_source_type"]], show_progress=False
        )
        with gr.Accordion("PNG info", open=False):
            fields["batch_use_png_info"] = gr.Checkbox(
                label="Append png info to prompts", elem_id="img2img_batch_use_png_info"
            )
            fields["batch_png_info_dir"] = gr.Textbox(
                label="PNG info directory", placeholder="Leave empty to use input directory",
                elem_id="img2img_batch_png_info_dir", **hidden,
            )  # fmt: skip
            fields["batch_png_info_props"] = gr.CheckboxGroup(
                ["Prompt", "Negative prompt", "Seed", "CFG scale", "Sampler", "Steps",
                 "Model hash"],
                label="Parameters to take from png info", elem_id="img2img_batch_png_info_props",
            )  # fmt: skip

    def _build_inpaint(self) -> None:
        fields = self.fields
        with FormRow():
            fields["resize_mode"] = gr.Radio(
                label="Resize mode", elem_id="resize_mode", choices=_RESIZE_MODES, type="index",
                value=_RESIZE_MODES[0],
            )  # fmt: skip
        with FormGroup(elem_id="inpaint_controls", visible=False) as self.inpaint_controls:
            with FormRow():
                fields["mask_blur"] = gr.Slider(
                    label="Mask blur", minimum=0, maximum=64, step=1, value=4,
                    elem_id="img2img_mask_blur",
                )  # fmt: skip
                fields["mask_alpha"] = gr.Slider(
                    label="Mask transparency", value=0, elem_id="img2img_mask_alpha",
                    visible=False, minimum=0, maximum=100,
                )  # fmt: skip
            with FormRow():
                fields["inpainting_mask_invert"] = gr.Radio(
                    label="Mask mode", choices=["Inpaint masked", "Inpaint not masked"],
                    value="Inpaint masked", type="index", elem_id="img2img_mask_mode",
                )  # fmt: skip
            with FormRow():
                fields["inpainting_fill"] = gr.Radio(
                    label="Masked content", value="original", type="index",
                    choices=["fill", "original", "latent noise", "latent nothing"],
                    elem_id="img2img_inpainting_fill",
                )  # fmt: skip
            with FormRow():
                with gr.Column():
                    fields["inpaint_full_res"] = gr.Radio(
                        label="Inpaint area", choices=["Whole picture", "Only masked"],
                        type="index", value="Whole picture", elem_id="img2img_inpaint_full_res",
                    )  # fmt: skip
                with gr.Column(scale=4):
                    fields["inpaint_full_res_padding"] = gr.Slider(
                        label="Only masked padding, pixels", minimum=0, maximum=256, step=4,
                        value=32, elem_id="img2img_inpaint_full_res_padding",
                    )  # fmt: skip

    def _build_dimensions(self) -> None:
        fields = self.fields
        fields["selected_scale_tab"] = gr.Number(value=0, visible=False, precision=0)
        with FormColumn(elem_id="img2img_column_size_tabs"), gr.Tabs(elem_id="img2img_tabs_resize"):
            with gr.Tab("Resize to", id="to", elem_id="img2img_tab_resize_to") as tab_to:
                fields["width"], fields["height"] = create_dimensions("img2img")
            with gr.Tab("Resize by", id="by", elem_id="img2img_tab_resize_by") as tab_by:
                fields["scale_by"] = gr.Slider(
                    minimum=0.05, maximum=4.0, step=0.01, label="Scale", value=1.0,
                    elem_id="img2img_scale",
                )  # fmt: skip
        for index, tab in enumerate((tab_to, tab_by)):
            tab.select(
                fn=lambda i=index: i, inputs=[], outputs=[fields["selected_scale_tab"]],
                show_progress=False,
            )  # fmt: skip

    def _build_cfg(self) -> None:
        fields = self.fields
        with gr.Row():
            fields["cfg_scale"] = gr.Slider(
                minimum=1.0, maximum=30.0, step=0.5, label="CFG Scale", value=7.0,
                elem_id="img2img_cfg_scale",
            )  # fmt: skip
            fields["image_cfg_scale"] = gr.Slider(
                minimum=0, maximum=3.0, step=0.05, label="Image CFG Scale", value=1.5,
                elem_id="img2img_image_cfg_scale", visible=False,
            )  # fmt: skip

    def _connect_modes(self) -> None:
        """Show the inpainting settings on the inpainting tabs."""
        targets = [self.inpaint_controls, self.fields["mask_alpha"]]
        for index, tab in enumerate(self.mode_tabs):
            inpaint, sketch = index in (2, 3, 4, 5), index == 3
            tab.select(
                fn=lambda a=inpaint, b=sketch: (gr.update(visible=a), gr.update(visible=b)),
                inputs=[], outputs=targets, show_progress=False,
            )  # fmt: skip

    def _connect(self) -> None:
        fields, toprow, panel = self.fields, self.toprow, self.panel
        call = {
            "fn": wrap_gradio_gpu_call(modules.img2img.img2img, extra_outputs=[None, "", ""]),
            "_js": "submit_img2img",
            "inputs": [
                self.dummy, self.dummy, toprow.prompt, toprow.negative_prompt, toprow.ui_styles,
                *(fields[name] for name in _HANDLER_ORDER), *self.custom_inputs,
            ],
            "outputs": [panel.gallery, panel.generation_info, panel.infotext, panel.html_log],
            "show_progress": False,
        }  # fmt: skip
        toprow.prompt.submit(**call)
        toprow.submit.click(**call)
        paste_fields = self._paste_fields()
        override = fields["override_settings"]
        infotext_utils.add_paste_fields("img2img", fields["init_img"], paste_fields, override)
        infotext_utils.add_paste_fields(
            "inpaint", fields["init_img_with_mask"], paste_fields, override
        )
        infotext_utils.register_paste_params_button(
            infotext_utils.ParamBinding(
                paste_button=toprow.paste, tabname="img2img", source_text_component=toprow.prompt
            )
        )

    def _paste_fields(self) -> list:
        fields = self.fields
        labels = {
            "resize_mode": ("Resize mode", "resize_mode"),
            "mask_blur": ("Mask blur", "mask_blur"),
            "inpainting_mask_invert": ("Mask mode", "inpainting_mask_invert"),
            "inpainting_fill": ("Masked content", "inpainting_fill"),
            "inpaint_full_res": ("Inpaint area", "inpaint_full_res"),
            "inpaint_full_res_padding": ("Masked area padding", "inpaint_full_res_padding"),
        }
        return [
            *paste_fields_common(self.toprow, [], fields),
            *(PasteField(fields[name], label, api=api) for name, (label, api) in labels.items()),
            *scripts.scripts_img2img.infotext_fields,
        ]
