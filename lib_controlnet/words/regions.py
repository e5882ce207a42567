"""What the editor of regions says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REGIONS: Final[Mapping[str, str]] = {
    "regions_brush": "Brush",
    "regions_brush_note": (
        "Paint the chosen unit's region; with Shift straight on from the last stroke"
    ),
    "regions_erase": "Eraser",
    "regions_erase_note": "Take away from the chosen unit's region",
    "regions_fill": "Fill",
    "regions_fill_note": (
        "Give the chosen unit the area under the pointer, as far as the borders of all regions"
    ),
    "regions_rectangle": "Rectangle",
    "regions_rectangle_note": "Drag a rectangle for the chosen unit",
    "regions_polygon": "Polygon",
    "regions_polygon_note": (
        "Click the corners of an area; a click on the first or last one, or Enter, closes it,"
        " Escape leaves it"
    ),
    "regions_pick": "Pick",
    "regions_pick_note": (
        "Choose the unit whose region is under the pointer; Alt does so with every tool"
    ),
    "regions_width": "Width",
    "regions_close_shape": "Close the shape",
    "regions_divide": "Divide into",
    "regions_divide_none": "choose",
    "regions_columns2": "2 columns",
    "regions_columns3": "3 columns",
    "regions_rows2": "2 rows",
    "regions_rows3": "3 rows",
    "regions_grid": "grid of 2 x 2",
    "regions_grid6": "grid of 3 x 2",
    "regions_divided": "Divided among the units {units}, enabled ones first.",
    "regions_units": "Units",
    "regions_unit": "Unit {unit} {name}",
    "regions_nobody": "no region",
    "regions_feather": "Feather",
    "regions_feather_note": (
        "Soft border of the chosen unit's region in pixels of the picture, half of it on each"
        " side; shown paler"
    ),
    "regions_apart": "Without overlaps",
    "regions_apart_note": (
        "What is painted for a unit is taken from the others; else it is both's, shown in stripes"
    ),
    "regions_rest": "Take the rest",
    "regions_rest_note": "Give the chosen unit all that is in no region",
    "regions_empty": "Empty",
    "regions_empty_note": "Take away the chosen unit's whole region",
    "regions_import": "Open picture",
    "regions_import_note": "Read regions from a picture painted in a few colours",
    "regions_export": "Save picture",
    "regions_export_note": "Save all regions as one picture in colours, as requests take it",
    "regions_exported": "Saved. Colours by unit: {colours}.",
    "regions_shared": (
        "{share} % of the picture is in several regions and has the colour of the last of them."
    ),
    "regions_large": "The file has more than {limit} MB: make it smaller.",
    "regions_unread": "{name} is no picture that can be read here: use PNG, JPEG or WebP.",
    "regions_no_colours": "The picture has no areas of one colour.",
    "regions_offer": "Colours of the picture, and whose region each is:",
    "regions_take": "Take over",
    "regions_cancel": "Cancel",
    "regions_imported": "Regions were read for the units {units}.",
    "regions_use_note": "Give each painted unit its region as an own mask",
    "regions_nothing": "No region is painted: choose a unit and paint where it acts.",
    "regions_applied": "Units {units} act in their painted regions now.",
    "regions_left": "Nothing is painted for the units {units}: they stay as they were.",
    "regions_off": "Of the painted ones these are switched off: {units}.",
    "regions_hand": "To {name}",
    "regions_hand_note": "Give the same regions to {name}, in the form that it reads",
    "regions_handing": "{name} takes the regions.",
    "regions_given_rp": (
        "Regional Prompter has the regions of the units {units} in its Mask tab, in this "
        "order: one part of the prompt each, BREAK between them. What is in no region is the "
        "first one's, or the base prompt's. Switch it on there."
    ),
    "regions_given_couple": (
        "Forge Couple has the masks of the units {units}, in this order: one line of the "
        "prompt each. Switch it on there."
    ),
    "regions_given_tiled": (
        "Tiled Diffusion has boxes around the regions of the units {units}, in this order; it"
        " knows boxes only. Write their prompts and switch the control on there."
    ),
    "regions_not_handed": (
        "{name} did not take the regions ({error}) They were saved as files in the form that "
        "it reads."
    ),
    "regions_late": "It did not answer.",
    "regions_no_place": "Its place for masks is not in the page.",
    "regions_too_many": "It has room for {count} regions.",
}
