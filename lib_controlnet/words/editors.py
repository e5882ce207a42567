"""What the editors of maps say; their scripts get it when one is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EDITORS: Final[Mapping[str, str]] = {
    # The frame.
    "editor_title": "{tool}: unit {unit}",
    "editor_title_all": "{tool}: {tab}",
    "editor_bar": "Tools",
    "editor_side": "Options of the tools",
    "editor_stage": "{tool}: the map. Wheel or + and - zoom, the space bar or two fingers move it",
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
        "This map has {width} x {height} pixels, the picture to be made {wanted}: \"Start anew\" "
        "takes that size."
    ),
    "editor_kept": "As it was left.",
    "editor_newer": "Another map was detected since: \"Start anew\" begins from it.",
    "editor_from_map": "Begun from the detected map.",
    "editor_working": "Working.",
    "editor_lost": "The WebUI did not answer; its console may tell why.",
    "editor_unknown": (
        "The editors' scripts and the WebUI are of different versions: reload the page."
    ),
    "editor_unkept": (
        "The browser does not keep what is made here ({error}): it is lost with the page."
    ),
}
