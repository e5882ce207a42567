"""What gradio 3 and 4 call differently. They are told apart by what they have, here alone.

In gradio 3 a picture can be drawn on; in gradio 4 it cannot, and its value is a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import gradio as gr
from gradio import events

from lib_controlnet.ui.uploads import only_uploads

HAS_DRAWING: Final = hasattr(events, "Editable")
"""Whether `gr.Image` can be drawn on."""

SCRIPT: Final = "_js" if HAS_DRAWING else "js"
"""The argument of an event that takes a function of the page."""

_DRAWING: Final = ("tool", "brush_radius", "brush_color", "mask_opacity")

_LONGEST_EXAMPLE: Final = 200
"""Characters of a text among the examples of a component's values."""

Built = TypeVar("Built")


def for_uploads(kind: Callable[..., Built], **settings: Any) -> Built:
    """A component that takes an upload, `gr.Image` or `gr.Video`.

    Args:
        kind: its class.
        settings: as gradio 3 has them; those of drawing are left out where there is none.
    """
    if HAS_DRAWING:
        return kind(source="upload", **settings)
    kept = {name: value for name, value in settings.items() if name not in _DRAWING}
    component = kind(sources=["upload"], **kept)
    only_uploads(component)
    return component


def on_any(triggers: Sequence[Any], **settings: Any) -> None:
    """One event that each of several triggers sets off, as far as gradio can say so.

    gradio 3 has one for all triggers of a name: its page reads a list of targets, to which Python
    only ever gives one. Each event more costs the page its time and hundreds of bytes.

    Args:
        triggers: such as `box.change`; at least one.
        settings: of the event.
    """
    first, *others = triggers
    if not others:
        first(**settings)
        return
    if hasattr(gr, "on"):
        gr.on(list(triggers), **settings)
        return
    for name in dict.fromkeys(trigger.event_name for trigger in triggers):
        first, *others = (trigger for trigger in triggers if trigger.event_name == name)
        made = first(**settings)
        # This list is the one in the page's configuration.
        made["targets"].extend(other.trigger._id for other in others)


def shorten_examples(blocks: Iterable[Any]) -> None:
    """Leave the example pictures of gradio's description of its own API out of the page.

    gradio 3 puts two of them beside each component that takes a file: thousands of bytes that the
    page never looks at.
    """
    for block in blocks:
        if hasattr(block, "example_inputs"):
            block.example_inputs = _cut_texts(block.example_inputs)


def _cut_texts(examples: Callable[[], Any]) -> Callable[[], Any]:
    def shorten(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: shorten(part) for name, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [shorten(part) for part in value]
        return "" if isinstance(value, str) and len(value) > _LONGEST_EXAMPLE else value

    return lambda: shorten(examples())
