"""What stands in a panel's place when it cannot be built: the host must start all the same."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component

from lib_controlnet.words import word

log = logging.getLogger(__name__)

Built = TypeVar("Built", bound=Component)


def build_or_tell(
    build: Callable[[], list[Built]], title: str, slots: Callable[[], int] = lambda: 0
) -> list[Any]:
    """A panel's components, or a notice and empty slots if building them fails.

    With `--api` the host ends when a script's `ui` raises.

    Args:
        build: makes the panel.
        title: of the panel, for people.
        slots: how many arguments requests over HTTP may fill without a panel.
    """
    try:
        return build()
    except Exception as error:  # a boundary: nothing of ours keeps the host from starting
        log.exception("the panel %s could not be built", title)
        with gr.Accordion(word("not_built", title=title), open=False):
            kind, reason = type(error).__name__, str(error)[:500]
            said = word("not_built_why", kind=kind, reason=reason)
            gr.HTML(html.escape(said), elem_classes=["cnet-not-built"])
        with suppress(Exception):  # what failed may be the settings
            return [gr.State(None) for _ in range(slots())]
        return []
