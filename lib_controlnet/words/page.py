"""What the page's scripts say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SCRIPTS: Final[Mapping[str, str]] = {
    # Buttons of one sign.
    "run": "Run preprocessor",
    "no_image": "No ControlNet input image available",
    # The panel's header.
    "badge_one": "{count} unit",
    "badge": "{count} units",
    "tab_on": "enabled",
    # Names of what is not named by itself, for screen readers.
    "name_units": "ControlNet units",
    "name_inputs": "Where the pictures come from",
    "name_upload": "{label}: choose a file",
    "name_canvas": "{label}: draw with the mouse or a pen",
    "name_number": "{label}: number",
    "name_slider": "{label}: slider",
    # Pixel Perfect.
    "pixel_perfect_size": "{size} px",
    "pixel_perfect_why": "With this picture the preprocessor works at {size} pixels.",
    # What came of an event.
    "preview_lost": "The preview failed: the WebUI did not answer. Its console may tell why.",
    "preview_late": (
        "The settings were changed while the preview was made, so it is not shown: run it again."
    ),
    "no_picture": (
        "This file is no picture that can be shown here, so it was not taken: use PNG, JPEG or "
        "WebP."
    ),
    "drawn_instead": (
        "What is drawn is the control picture now, white on black; the picture below it is not "
        "used. Take the strokes back to use the picture again."
    ),
    "drawn_ignored": (
        "What is drawn is not used, because of the setting to ignore masks on ControlNet input "
        "images."
    ),
    "region_kept": (
        "The picture has other proportions or another size now. The region that was drawn is kept "
        "as the mask beside it; remove that to start anew."
    ),
    # The timeline.
    "first_pass": "First pass",
    "hires_pass": "Hires pass",
    "sampling_steps": "Sampling steps",
    "timeline": "Timeline.",
    "timeline_empty": "Timeline: no unit is enabled.",
    "no_preprocessor": "no preprocessor",
    "per_layer": "layers",
    "never_active": "never active",
    "bar": "Unit {number}, {name}: {what}.",
    "bar_when": "from {start} % to {end} % of the steps",
    "bar_first": "first pass",
    "bar_hires": "hires pass",
    "bar_both": "first pass and hires pass",
    "bar_weight": "with weight {weight}",
    "bar_layers": "with weights per layer",
    # The report under the result.
    "report_one": "ControlNet: {count} unit ran",
    "report": "ControlNet: {count} units ran",
    "report_idle": "{report}, {count} did nothing",
    "report_unit": "Unit {number}",
    "report_model": "{family} for {base}",
    "report_steps": "{steps} of {of} steps at {size}",
    "report_reused": "its network evaluated in {count}",
    "report_time": "{ms} ms each",
    "report_time_device": "{ms} ms each on the device",
    "report_first": "first pass: {what}",
    "report_hires": "hires pass: {what}",
    "report_skipped": "did nothing: {reason}",
}
