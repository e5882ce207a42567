"""The small vocabulary of the demo models: in their tokenizer every word of it is one token."""

from __future__ import annotations

from typing import Final

COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "ring")
TEXTURES: Final = ("solid", "striped", "dotted")
OTHER_WORDS: Final = (
    "a", "an", "the", "of", "on", "in", "with", "and", "behind", "before", "front", "background",
    "gradient", "from", "to", "stripes", "checker", "plain", "drawing", "cartoon", "picture",
    "ink", "mosaic", "pattern", "lines", "big", "small", "one", "two", "three", "colour",
    "color", "colours", "colors", "black", "shapes", "scene", "image",
)  # fmt: skip
WORDS: Final = (*COLOURS, *SHAPES, *TEXTURES, *OTHER_WORDS)
