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

from lib_controlnet.files.paths import open_file


def upload(path: str | Path) -> Path | None:
    """The file that a path names, if it lies in the folder that gradio keeps uploads in."""
    folder = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    return open_file(Path(path), [folder])


def only_uploads(component: Component) -> None:
    """Have a component for files refuse other files of this machine, and addresses."""
    copy = getattr(component, "make_temp_copy_if_needed", None)
    if copy is None:  # gradio 4 checks by itself
        return

    def check_and_copy(path: str | Path, *more: Any) -> str:
        if upload(path) is None:
            msg = "ControlNet: a file that the page has not uploaded is not read; upload it"
            raise gr.Error(msg)
        return copy(path, *more)

    component.make_temp_copy_if_needed = check_and_copy
    component.download_temp_copy_if_needed = check_and_copy
