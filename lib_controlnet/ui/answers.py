"""Questions about the choices of a unit, and what the page writes of the answers.

On a busy machine an answer may come after a newer choice, and gradio does not send an event while
it waits for the answer to its last. So the choices of a unit have the page press one hidden
button, which asks one question after the other, and the page (`javascript/controlnet_answers.js`)
leaves out of an answer what is no longer asked for, and values of fields that were changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any, Final

import gradio as gr
from gradio.components import Component

from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.gradios import HAS_DRAWING, SCRIPT
from lib_controlnet.ui.unit_widgets import UnitWidgets

Update = dict[str, Any]


class Of(IntFlag):
    """What of a unit's choices an update follows from, in the order in which they are sent."""

    KIND = 1
    MODULE = 2
    MODEL = 4
    SHOW_ALL = 8
    PIXEL_PERFECT = 16


CHOSEN: Final = Of.KIND | Of.MODULE | Of.MODEL


@dataclass(frozen=True)
class Output:
    """A widget that an answer writes.

    Attributes:
        follows: the choices that the update is for; with others it is not written.
        shown_by: those that decide besides whether the widget is seen.
    """

    widget: Component
    follows: Of
    shown_by: Of = Of(0)


@dataclass(frozen=True)
class Question:
    """What can be asked.

    Attributes:
        answer: of control type, preprocessor, model, "Show all" and pixel perfect an update for
            each output.
    """

    answer: Callable[[str, str, str, bool, bool], Sequence[Update]]
    outputs: Sequence[Output]


def choices_of(widgets: UnitWidgets) -> list[Component]:
    """The widgets of a unit whose values a question is asked with, in the order of `Of`."""
    chosen = [widgets.control_type, widgets.module, widgets.model]
    return [*chosen, widgets.show_all, widgets.pixel_perfect]


def connect_trigger(
    trigger: Callable, widgets: UnitWidgets, questions: Mapping[str, Question], kind: str, *by: str
) -> None:
    """Have the page ask a question when a widget is used.

    Args:
        trigger: the event of the widget.
        widgets: the unit's.
        questions: see `connect_questions`.
        kind: the name of the question.
        by: element id of the widget, if it must have been used by hand.
    """
    want = page_function("want", widgets.name, kind, *by)
    in_page(trigger, want, choices_of(widgets), [one.widget for one in questions[kind].outputs])


def connect_questions(
    widgets: UnitWidgets, questions: Mapping[str, Question], default: str
) -> None:
    """Have the server answer when the page presses a unit's hidden button.

    Args:
        widgets: the unit's.
        questions: by the names that the page has for them.
        default: the name of the one that a page asks that names none.
    """
    chosen = choices_of(widgets)
    found = {out.widget._id: out.widget for one in questions.values() for out in one.outputs}

    def reply(ask: Any, *values: Any) -> dict[str, Any]:
        asked = ask if isinstance(ask, Mapping) else {}
        question = questions.get(str(asked.get("kind"))) or questions[default]
        made = dict(_tell(question, values, chosen))
        return {"serial": asked.get("serial"), "updates": [made.get(number) for number in found]}

    answered = widgets.ask.click(
        fn=reply,
        **{SCRIPT: page_function("askQuestion", widgets.name)},
        inputs=[widgets.told, *chosen],
        outputs=[widgets.told],
        show_progress=False,
        queue=False,
    )
    take = page_function("takeChoices", widgets.name)
    in_page(answered.then, take, [widgets.told, *chosen], [*found.values()])


def _tell(question: Question, values: Sequence[Any], chosen: Sequence[Component]) -> Any:
    """For each output the widget's number, and what the page has to know of its update."""
    updates = question.answer(*values)
    for place, (output, update) in enumerate(zip(question.outputs, updates, strict=True)):
        widget = output.widget
        own = chosen.index(widget) if widget in chosen else None
        what = {"is_field": not isinstance(widget, gr.HTML), "choice": own, "place": place}
        follows = {"follows": int(output.follows), "shown_by": int(output.shown_by)}
        yield widget._id, {"update": _as_written(update), **what, **follows}


def _as_written(update: Update) -> Update:
    """An update as the page writes it; gradio 4 has names beside the values of a list."""
    made = {name: value for name, value in update.items() if name != "__type__"}
    if "choices" in made and not HAS_DRAWING:
        made["choices"] = [[str(choice), choice] for choice in made["choices"]]
    return {**made, "__type__": "update"}
