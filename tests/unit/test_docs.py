"""Pages below docs/: their links lead somewhere, the tests and files they name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMED = re.compile(r"`((?:tests|docs|lib_controlnet|annotator|minihost|javascript)/[\w./-]+\.\w+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_only_what_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in NAMED.findall(text) if not (ROOT / name).exists()]
    assert not missing


def _literals() -> list[str]:
    """Every text in the program, with a blank mark where a value is put in."""
    texts = []
    for folder in ("lib_controlnet", "annotator"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = node.values
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    parts = [node]
                else:
                    continue
                texts.append("".join(getattr(part, "value", "") for part in parts if _plain(part)))
    return texts


def _plain(part: ast.expr) -> bool:
    return isinstance(part, ast.Constant) and isinstance(part.value, str)


def test_messages_of_the_troubleshooting_page_are_those_of_the_program() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    literals = _literals()
    assert len(rows) > 20
    pieces = [piece.strip() for row in rows for piece in row.split("`")[1].split("…")]
    assert not [piece for piece in pieces if not any(piece in text for text in literals)]
