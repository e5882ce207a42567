"""What widgets are called.

The labels of widgets whose defaults users save are keys of their `ui-config.json`, so they never
change. Choices of radios and lists, and the sliders of preprocessors, have their names where they
are declared, because requests and parameters hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LABELS: Final[Mapping[str, str]] = {
    # The panel and its tabs.
    "unit_tab": "ControlNet Unit {number}",
    "batch_options": "Batch Options",
    "batch_option": "Batch Option",
    "style_align": "[StyleAlign] Align image style in the batch.",
    "not_built": "{title} could not be built",
    # Pictures.
    "tab_single": "Single Image",
    "tab_batch": "Batch",
    "tab_several": "Multi-Inputs",
    "image": "Image",
    "images": "Images",
    "preview": "Preprocessor Preview",
    "close": "Close",
    "input_directory": "Input Directory",
    "output_directory": "Output Directory",
    "upload_images": "Upload Images",
    "clear_images": "Clear Images",
    "input_mode": "Input Mode",
    "merged_images": "Merged Images",
    "batch_control_directory": "Controlnet input directory",
    "loopback": (
        "[Batch Loopback] Automatically send generated images to this ControlNet unit in "
        "batch generation"
    ),
    "new_canvas": "Open New Canvas",
    "canvas_width": "New Canvas Width",
    "canvas_height": "New Canvas Height",
    "canvas_create": "Create New Canvas",
    "cancel": "Cancel",
    # Switches.
    "enabled": "Enable",
    "low_vram": "Low VRAM",
    "pixel_perfect": "Pixel Perfect",
    "allow_preview": "Allow Preview",
    "use_region": "Region: own mask",
    "independent": "Upload independent control image",
    "crop": "Crop input image based on A1111 mask",
    # What steers.
    "control_type": "Control Type",
    "module": "Preprocessor",
    "model": "Model",
    "show_all": "Show all",
    "show_all_more": "Show all ({count} more)",
    "union_control_type": "Union Control Type",
    "union_apart": "Evaluate apart from other units",
    # How much, when, where.
    "weight": "Control Weight",
    "guidance_start": "Starting Control Step",
    "guidance_end": "Ending Control Step",
    "weight_curve": "Strength over the steps",
    "processor_res": "Preprocessor resolution",
    "threshold_a": "Threshold A",
    "threshold_b": "Threshold B",
    "control_mode": "Control Mode",
    "resize_mode": "Resize Mode",
    "hr_option": "Hires-Fix Option",
    "speed": "Speed",
    "region": "Region",
    "region_feather": "Feather (px)",
    "region_canvas": "Paint the region",
    "region_file": "Region mask",
    "layer_weights": "Weights per layer",
    "weight_type": "Weight Type",
    "composition": "Composition Weight",
    "weights": "Weights",
    "pulid_mode": "PuLID Mode",
    # The script "controlnet m2m".
    "duration": "Duration",
    "movie_input": "Movie Input",
    "movie": "Movie",
    "other_movie": "GIF or another kind of movie",
    "image_input": "Image Input",
    "save_preprocessed": "Save preprocessed",
}
