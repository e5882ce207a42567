"""Lines of messages in a unit: plain sentences, put away while there is nothing to say."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import gradio as gr

if TYPE_CHECKING:
    from gradio.components import Component


class Misfit(str):
    """A sentence on why a unit's model cannot be used, which the page marks on the unit's tab."""

    __slots__ = ()


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
    """Plain sentences, one below the other."""
    return "<br>".join(map(_line, sentences))


def _line(sentence: str) -> str:
    text = html.escape(sentence)
    return f'<span class="cnet-misfit">{text}</span>' if isinstance(sentence, Misfit) else text
