"""Reading the small JSON and YAML files of bases, data sets and runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from .errors import TrainError
from .packages import need

YAML: Final = (".yaml", ".yml")


def read_content(path: Path) -> Any:
    """What a JSON or YAML file holds; its ending tells which it is.

    Raises:
        TrainError: it cannot be read, is no text, no JSON or YAML, or nested too deep.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() not in YAML:
            return json.loads(text)
        yaml = need("yaml")
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path} cannot be read: {error}"
        raise TrainError(msg) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """The same for a file that must hold names and values.

    Raises:
        TrainError: it cannot be read, or holds something else.
    """
    content = read_content(path)
    if not isinstance(content, dict):
        msg = f"{path} must hold names and values, but holds {type(content).__name__}"
        raise TrainError(msg)
    return content
