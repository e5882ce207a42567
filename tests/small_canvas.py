"""A canvas shaped like that of hosts on gradio 4: HTML, two hidden texts, a class of the page."""

from __future__ import annotations

import base64
import io
import json
import uuid
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context
from PIL import Image

from lib_controlnet.ui.gradios import SCRIPT
from lib_controlnet.ui.host_tab import BACKGROUND, FOREGROUND

HTML = """
<div><input type="file" id="imageInput_NAME"><button id="removeButton_NAME">remove</button></div>
<div style="position: relative; width: 320px; height: 256px; overflow: hidden">
<img id="image_NAME" style="position: absolute; left: 0; top: 0; max-width: none">
<canvas id="drawingCanvas_NAME" width="1" height="1" style="position: absolute; left: 0; top: 0">
</canvas></div>
"""


SCHEME = "small-canvas://"


class HiddenPicture(gr.Textbox):
    """A picture as a data URL, or the name of one that was sent; scripts get it as PIL has it."""

    def preprocess(self, x: Any) -> Any:
        if isinstance(x, str) and x.startswith(SCHEME):
            sent = Path(x.removeprefix(SCHEME))
            return Image.open(sent).convert("RGBA") if sent.is_file() else None
        if not isinstance(x, str) or not x.startswith("data:"):
            return None
        return Image.open(io.BytesIO(base64.b64decode(x.partition(",")[2]))).convert("RGBA")

    def get_block_name(self) -> str:
        return "textbox"


class SmallCanvas:
    """What a script sees of it.

    Attributes:
        settings: what it was made with.
        names: it sends pictures to the host, and keeps their names.
    """

    names = False

    def __init__(
        self,
        no_upload: bool = False,
        height: int = 512,
        scribble_color: str = "#000000",
        scribble_width: int = 4,
        numpy: bool = False,
        elem_id: str | None = None,
        elem_classes: list[str] | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {"height": height, "numpy": numpy, "no_upload": no_upload}
        name = f"uuid_{uuid.uuid4().hex}"
        html = HTML.replace("NAME", name)
        self.block = gr.HTML(html, elem_id=elem_id, elem_classes=elem_classes)
        hidden: dict[str, Any] = {"visible": False, "elem_id": name}
        self.foreground = HiddenPicture(label="foreground", elem_classes=[FOREGROUND], **hidden)
        self.background = HiddenPicture(label="background", elem_classes=[BACKGROUND], **hidden)
        words = json.dumps([name, no_upload, scribble_color, scribble_width, self.names])
        script = f"async () => {{ new SmallCanvas(...{words}); }}"
        Context.root_block.load(None, **{SCRIPT: script})


class NamingCanvas(SmallCanvas):
    """One that sends what it holds to the host."""

    names = True
