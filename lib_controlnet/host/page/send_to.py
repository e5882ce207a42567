"""The buttons under the galleries restore the units of the picture that they send.

The host's buttons send the picture and, from txt2img, the present values of fields with a label.
A unit is more than such values: its parameters are in the picture's own text. So one event of our
own follows each button and fills the target tab's panel from that text, as "Paste" does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from modules import infotext_utils

PAGE: Final = "tabs"
"""Element id of the host's outermost tabs; when they are made, the tabs' own parts exist."""

GALLERIES: Final = ("txt2img", "img2img")
TARGETS: Final = ("img2img", "inpaint")
_BUTTONS: Final = {tab: [f"{tab}_send_to_{target}" for target in TARGETS] for tab in GALLERIES}
_TEXTS: Final = {tab: f"generation_info_{tab}" for tab in GALLERIES}
_WANTED: Final = {*_TEXTS.values(), *(name for names in _BUTTONS.values() for name in names)}

Fields = Sequence[tuple[Any, Any]]


class SendTo:
    """Collects the host's components while the page is built, and connects them at its end."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def see(self, component: Any, elem_id: str | None) -> None:
        """A component was made."""
        if elem_id in _WANTED:
            self._seen[elem_id] = component

    def connect(self, fields: Fields) -> None:
        """Connect the buttons that there are.

        Args:
            fields: what pasting writes into the panel of img2img, which both targets lie in; each
                a component and a function of the parsed parameters.
        """
        seen, self._seen = self._seen, {}
        if not fields:
            return
        for tab, names in _BUTTONS.items():
            text = seen.get(_TEXTS[tab])
            buttons = [seen[name] for name in names if name in seen]
            for button in buttons if text is not None else ():
                button.click(
                    fn=partial(restore, fields=fields),
                    _js=f'controlnetPanel.textOfChosen("{tab}")',
                    inputs=[text],
                    outputs=[component for component, _ in fields],
                    show_progress=False,
                )


def restore(text: str, fields: Fields) -> list[dict[str, Any]]:
    """Updates that fill a panel from one picture's generation parameters."""
    params = infotext_utils.parse_generation_parameters(text or "")
    updates = []
    for _component, read in fields:
        value = read(params)
        update = {"__type__": "update"}
        if isinstance(value, dict):
            update = value
        elif value is not None:
            update["value"] = value
        updates.append(update)
    return updates
