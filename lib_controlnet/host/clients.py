"""What clients of the HTTP interface get to read of an error: the sentence, and no folders.

The host answers any exception with its text, and prints about a hundred lines of traceback unless
it is an `HTTPException`. So what a request was refused for is raised as one; it is still of its own
class, and the full sentence goes to the log.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from modules import paths, shared

from lib_controlnet.errors import ControlNetError
from lib_controlnet.host.folders import EXTENSION_ROOT
from lib_controlnet.host.runtime import find_runtime

log = logging.getLogger(__name__)

ENDS: Final = " \t\r\n'\"`,;()[]<>"
"""What ends a path in a sentence."""
ROUTES: Final = ("/controlnet/", "/sdapi/")
PARTS: Final = 3


def without_folders(text: str, roots: Iterable[str] = ()) -> str:
    """A sentence whose absolute paths are cut down to their last name.

    Args:
        text: the sentence.
        roots: folders that may hold blanks; what lies below keeps its path from there on.
    """
    for root in sorted({root.rstrip("/\\") for root in roots}, key=len, reverse=True):
        if len(root) > 1:
            text = text.replace(root, Path(root).name)
    shown, word = "", ""
    for char in f"{text}\0":
        if char not in ENDS and char != "\0":
            word += char
            continue
        shown += _last_name(word) + char
        word = ""
    return shown[:-1]


def _last_name(word: str) -> str:
    path = word.rstrip(".:")
    is_windows = path[1:3] in (":\\", ":/") and path[:1].isalpha()
    is_path = path.startswith("/") and path.count("/") >= PARTS - 1
    if not is_windows and (not is_path or path.startswith(ROUTES)):
        return word
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] + word[len(path) :]


def list_folders() -> list[str]:
    """Folders of this installation and this user that messages may name."""
    runtime = find_runtime()
    models = [] if runtime is None else runtime.host.model_folders()
    outputs = [str(value) for key, value in shared.opts.data.items() if key.startswith("outdir_")]
    places = [paths.data_path, paths.script_path, paths.models_path, EXTENSION_ROOT, *models]
    return [*map(str, places), *outputs, str(Path.home()), tempfile.gettempdir()]


def public(text: str) -> str:
    """The sentence as a client may read it."""
    return without_folders(text, list_folders())


@contextmanager
def answer_errors(p: Any) -> Iterator[None]:
    """What a request is refused for inside becomes the host's answer, in one line of its log.

    In jobs of the page everything passes as it is.
    """
    try:
        yield
    except ControlNetError as error:
        refused = _present(error) if getattr(p, "is_api", False) else None
        if refused is None:
            raise
        log.warning("refused: %s", error)
        log.debug("where it was refused", exc_info=error)
    else:
        return
    raise refused


def _present(error: ControlNetError) -> BaseException | None:
    """The error as an HTTPException of its own class; None if it is one already."""
    from fastapi import HTTPException

    if isinstance(error, HTTPException):
        return None
    own: Any = type(error)
    return _kind(own)(public(str(error)), error.status_code)


@lru_cache(maxsize=64)
def _kind(own: type[ControlNetError]) -> Any:
    from fastapi import HTTPException

    def __init__(self: Any, message: str, status_code: int | None = None) -> None:
        Exception.__init__(self, message)
        self.detail, self.status_code, self.headers = message, status_code or own.status, None

    body = {"__init__": __init__, "__str__": Exception.__str__, "__module__": own.__module__}
    return type(own.__name__, (own, HTTPException), body)
