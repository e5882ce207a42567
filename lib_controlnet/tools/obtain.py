"""Published control models from the command line: which there are, and downloads of them."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from lib_controlnet.detect.downloadable import types_of
from lib_controlnet.detect.listing import ALL, control_types
from lib_controlnet.enums import BaseModel
from lib_controlnet.errors import quote
from lib_controlnet.files.catalog import EXTENSIONS
from lib_controlnet.files.downloads import download, order_model, weights
from lib_controlnet.files.published import PublishedFile, find_named, find_present, list_published
from lib_controlnet.settings import BY_KEY
from lib_controlnet.tools.errors import ToolError

log = logging.getLogger(__name__)

EXTENSION: Final = Path(__file__).resolve().parents[2]
CONFIG_LIMIT: Final = 2**24
"""Bytes of the WebUI's settings that are read."""


def find_webui() -> Path | None:
    """The folder of the WebUI round this extension; None where there is none."""
    return EXTENSION.parent.parent if EXTENSION.parent.name == "extensions" else None


def find_folder() -> Path:
    """Where the panel's downloads go."""
    webui = find_webui()
    return EXTENSION / "models" if webui is None else webui / "models" / "ControlNet"


def read_options(mirror: str = "") -> Any:
    """How files may be had, by the WebUI's settings where there is one.

    Args:
        mirror: another address of the hub; "" for that of the settings.
    """
    webui, saved = find_webui(), {}
    if webui is not None:
        try:
            with (webui / "config.json").open("rb") as stream:
                saved = json.loads(stream.read(CONFIG_LIMIT))
        except (OSError, ValueError, RecursionError):
            pass
    saved = saved if isinstance(saved, dict) else {}

    def option(key: str) -> Any:
        item = BY_KEY[key]
        found = item.read(saved.get(key, item.default))
        return item.default if found is None else found

    hub = mirror or option("controlnet_hub_mirror").strip()
    return weights.Options(hub=hub, offline=option("controlnet_offline"))


def find_models(kind: str = ALL, base: str = "") -> list[PublishedFile]:
    """The published models of a control type and a base; "All" and "" stand for any.

    Raises:
        ToolError: there is no such control type.
    """
    names = {name.lower(): name for name in control_types()}
    wanted = names.get(kind.strip().lower())
    if wanted is None:
        msg = f"{quote(kind)} is no control type; there are {', '.join(names.values())}"
        raise ToolError(msg)
    bases = [BaseModel(base)] if base else list(BaseModel)
    return [
        one for one in list_published() if one.base in bases and wanted in (ALL, *types_of(one))
    ]


def make_table(models: Sequence[PublishedFile], folder: Path) -> str:
    """One line for each model, then the folder that downloads go to."""
    files = folder.iterdir() if folder.is_dir() else ()
    there = find_present(path for path in files if path.suffix.lower() in EXTENSIONS)
    head = ("file", "list", "base", "size", "licence", "there")
    rows = [
        (
            *(one.name, ", ".join(one.control_types) or "-", str(one.base)),
            order_model(one, folder).weight.size_text,
            *(one.licence or "-", "yes" if one.name in there else "-"),
        )
        for one in models
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
    return "\n".join([*lines, f"downloads go to {folder}"])


def find_wanted(names: Sequence[str]) -> list[PublishedFile]:
    """The published models of some names, with or without their endings.

    Raises:
        ToolError: one of them is unknown; nothing is downloaded then.
    """
    found = []
    for name in names:
        tries = [name, *(f"{name}{ending}" for ending in EXTENSIONS)]
        one = next(filter(None, map(find_named, tries)), None)
        if one is None:
            known = [row.name for row in list_published()]
            close = difflib.get_close_matches(name[:200], known, n=3)
            hint = (
                f"did you mean {' or '.join(close)}?" if close else "without names they are listed"
            )
            msg = f"{quote(name)} is no published control model; {hint}"
            raise ToolError(msg)
        found.append(one)
    return found


def bring(one: PublishedFile, folder: Path, options: Any) -> str:
    """Download a model; what to say of it.

    Raises:
        ToolError: it cannot be had.
    """
    order = order_model(one, folder)
    if order.target.is_file():
        return f"{one.name}: {order.target} (was there)"
    try:
        download.bring(order.weight, order.target, options, order.find_fault)
    except weights.WeightsError as error:
        raise ToolError(str(error)) from error
    return f"{one.name}: {order.target} (downloaded)"
