"""Events that the page answers without the server.

What they do stands in `javascript/controlnet_events.js`; here are only the calls of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from lib_controlnet.ui.gradios import SCRIPT, on_any


def page_function(name: str, *arguments: Any) -> str:
    """A call of `controlnetPanel` in the page, which gives the function that answers an event.

    Args:
        name: of an entry of `controlnetPanel`.
        arguments: what JSON can hold.
    """
    return f"controlnetPanel.{name}({', '.join(map(json.dumps, arguments))})"


def in_page(
    trigger: Callable | Sequence[Callable], script: str, inputs: list[Any], outputs: list[Any]
) -> None:
    """Answer an event in the page.

    Args:
        trigger: the event of a widget, such as `button.click`, or several that mean the same.
        script: what `page_function` returned.
        inputs: widgets whose values it takes.
        outputs: widgets that it writes.
    """
    triggers = [trigger] if callable(trigger) else trigger
    settings = {SCRIPT: script, "show_progress": "hidden"}
    on_any(triggers, fn=None, inputs=inputs, outputs=outputs, **settings)
