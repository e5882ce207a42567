"""Lines of messages in a unit: plain sentences, put away while there is nothing to say.

A sentence may say of what kind it is, and have technical detail behind it; its line takes the
colour of the gravest kind in it.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import gradio as gr

from lib_controlnet.units.unit import FIELDS
from lib_controlnet.words import LABELS, word

if TYPE_CHECKING:
    from gradio.components import Component

_LONG: Final = 160
"""Characters of an error's sentence that are shown at once, if it can be cut."""
_NAMES: Final = re.compile(rf"\b({'|'.join(name for name in FIELDS if '_' in name)})\b")
"""Fields' names that are no words of English."""
_LABELS: Final = {name: LABELS[name] for name in FIELDS if name in LABELS} | {
    "advanced_weighting": LABELS["weights"],
    "effective_region_mask": LABELS["region_file"],
    "batch_images": LABELS["input_directory"],
    "inpaint_crop_input_image": LABELS["crop"],
    "output_dir": LABELS["output_directory"],
}


class Said(str):
    """A sentence of a kind.

    Attributes:
        kind: the end of a class of the page.
        detail: what is shown on request.
    """

    kind: ClassVar[str]
    detail: str = ""


class Info(Said):
    """What is good to know."""

    kind = "info"


class Download(Info):
    """That a preprocessor will download files, with a button of the page's.

    Attributes:
        module: name of the preprocessor.
        size: of its files, for people.
        orders: ids of the downloads that bring them.
    """

    module: str
    size: str
    orders: Sequence[str]


class Misfit(Said):
    """Why a unit's model cannot be used, which the page marks on the unit's tab."""

    kind = "misfit"


class Fault(Said):
    """That something did not work."""

    kind = "error"


def cut(error: Exception | str, kind: type[Said] = Fault) -> Said:
    """An error's sentence in the panel's own words, the rest of a long one as its detail."""
    text = _NAMES.sub(lambda found: _LABELS.get(found[0], found[0]), str(error))
    end = next((at for at in _cuts(text) if at >= _LONG // 4), len(text))
    said = kind(text[:end] if len(text) > _LONG else text)
    said.detail = text[len(said) :].lstrip(" ;")
    return said


def _cuts(text: str) -> list[int]:
    """Where a long sentence may be cut: before a bracket, and after its first half."""
    return [found.start() for found in re.finditer(r" \(|; |(?<=\.) (?=[A-Z])", text)]


def message_line(name: str, kind: str, is_fault: bool = False) -> Component:
    """A line of messages of one unit, put away while there is none.

    Args:
        name: the unit's element id.
        kind: what it is about, the end of its element id.
        is_fault: it tells of something that did not work; else of what to know.
    """
    return gr.HTML(
        visible=False,
        elem_id=f"{name}_controlnet_{kind}",
        elem_classes=["cnet-status", "cnet-fault" if is_fault else "cnet-note"],
    )


def notice(*sentences: str) -> dict[str, Any]:
    """Sentences in a line of messages; without any the line is put away."""
    return gr.update(value=as_html(*sentences), visible=bool(sentences))


def as_html(*sentences: str) -> str:
    """Sentences, one below the other."""
    return "<br>".join(map(_line, sentences))


def _line(sentence: str) -> str:
    text = html.escape(sentence)
    if not isinstance(sentence, Said):
        return text
    line = f'<span class="cnet-{sentence.kind}">{text}</span>'
    if isinstance(sentence, Download):
        told = {"module": sentence.module, "size": sentence.size}
        told["orders"] = json.dumps(sentence.orders)
        data = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in told.items())
        line += f'<span class="cnet-fetch" {data}></span>'  # for controlnet_downloads.js
    if not sentence.detail:
        return line
    more, detail = html.escape(word("more")), html.escape(sentence.detail)
    return f'{line}<details class="cnet-more"><summary>{more}</summary>{detail}</details>'
