"""Files that the page has uploaded, told from files that a crafted request names.

gradio's file components copy whatever path a request calls an upload, and load addresses.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component


def is_upload(path: str | Path) -> bool:
    """Whether a path lies in the folder that gradio keeps uploads in."""
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    return Path(path).resolve().is_relative_to(folder.resolve())


def only_uploads(component: Component) -> None:
    """Have a component for files refuse other files of this machine, and addresses."""
    copy = getattr(component, "make_temp_copy_if_needed", None)

    def checked(path: str | Path, *more: Any) -> str:
        if not is_upload(path):
            msg = "ControlNet: a file that the page has not uploaded is not read; upload it"
            raise gr.Error(msg)
        return copy(path, *more)

    if copy is not None:  # gradio 4 checks by itself
        component.make_temp_copy_if_needed = checked
        component.download_temp_copy_if_needed = checked
