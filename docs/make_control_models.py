"""Write control-models.md, the page of published control models, from the code's table."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lib_controlnet.files.published import HUB, PublishedFile, list_published  # noqa: E402

HEAD = """# Published control models

What people use, and where it is published. The panel's button "Download…" and `python -m
lib_controlnet.tools download` bring any of them into the WebUI's `models/ControlNet`. A file that
its repository calls by another name is listed under one that tells what it is. The table is
`lib_controlnet/files/published.json`; this page is made of it by `python
docs/make_control_models.py`. `python -m lib_controlnet.tools info FILE` names a file that is one of
these by its name or size, and `check FILE` says when it has not the size it should have.

Nobody of this project has opened these files: sizes and sums are those that others check or list.
*krita*, *SwarmUI*, *AI-Horde*: the tables of these programs; *ComfyUI-Manager*: its list of models
(rounded sizes); *lists*: download lists of further programs; *listing*: that of the page itself. A
dash: not known. Licences: where one of these states it; read the model's page.

| file | list | base | size | SHA-256 | licence | from |
|---|---|---|---|---|---|---|
"""


def make_page() -> str:
    """The page."""
    return HEAD + "".join(map(_row, list_published()))


def _row(one: PublishedFile) -> str:
    name = f"`{one.name}`" + (f" ({one.note})" if one.note else "")
    where = f"[{one.repository}]({HUB}/{one.repository}), {one.source}"
    cells = (
        name,
        ", ".join(one.control_types),
        str(one.base),
        one.size_text,
        one.sha256,
        one.licence,
    )
    return "| " + " | ".join([*(cell or "-" for cell in cells), where]) + " |\n"


if __name__ == "__main__":
    (HERE / "control-models.md").write_text(make_page(), encoding="utf-8")
