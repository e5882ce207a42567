"""The widgets of one unit, in the order users know, with the element ids others rely on."""

from __future__ import annotations

from typing import Any, Final

import gradio as gr
from gradio.components import Component

from lib_controlnet.detect import listing
from lib_controlnet.ui.batch import MERGE_IMAGES, build_loopback, build_tabs
from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.messages import message_line
from lib_controlnet.ui.region import build_region
from lib_controlnet.ui.sketch import build_sketch
from lib_controlnet.ui.unit_value import DRAWING, INDEPENDENT, REGION_CANVAS, REGION_DRAWING
from lib_controlnet.ui.unit_widgets import UnitWidgets
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.units.weight_types import BOTH, WeightType
from lib_controlnet.words import word

BRUSH_COLOUR: Final = "img2img_inpaint_mask_brush_color"
"""The host's setting for the colour of drawn masks."""
_PICTURE_HEIGHT: Final = 300


def value_fields(widgets: UnitWidgets) -> dict[str, Component]:
    """Field of the unit value -> widget: every field that has one, and the values beside them."""
    fields = {name: getattr(widgets, name) for name in FIELDS if hasattr(widgets, name)}
    image, region = widgets.sketch, widgets.region_sketch
    beside = {INDEPENDENT: widgets.independent, MERGE_IMAGES: widgets.merge_images}
    if image.drawing is not None:
        beside[DRAWING] = image.drawing
    if region.drawing is None:
        beside[REGION_CANVAS] = region.picture
    else:  # what it lies on is not sent
        beside[REGION_DRAWING] = region.drawing
    return fields | beside


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
        made["status"] = message_line(name, "status", is_fault=True)
        made["about"] = gr.HTML(
            visible=False, elem_id=f"{name}_controlnet_about", elem_classes=["cnet-about"]
        )
        made["notes"] = message_line(name, "notes")
        made |= _sliders(name)
        made |= _modes(name, is_img2img)
        made |= build_region(name, is_img2img, runtime.canvas())
        made |= _layer_weights(name)
        made["loopback"] = build_loopback(name)
        made |= _build_hidden(made["sketch"].drawing is not None)
    return UnitWidgets(name=name, **made)


def _pictures(name: str, is_img2img: bool, runtime: Any) -> dict[str, Component]:
    """The control picture, or several of them, and beside it the preview of the detected map."""
    made: dict[str, Any] = {}
    with gr.Row(elem_classes=["cnet-image-row"], equal_height=True):
        with (
            gr.Group(visible=not is_img2img, elem_classes=["cnet-input-image-group"]) as group,
            gr.Tabs(elem_classes=["cnet-input-tabs"]),
        ):
            with gr.Tab(word("tab_single")) as made["single_tab"]:
                made["sketch"] = build_sketch(
                    runtime.canvas(),
                    label=word("image"),
                    height=_PICTURE_HEIGHT,
                    brush_radius=20,
                    brush_color=runtime.option(BRUSH_COLOUR),
                    elem_id=f"{name}_input_image",
                    elem_classes=["cnet-image"],
                )
                made["image"] = made["sketch"].picture
            made |= build_tabs(name)
        made["image_group"] = group
        made |= _preview(name)
    return made


def _preview(name: str) -> dict[str, Component]:
    made: dict[str, Any] = {}
    with gr.Group(visible=False, elem_classes=["cnet-generated-image-group"]) as group:
        made["preview"] = gr.Image(
            label=word("preview"),
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
            made["close_preview"] = gr.Button(word("close"), elem_classes=["cnet-close-preview"])
    return made | {"preview_group": group}


def _picture_buttons(name: str) -> dict[str, Component]:
    made: dict[str, Component] = {}
    with gr.Accordion(word("new_canvas"), visible=False) as canvas_group:
        with gr.Row():
            size = {"minimum": 256, "maximum": 1024, "step": 64, "value": 512}
            made["canvas_width"] = gr.Slider(
                label=word("canvas_width"), elem_id=f"{name}_controlnet_canvas_width", **size
            )
            made["canvas_height"] = gr.Slider(
                label=word("canvas_height"), elem_id=f"{name}_controlnet_canvas_height", **size
            )
        with gr.Row():
            made["canvas_create"] = gr.Button(
                word("canvas_create"),
                elem_id=f"{name}_controlnet_canvas_create_button",
                size="sm",
            )
            made["canvas_cancel"] = gr.Button(
                word("cancel"), elem_id=f"{name}_controlnet_canvas_cancel_button", size="sm"
            )
    with gr.Row(elem_classes=["controlnet_image_controls"]):
        gr.HTML(
            word("invert_note"),
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
    made: dict[str, Component] = {}

    def box(value: str, suffix: str, *classes: str, visible: bool = True) -> None:
        made[value] = gr.Checkbox(
            label=word(value),
            value=value in FIELDS and FIELDS[value].initial,
            visible=visible,
            container=False,
            elem_id=f"{name}_controlnet_{suffix}_checkbox",
            elem_classes=list(classes),
        )

    with gr.Row(elem_classes=["controlnet_main_options"]):
        box("enabled", "enable", "cnet-unit-enabled")
        box("low_vram", "low_vram")
        box("pixel_perfect", "pixel_perfect")
        shown = not is_img2img
        box("allow_preview", "preprocessor_preview", "cnet-allow-preview", visible=shown)
        box("use_region", "mask_upload", "cnet-mask-upload")
    with gr.Row(
        visible=is_img2img,
        elem_classes=["controlnet_img2img_options"],
    ):
        box("independent", "same_img2img", "cnet-unit-same_img2img")
        made["inpaint_crop_input_image"] = gr.Checkbox(
            label=word("crop"),
            value=FIELDS["inpaint_crop_input_image"].initial,
            container=False,
            elem_id=f"{name}_controlnet_crop_input_image_checkbox",
            elem_classes=["cnet-crop-input-image"],
        )
    made["use_region"].do_not_save_to_config = True  # it shows what the region says
    # Files of saved widget defaults written by other versions hold False here, where the page
    # switched it on when it mattered.
    made["inpaint_crop_input_image"].do_not_save_to_config = True
    if not is_img2img:
        made["independent"].value = True
        made["independent"].do_not_save_to_config = True
    return made


def _choices(name: str, tab: str, runtime: Any) -> dict[str, Component]:
    def offer(label: str, names: list[str]) -> list[str]:
        """What there is, and the user's saved default even if it is gone.

        The host would silently take the first default for one that is not offered; like this it
        is chosen, and the line of notes says what is wrong with it.
        """
        saved = runtime.read_saved_default(f"{tab}/{label}/value")
        return names if not saved or saved in names else [*names, saved]

    made: dict[str, Component] = {}
    as_dropdown = runtime.option("controlnet_control_type_dropdown")
    picker = gr.Dropdown if as_dropdown else gr.Radio
    with gr.Row(elem_classes=["controlnet_control_type", "controlnet_row"]):
        made["control_type"] = picker(
            listing.control_types(),
            label=word("control_type"),
            value=listing.ALL,
            elem_id=f"{name}_controlnet_type_filter_radio",
            elem_classes=["controlnet_control_type_filter_group"],
        )
    with gr.Row(elem_classes=["controlnet_preprocessor_model", "controlnet_row"]):
        made["module"] = gr.Dropdown(
            offer(word("module"), listing.labels_for(listing.ALL)),
            label=word("module"),
            value=FIELDS["module"].initial,
            elem_id=f"{name}_controlnet_preprocessor_dropdown",
        )
        made["run"] = _tool(
            "\N{COLLISION SYMBOL}",
            f"{name}_controlnet_trigger_preprocessor",
            "cnet-run-preprocessor",
        )
        made["model"] = gr.Dropdown(
            offer(word("model"), listing.models_for(runtime.catalog, listing.ALL)),
            label=word("model"),
            value=FIELDS["model"].initial,
            elem_id=f"{name}_controlnet_model_dropdown",
        )
        made["refresh"] = _tool(
            "\N{ANTICLOCKWISE DOWNWARDS AND UPWARDS OPEN CIRCLE ARROWS}",
            f"{name}_controlnet_refresh_models",
        )
        made["show_all"] = gr.Checkbox(
            label=word("show_all"),
            value=False,
            container=False,
            elem_id=f"{name}_controlnet_show_all_checkbox",
            elem_classes=["cnet-show-all"],
        )
    made["show_all"].do_not_save_to_config = True  # its label counts
    return made | _union(name)


def _union(name: str) -> dict[str, Component]:
    """What a Union asks besides; shown while one is chosen."""
    with gr.Row(elem_classes=["controlnet_union", "controlnet_row"]):
        kind = gr.Dropdown(
            FIELDS["union_control_type"].choices,
            label=word("union_control_type"),
            value=FIELDS["union_control_type"].initial,
            info=word("union_control_type_note"),
            visible=False,
            elem_id=f"{name}_controlnet_union_control_type_dropdown",
        )
        apart = gr.Checkbox(
            label=word("union_apart"),
            value=FIELDS["union_apart"].initial,
            visible=False,
            elem_id=f"{name}_controlnet_union_apart_checkbox",
        )
    for widget in (kind, apart):
        widget.do_not_save_to_config = True  # it belongs to the model
    return {"union_control_type": kind, "union_apart": apart}


def _sliders(name: str) -> dict[str, Component]:
    def slider(
        field: str, suffix: str, step: float, ends: tuple[float, float] | None = None
    ) -> Component:
        minimum, maximum = ends or FIELDS[field].limits or (0, 1)
        return gr.Slider(
            minimum,
            maximum,
            FIELDS[field].initial,
            step=step,
            label=word(field),
            visible=ends is None,
            elem_id=f"{name}_controlnet_{suffix}_slider",
        )

    with gr.Row(elem_classes=["controlnet_weight_steps", "controlnet_row"]):
        weight = slider("weight", "control_weight", 0.05)
        start = slider("guidance_start", "start_control_step", 0.01)
        end = slider("guidance_end", "ending_control_step", 0.01)
    made = {"weight": weight, "guidance_start": start, "guidance_end": end}
    made["weight_curve"] = gr.Textbox(
        label=word("weight_curve"),
        placeholder=word("weight_curve_empty"),
        max_lines=1,
        elem_id=f"{name}_controlnet_weight_curve_textbox",
    )
    # Shown, with ends of their own, as far as the preprocessor has them.
    with gr.Row(elem_classes=["controlnet_sliders", "controlnet_row"]):
        ends = (64, 2048)
        made["processor_res"] = slider("processor_res", "preprocessor_resolution", 8, ends)
        for letter in "AB":
            field = f"threshold_{letter.lower()}"
            made[field] = slider(field, f"threshold_{letter}", 1, (64, 1024))
    return made


def _modes(name: str, is_img2img: bool) -> dict[str, Component]:
    def radio(field: str, visible: bool = True, info: str | None = None) -> Component:
        return gr.Radio(
            FIELDS[field].choices,
            label=word(field),
            info=info,
            value=FIELDS[field].initial,
            visible=visible,
            elem_id=f"{name}_controlnet_{field}_radio",
        )

    made: dict[str, Component] = {}
    with gr.Row(elem_classes=["controlnet_modes"]):
        made["control_mode"] = radio("control_mode")
        made["resize_mode"] = radio("resize_mode", visible=not is_img2img)
    # Shown by the page's script while the hires fix of the tab is on.
    made["hr_option"] = radio("hr_option", visible=not is_img2img)
    made["speed"] = radio("speed", visible=False, info=word("speed_note"))
    made["speed"].do_not_save_to_config = True  # it belongs to the model
    return made


def _layer_weights(name: str) -> dict[str, Component]:
    with gr.Accordion(word("layer_weights"), open=False, elem_classes=["cnet-layer-weights"]):
        with gr.Row():
            kind = gr.Dropdown(
                [str(kind.value) for kind in WeightType],
                label=word("weight_type"),
                value=str(WeightType.NORMAL.value),
                visible=False,
                info=word("weight_type_note"),
                elem_id=f"{name}_controlnet_weight_type_dropdown",
            )
            composition = gr.Slider(
                *(0.0, 2.0, 1.0),
                step=0.01,
                label=word("composition"),
                visible=False,
                elem_id=f"{name}_controlnet_composition_weight_slider",
            )
        weights = gr.Textbox(
            label=word("weights"),
            placeholder=word("weights_empty"),
            info=word("weights_note"),
            max_lines=1,
            elem_id=f"{name}_controlnet_advanced_weighting_textbox",
        )
        likeness = gr.Radio(
            FIELDS["pulid_mode"].choices,
            label=word("pulid_mode"),
            value=FIELDS["pulid_mode"].initial,
            visible=False,
            info=word("pulid_mode_note"),
            elem_id=f"{name}_controlnet_pulid_mode_radio",
        )
    both = [str(kind.value) for kind in BOTH]
    agreeing = [kind, composition, weights]
    agree = page_function("agreeOnWeights", name, both)
    in_page([kind.change, weights.change, composition.input], agree, agreeing, agreeing)
    for widget in (kind, composition, likeness):
        widget.do_not_save_to_config = True  # it belongs to the model
    beside = {"weight_type": kind, "composition": composition}
    return {"advanced_weighting": weights, "pulid_mode": likeness, **beside}


def _build_hidden(has_canvas: bool) -> dict[str, Component]:
    made: dict[str, Component] = {
        "restore": gr.Button(visible=False, elem_classes=["cnet-restore-sliders"]),
        "ask": gr.Button(visible=False, elem_classes=["cnet-ask"]),
        "offers": gr.HTML(visible=False, elem_classes=["cnet-offers"]),
        "answer": gr.JSON(visible=False),
        "told": gr.JSON(visible=False),
        "edition": gr.Number(0, visible=False),
        "target": gr.JSON(visible=False),
    }
    if has_canvas:  # pressed by the page's script
        made["refuse"] = gr.Button(visible=False, elem_classes=["cnet-refuse-picture"])
    for widget in made.values():
        widget.do_not_save_to_config = True
    return made
