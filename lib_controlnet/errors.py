"""Errors whose message is one sentence for the user: what, where, got, expected, what to do."""

import copy
import re
from typing import Final


class ControlNetError(Exception):
    """Base of everything this extension raises on purpose.

    `status_code` and `detail` are instance attributes because the host's HTTP layer reads
    `vars(error)` to answer a request that failed inside a generation.
    """

    status = 422

    def __init__(self, message: str, status_code: int | None = None) -> None:
        message = printable(message)
        super().__init__(message)
        self.detail = message
        self.status_code = status_code or type(self).status


class UnitError(ControlNetError):
    """A unit holds a value that cannot be used."""


class ImageError(ControlNetError):
    """A picture or mask cannot be decoded or has an unusable size."""


class ModelNotFoundError(ControlNetError):
    """No control model of that name in any scanned folder."""

    status = 404


class PreprocessorUnavailableError(ControlNetError):
    """The preprocessor is unknown, or something it needs is missing."""


class CheckpointError(ControlNetError):
    """A control model file cannot be used."""


class BrokenCheckpointError(CheckpointError):
    """The file is of this family but damaged or incomplete."""


class AmbiguousCheckpointError(CheckpointError):
    """Two families claim the same file."""


class WrongBaseModelError(CheckpointError):
    """The control model was made for another base model than the one that is loaded."""


class PresetError(ControlNetError):
    """A preset cannot be found, read or written."""


class HostError(ControlNetError):
    """The host is in a state in which controls cannot be applied."""


class StoppedError(ControlNetError):
    """The user has stopped it."""


def lacks_memory(name: str) -> HostError:
    """The sentence for a control model that the machine or its device has no memory for."""
    return HostError(
        f"there is not enough memory to load {name}; close other programs, enable Low VRAM, or "
        "lower the model cache size in the settings"
    )


def lacks_memory_here(name: str) -> HostError:
    """The sentence for a control model that is loaded and cannot be evaluated."""
    return HostError(
        f"there is not enough memory to evaluate {name} at this size, not even row by row and "
        "layer by layer; make the picture smaller, close other programs, or start the WebUI with "
        "--medvram or --lowvram"
    )


def without_frames(error: BaseException) -> BaseException:
    """The error itself, to be kept: its frames, and its causes', would keep all their pictures."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        waiting += [e for e in (one.__cause__, one.__context__) if e is not None]
    return error


def again(error: BaseException) -> BaseException:
    """A copy of a kept error to raise: what is raised gets frames, and they hold the keeper."""
    try:
        fresh = copy.copy(error)
    except Exception:  # a foreign class with a constructor of its own
        return error
    if type(fresh) is not type(error) or str(fresh) != str(error):
        return error
    fresh.__cause__ = error.__cause__
    return fresh


SHOWN_CHARACTERS: Final = 80


def quote(value: object) -> str:
    """A value as messages quote it; a request may hold megabytes."""
    # A number of a million digits must not be written out first.
    text = "a very long number" if _is_long(value) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _is_long(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > 1000  # beyond float


def printable(text: str) -> str:
    """A text that every encoding can carry: bytes of a file's name that are no UTF-8 as `\\xe4`.

    JSON, logs and pages fail on the stand-ins that Python has for such bytes.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a character that stands for no byte
        return text.encode("utf-8", "backslashreplace").decode()


_MEMORY_ERRORS: Final = frozenset({"MemoryError", "OutOfMemoryError", "_ArrayMemoryError"})
_NO_MEMORY: Final = re.compile("out of memory|not enough memory|allocate memory", re.IGNORECASE)
_WANTED_BYTES: Final = re.compile(r"allocate (\d{1,20}) bytes")


def is_out_of_memory(error: BaseException, most: int | None = None) -> bool:
    """Whether a computation ended because the machine or its device has no memory left.

    Args:
        error: from Python, numpy, or torch on any device.
        most: bytes that may be asked for at once; who asks for more has read a wrong number.
    """
    if type(error).__name__ in _MEMORY_ERRORS:
        return True
    if not isinstance(error, RuntimeError) or not _NO_MEMORY.search(str(error)):
        return False
    wanted = _WANTED_BYTES.search(str(error))
    return most is None or wanted is None or int(wanted[1]) <= most
