"""Palettes of segmentation maps by name, for the panel's editor and for programs."""

from __future__ import annotations

from typing import Any, Final

from lib_controlnet.detect import listing
from lib_controlnet.gate import own_module

palettes: Final = own_module("palettes")


def describe_palettes() -> dict[str, Any]:
    """What the route `/controlnet/palettes` and the editor of segmentation maps show.

    Returns:
        `palettes`: by name `classes`, a list of [name, "#rrggbb"] in the order of the class
        numbers; `most_used`, names of those to offer first; `preprocessors`, whose maps have
        these colours. `unlabeled`: the colour of what is no class. `alike`: for each pair of
        classes of one meaning the names of both, by palette.
    """
    return {
        "palettes": {name: _describe(found) for name, found in palettes.PALETTES.items()},
        "unlabeled": _hex(palettes.UNLABELED),
        "alike": [{"ade20k": ours, "coco": theirs} for ours, theirs in palettes.pair_names()],
    }


def _describe(palette: Any) -> dict[str, Any]:
    colours = palette.colours.tolist()
    return {
        "classes": [[name, _hex(row)] for name, row in zip(palette.names, colours, strict=True)],
        "most_used": [palette.names[number] for number in palette.first],
        "preprocessors": [one.name for one in listing.detectors() if one.palette is palette],
    }


def _hex(colour: Any) -> str:
    return "#" + bytes(colour).hex()
