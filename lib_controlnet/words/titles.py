"""A line on every control that has none beside it, and on every control type.

The page's script puts them on the widgets as their titles, by the ends of their element ids: a
name is `title_` and what follows the unit's id and `_controlnet_`. Those of control types are
`type_` and the type in small letters, without other signs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TITLES: Final[Mapping[str, str]] = {
    # Buttons of one sign.
    "title_open_new_canvas_button": "Open new canvas",
    "title_send_dimen_button": "Send dimensions to stable diffusion",
    "title_refresh_models": "Refresh",
    # Switches.
    "title_enable_checkbox": "The unit takes part in what is generated.",
    "title_low_vram_checkbox": (
        "Keeps the control model in main memory and brings it to the graphics card layer by layer: "
        "slower, but it needs less of the card's memory."
    ),
    "title_pixel_perfect_checkbox": (
        "Chooses the preprocessor's resolution so that the map has the detail of what is generated."
    ),
    "title_preprocessor_preview_checkbox": "Shows the map beside the picture once it is made.",
    "title_mask_upload_checkbox": (
        "The unit acts only where a mask is painted or uploaded. Elsewhere this is called "
        "Effective Region Mask."
    ),
    "title_same_img2img_checkbox": (
        "The unit gets a picture of its own, in place of the one of the img2img tab."
    ),
    "title_crop_input_image_checkbox": (
        "Cuts the unit's picture to the part that \"Only masked\" repaints, as the tab's own is."
    ),
    # What steers.
    "title_type_filter_radio": (
        "What is taken over from the picture: it chooses preprocessor and model, and lists only "
        "those that belong to it."
    ),
    "title_preprocessor_dropdown": (
        'Turns the picture into the map that the model follows; "none" takes the picture as a '
        "finished map."
    ),
    "title_model_dropdown": (
        "The control model that steers the picture; it has to fit the map and the checkpoint."
    ),
    "title_show_all_checkbox": "Lists models that do not fit as well, each with its reason.",
    "title_union_apart_checkbox": (
        "Several units of one Union model are evaluated together, unless this says otherwise."
    ),
    # How much, when, where.
    "title_control_weight_slider": (
        "How strongly the unit steers: 0 not at all, 1 as it was trained, above 1 more firmly."
    ),
    "title_start_control_step_slider": (
        "The share of the steps after which the unit begins to steer. Early steps make the "
        "composition."
    ),
    "title_ending_control_step_slider": (
        "The share of the steps after which the unit stops. Late steps make the details."
    ),
    "title_weight_curve_textbox": (
        "Factors of the unit's strength, each at a share of the steps, and straight lines between: "
        "0.2@0.1, 0.8@0.5. Behind | those of the hires pass. Also linear, ease in, ease out, "
        "pulse. The timeline draws it, and takes points that are dragged."
    ),
    "title_preprocessor_resolution_slider": (
        "Short side of the picture that the preprocessor works on; more shows finer details."
    ),
    "title_threshold_A_slider": "A setting of the chosen preprocessor.",
    "title_threshold_B_slider": "A setting of the chosen preprocessor.",
    "title_control_mode_radio": ("Who wins where prompt and control contradict each other."),
    "title_resize_mode_radio": (
        "How a picture of other proportions is brought to those of what is generated: stretched, "
        "cut, or with its edges filled."
    ),
    "title_hr_option_radio": "In which pass of the hires fix the unit steers.",
    "title_region_radio": (
        "Where in the picture the unit acts: everywhere, in a mask of its own, or by the inpaint "
        "mask."
    ),
    "title_region_feather_slider": "How softly the region ends, in pixels.",
    "title_composition_weight_slider": (
        "Control Weight of the layers that make the composition, relative to the others."
    ),
    "title_canvas_width": "Width of the new canvas, in pixels.",
    "title_canvas_height": "Height of the new canvas, in pixels.",
    "title_canvas_create_button": "Puts an empty picture to draw on in place of the present one.",
    "title_canvas_cancel_button": "Closes this without a new canvas.",
    "title_batch_option_radio": (
        "Whether every unit acts on every picture of a batch, or the first unit on the first "
        "picture, the second on the second, and so on."
    ),
    "title_style_align_checkbox": (
        "Pictures of one batch share their attention, so that they come out in one style."
    ),
    "title_automatically_send_generated_images_checkbox": (
        "Each result becomes the unit's picture for the next one of the batch."
    ),
    # Control types.
    "type_all": "All preprocessors and models, whatever they are for.",
    "type_canny": "Sharp edges: keeps outlines and details exactly.",
    "type_depth": "What is near and what is far: keeps the arrangement in space, not the surfaces.",
    "type_ipadapter": "The picture as a prompt: style, subject or face, not its arrangement.",
    "type_inpaint": "Fills the masked part so that it fits what lies around it.",
    "type_instantid": "The face of one person, and where it looks, from a single photograph.",
    "type_instructp2p": 'Changes the picture as the prompt says: "make it winter".',
    "type_lineart": "Drawn lines: colours line drawings, or redraws pictures along fine lines.",
    "type_mlsd": "Straight lines alone: rooms, buildings, streets.",
    "type_normalmap": "The directions of surfaces: keeps relief and light more finely than depth.",
    "type_openpose": "The pose of people: body, hands and face, without their looks.",
    "type_recolor": "Colours a picture anew; what is light and dark stays.",
    "type_reference": "Leans on the look of a picture, without a model.",
    "type_revision": "The picture as an idea in place of words, for SDXL.",
    "type_scribble": "Rough strokes: turns a quick sketch into a picture.",
    "type_segmentation": "Areas by kind, such as sky, house, person: keeps the layout.",
    "type_shuffle": "Takes colours and mood of a picture, shuffled, without its contents.",
    "type_softedge": "Soft edges: keeps contours and leaves room for new details.",
    "type_sparsectrl": "Single key frames steer an animation.",
    "type_t2iadapter": "Small and quick adapters for edges, depth, poses, colour and style.",
    "type_tile": "Keeps the picture and adds details: for upscaling and repairs.",
}
