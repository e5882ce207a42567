"""Small JavaScript functions that run in the page as part of an event, without the server.

gradio calls them with the values of the event's inputs followed by those of its outputs, and
writes what they return to the outputs (an object with `__type__: "update"` changes properties).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from lib_controlnet.enums import ActingRegion, InputMode

PREVIEW_DEPENDS_ON: Final = (
    "image",
    "module",
    "pixel_perfect",
    "processor_res",
    "threshold_a",
    "threshold_b",
    "independent",
    "input_mode",
    "batch_images",
    "merge_images",
)
"""Fields of a unit whose change makes a shown preview out of date."""

BACKDROP_SIDE: Final = 768
"""Longest side of the picture that a region is drawn on, pixels; it travels with Generate."""

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
  { __type__: "update", visible: Boolean(flag && preview) },
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

OPEN_PREVIEW = """() => [
  null,
  { __type__: "update", visible: true },
  { __type__: "update", visible: false },
  null,
]"""
"""Nothing -> an empty preview, its group, the status line put away, and no answer yet."""

PREVIEW_LOST: Final = "The preview failed: the WebUI did not answer. Its console may tell why."
PREVIEW_LATE: Final = (
    "The settings were changed while the preview was made, so it is not shown: run it again."
)
NO_PICTURE: Final = (
    "This file is no picture that can be shown here, so it was not taken: use PNG, JPEG or WebP."
)
DRAWN_INSTEAD: Final = (
    "What is drawn is the control picture now, white on black; the picture below it is not used. "
    "Take the strokes back to use the picture again."
)
DRAWN_IGNORED: Final = (
    "What is drawn is not used, because of the setting to ignore masks on ControlNet input images."
)
REGION_KEPT: Final = (
    "The picture has other proportions or another size now. The region that was drawn is kept as "
    "the mask beside it; remove that to start anew."
)
_CANVAS_COLOURS: Final = ("#000000", "#ffffff", "#808080")
_UPDATES: Final = """
  const kept = { __type__: "update" };
  const hidden = { __type__: "update", visible: false };
  const said = (value) => ({ __type__: "update", value, visible: true });"""
_DRAWN: Final = """
  const drawnOn = (widget) => {
    const layer = document.querySelector(`${widget} canvas[key=mask]`);
    const drawn = layer && layer.width && layer.height && layer.getContext("2d")
      .getImageData(0, 0, layer.width, layer.height).data.some((value) => value);
    return drawn ? layer : null;
  };"""


def in_page(trigger: Callable, script: str, inputs: list[Any], outputs: list[Any]) -> None:
    """Answer an event in the page, without the server."""
    trigger(fn=None, _js=script, inputs=inputs, outputs=outputs, show_progress=False)


def _unit(name: str) -> str:
    """The element of a unit; the page's notes on it are in its `dataset`."""
    return f'document.getElementById("{name}_input_image").closest(".cnet-unit")'


def collect(name: str, names: Sequence[str], while_dragging: bool = True) -> str:
    """Widget values -> one object of them; an outdated preview is put away.

    A picture with a drawing layer is an object, and the page reports a change of every object
    whenever anything is written anywhere. So a call that finds nothing new must write nothing:
    it never settles, which gradio takes as no answer.

    The line that says what came of a preview goes with it, or with the model that it may be
    about; nothing that the user did not do closes it. `edition` counts the changes, so that the
    answer of a run can be told from one that was asked for under other settings.

    Args:
        name: the unit's element id.
        names: names of the values, in the order of the inputs; the outputs follow (the object,
            the preview, its group, the status line).
        while_dragging: also collect while the mouse holds a slider. Each write makes gradio
            compare the whole page, so for sliders the values are taken when it lets go.
    """
    skip = "false" if while_dragging else 'document.querySelector("input[type=range]:active")'
    return f"""(...values) => {{{_UPDATES}
  const names = {json.dumps(list(names))};
  const old = values[names.length];
  const same = (a, b) =>
    a === b || (a && b && typeof a === "object" && a.image === b.image && a.mask === b.mask);
  const changed = names.filter((name, index) => !old || !same(old[name], values[index]));
  if (!changed.length || {skip}) return new Promise(() => {{}});
  const stale = {json.dumps(list(PREVIEW_DEPENDS_ON))}.some((name) => changed.includes(name));
  const notes = {_unit(name)}.dataset;
  if (stale) notes.edition = Number(notes.edition || 0) + 1;
  return [
    Object.fromEntries(names.map((name, index) => [name, values[index]])),
    stale ? null : kept,
    stale ? hidden : kept,
    stale || changed.includes("model") ? hidden : kept,
  ];
}}"""


def show_answer(name: str) -> str:
    """The answer of a preview -> preview, its group, Allow Preview, the status line, the pose.

    An answer that is not the one of the last run is left to that one.
    """
    return f"""(answer) => {{{_UPDATES}
  const notes = {_unit(name)}.dataset;
  if (answer && answer.edition !== Number(notes.asked)) return new Promise(() => {{}});
  const late = answer && answer.edition !== Number(notes.edition || 0);
  const text = late ? {json.dumps(PREVIEW_LATE)} : answer ? answer.said
    : {json.dumps(PREVIEW_LOST)};
  const picture = late || !answer ? null : answer.picture;
  return [
    picture,
    picture ? {{ __type__: "update", visible: true }} : hidden,
    picture ? true : kept,
    text ? said(text) : hidden,
    picture && answer.pose ? said(answer.pose) : hidden,
  ];
}}"""


def checked_upload(name: str, enables: bool = False) -> str:
    """An uploaded file -> the picture, a line of messages, and perhaps Enable.

    A file that the page cannot draw is not taken. One in a format that only browsers know, such
    as SVG, becomes PNG.

    Args:
        name: the unit's element id.
        enables: a picture switches the unit on.
    """
    taken, refused = (", true", ", kept") if enables else ("", "")
    return f"""async (value) => {{{_UPDATES}
  const source = value && (value.image || value);
  delete {_unit(name)}.dataset.canvas;
  const image = new Image();
  image.src = source;
  const shown = await image.decode().then(() => image.naturalWidth > 0, () => false);
  if (!shown) return [null, said({json.dumps(NO_PICTURE)}){refused}];
  if (/^data:image.(png|jpeg|webp|bmp|gif)[;,]/.test(source)) return [kept, hidden{taken}];
  const canvas = Object.assign(document.createElement("canvas"),
    {{ width: image.naturalWidth, height: image.naturalHeight }});
  canvas.getContext("2d").drawImage(image, 0, 0);
  return [canvas.toDataURL("image/png"), hidden{taken}];
}}"""


def drawing_note(name: str, masked: Sequence[str]) -> str:
    """Preprocessor, whether the unit has its own picture, and which: -> a line about drawing on it.

    Only the single picture can be drawn on, and only if it is used. A drawing on a new canvas is
    what the canvas is for, and a mask what an inpaint preprocessor works on; nothing is said of
    those.

    Args:
        name: the unit's element id.
        masked: labels of the preprocessors that work on a mask.
    """
    return f"""async (module, independent, mode) => {{{_UPDATES}{_DRAWN}
  await new Promise((next) => setTimeout(next, 50)); // gradio clears its canvas after the event
  const quiet = {_unit(name)}.dataset.canvas || {json.dumps(list(masked))}.includes(module);
  const used = independent && mode === {json.dumps(InputMode.SIMPLE.value)};
  if (!used || quiet || !drawnOn("#{name}_input_image")) return hidden;
  const ignored = typeof opts === "object" && opts.controlnet_ignore_noninpaint_mask;
  return said(ignored ? {json.dumps(DRAWN_IGNORED)} : {json.dumps(DRAWN_INSTEAD)});
}}"""


def new_canvas(name: str, brush: str) -> str:
    """Two sizes -> a plain picture, the canvas group closed, no message, the unit enabled.

    The canvas is black under a light brush and white under a dark one, so that strokes are seen.

    Args:
        name: the unit's element id.
        brush: the colour that is drawn with, "#rrggbb".
    """
    return f"""(width, height) => {{{_UPDATES}
  const canvas = Object.assign(document.createElement("canvas"), {{ width, height }});
  const pen = canvas.getContext("2d");
  pen.fillStyle = "{canvas_colour(brush)}";
  pen.fillRect(0, 0, width, height);
  {_unit(name)}.dataset.canvas = "yes";
  return [canvas.toDataURL("image/png"), hidden, hidden, true];
}}"""


def canvas_colour(brush: str) -> str:
    """Colour of a new canvas for a brush: the farther of black and white; grey for one unknown."""
    black, white, grey = _CANVAS_COLOURS
    if re.fullmatch("#[0-9a-fA-F]{6}", brush) is None:
        return grey
    red, green, blue = (int(brush[at : at + 2], 16) for at in (1, 3, 5))
    return black if 0.299 * red + 0.587 * green + 0.114 * blue > 127 else white


def shown_together(count: int) -> str:
    """One checkbox -> `count` blocks shown or hidden."""
    update = '{ __type__: "update", visible: Boolean(flag) }'
    return f"(flag) => [{', '.join([update] * count)}]"


def _asked(name: str) -> str:
    """Note which settings a preview is asked for under, and have that number in `edition`."""
    return f"""const notes = {_unit(name)}.dataset;
  edition = Number(notes.edition || 0);
  notes.asked = edition;"""


def with_picture_size(name: str, tab: str) -> str:
    """(unit, edition, width, height), completed by the page: its picture would have that size."""
    return f"""(unit, edition, width, height) => {{
  {_asked(name)}
  const read = (side) => {{
    const box = document.querySelector("#{tab}_" + side + " input[type=number]");
    return box ? Number(box.value) : 512;
  }};
  return [unit, edition, read("width"), read("height")];
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
    return f"""() => {{{_UPDATES}{_DRAWN}
  return drawnOn("#{name}_region_canvas") ? hidden : new Promise(() => {{}});
}}"""


_AS_MASK: Final = """
  const asMask = (layer, file) => {
    const mask = Object.assign(document.createElement("canvas"),
      { width: layer.width, height: layer.height });
    const painter = mask.getContext("2d");
    painter.drawImage(layer, 0, 0);
    painter.globalCompositeOperation = "source-in"; // the drawing in white, whatever its colour
    painter.fillStyle = "white";
    painter.fillRect(0, 0, mask.width, mask.height);
    painter.globalCompositeOperation = "destination-over";
    painter.fillStyle = "black";
    painter.fillRect(0, 0, mask.width, mask.height);
    painter.globalCompositeOperation = "lighten";
    if (file?.naturalWidth) painter.drawImage(file, 0, 0, mask.width, mask.height);
    return mask.toDataURL("image/png");
  };"""
"""A drawing in white on black, a mask file beneath it."""


def backdrop(name: str, tab: str, colour: str, opacity: float) -> str:
    """What the unit's region is drawn on: its control picture, the mask file's white coloured.

    A drawing does not outlive a picture of another size, so it becomes part of the mask file, and
    a line says so. Outputs: the canvas, the mask file, the line.

    Without a picture it is plain grey in the proportions of the picture to be made. The page's
    script has noted on the unit which widget its picture is in (`data-picture`).

    Args:
        name: the unit's element id.
        tab: "txt2img" or "img2img".
        colour: hex colour of the region.
        opacity: 0 to 1.
    """
    return f"""async () => {{{_UPDATES}{_DRAWN}{_AS_MASK}
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
  const layer = drawnOn("#{name}_region_canvas");
  const shown = canvas.toDataURL("image/jpeg", 0.8);
  const fits = layer?.width === canvas.width && layer?.height === canvas.height;
  if (!layer || fits) return [shown, kept, kept];
  return [shown, asMask(layer, file), said({json.dumps(REGION_KEPT)})];
}}"""


def with_tab_picture(name: str, picture_tabs: Sequence[int], settings: int) -> str:
    """Inputs of a preview in img2img, completed: size, tab, scale, and only the tab's pictures.

    Takes (unit, edition, width, height, tab, scale, pictures..., settings...) and returns the same
    list; scale is 0 while the tab "Resize to" is chosen.

    Args:
        name: the unit's element id.
        picture_tabs: for every picture the number of the tab that it is used in.
        settings: how many values follow the pictures.
    """
    return f"""(unit, edition, width, height, tab, scale, ...rest) => {{
  {_asked(name)}
  const number = (id) => Number(document.querySelector(id + " input[type=number]")?.value) || 0;
  const chosen = (id) => Math.max(0, Array.from(
    document.querySelectorAll(id + " > .tab-nav > button")
  ).findIndex((button) => button.classList.contains("selected")));
  const now = chosen("#mode_img2img");
  const tabs = {json.dumps(list(picture_tabs))};
  return [
    unit,
    edition,
    number("#img2img_width"),
    number("#img2img_height"),
    now,
    chosen("#img2img_tabs_resize") === 0 ? 0 : number("#img2img_scale"),
    ...tabs.map((tab, index) => (tab === now ? rest[index] : null)),
    ...rest.slice(tabs.length, tabs.length + {settings}),
  ];
}}"""
