"""Lines of messages in a unit: plain sentences, put away while there is nothing to say."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import gradio as gr

if TYPE_CHECKING:
    from gradio.components import Component


def message_line(name: str, kind: str) -> Component:
    """A line of messages of one unit, put away while there is none."""
    return gr.HTML(visible=False, elem_id=f"{name}_controlnet_{kind}", elem_classes=["cnet-status"])


def notice(*sentences: str) -> dict[str, Any]:
    """Sentences in a line of messages; without any the line is put away."""
    return gr.update(value=as_html(*sentences), visible=bool(sentences))


def as_html(*sentences: str) -> str:
    """Plain sentences, one below the other."""
    return "<br>".join(html.escape(sentence) for sentence in sentences)
