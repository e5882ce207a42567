"""A hidden component whose value the page alone keeps, and posts with every event that takes it."""

from __future__ import annotations

from gradio.components import State


class PageValue(State):
    """A state of the browser's, not of the session's."""

    webui_do_not_create_gradio_pyi_thank_you = True
    """Forge's word: gradio 4 would write a file beside this one."""

    @property
    def stateful(self) -> bool:
        """The browser keeps it, not the session; gradio 3 sets this, gradio 4 has a property."""
        return False

    @stateful.setter
    def stateful(self, _value: bool) -> None:
        """Stays as it is."""

    def get_block_name(self) -> str:
        """The browser draws nothing for a "state"."""
        return "state"
