"""What the editors of maps say; their scripts get it when one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lib_controlnet.words.pose import POSE
from lib_controlnet.words.regions import REGIONS
from lib_controlnet.words.segmentation import SEGMENTATION

EDITORS: Final[Mapping[str, str]] = {
    **POSE,
    # The frame.
    "editor_title": "{tool}: unit {unit}",
    "editor_title_all": "{tool}: {tab}",
    "editor_bar": "Tools",
    "editor_side": "Options of the tools",
    "editor_stage": "{tool}: the map. Wheel or + and - zoom, the space bar or two fingers move it",
    "editor_stage_keys": "Arrow keys move a cursor, by ten with Shift; Enter presses and lets go.",
    "editor_pressed": (
        "Pressed at {x}, {y}: arrow keys go on, Enter lets go, Escape takes it back."
    ),
    "editor_let_go": "Let go at {x}, {y}.",
    "editor_undo": "Undo (Ctrl+Z)",
    "editor_redo": "Redo (Ctrl+Y)",
    "editor_closer": "Zoom in (+)",
    "editor_farther": "Zoom out (-)",
    "editor_fit": "Show all of it (0)",
    "editor_photograph": "Photograph",
    "editor_use": "Use",
    "editor_use_note": "Make this map the unit's control picture, as it is",
    "editor_close": "Close",
    "editor_close_note": "Close the editor; what was made stays in it",
    "editor_anew": "Start anew",
    "editor_anew_note": "Begin again, from the unit's map or photograph as they are now",
    "editor_size": "{width} x {height} pixels",
    "editor_other_size": (
        'This map has {width} x {height} pixels, the picture to be made {wanted}: "Start anew" '
        "takes that size."
    ),
    "editor_kept": "As it was left.",
    "editor_newer": 'Another map was detected since: "Start anew" begins from it.',
    "editor_former": (
        "A preset was loaded into the unit, so this begins anew. Undo brings back what was made "
        "before."
    ),
    "editor_from_map": "Begun from the detected map.",
    "editor_working": "Working.",
    "editor_lost": "The WebUI did not answer; its console may tell why.",
    "editor_unknown": (
        "The editors' scripts and the WebUI are of different versions: reload the page."
    ),
    "editor_unkept": (
        "The browser does not keep what is made here ({error}): it is lost with the page."
    ),
    # Scribble.
    "scribble_brush": "Brush",
    "scribble_brush_note": "Draw freely; with Shift straight from where you ended (B)",
    "scribble_eraser": "Eraser",
    "scribble_eraser_note": "Take away what is drawn on this layer (E)",
    "scribble_line": "Line",
    "scribble_line_note": "Draw straight lines; with Shift in steps of 15 degrees (L)",
    "scribble_fill": "Fill",
    "scribble_fill_note": "Fill the area under the pointer, as far as lines of any layer (G)",
    "scribble_width": "Line width",
    "scribble_width_note": "Width of brush, eraser and lines in pixels of the map ([ and ])",
    "scribble_ink": "Ink",
    "scribble_ink_note": "White are the lines; black covers lines of layers below (X)",
    "scribble_white": "White",
    "scribble_black": "Black",
    "scribble_pressure": "Pen pressure",
    "scribble_pressure_note": "A pen that is pressed harder draws wider",
    "scribble_layers": "Layers",
    "scribble_layer": "Layer {number}",
    "scribble_see": "Show {name}, and have it in the map (V for the chosen one)",
    "scribble_add": "Add layer",
    "scribble_add_note": "Add an empty layer above the chosen one (N)",
    "scribble_rename": "Rename layer",
    "scribble_rename_note": "Give the chosen layer a name (F2, or press its name twice)",
    "scribble_name": "Name of {name}",
    "scribble_up": "Layer up",
    "scribble_up_note": "Move the chosen layer up",
    "scribble_down": "Layer down",
    "scribble_down_note": "Move the chosen layer down",
    "scribble_merge": "Merge down",
    "scribble_merge_note": "Lay the chosen layer upon the one below, as one layer",
    "scribble_invert": "Invert layer",
    "scribble_invert_note": "Make white of black and black of white on the chosen layer",
    "scribble_remove": "Delete layer",
    "scribble_remove_note": "Delete the chosen layer",
    "scribble_opacity": "Shown at",
    "scribble_opacity_note": "How much of the chosen layer is seen here; the map has all of it",
    "scribble_from_map": "Detected map",
    "scribble_from_map_note": "Add the detected map that the unit shows as a layer",
    "scribble_from_file": "Picture file",
    "scribble_from_file_note": "Add a picture of lines from a file as a layer",
    "scribble_map": "Detected",
    "scribble_inverted": "{name} was black on white and is inverted, as maps are white on black.",
    "scribble_shown": "{name} was hidden; as it is drawn on, it is shown.",
    "scribble_unread": "{name} is no picture that can be read here: use PNG, JPEG or WebP.",
    "scribble_full": "There are {count} layers, and more are not possible: merge or delete one.",
    "scribble_empty": "No visible layer has lines: draw some, or show a layer that has.",
    **SEGMENTATION,
    **REGIONS,
}
