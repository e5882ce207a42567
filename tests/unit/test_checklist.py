"""Every row of the compatibility checklist has a test that says so in its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "consumers.md"
ROWS = range(1, 27)
NAME = re.compile(r"test_row_(\d\d)_\w+")
LINE = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
NON_CONSUMERS = ("krita-ai-diffusion", "auto-sd-paint-ext", "Stability Matrix")


def rows_of(source: str) -> set[int]:
    """Rows that the test functions of a file name."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    found = (NAME.fullmatch(function.name) for function in functions)
    return {int(match[1]) for match in found if match}


@pytest.fixture(scope="module")
def tested() -> dict[int, set[str]]:
    """Files that test a row, by row."""
    files: dict[int, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for row in rows_of(path.read_text(encoding="utf-8")):
            files.setdefault(row, set()).add(path.relative_to(ROOT).as_posix())
    return files


@pytest.fixture(scope="module")
def listed() -> dict[int, set[str]]:
    """Files that the page of consumers names for a row, by row."""
    table = PAGE.read_text(encoding="utf-8").partition("## The checklist")[2]
    return {int(row): set(re.findall(r"`([^`]+)`", files)) for row, _, files in LINE.findall(table)}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_test_that_names_it(row: int, tested: dict[int, set[str]]) -> None:
    assert tested.get(row), f"no test is called test_row_{row:02d}_..."


def test_no_test_names_a_row_that_does_not_exist(tested: dict[int, set[str]]) -> None:
    assert set(tested) <= set(ROWS)


def test_page_lists_the_tests_of_every_row(
    tested: dict[int, set[str]], listed: dict[int, set[str]]
) -> None:
    assert set(listed) == set(ROWS)
    for row, files in listed.items():
        assert files, f"row {row} names no test"
        assert files <= tested[row], f"row {row}"


def test_row_25_non_consumers_are_named() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## The checklist")[0]
    assert all(name in text for name in NON_CONSUMERS)
