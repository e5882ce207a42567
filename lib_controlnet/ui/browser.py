"""Small JavaScript functions that run in the page as part of an event, without the server.

gradio calls them with the values of the event's inputs followed by those of its outputs, and
writes what they return to the outputs (an object with `__type__: "update"` changes properties).
"""

from __future__ import annotations

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

FORGET_PREVIEW = '() => [null, { __type__: "update", visible: false }]'
"""Nothing -> an empty preview and no status line: what they showed is out of date."""

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
