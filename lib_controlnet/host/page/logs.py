"""Where the extension's log lines go: to the console, in the form that users know and quote."""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Final

from lib_controlnet.errors import printable
from lib_controlnet.gate import ANNOTATOR

log = logging.getLogger(__name__)

FORM: Final = "%(asctime)s - ControlNet - %(levelname)s - %(message)s"
PACKAGES: Final = ("lib_controlnet", ANNOTATOR)
SHARED: Final = "ControlNet"
"""Others log under this name too, some hosts' own preprocessors among them."""
MARK: Final = "controlnet"


class _Printable(logging.Formatter):
    """Names of files may hold bytes that no console takes."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Console(logging.StreamHandler):
    """Writes to what `sys.stdout` is now; the host puts a progress bar's in its place."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)
        self.set_name(MARK)
        self.setFormatter(_Printable(FORM))

    @property
    def stream(self) -> object:
        return sys.stdout

    @stream.setter
    def stream(self, _value: object) -> None:
        """Nothing is kept."""


def set_up(level: str) -> None:
    """Log to the console from this level on; calling it again only changes the level.

    Args:
        level: "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL" (`--controlnet-loglevel`); any
            other text counts as "INFO".
    """
    chosen = logging.getLevelName(str(level).upper())
    for name in (*PACKAGES, SHARED):
        logger = logging.getLogger(name)
        if name == SHARED and any(handler.get_name() != MARK for handler in logger.handlers):
            continue  # another prints its lines, and ours would print them again
        logger.setLevel(chosen if isinstance(chosen, int) else logging.INFO)
        if all(handler.get_name() != MARK for handler in logger.handlers):
            logger.addHandler(_Console())
        logger.propagate = False  # the host's own handler would print every line again


@cache
def say_once(text: str) -> None:
    """Warn of what stays as it is until somebody changes it; asked again, nothing is said."""
    log.warning(text)
