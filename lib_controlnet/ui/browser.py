"""Small JavaScript functions that run in the page as part of an event, without the server.

gradio calls them with the values of the event's inputs followed by those of its outputs, and
writes what they return to the outputs (an object with `__type__: "update"` changes properties).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

PREVIEW_DEPENDS_ON: Final = (
    "image",
    "module",
    "pixel_perfect",
    "processor_res",
    "threshold_a",
    "threshold_b",
    "independent",
)
"""Fields of a unit whose change makes a shown preview out of date."""

TICK = "() => true"
CLEAR = "() => null"
OPEN = '() => ({ __type__: "update", visible: true })'
CLOSE = '() => ({ __type__: "update", visible: false })'

SHOW_IF = '(flag) => ({ __type__: "update", visible: Boolean(flag) })'
"""One checkbox -> one block shown or hidden."""

PREVIEW_TOGGLE = """(flag, preview) => [
  { __type__: "update", visible: Boolean(flag) },
  flag ? preview : null,
]"""
"""Allow Preview -> the preview's group, and the preview, which is cleared when switched off."""

CLOSE_PREVIEW = """() => [
  null,
  { __type__: "update", visible: false },
  false,
  { __type__: "update", visible: false },
]"""
"""Nothing -> preview, its group, Allow Preview and the status line, all put away."""

NEW_CANVAS = """(width, height) => {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  return [canvas.toDataURL("image/png"), { __type__: "update", visible: false }];
}"""
"""Two sizes -> a white picture, and the canvas group closed."""


def collect(names: Sequence[str], while_dragging: bool = True) -> str:
    """Widget values -> one object of them, an outdated preview cleared, the status line closed.

    A picture with a drawing layer is an object, and the page reports a change of every object
    whenever anything is written anywhere. So a call that finds nothing new must write nothing:
    it never settles, which gradio takes as no answer.

    Args:
        names: names of the values, in the order of the inputs; the outputs follow (the object,
            the preview, the status line).
        while_dragging: also collect while the mouse holds a slider. Each write makes gradio
            compare the whole page, so for sliders the values are taken when it lets go.
    """
    skip = "false" if while_dragging else 'document.querySelector("input[type=range]:active")'
    return f"""(...values) => {{
  const names = {json.dumps(list(names))};
  const [old, preview] = values.slice(names.length);
  const same = (a, b) =>
    a === b || (a && b && typeof a === "object" && a.image === b.image && a.mask === b.mask);
  const changed = names.filter((name, index) => !old || !same(old[name], values[index]));
  if (!changed.length || {skip}) return new Promise(() => {{}});
  const stale = {json.dumps(list(PREVIEW_DEPENDS_ON))}.some((name) => changed.includes(name));
  return [
    Object.fromEntries(names.map((name, index) => [name, values[index]])),
    stale ? null : preview,
    {{ __type__: "update", visible: false }},
  ];
}}"""


def shown_together(count: int) -> str:
    """One checkbox -> `count` blocks shown or hidden."""
    update = '{ __type__: "update", visible: Boolean(flag) }'
    return f"(flag) => [{', '.join([update] * count)}]"


def with_picture_size(tab: str) -> str:
    """(unit, width, height) with the width and height of the picture that the tab would make."""
    return f"""(unit, width, height) => {{
  const read = (side) => {{
    const box = document.querySelector("#{tab}_" + side + " input[type=number]");
    return box ? Number(box.value) : 512;
  }};
  return [unit, read("width"), read("height")];
}}"""


def send_dimensions(tab: str) -> str:
    """Write the size of the unit's picture, rounded to multiples of 8, into the tab's sliders."""
    return f"""async (picture) => {{
  const source = picture && (picture.image || picture);
  if (!source) return [];
  const image = new Image();
  image.src = source;
  await image.decode();
  const round = (side) => Math.max(8, side % 8 <= 4 ? side - (side % 8) : side + 8 - (side % 8));
  const write = (name, side) => {{
    for (const box of document.querySelectorAll("#{tab}_" + name + " input")) {{
      box.value = round(side);
      box.dispatchEvent(new Event("input", {{ bubbles: true }}));
    }}
  }};
  write("width", image.naturalWidth);
  write("height", image.naturalHeight);
  return [];
}}"""
