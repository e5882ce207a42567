"""Translations of the page: JSON files of host and extensions, by the language's name."""

from __future__ import annotations

import json
from pathlib import Path

from modules import scripts, shared

NONE = "None"


def names() -> list[str]:
    """The languages that there are files for, after "None"."""
    files = scripts.list_scripts("localizations", ".json")
    return [NONE, *sorted({Path(file.filename).stem for file in files})]


def script_tag() -> str:
    """The chosen language's texts as the page's scripts read them; later files count."""
    chosen, texts = shared.opts.localization, {}
    for file in scripts.list_scripts("localizations", ".json"):
        if Path(file.filename).stem == chosen:
            texts.update(json.loads(Path(file.path).read_text(encoding="utf-8")))
    told = json.dumps(texts).replace("</", "<\\/")
    return f"<script>window.localization = {told}</script>\n"
