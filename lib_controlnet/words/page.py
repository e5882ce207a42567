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
    "preview_stopped": "The preview was stopped.",
    "stop": "Stop",
    "stop_why": "Stop this preview",
    "at_work": "{preprocessor} is at work: {seconds} s",
    "at_work_size": "{preprocessor} ({size}) is at work: {seconds} s",
    "stopping": "Stopping.",
    "ending": (
        "It ends with the picture that it is working on, or with what it waits for. Its map will "
        "not be shown."
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
    # Tools of a unit.
    "tools": "Tools of unit {unit}",
    "tools_mute": "Mute",
    "tools_mute_note": "Switch this unit off for a while; press again to have it back",
    "tools_solo": "Solo",
    "tools_solo_note": "Switch all other units off; press again to have them back",
    "tools_left": "Move left",
    "tools_right": "Move right",
    "tools_copy": "Copy to",
    "tools_clear": "Clear",
    "tools_clear_note": "Back to what a unit starts with, without pictures",
    "tools_undo": "Undo",
    "tools_muted": "muted",
    "tools_alone": "solo",
    "tools_aside": "off by solo",
    "tools_copied": "Unit {unit} was copied to unit {other}.",
    "tools_moved": "Units {unit} and {other} have changed places.",
    "tools_cleared": "The unit was cleared.",
    "tools_undone": "As it was before.",
    "tools_picture": "has a picture",
    "tools_map": "has a map",
    "edit_unanswered": (
        "The WebUI did not answer, so the unit's settings were not changed; its console may tell "
        "why."
    ),
    "edit_no_drawing": "What was drawn on a picture could not be put back in: draw it again.",
    "edit_no_maps": "What was made in the editors did not go along ({error}).",
    # Ways in which a picture comes into a unit.
    "webcam": "Take a picture with the camera",
    "webcam_view": "The camera's picture",
    "webcam_take": "Take picture",
    "webcam_cancel": "Cancel",
    "webcam_none": "No camera was found: connect one, or upload a picture.",
    "webcam_refused": (
        "The browser does not allow the camera: allow it for this page in the browser's address "
        "bar, or upload a picture."
    ),
    "webcam_unsafe": (
        "The browser gives the camera only to pages over HTTPS or on this computer (localhost): "
        "open the WebUI there, or upload a picture."
    ),
    "webcam_failed": (
        "The camera cannot be used ({error}): close other programs that use it, or upload a "
        "picture."
    ),
    "mirror": "Mirror the picture",
    "mirror_nothing": "There is no picture to mirror: put one into this unit first.",
    "use_map": "Use as input",
    "map_used": "The map is the unit's picture now, and the preprocessor is none.",
    "map_back": "Picture back",
    # The editors of maps.
    "editors": "Draw",
    "editors_note": "Draw or edit the map that this unit is steered by",
    "editor_pose": "Pose",
    "editor_segmentation": "Segmentation",
    "editor_scribble": "Scribble",
    "editor_regions": "Regions of all units",
    "editor_used": "What was drawn is this unit's control picture now.",
    "editor_failed": "The editor could not be opened: {error}",
    # Poses that come from outside.
    "pose_upload": "Upload JSON",
    "pose_upload_note": "Draw the pose of a JSON file; its map becomes this unit's picture",
    "pose_edit": "Edit pose",
    "pose_edit_note": "Move the joints of the detected pose, or make one",
    "pose_outside": "Other editor",
    "pose_outside_note": "Edit the pose in the editor that another extension brings",
    "pose_put": "The pose was drawn: its map is this unit's control picture now.",
    "send": "Send to ControlNet",
    "send_map": "Send to",
    "send_unit": "{tab}: unit {unit}",
    "send_done": "The picture is in unit {unit} of {tab}.",
    "send_nothing": ("There is no picture to send: generate one, or choose one in the gallery."),
    "send_unread": "The picture cannot be read ({error}); nothing was sent.",
    "drop_went": "{name} to unit {unit}",
    "drop_no_room": "no unit without a picture was left for {names}",
    "drop_no_picture": "no picture: {names}",
    # Pictures over one another.
    "compare": "Compare",
    "compare_note": "Lay picture, map and last result over one another",
    "compare_view": "Comparison of pictures",
    "compare_left": "Left",
    "compare_right": "Right",
    "compare_line": "Line between the pictures, percent from the left",
    "compare_picture": "Picture",
    "compare_map": "Map",
    "compare_result": "Last result",
    "compare_close": "Close",
    "compare_few": (
        "There is nothing to compare yet: a picture, a map (run the preprocessor) or a result; two "
        "of them are needed."
    ),
    # The row under the header.
    "add_control": "Add a control",
    "add_why": "{kind}: in the next free unit, which is switched on",
    "drop_pictures": "Drop pictures here: one for each free unit.",
    "all_in_use": "All units are in use: choose the control type in one of them.",
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
    "bar_curve": "along a curve",
    "bar_curve_unread": "with a curve that cannot be read",
    "timeline_help": (
        "Drag the ends, the middle and the points of a curve, or move them with the arrow keys. A "
        "double click, a tap on the line or Enter adds a point; Delete, or dragging it out, takes "
        "it away."
    ),
    "hand_unit": "Unit {number}, {name}",
    "hand_pass": "Unit {number}, {name}, {pass}",
    "hand_start": "{unit}: start",
    "hand_end": "{unit}: end",
    "hand_window": "{unit}: start and end together",
    "hand_point": "{unit}: point {point} of {count}",
    "hand_at": "{share} % of the steps",
    "hand_between": "{start} % to {end} % of the steps",
    "hand_factor": "{factor} at {share} % of the steps",
    "curve_of": "{unit}: curve of the strength",
    "curve_none": "no curve",
    "curve_own": "own curve",
    "curve_same": "as in the first pass",
    "curve_linear": "linear",
    "curve_ease_in": "ease in",
    "curve_ease_out": "ease out",
    "curve_pulse": "pulse",
    "curve_full": "A curve has at most {count} points: take one away first.",
    "curve_unread": (
        "{piece} cannot be read: write a factor from 0 to 2, @, and a share of the steps from 0 to "
        "1, such as 0.2@0.1, 0.8@0.5; or linear, ease in, ease out, pulse."
    ),
    # Weights per layer.
    "layer_input": "Input layer {number}",
    "layer_middle": "Middle layer",
    "layer_output": "Output layer {number}",
    "layers_input": "Input",
    "layers_middle": "Middle",
    "layers_output": "Output",
    "layers_flat": "All as Control Weight",
    "layers_multiply": "Multiply all",
    "layers_no_model": "No model is chosen, so there are no layers to show.",
    "layers_none": (
        "No layers of {model} are known: it has one strength for all, or no checkpoint is loaded."
    ),
    "layers_count": "The text has {given} numbers, and the model {count} layers.",
    "layers_first": (
        "The text has {given} numbers, as SD 1 has layers; the model takes the first {count}."
    ),
    "layers_unread": (
        "{text} means nothing to this model: write one number per layer, or choose a weight type."
    ),
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
    # Downloads.
    "download_open": "Download…",
    "download_note": "Published control models for this control type and checkpoint",
    "download_title": "Download control models",
    "download_close": "Close",
    "download_search": "Search by name",
    "download_all_types": "All control types",
    "download_all_bases": "Other base models too",
    "download_none": "No published model is known for this choice.",
    "download_count": "Published models: {count}.",
    "download_count_type": "Published models for {kind}: {count}.",
    "download_base": "Your checkpoint is {base}.",
    "download_present": "In your folder",
    "download_start": "Download",
    "download_start_size": "Download {size}",
    "download_stop": "Stop",
    "download_ends": "Stopping…",
    "download_retry": "Try again",
    "download_resume": "Continue",
    "download_waits": "waits for its turn",
    "download_stopped": "stopped",
    "download_connects": "connecting",
    "download_lost": "The WebUI does not answer.",
    "download_checked": "SHA-256 is checked",
    "download_unchecked": "no checksum is known",
    "download_licence": "licence: {licence}",
    "download_no_licence": "licence: see its page",
    "download_for_base": "for {base}",
    "download_other": "other uses",
    "download_done": "{name} is complete.",
    "download_failed": "{name} was not downloaded.",
    "download_far": "{done} of {size}",
    "download_far_rate": "{done} of {size}, {rate} a second",
    # Presets.
    "presets": "Presets",
    "presets_of_unit": "Save this unit, or load a preset into it",
    "presets_of_all": "Save all units, or load a preset of them",
    "presets_title": "Presets of units",
    "presets_close": "Close",
    "presets_search": "Search presets",
    "presets_target": "Units that are saved or loaded",
    "presets_all": "All units",
    "presets_load": "Load",
    "presets_over": "Save over",
    "presets_rename": "Rename",
    "presets_remove": "Delete",
    "presets_name": "Name of the preset",
    "presets_save": "Save",
    "presets_pictures": "With pictures",
    "presets_import": "Import files",
    "presets_import_old": "Import {count} of an older ControlNet",
    "presets_sure_remove": "Really delete it?",
    "presets_sure_over": "Really save over it?",
    "presets_yes": "Yes",
    "presets_no": "No",
    "presets_none": "There is no preset yet: type a name below and save one.",
    "presets_none_found": ("No preset has these words in its name, preprocessors or models."),
    "presets_working": "Working...",
    "presets_lost": "The WebUI did not answer. Its console may tell why.",
    "presets_saved": "Saved: {name}.",
    "presets_loaded": "Loaded: {name}.",
    "presets_removed": "Deleted: {name}.",
    "presets_renamed": "Renamed to {name}.",
    "presets_imported": "Imported: {names}.",
    "presets_imported_none": "Nothing was imported.",
    "presets_too_much": "The files have more than {limit} MB together: choose fewer.",
    "presets_picture_one": "{count} picture",
    "presets_picture_count": "{count} pictures",
    "presets_off": "{unit} (off)",
    "presets_unit": "Unit {number}",
}
