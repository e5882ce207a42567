"""The widgets of one unit, in the order users know, with the element ids others rely on."""

from __future__ import annotations

from typing import Any, Final

import gradio as gr
from gradio.components import Component

from lib_controlnet.detect import listing
from lib_controlnet.enums import (
    ControlMode,
    ControlNetUnionControlType,
    HiResOption,
    ResizeMode,
)
from lib_controlnet.ui.batch import MERGE_IMAGES, build_loopback, build_tabs
from lib_controlnet.ui.messages import message_line
from lib_controlnet.ui.region import build_region
from lib_controlnet.ui.unit_value import INDEPENDENT, REGION_CANVAS
from lib_controlnet.ui.unit_widgets import UnitWidgets

BRUSH_COLOUR: Final = "img2img_inpaint_mask_brush_color"
"""The host's setting for the colour of drawn masks."""
_PICTURE_HEIGHT: Final = 300


def value_fields(widgets: UnitWidgets) -> dict[str, Component]:
    """Field of the unit value -> widget."""
    plain = (
        "enabled low_vram pixel_perfect module model weight guidance_start guidance_end "
        "processor_res threshold_a threshold_b control_mode resize_mode hr_option image "
        "region region_feather advanced_weighting input_mode batch_images output_dir loopback"
    )
    fields = {name: getattr(widgets, name) for name in plain.split()}
    fields["effective_region_mask"] = widgets.mask
    fields["inpaint_crop_input_image"] = widgets.crop
    fields["union_control_type"] = widgets.union_type
    fields[INDEPENDENT] = widgets.independent
    fields[REGION_CANVAS] = widgets.region_canvas
    fields[MERGE_IMAGES] = widgets.merge_images
    return fields


def build_unit(name: str, is_img2img: bool, runtime: Any) -> UnitWidgets:
    """Build one unit's widgets in the open Blocks.

    Args:
        name: the unit's element id, for example `txt2img_controlnet_ControlNet-0`.
        is_img2img: whether the tab has a picture of its own.
        runtime: the extension's services.
    """
    made: dict[str, Component] = {}
    with gr.Group(elem_classes=["cnet-unit"]):
        made |= _pictures(name, is_img2img, runtime)
        made["picture_note"] = message_line(name, "picture_note", is_fault=True)
        made["drawing_note"] = message_line(name, "drawing_note")
        with gr.Group(visible=not is_img2img, elem_classes=["cnet-upload-panel"]) as upload_group:
            made |= _picture_buttons(name)
        made["upload_group"] = upload_group
        made |= _switches(name, is_img2img)
        made |= _choices(name, "img2img" if is_img2img else "txt2img", runtime)
        made["notes"] = message_line(name, "notes")
        made |= _sliders(name)
        made |= _modes(name, is_img2img)
        made |= build_region(name, is_img2img)
        made |= _layer_weights(name)
        made["loopback"] = build_loopback(name)
        made["status"] = message_line(name, "status", is_fault=True)
        made |= _hidden()
    return UnitWidgets(name=name, **made)


def _pictures(name: str, is_img2img: bool, runtime: Any) -> dict[str, Component]:
    """The control picture, or several of them, and beside it the preview of the detected map."""
    made: dict[str, Any] = {}
    with gr.Row(elem_classes=["cnet-image-row"], equal_height=True):
        with (
            gr.Group(visible=not is_img2img, elem_classes=["cnet-input-image-group"]) as group,
            gr.Tabs(elem_classes=["cnet-input-tabs"]),
        ):
            with gr.Tab("Single Image") as made["single_tab"]:
                made["image"] = gr.Image(
                    label="Image",
                    source="upload",
                    tool="sketch",
                    type="numpy",
                    height=_PICTURE_HEIGHT,
                    brush_radius=20,
                    brush_color=runtime.option(BRUSH_COLOUR),
                    elem_id=f"{name}_input_image",
                    elem_classes=["cnet-image"],
                )
            made |= build_tabs(name)
        made["image_group"] = group
        made |= _preview(name)
    return made


def _preview(name: str) -> dict[str, Component]:
    made: dict[str, Any] = {}
    with gr.Group(visible=False, elem_classes=["cnet-generated-image-group"]) as group:
        made["preview"] = gr.Image(
            label="Preprocessor Preview",
            type="numpy",
            height=_PICTURE_HEIGHT,
            interactive=False,
            elem_id=f"{name}_generated_image",
            elem_classes=["cnet-image"],
        )
        with gr.Group(elem_classes=["cnet-generated-image-control-group"]):
            made["pose"] = gr.HTML(
                visible=False,
                elem_id=f"{name}_controlnet_download_pose",
                elem_classes=["cnet-download-pose"],
            )
            made["close_preview"] = gr.Button("Close", elem_classes=["cnet-close-preview"])
    return made | {"preview_group": group}


def _picture_buttons(name: str) -> dict[str, Component]:
    made: dict[str, Component] = {}
    with gr.Accordion("Open New Canvas", visible=False) as canvas_group:
        with gr.Row():
            size = {"minimum": 256, "maximum": 1024, "step": 64, "value": 512}
            made["canvas_width"] = gr.Slider(
                label="New Canvas Width", elem_id=f"{name}_controlnet_canvas_width", **size
            )
            made["canvas_height"] = gr.Slider(
                label="New Canvas Height", elem_id=f"{name}_controlnet_canvas_height", **size
            )
        with gr.Row():
            made["canvas_create"] = gr.Button(
                "Create New Canvas",
                elem_id=f"{name}_controlnet_canvas_create_button",
                size="sm",
            )
            made["canvas_cancel"] = gr.Button(
                "Cancel", elem_id=f"{name}_controlnet_canvas_cancel_button", size="sm"
            )
    with gr.Row(elem_classes=["controlnet_image_controls"]):
        gr.HTML(
            "Set the preprocessor to [invert] If your image has white background and black lines.",
            elem_classes=["controlnet_invert_warning"],
        )
        made["canvas_open"] = _tool("\N{MEMO}", f"{name}_controlnet_open_new_canvas_button")
        made["send_size"] = _tool(
            "\N{ARROW POINTING RIGHTWARDS THEN CURVING UPWARDS}",
            f"{name}_controlnet_send_dimen_button",
        )
    return made | {"canvas_group": canvas_group}


def _tool(text: str, elem_id: str, *classes: str, visible: bool = True) -> Component:
    """A small square button; the page's script adds its tooltip."""
    return gr.Button(
        text,
        elem_id=elem_id,
        elem_classes=["tool", "cnet-tool", *classes],
        visible=visible,
        min_width=0,
    )


def _switches(name: str, is_img2img: bool) -> dict[str, Component]:
    def box(label: str, suffix: str, *classes: str, visible: bool = True) -> Component:
        return gr.Checkbox(
            label=label,
            value=False,
            visible=visible,
            container=False,
            elem_id=f"{name}_controlnet_{suffix}_checkbox",
            elem_classes=list(classes),
        )

    made: dict[str, Component] = {}
    with gr.Row(elem_classes=["controlnet_main_options"]):
        made["enabled"] = box("Enable", "enable", "cnet-unit-enabled")
        made["low_vram"] = box("Low VRAM", "low_vram")
        made["pixel_perfect"] = box("Pixel Perfect", "pixel_perfect")
        made["allow_preview"] = box(
            "Allow Preview", "preprocessor_preview", "cnet-allow-preview", visible=not is_img2img
        )
        made["use_region"] = box("Effective Region Mask", "mask_upload", "cnet-mask-upload")
    with gr.Row(
        visible=is_img2img,
        elem_classes=["controlnet_img2img_options"],
    ):
        made["independent"] = box(
            "Upload independent control image", "same_img2img", "cnet-unit-same_img2img"
        )
        made["crop"] = gr.Checkbox(
            label="Crop input image based on A1111 mask",
            value=True,
            container=False,
            elem_classes=["cnet-crop-input-image"],
        )
    made["use_region"].do_not_save_to_config = True  # it shows what the region says
    # Files of saved widget defaults written by other versions hold False here, where the page
    # switched it on when it mattered.
    made["crop"].do_not_save_to_config = True
    if not is_img2img:
        made["independent"].value = True
        made["independent"].do_not_save_to_config = True
    return made


def _choices(name: str, tab: str, runtime: Any) -> dict[str, Component]:
    def offered(label: str, names: list[str]) -> list[str]:
        """What there is, and the user's saved default even if it is gone.

        The host would silently take the first default for one that is not offered; like this it
        is chosen, and the line of notes says what is wrong with it.
        """
        saved = runtime.saved_default(f"{tab}/{label}/value")
        return names if not saved or saved in names else [*names, saved]

    made: dict[str, Component] = {}
    as_dropdown = runtime.option("controlnet_control_type_dropdown")
    picker = gr.Dropdown if as_dropdown else gr.Radio
    with gr.Row(elem_classes=["controlnet_control_type", "controlnet_row"]):
        made["control_type"] = picker(
            listing.control_types(),
            label="Control Type",
            value=listing.ALL,
            elem_id=f"{name}_controlnet_type_filter_radio",
            elem_classes=["controlnet_control_type_filter_group"],
        )
    with gr.Row(elem_classes=["controlnet_preprocessor_model", "controlnet_row"]):
        made["module"] = gr.Dropdown(
            offered("Preprocessor", listing.labels_for(listing.ALL)),
            label="Preprocessor",
            value="none",
            elem_id=f"{name}_controlnet_preprocessor_dropdown",
        )
        made["run"] = _tool(
            "\N{COLLISION SYMBOL}",
            f"{name}_controlnet_trigger_preprocessor",
            "cnet-run-preprocessor",
        )
        made["model"] = gr.Dropdown(
            offered("Model", listing.models_for(runtime.catalog, listing.ALL)),
            label="Model",
            value="None",
            elem_id=f"{name}_controlnet_model_dropdown",
        )
        made["refresh"] = _tool(
            "\N{ANTICLOCKWISE DOWNWARDS AND UPWARDS OPEN CIRCLE ARROWS}",
            f"{name}_controlnet_refresh_models",
        )
    return made


def _sliders(name: str) -> dict[str, Component]:
    def slider(label: str, suffix: str, *numbers: float, visible: bool = True) -> Component:
        minimum, maximum, value, step = numbers
        return gr.Slider(
            minimum,
            maximum,
            value,
            step=step,
            label=label,
            visible=visible,
            elem_id=f"{name}_controlnet_{suffix}_slider",
        )

    made: dict[str, Component] = {}
    with gr.Row(elem_classes=["controlnet_weight_steps", "controlnet_row"]):
        made["weight"] = slider("Control Weight", "control_weight", 0, 2, 1, 0.05)
        made["guidance_start"] = slider(
            "Starting Control Step", "start_control_step", 0, 1, 0, 0.01
        )
        made["guidance_end"] = slider("Ending Control Step", "ending_control_step", 0, 1, 1, 0.01)
    with gr.Row(elem_classes=["controlnet_sliders", "controlnet_row"]):
        made["processor_res"] = slider(
            "Preprocessor resolution", "preprocessor_resolution", 64, 2048, -1, 8, visible=False
        )
        made["threshold_a"] = slider("Threshold A", "threshold_A", 64, 1024, -1, 1, visible=False)
        made["threshold_b"] = slider("Threshold B", "threshold_B", 64, 1024, -1, 1, visible=False)
    return made


def _modes(name: str, is_img2img: bool) -> dict[str, Component]:
    def radio(kind: type, label: str, value: str, suffix: str, visible: bool = True) -> Component:
        return gr.Radio(
            [member.value for member in kind],
            label=label,
            value=value,
            visible=visible,
            elem_id=f"{name}_controlnet_{suffix}_radio",
        )

    with gr.Row(elem_classes=["controlnet_modes"]):
        control_mode = radio(
            ControlMode, "Control Mode", ControlMode.BALANCED.value, "control_mode"
        )
        resize_mode = radio(
            ResizeMode,
            "Resize Mode",
            ResizeMode.INNER_FIT.value,
            "resize_mode",
            visible=not is_img2img,
        )
    # Shown by the page's script while the hires fix of the tab is on.
    hr_option = radio(
        HiResOption,
        "Hires-Fix Option",
        HiResOption.BOTH.value,
        "hr_option",
        visible=not is_img2img,
    )
    return {"control_mode": control_mode, "resize_mode": resize_mode, "hr_option": hr_option}


def _layer_weights(name: str) -> dict[str, Component]:
    with gr.Accordion("Weights per layer", open=False, elem_classes=["cnet-layer-weights"]):
        weights = gr.Textbox(
            label="Weights",
            placeholder="Empty: Control Weight for all. Else one number per layer: 1 0.9 0.8 ...",
            info="From the shallowest layer to the deepest; replaces Control Weight.",
            max_lines=1,
            elem_id=f"{name}_controlnet_advanced_weighting_textbox",
        )
    return {"advanced_weighting": weights}


def _hidden() -> dict[str, Component]:
    made = {
        "union_type": gr.Textbox(
            label="Union Control Type",
            value=ControlNetUnionControlType.UNKNOWN.value,
            visible=False,
        ),
        "restore": gr.Button(visible=False, elem_classes=["cnet-restore-sliders"]),
        "offer": gr.Button(visible=False, elem_classes=["cnet-offer-models"]),
        "answer": gr.JSON(visible=False),
        "edition": gr.Number(0, visible=False),
        "target_width": gr.Number(512, visible=False),
        "target_height": gr.Number(512, visible=False),
        "target_tab": gr.Number(0, visible=False),
        "target_scale": gr.Number(0, visible=False),
    }
    for widget in made.values():
        widget.do_not_save_to_config = True
    return made
