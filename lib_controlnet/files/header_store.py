"""What headers of files say of them, remembered on disk: lists need it of every file."""

from __future__ import annotations

import logging
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

from lib_controlnet.errors import ControlNetError
from lib_controlnet.files.containers import read_head
from lib_controlnet.files.file_store import FileStore, stamp_of
from lib_controlnet.files.layouts import normalise
from lib_controlnet.files.signatures import classify_names

log = logging.getLogger(__name__)

WORD_LIMIT: Final = 100
"""Characters of what a file says; names of types and preprocessors are shorter."""


@dataclass(frozen=True)
class Header:
    """What a file's header says of the file.

    Attributes:
        kind: key of its signature by the names of its tensors; "" where they tell none.
        control_type: as trainers write it into the metadata; "" where they did not.
        preprocessor: the same.
    """

    kind: str = ""
    control_type: str = ""
    preprocessor: str = ""


def read_header(path: Path) -> Header | None:
    """What the header of a safetensors file says, nothing if it is damaged.

    None for other files, and for what cannot be opened now.
    """
    if path.suffix.lower() != ".safetensors":
        return None
    try:
        names, text = read_head(path)
        kind = classify_names(normalise(names))
    except OSError as error:
        log.debug("%s cannot be opened: %s", path, error)
        return None
    except ControlNetError as error:
        log.debug("the header of %s cannot be read: %s", path, error)
        return Header()
    said = (text.get(name, "").strip()[:WORD_LIMIT] for name in ("control_type", "preprocessor"))
    return Header("" if kind is None else kind.key, *said)


class HeaderStore(FileStore[Header]):
    """Headers by path, time and size, for as long as kinds are told in the same way.

    Args:
        file: see `FileStore`.
    """

    def __init__(self, file: Path | None = None) -> None:
        super().__init__(
            *(file, "headers of models", _read_value, lambda header: [*astuple(header)]),
            lambda: stamp_of(Path(__file__).parent),
        )


def _read_value(found: list[Any]) -> Header | None:
    is_text = all(isinstance(one, str) and len(one) <= WORD_LIMIT for one in found)
    return Header(*found) if is_text else None
