"""Questions of the page's scripts and the server's answers, through one hidden button.

`javascript/controlnet_ask.js` presses it; what it asks travels in a hidden component. So whoever
may use the page may ask, whatever guards the API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from lib_controlnet.ui.browser import in_page, page_function
from lib_controlnet.ui.gradios import SCRIPT


def build_carrier(
    name: str,
    answer: Callable[..., dict[str, Any]],
    values: Sequence[gr.components.Component] = (),
    script: str = "giveQuestion",
) -> None:
    """Build what carries questions and answers in the open Blocks, and connect it.

    Args:
        name: element id of the button.
        answer: gets what is asked, whatever a page sends, and the values; raises nothing.
        values: further components that go along.
        script: of `controlnetPanel`, makes the inputs of a question.
    """
    button, box = gr.Button(visible=False, elem_id=name), gr.JSON(visible=False)
    for hidden in (button, box):
        hidden.do_not_save_to_config = True

    def reply(ask: Any, *given: Any) -> dict[str, Any]:
        asked = ask if isinstance(ask, Mapping) else {}
        return {**answer(asked, *given), "serial": asked.get("serial")}

    answered = button.click(
        fn=reply,
        **{SCRIPT: page_function(script, name, len(values))},
        inputs=[box, *values],
        outputs=[box],
        show_progress=False,
        queue=False,
    )
    in_page(answered.then, page_function("takeAnswer", name), [box], [])
