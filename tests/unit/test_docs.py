"""Pages below docs/: their links lead somewhere, the tests and files they name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMED = re.compile(r"`((?:tests|docs|lib_controlnet|annotator|minihost|javascript)/[\w./-]+\.\w+)`")


PART = re.compile(r"`([\w-]+(?:/[\w-]+)+\.(?:py|js))`")
FUNCTION = re.compile(r"`([\w./]+\.py):([\w.]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_only_what_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in NAMED.findall(text) if not (ROOT / name).exists()]
    missing += [
        part
        for part in PART.findall(text)
        if not list(ROOT.glob(f"*/{part}")) and not (ROOT / part).exists()
    ]
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


def _names(file: Path) -> set[str]:
    """What a file defines at its top, and the methods of its classes as `Class.method`."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = {node.name for node in body if isinstance(node, kinds)}
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    return found | {f"{c.name}.{m.name}" for c in classes for m in c.body if isinstance(m, kinds)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_functions_that_a_page_names_exist(page: Path) -> None:
    named = FUNCTION.findall(page.read_text(encoding="utf-8"))
    assert not [f"{file}:{name}" for file, name in named if name not in _names(ROOT / file)]


def test_road_enters_no_room_twice() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    legs = text.split("## The road")[1].split("\n## ")[0].split("\n**")[1:]
    assert len(legs) == 5
    for leg in legs:
        parts = [file.split("/") for file, _name in FUNCTION.findall(leg)]
        rooms = [names[1] if names[0] == "lib_controlnet" else names[0] for names in parts]
        assert rooms, leg
        walked = [
            room for room, before in zip(rooms, [None, *rooms], strict=False) if room != before
        ]
        assert len(walked) == len(set(walked)), walked
        assert all(line.startswith(("-", " ")) for line in leg.split("**")[1].strip().splitlines())
