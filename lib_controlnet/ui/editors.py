"""The editors of maps: what their scripts ask the server, and where these lie.

`javascript/editors/` is loaded when an editor is opened, so what it needs comes no earlier: its
texts, palettes, tables and the drawing of a pose are asked for, see `ASKS`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from lib_controlnet.detect.palettes import describe_palettes
from lib_controlnet.errors import ControlNetError
from lib_controlnet.ui.carrier import build_carrier
from lib_controlnet.ui.editor_poses import POSE_ASKS
from lib_controlnet.words import EDITORS, word

log = logging.getLogger(__name__)

FOLDER: Final = Path(__file__).parents[2] / "javascript" / "editors"

ASKS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "words": lambda _value, _runtime: dict(EDITORS),
    **POSE_ASKS,
    "palettes": lambda _value, _runtime: describe_palettes(),
}
"""What may be asked -> (value, the extension's services) -> the answer, which JSON can hold."""


def connect_editors(prefix: str, runtime: Any) -> None:
    """Have the editors' questions answered.

    Args:
        prefix: the panel's element id.
        runtime: the extension's services.
    """
    build_carrier(f"{prefix}_editors", lambda ask: answer_editor(ask, runtime))


def answer_editor(ask: Mapping[str, Any], runtime: Any) -> dict[str, Any]:
    """What an editor asked for.

    Args:
        ask: `do`, a key of `ASKS`, and its `value`; whatever a page sends.
        runtime: the extension's services.

    Returns:
        `value`, or `fault`, a sentence.
    """
    act = ASKS.get(str(ask.get("do")))
    if act is None:
        return {"fault": word("editor_unknown")}
    try:
        return {"value": act(ask.get("value"), runtime)}
    except ControlNetError as error:
        return {"fault": str(error)}
    except Exception as error:  # the boundary: the editor must not be left waiting
        log.exception("an editor's question %r failed", ask.get("do"))
        return {"fault": f"{type(error).__name__}: {error}"}


def stamp() -> str:
    """What is another text once a file of the editors is another, for their addresses."""
    try:
        return f"{max(file.stat().st_mtime_ns for file in FOLDER.iterdir()) // 10**6:x}"
    except (OSError, ValueError):
        return ""
