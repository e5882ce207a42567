"""Files that the page has uploaded, told from files that a crafted request names.

gradio's file components copy whatever path a request calls an upload, and load addresses.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from lib_controlnet.files.paths import open_file
from lib_controlnet.words import word


def upload(path: str | Path) -> Path | None:
    """The file that a path names, if it lies in the folder that gradio keeps uploads in."""
    return open_file(Path(path), [_folder()])


def keep_upload(data: bytes, name: str) -> Path:
    """Put a file among the uploads, as if the page had sent it; its folder is that of its bytes."""
    path = _folder() / hashlib.sha256(data).hexdigest() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _folder() -> Path:
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def only_uploads(component: Component) -> None:
    """Have a component for files refuse other files of this machine, and addresses.

    gradio 3 calls one method for both; gradio 4 looks for itself where a file lies, and loads what
    has an address.
    """
    for name in ("make_temp_copy_if_needed", "download_temp_copy_if_needed"):
        if hasattr(component, name):
            setattr(component, name, _after(_refuse_others, component.make_temp_copy_if_needed))
    for name in ("move_resource_to_block_cache", "async_move_resource_to_block_cache"):
        if hasattr(component, name):
            setattr(component, name, _after(_refuse_addresses, getattr(component, name)))


def _after(check: Callable[[Any], None], copy: Callable[..., Any]) -> Callable[..., Any]:
    def check_and_copy(path: Any, *more: Any) -> Any:
        check(path)
        return copy(path, *more)  # a coroutine, if it is one

    return check_and_copy


def _refuse_others(path: str | Path) -> None:
    if upload(path) is None:
        raise gr.Error(word("not_uploaded"))


def _refuse_addresses(path: str | Path | None) -> None:
    if "://" in str(path):
        raise gr.Error(word("not_uploaded"))
