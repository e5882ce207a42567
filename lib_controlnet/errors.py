"""Errors whose message is one sentence for the user: what, where, got, expected, what to do."""

from typing import Final


class ControlNetError(Exception):
    """Base of everything this extension raises on purpose.

    `status_code` and `detail` are instance attributes because the host's HTTP layer reads
    `vars(error)` to answer a request that failed inside a generation.
    """

    status = 422

    def __init__(self, message: str, status_code: int | None = None) -> None:
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


class NotAMatchError(CheckpointError):
    """The file belongs to another family; identification goes on with the next one."""


class BrokenCheckpointError(CheckpointError):
    """The file is of this family but damaged or incomplete."""


class AmbiguousCheckpointError(CheckpointError):
    """Two families claim the same file."""


class WrongBaseModelError(CheckpointError):
    """The control model was made for another base model than the one that is loaded."""


class HostError(ControlNetError):
    """The host is in a state in which controls cannot be applied."""


SHOWN_CHARACTERS: Final = 80


def shown(value: object) -> str:
    """A value as messages quote it; a request may hold megabytes."""
    # A number of a million digits must not be written out first.
    text = "a very long number" if _is_long(value) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _is_long(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > 1000  # noqa: PLR2004 - beyond float
