"""What the editor of segmentation maps says; the names of classes are data, in English."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

SEGMENTATION: Final[Mapping[str, str]] = {
    # Tools.
    "seg_brush": "Brush",
    "seg_brush_note": (
        "Paint areas of the chosen class; with Shift straight on from the last stroke"
    ),
    "seg_erase": "Eraser",
    "seg_erase_note": "Paint with what the eraser leaves",
    "seg_fill": "Fill",
    "seg_fill_note": "Give a whole area the chosen class",
    "seg_rectangle": "Rectangle",
    "seg_rectangle_note": "Drag a rectangle of the chosen class",
    "seg_polygon": "Polygon",
    "seg_polygon_note": (
        "Click the corners of an area; a click on the first or last one, or Enter, closes it, "
        "Escape leaves it"
    ),
    "seg_pick": "Pick",
    "seg_pick_note": "Take the class under the pointer; Alt does so with every tool",
    "seg_width": "Width",
    "seg_width_note": (
        "Pixels of the map that brush and eraser are wide; the keys [ and ] change it"
    ),
    "seg_reach": "Fills",
    "seg_reach_area": "the area",
    "seg_reach_class": "all of its class",
    "seg_leaves": "Eraser leaves",
    "seg_close_shape": "Close the shape",
    "seg_close_shape_note": "Fill the polygon that has been begun",
    # Classes.
    "seg_palette": "Palette",
    "seg_palette_ade20k": "ADE20K (150 classes)",
    "seg_palette_coco": "COCO (133 classes)",
    "seg_palette_anime_face": "Drawn faces (7 classes)",
    "seg_hand": "Chosen class:",
    "seg_under": "Pointer on:",
    "seg_unlabeled": "unlabeled (black)",
    "seg_search": "Search classes",
    "seg_search_note": "Search by name (/). The names are those of the data sets, in English.",
    "seg_recent": "Recently used",
    "seg_classes": "Classes",
    "seg_first": "Most used",
    "seg_first_ade20k": "The classes that most pixels of ADE20K's pictures have, in this order",
    "seg_first_coco": (
        "The classes that mean what the most frequent ones of ADE20K do; COCO's own order tells "
        "nothing of how often they are met"
    ),
    "seg_others": "Other classes",
    "seg_none": "No class has a word that begins so.",
    "seg_shared": "In this palette one colour stands for {classes}: no map can tell them apart.",
    "seg_chosen": "Chosen class: {name}",
    "seg_nothing_picked": "There is no class here.",
    # Where the map comes from.
    "seg_opacity": "Map opacity",
    "seg_empty": "Fill all",
    "seg_empty_note": "Give the whole map what the eraser leaves: unlabeled, or a background class",
    "seg_from_map": "From the map",
    "seg_from_map_note": "Read the colours of the detected map as classes again",
    "seg_from_picture": "From the picture",
    "seg_from_picture_note": (
        "Read the colours of the unit's picture as classes, stretched to the map's size, where it "
        "is a segmentation map itself"
    ),
    "seg_read": "Read as {palette}.",
    "seg_exact": "Every pixel has a colour of this palette.",
    "seg_moved": (
        "{count} pixels had an in-between colour (resized or compressed) and have the nearest "
        "class now."
    ),
    "seg_lost": "{count} pixels fit no class and are unlabeled.",
    "seg_map_unfit": "The detected map has no palette's colours, so this begins empty.",
    "seg_picture_unfit": "The picture has no palette's colours, so it is no segmentation map.",
    "seg_converted": "{from} became {to}: every area has a class of one meaning there.",
    "seg_converted_lost": (
        "{from} became {to}: {count} pixels are unlabeled now, as no class means the same there. "
        "Undo brings them back."
    ),
}
