"""Another ControlNet in the same WebUI: found before anything of ours is loaded.

The scripts execute this file by its path, so it imports nothing of ours: the name of our package
may be the other's.
"""

from __future__ import annotations

import html
import logging
from pathlib import Path
from typing import Any, Final

from modules import extensions, script_loading, scripts, shared

log = logging.getLogger("ControlNet")

EXTENSION_ROOT: Final = Path(__file__).resolve().parents[3]
SCRIPT: Final = Path("scripts") / "controlnet.py"
PACKAGE: Final = "lib_controlnet"


def take_place() -> Path | None:
    """Load our packages; the folder of another ControlNet that is enabled, and then nothing."""
    standing = script_loading.load_module(str(EXTENSION_ROOT / PACKAGE / "standing.py"))
    standing.give_way()
    return other_installation() or standing.claim()


def other_installation() -> Path | None:
    """Folder of another enabled extension with our script or our package's name, or None.

    Hosts that have a ControlNet built in list it among their extensions too.
    """
    for extension in extensions.active():
        folder = Path(extension.path)
        try:
            is_one = (folder / SCRIPT).is_file() or (folder / PACKAGE).is_dir()
            if is_one and not folder.samefile(EXTENSION_ROOT):
                return folder
        except OSError as error:
            log.debug("the extension in %s is passed over: %s", folder, error)
    return None


def find_name(other: Path) -> str:
    """Under which name the settings disable the extension that a folder is of; "" for none."""
    for extension in extensions.active():
        if other.is_relative_to(extension.path):
            return str(extension.name)
    return ""


def explanation(other: Path) -> str:
    """What the user sees instead of the panel."""
    return (
        f"ControlNet is installed twice: {other} is enabled as well. The one in {EXTENSION_ROOT} "
        "stays off, so nothing of either is mixed up. Disable or remove one of them in the "
        "Extensions tab and restart the WebUI."
    )


def disable(name: str) -> None:
    """Disable an extension in the settings and end the program; see `is_started_again`.

    Nothing less lets go of the packages that it has loaded.

    Raises:
        PermissionError: this page may not change extensions.
    """
    from modules import restart

    if getattr(shared.cmd_opts, "disable_extension_access", False):
        msg = "extensions may not be changed in this WebUI; ask who runs it"
        raise PermissionError(msg)
    disabled = [*shared.opts.disabled_extensions]
    shared.opts.disabled_extensions = [*disabled, *({name} - {*disabled})]
    shared.opts.save(shared.config_filename)
    log.warning("the extension %s is disabled, and the WebUI ends", name)
    end = restart.restart_program if is_started_again() else restart.stop_program
    end()


def is_started_again() -> bool:
    """Whether something watches the program that starts it again when it ends."""
    try:
        from modules import restart
    except ImportError:
        return False
    return restart.is_restartable()


def notice(other: Path) -> type[scripts.Script]:
    """A script that does nothing but say, in both tabs, why there is no panel."""
    log.warning(explanation(other))

    class Notice(scripts.Script):
        """Stands in for the panel."""

        def title(self) -> str:
            return "ControlNet (off: installed twice)"

        def show(self, is_img2img: bool) -> object:
            return scripts.AlwaysVisible

        def ui(self, is_img2img: bool) -> list[Any]:
            try:
                _show_notice(other)
            except Exception:  # a boundary: nothing of ours keeps the host from starting
                log.exception("the notice could not be built")
            return []

    return Notice


def _show_notice(other: Path) -> None:
    import gradio as gr

    name = find_name(other)
    with gr.Accordion("ControlNet is off: it is installed twice", open=False):
        gr.HTML(html.escape(explanation(other)), elem_classes=["cnet-installed-twice"])
        if name and not getattr(shared.cmd_opts, "disable_extension_access", False):
            end = "restart" if is_started_again() else "stop the WebUI (start it again yourself)"
            button = gr.Button(f"Disable {name} and {end}", elem_classes=["cnet-disable-other"])
            button.click(fn=lambda: disable(name), _js="restart_reload", inputs=[], outputs=[])
