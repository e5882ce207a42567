"""Small components of the page that extensions use too."""

from __future__ import annotations

from typing import Any

import gradio as gr


class FormComponent:
    """Mix-in: the component may sit in a form."""

    def get_expected_parent(self) -> type:
        """Class of the surrounding form."""
        return gr.components.Form


gr.Dropdown.get_expected_parent = FormComponent.get_expected_parent


class ToolButton(FormComponent, gr.Button):
    """Small button with one sign on it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        classes = kwargs.pop("elem_classes", [])
        super().__init__(*args, elem_classes=["tool", *classes], **kwargs)

    def get_block_name(self) -> str:
        """Name of the front-end component."""
        return "button"


class ResizeHandleRow(gr.Row):
    """Row with a divider that can be dragged."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.elem_classes.append("resize-handle-row")

    def get_block_name(self) -> str:
        """Name of the front-end component."""
        return "row"


def _in_form(base: type) -> type:
    """A gradio class whose components may sit in a form."""
    block_name = base.__name__.lower()
    fields = {"__module__": __name__, "get_block_name": lambda _self: block_name}
    return type(f"Form{base.__name__}", (FormComponent, base), fields)


FormRow = _in_form(gr.Row)
FormColumn = _in_form(gr.Column)
FormGroup = _in_form(gr.Group)
FormHTML = _in_form(gr.HTML)


class DropdownMulti(FormComponent, gr.Dropdown):
    """Dropdown with several choices."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(multiselect=True, **kwargs)

    def get_block_name(self) -> str:
        """Name of the front-end component."""
        return "dropdown"


class InputAccordion(gr.Checkbox):
    """Accordion that is an input: open means true.

    A hidden checkbox carries the value; `javascript/input_accordion.js` joins the two. Use it as
    `with InputAccordion(...) as enabled:` and return it from `ui()`.
    """

    global_index = 0

    def __init__(self, value: bool, **kwargs: Any) -> None:
        self.accordion_id = kwargs.get("elem_id")
        if self.accordion_id is None:
            self.accordion_id = f"input-accordion-{InputAccordion.global_index}"
            InputAccordion.global_index += 1
        checkbox_kwargs = {
            **kwargs,
            "elem_id": f"{self.accordion_id}-checkbox",
            "visible": False,
        }
        super().__init__(value, **checkbox_kwargs)
        self.change(
            fn=None,
            _js=f'function(checked){{ inputAccordionChecked("{self.accordion_id}", checked); }}',
            inputs=[self],
        )
        accordion_kwargs = {
            **kwargs,
            "elem_id": self.accordion_id,
            "label": kwargs.get("label", "Accordion"),
            "elem_classes": ["input-accordion"],
            "open": value,
        }
        self.accordion = gr.Accordion(**accordion_kwargs)

    def extra(self) -> gr.Column:
        """Place in the header row, for `with accordion.extra():`."""
        return gr.Column(
            elem_id=f"{self.accordion_id}-extra",
            elem_classes="input-accordion-extra",
            min_width=0,
        )

    def __enter__(self) -> InputAccordion:
        self.accordion.__enter__()
        return self

    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        self.accordion.__exit__(exc_type, exc_val, exc_tb)

    def get_block_name(self) -> str:
        """Name of the front-end component."""
        return "checkbox"
