"""The panel of the script "controlnet m2m"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio.components import Component

from lib_controlnet.errors import ImageError
from lib_controlnet.pictures.movie_kinds import movie_kind
from lib_controlnet.ui.gradios import for_uploads
from lib_controlnet.ui.sketch import build_sketch, build_value
from lib_controlnet.ui.uploads import only_uploads
from lib_controlnet.words import word

DEFAULT_DURATION: Final = 50
_ANIMATIONS: Final = [".gif", ".webp", ".png", ".avi", ".webm", ".mkv", ".mov"]
"""Kinds that the browser's dialog for movies may not offer."""


def build_movie_panel(runtime: Any) -> list[Component]:
    """Build the accordion "ControlNet-M2M".

    Args:
        runtime: the extension's services.

    Returns:
        The script's arguments: movie, picture and "save preprocessed" of every unit, then the
        duration of a frame in milliseconds.
    """
    arguments: list[Component] = []
    with gr.Group(), gr.Accordion("ControlNet-M2M", open=True):
        duration = gr.Slider(
            10,
            200,
            DEFAULT_DURATION,
            step=10,
            label=word("duration"),
            info=word("duration_note"),
            elem_id="controlnet_movie2movie_duration_slider",
        )
        with gr.Tabs():
            for unit in range(runtime.unit_count()):
                with gr.Tab(f"ControlNet-{unit}"):
                    arguments += _unit(unit, runtime.canvas())
    return [*arguments, duration]


def _unit(unit: int, canvas: Callable[..., Any] | None) -> list[Component]:
    with gr.Tabs():
        with gr.Tab(word("movie_input")):
            movie = for_uploads(gr.Video, elem_id=f"video_{unit}", label=word("movie"))
            other = gr.UploadButton(
                word("other_movie"), file_types=_ANIMATIONS, elem_id=f"gif_{unit}"
            )
            only_uploads(movie)
            only_uploads(other)
            other.upload(fn=_read_upload, inputs=[other], outputs=[movie], show_progress=False)
        with gr.Tab(word("image_input")):
            sketch = build_sketch(
                canvas, brush_radius=20, label=word("image"), elem_id=f"image_{unit}"
            )
            image = build_value(sketch)
    save = gr.Checkbox(False, label=word("save_preprocessed"), elem_id=f"save_pre_{unit}")
    return [movie, image, save]


def _read_upload(file: Any) -> str:
    """The path of an uploaded movie.

    The movie field hands what it is given to ffmpeg where that is installed, which would follow a
    playlist.

    Raises:
        gr.Error: it is no movie.
    """
    try:
        movie_kind(Path(file.name), "controlnet m2m")
    except ImageError as error:
        raise gr.Error(error.detail) from error
    return file.name
