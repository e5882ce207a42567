"""What widgets are for, in a line each: notes beside them, and texts in empty boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NOTES: Final[Mapping[str, str]] = {
    # Texts in empty boxes.
    "input_directory_empty": "Leave empty to use img2img batch controlnet input directory",
    "output_directory_empty": (
        "Leave empty to use img2img batch output directory, or the usual folder"
    ),
    "batch_control_directory_empty": "Leave empty to use input directory",
    "weights_empty": "Empty: Control Weight for all. Else one number per layer: 1 0.9 0.8 ...",
    "weight_curve_empty": "Empty: even. Else factor@share of the steps: 0.2@0, 1@0.5 | hires pass",
    # Notes.
    "output_directory_note": (
        "Results get the names of the control pictures; files of that name are replaced."
    ),
    "invert_note": (
        "Set the preprocessor to [invert] If your image has white background and black lines."
    ),
    "union_control_type_note": "What the picture shows. Unknown: what the preprocessor makes.",
    "speed_note": (
        "For ControlNets: how often the network is evaluated; what it gave is reused between. "
        "Default: what the settings say."
    ),
    "weight_type_note": "Spreads Control Weight over the layers.",
    "weights_note": "From the shallowest layer to the deepest; replaces Control Weight.",
    "pulid_mode_note": "For PuLID: how far the face may change what the prompt says.",
    "duration_note": "Milliseconds per frame of the animations that are written",
    "mask_of_unit": (
        "The inpaint mask is that of the first enabled unit with an inpaint preprocessor."
    ),
    "mask_of_tab": (
        "The inpaint mask is that of the img2img tab or, if it has none, of the first enabled "
        "unit with an inpaint preprocessor."
    ),
    "no_canvas": (
        "Nothing can be drawn here, because this WebUI has no canvas for it: upload a picture or "
        "a mask that was drawn elsewhere."
    ),
}
