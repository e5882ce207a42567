"""Another ControlNet in the same WebUI: found before anything of ours is registered."""

from __future__ import annotations

import html
import logging
from pathlib import Path
from typing import Final

from modules import extensions, scripts

from lib_controlnet.host.folders import EXTENSION_ROOT

log = logging.getLogger(__name__)

SCRIPT: Final = Path("scripts") / "controlnet.py"


def other_installation() -> Path | None:
    """Folder of another enabled extension that brings the script `controlnet.py`, or None.

    Hosts that have a ControlNet built in list it among their extensions too.
    """
    for extension in extensions.active():
        folder = Path(extension.path)
        try:
            if (folder / SCRIPT).is_file() and not folder.samefile(EXTENSION_ROOT):
                return folder
        except OSError as error:
            log.debug("the extension in %s is passed over: %s", folder, error)
    return None


def explanation(other: Path) -> str:
    """What the user sees instead of the panel."""
    return (
        f"ControlNet is installed twice: {other} is enabled as well. The one in {EXTENSION_ROOT} "
        "stays off, so nothing of either is mixed up. Disable or remove one of them in the "
        "Extensions tab and restart the WebUI."
    )


def notice(other: Path) -> type[scripts.Script]:
    """A script that does nothing but say, in both tabs, why there is no panel."""
    log.warning(explanation(other))

    class Notice(scripts.Script):
        """Stands in for the panel."""

        def title(self) -> str:
            return "ControlNet (off: installed twice)"

        def show(self, is_img2img: bool) -> object:
            return scripts.AlwaysVisible

        def ui(self, is_img2img: bool) -> list:
            import gradio as gr

            with gr.Accordion("ControlNet is off: it is installed twice", open=False):
                gr.HTML(html.escape(explanation(other)), elem_classes=["cnet-installed-twice"])
            return []

    return Notice
