"""Small JavaScript functions that run in the page as part of an event, without the server.

gradio calls them with the values of the event's inputs followed by those of its outputs, and
writes what they return to the outputs (an object with `__type__: "update"` changes properties).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from lib_controlnet.enums import ActingRegion

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

BACKDROP_SIDE: Final = 768
"""Longest side of the picture that a region is drawn on, pixels; it travels with Generate."""

TICK = "() => true"
CLEAR = "() => null"
OPEN = '() => ({ __type__: "update", visible: true })'
CLOSE = '() => ({ __type__: "update", visible: false })'

REGION_VIEW: Final = f"""(region) => [
  {{ __type__: "update", visible: region === {json.dumps(ActingRegion.OWN.value)} }},
  {{ __type__: "update", visible: region !== {json.dumps(ActingRegion.WHOLE.value)} }},
  {{ __type__: "update", visible: {json.dumps([ActingRegion.INSIDE, ActingRegion.OUTSIDE])}
    .includes(region) }},
  region === {json.dumps(ActingRegion.OWN.value)},
]"""
"""Region -> group of the own mask, feather, hint about the inpaint mask, the checkbox."""

REGION_FROM_BOX: Final = f"""(flag, region) => {{
  const own = {json.dumps(ActingRegion.OWN.value)};
  if (Boolean(flag) === (region === own)) return new Promise(() => {{}});
  return flag ? own : {json.dumps(ActingRegion.WHOLE.value)};
}}"""
"""The checkbox and the region -> the region, if the checkbox says something else."""

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


def in_page(trigger: Callable, script: str, inputs: list[Any], outputs: list[Any]) -> None:
    """Answer an event in the page, without the server."""
    trigger(fn=None, _js=script, inputs=inputs, outputs=outputs, show_progress=False)


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


def restore_region(name: str) -> str:
    """What `REGION_VIEW` does, for a saved default; notes on the unit that it was done."""
    return f"""(region) => {{
  document.querySelector("#{name}_region_canvas").closest(".cnet-unit").dataset.restored = "yes";
  return ({REGION_VIEW})(region);
}}"""


def close_once_drawn(name: str) -> str:
    """Close a line of messages as soon as something is drawn on the unit's region canvas."""
    return f"""() => {{
  const layer = document.querySelector("#{name}_region_canvas canvas[key=mask]");
  const drawn = layer && layer.width && layer.getContext("2d")
    .getImageData(0, 0, layer.width, layer.height).data.some((value) => value);
  return drawn ? {{ __type__: "update", visible: false }} : new Promise(() => {{}});
}}"""


def backdrop(name: str, tab: str, colour: str, opacity: float) -> str:
    """What the unit's region is drawn on: its control picture, the mask file's white coloured.

    Without a picture it is plain grey in the proportions of the picture to be made. The page's
    script has noted on the unit which widget its picture is in (`data-picture`).

    Args:
        name: the unit's element id.
        tab: "txt2img" or "img2img".
        colour: hex colour of the region.
        opacity: 0 to 1.
    """
    return f"""async () => {{
  const find = (selector) => selector && document.querySelector(selector);
  const side = (name) => Number(find("#{tab}_" + name + " input[type=number]")?.value) || 512;
  const from = find("#{name}_region_canvas").closest(".cnet-unit").dataset.picture;
  const picture = find(from && from + " img");
  const file = find("#{name}_mask_image img");
  await Promise.all([picture, file].map((image) => image?.decode().catch(() => null)));
  const width = picture?.naturalWidth || side("width");
  const height = picture?.naturalHeight || side("height");
  const scale = Math.min(1, {BACKDROP_SIDE} / Math.max(width, height));
  const sheet = () => Object.assign(document.createElement("canvas"),
    {{ width: Math.round(width * scale) || 1, height: Math.round(height * scale) || 1 }});
  const canvas = sheet();
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#808080";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const over = (image, alpha) => {{
    pen.globalAlpha = alpha;
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  }};
  if (picture?.naturalWidth) over(picture, 1);
  const drawn = find(from && from + " canvas[key=mask]");
  if (drawn?.width) over(drawn, 0.7);
  if (file?.naturalWidth) {{
    const tint = sheet();
    const brush = tint.getContext("2d");
    brush.drawImage(file, 0, 0, tint.width, tint.height);
    const pixels = brush.getImageData(0, 0, tint.width, tint.height);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt("{colour}".slice(at, at + 2), 16));
    for (let i = 0; i < pixels.data.length; i += 4) {{
      pixels.data.set([red, green, blue, pixels.data[i]], i);
    }}
    brush.putImageData(pixels, 0, 0);
    over(tint, {opacity});
  }}
  return canvas.toDataURL("image/jpeg", 0.8);
}}"""


def with_tab_picture(picture_tabs: Sequence[int], settings: int) -> str:
    """Inputs of a preview in img2img, completed: size, tab, scale, and only the tab's pictures.

    Takes (unit, width, height, tab, scale, pictures..., settings...) and returns the same list;
    scale is 0 while the tab "Resize to" is chosen.

    Args:
        picture_tabs: for every picture the number of the tab that it is used in.
        settings: how many values follow the pictures.
    """
    return f"""(unit, width, height, tab, scale, ...rest) => {{
  const number = (id) => Number(document.querySelector(id + " input[type=number]")?.value) || 0;
  const chosen = (id) => Math.max(0, Array.from(
    document.querySelectorAll(id + " > .tab-nav > button")
  ).findIndex((button) => button.classList.contains("selected")));
  const now = chosen("#mode_img2img");
  const tabs = {json.dumps(list(picture_tabs))};
  return [
    unit,
    number("#img2img_width"),
    number("#img2img_height"),
    now,
    chosen("#img2img_tabs_resize") === 0 ? 0 : number("#img2img_scale"),
    ...tabs.map((tab, index) => (tab === now ? rest[index] : null)),
    ...rest.slice(tabs.length, tabs.length + {settings}),
  ];
}}"""
