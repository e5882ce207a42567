"""The script "X/Y/Z plot": a grid of generations over up to three axes of values.

Extensions append to `axis_options`. A cell is a generation on a shallow copy of the job; of its
pictures the first is kept. A cell that fails is reported and stays blank.
"""

from __future__ import annotations

import copy
import csv
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gradio as gr
from modules import errors, images, scripts, shared
from modules.processing import Processed, fix_seed, process_images
from PIL import Image

_AXES = ("X", "Y", "Z")
_VALUES_PER_AXIS = 3


class AxisInfo(NamedTuple):
    """What one axis of the present grid varies, on the state for others to look at."""

    axis: AxisOption
    values: list[Any]


class AxisOption:
    """What an axis varies.

    Args:
        label: how it is called.
        type: makes a value of one text.
        apply: `apply(p, value, values)` changes a cell's job.
        format_value: `format_value(p, option, value)` for legends.
        confirm: `confirm(p, values)` raises RuntimeError where they cannot be used.
        cost: how much a change of value takes; not used here.
        choices: gives the texts to choose from.
        prepare: splits the text of all values.
    """

    def __init__(
        self,
        label: str,
        type: Callable[[str], Any],
        apply: Callable[[Any, Any, Sequence[Any]], None],
        format_value: Callable[..., str] | None = None,
        confirm: Callable[[Any, Sequence[Any]], None] | None = None,
        cost: float = 0.0,
        choices: Callable[[], list[str]] | None = None,
        prepare: Callable[[str], list[str]] | None = None,
    ) -> None:
        self.label = label
        self.type = type
        self.apply = apply
        self.format_value = format_value
        self.confirm = confirm
        self.cost = cost
        self.choices = choices
        self.prepare = prepare


class AxisOptionImg2Img(AxisOption):
    """An axis of img2img alone."""

    is_img2img = True


def apply_field(name: str) -> Callable[[Any, Any, Sequence[Any]], None]:
    """Sets an attribute of the job."""
    return lambda p, value, _values: setattr(p, name, value)


def _nothing(_p: Any, _value: Any, _values: Sequence[Any]) -> None:
    pass


axis_options = [
    AxisOption("Nothing", str, _nothing),
    AxisOption("Seed", int, apply_field("seed")),
    AxisOption("Steps", int, apply_field("steps")),
    AxisOption("CFG Scale", float, apply_field("cfg_scale")),
    AxisOptionImg2Img("Denoising", float, apply_field("denoising_strength")),
]


def _values(option: AxisOption, text: str, chosen: list[str] | None, as_text: bool) -> list[Any]:
    if option.label == "Nothing":
        return [0]
    if option.choices is not None and not as_text:
        texts = chosen or []
    elif option.prepare is not None:
        texts = option.prepare(text)
    else:
        rows = csv.reader([text.replace("\n", ",")], skipinitialspace=True)
        texts = [cell.strip() for row in rows for cell in row if cell.strip()]
    return [option.type(item) for item in texts]


class Script(scripts.Script):
    """The script of the list."""

    def title(self) -> str:
        return "X/Y/Z plot"

    def ui(self, is_img2img: bool) -> list[Any]:
        self.options = [
            option
            for option in axis_options
            if type(option) is AxisOption or option.is_img2img == is_img2img
        ]
        labels = [option.label for option in self.options]
        made: list[Any] = []
        for number, axis in enumerate(_AXES):
            with gr.Row():
                kind = gr.Dropdown(
                    labels, label=f"{axis} type", value=labels[1 if number == 0 else 0],
                    type="index", elem_id=self.elem_id(f"{axis.lower()}_type"),
                )  # fmt: skip
                text = gr.Textbox(
                    label=f"{axis} values", lines=1, elem_id=self.elem_id(f"{axis.lower()}_values")
                )
                chosen = gr.Dropdown(
                    [], label=f"{axis} values", visible=False, multiselect=True, interactive=True
                )
            inputs = [kind]
            kind.change(fn=self._offer, inputs=inputs, outputs=[text, chosen], show_progress=False)
            made += [kind, text, chosen]
        boxes = {
            "Draw legend": True, "Include Sub Images": False, "Include Sub Grids": False,
            "Keep -1 for seeds": False, "Vary seeds for X": False, "Vary seeds for Y": False,
            "Vary seeds for Z": False,
        }  # fmt: skip
        with gr.Row():
            made += [gr.Checkbox(label=label, value=value) for label, value in boxes.items()]
        made.append(gr.Slider(0, 500, label="Grid margins (px)", value=0, step=2))
        made.append(gr.Checkbox(label="Use text inputs instead of dropdowns", value=False))
        return made

    def _offer(self, kind: int | None) -> list[dict[str, Any]]:
        option = self.options[kind or 0]
        offered = None if option.choices is None else option.choices()
        return [
            gr.update(visible=offered is None),
            gr.update(visible=offered is not None, choices=offered, value=[]),
        ]

    def run(self, p: Any, *args: Any) -> Processed:
        """All cells, X fastest; a picture of the whole grid comes first."""
        _legend, with_cells, _sub_grids, keep_seeds, *_vary = args[9:16]
        as_text = bool(args[17])
        axes = []
        for start in range(0, _VALUES_PER_AXIS * len(_AXES), _VALUES_PER_AXIS):
            kind, text, chosen = args[start : start + _VALUES_PER_AXIS]
            option = self.options[kind or 0]
            values = _values(option, text or "", chosen, as_text)
            if option.confirm is not None:
                option.confirm(p, values)
            axes.append((option, values))
        if not keep_seeds:
            fix_seed(p)
        shared.state.job_count = p.n_iter
        for name, (option, values) in zip(_AXES, axes, strict=True):
            shared.state.job_count *= len(values)
            setattr(shared.state, f"xyz_plot_{name.lower()}", AxisInfo(option, values))
        return _grid(p, axes, bool(with_cells))


def _grid(p: Any, axes: list[tuple[AxisOption, list[Any]]], with_cells: bool) -> Processed:
    (x, xs), (y, ys), (z, zs) = axes
    result: Processed | None = None
    cells: list[Image.Image] = []
    texts: list[str] = []
    for z_value, y_value, x_value in itertools.product(zs, ys, xs):
        cell = copy.copy(p)
        cell.styles = p.styles[:]
        for option, value, values in ((x, x_value, xs), (y, y_value, ys), (z, z_value, zs)):
            option.apply(cell, value, values)
        made = _cell(cell)
        blank = Image.new("RGB", (p.width, p.height))
        cells.append(made.images[0] if made.images else blank)
        texts.append(made.infotexts[0] if made.infotexts else "")
        result = result or made
    grid = images.image_grid(cells, rows=len(ys) * len(zs))
    result.images = [grid, *(cells if with_cells else [])]
    result.infotexts = [texts[0], *(texts if with_cells else [])]
    result.index_of_first_image = 1
    return result


def _cell(p: Any) -> Processed:
    if shared.state.interrupted or shared.state.stopping_generation:
        return Processed(p, [], p.seed, "")
    try:
        return process_images(p)
    except Exception:
        errors.report("Error generating image for grid", exc_info=True)
        return Processed(p, [], p.seed, "")
