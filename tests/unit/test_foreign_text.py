"""Text from anywhere meets no pattern, loop or reader whose work explodes with its length.

Everything runs in one process of its own that must end at all: with work that grows by the square
the lengths here take minutes to hours, in line with the length less than some seconds.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 200
"""Seconds until a run counts as one that does not end; an idle machine needs about twenty."""
FUNCTIONS = (
    "compile",
    "match",
    "fullmatch",
    "search",
    "sub",
    "subn",
    "split",
    "findall",
    "finditer",
)
HANDED_ON = {  # variables whose values are patterns that stand as text elsewhere in the file
    ("lib_controlnet/files/layouts.py", "pattern"),
    ("lib_controlnet/files/signatures.py", "pattern"),
    ("lib_controlnet/train/sizes.py", "pattern"),
    ("annotator/nets/oneformer.py", "pattern"),
}


def sources() -> list[Path]:
    folders = ("lib_controlnet", "annotator", "scripts")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def constant(node: ast.expr, known: dict[str, str]) -> str | None:
    """The text of an expression, as far as it stands in the file."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.JoinedStr):
        parts = [
            part.value if isinstance(part, ast.Constant)
            else constant(part.value, known)  # type: ignore[attr-defined]
            for part in node.values
        ]  # fmt: skip
        return None if None in parts else "".join(parts)  # type: ignore[arg-type]
    return "x" if isinstance(node, ast.Call) else None  # re.escape(...)


def patterns_of(path: Path) -> Iterator[tuple[str, str | None]]:
    """Source and text of every regular expression in a file; None where it cannot be told."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            text = constant(node.value, known) if isinstance(target, ast.Name) else None
            if text is not None and not isinstance(node.value, ast.Call):
                known[target.id] = text  # type: ignore[union-attr]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if isinstance(owner, ast.Name) and owner.id == "re" and node.func.attr in FUNCTIONS:
            yield ast.unparse(node.args[0]), constant(node.args[0], known)
    if (path.relative_to(ROOT).as_posix(), "pattern") in HANDED_ON:
        texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        yield from ((text, text) for text in texts if isinstance(text, str) and "\\" in text)


PATTERNS = sorted(
    {
        (path.relative_to(ROOT).as_posix(), text)
        for path in sources()
        for source, text in patterns_of(path)
        if text is not None
    }
)


def test_every_pattern_of_the_sources_is_tried() -> None:
    untold = {
        (path.relative_to(ROOT).as_posix(), source)
        for path in sources()
        for source, text in patterns_of(path)
        if text is None
    }
    assert untold <= HANDED_ON, "write it as text, or as a constant of its file"
    assert len(PATTERNS) > 40


TRY_PATTERNS = """
import itertools, re, sys
patterns = [line.split("\\t", 1) for line in sys.stdin.read().split("\\0") if line]
length = int(sys.argv[1])
units = [" ", "1", "a", ".", "[", "(", '"', "\\\\", ",", ":", "-", "\\n", " [", "1 ", "1.", "a ["]
for name, pattern in patterns:
    try:
        found = re.compile(pattern)
    except re.error:
        continue  # what stands beside patterns: a replacement
    literal = re.sub(r"\\\\.|[^A-Za-z0-9_.:]", "", pattern)[:40]
    for unit, head in itertools.product(units, ("", literal)):
        text = head + unit * (length // len(unit)) + "\\0"
        print(name, repr(pattern), repr(head), repr(unit), flush=True)
        found.fullmatch(text)
        found.findall(text)  # begins with what search and match do
"""


def ends(program: str, given: str = "", *arguments: str) -> None:
    """Run a program that must end; what it did last is told if it does not."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], input=given, text=True, cwd=ROOT,
            capture_output=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        last = (error.stdout or b"").decode(errors="replace").splitlines()[-1:]
        pytest.fail(f"does not end: {last}")
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])


def test_no_pattern_of_the_sources_explodes() -> None:
    ends(TRY_PATTERNS, "\0".join(map("\t".join, PATTERNS)), "200000")


TRY_FUNCTIONS = """
import sys
from pathlib import Path
from types import SimpleNamespace
from lib_controlnet.detect import preprocess
from lib_controlnet.pictures import transport
from lib_controlnet.units import infotext
from lib_controlnet.files.catalog import Catalog, ModelFile
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.ui.unit_value import read_weights
from lib_controlnet.units.unit import parse_unit

length = int(sys.argv[1])
catalog = Catalog([Path("absent")])
catalog.__dict__["files"] = {}
units = [" ", "1", "a", "[", "]", "(", '"', "\\\\", ",", ":", ".", "-", "_", "%", "\\n",
         "\\u3000", 'a: "', "a: (", "a: (,", "a:", ', "', '\\\\"', 'a: "\\\\", ', " [a]", "[[",
         "%2B", "a b\\n", "@", "|", "1@0, "]
fields = ("module", "control_mode", "weight", "advanced_weighting", "batch_images", "weight_curve")
readers = {
    "infotext": infotext.parse,
    "infotext-uncapped": lambda text: list(infotext._parts(text)),
    "infotext-quoted": lambda text: list(infotext._parts(f'Module: "{text}')),
    "infotext-bracket": lambda text: list(infotext._parts(f"starting/ending: ({text}")),
    "pasted": lambda text: infotext.parse_all({"ControlNet 0": text, text: "Module: canny"}),
    "pasted-flat": lambda text: infotext.parse_all({f"ControlNet-0 {text}": text}),
    "pasted-number": lambda text: infotext.parse_all({f"ControlNet {text}": "Module: canny"}),
    "own-key": infotext.is_own_key,
    "model": catalog.find,
    "model-hash": lambda text: catalog.find(f"x{text}[{text}]"),
    "preprocessor": preprocess.get,
    "base64": transport.bytes_of_text,
    "data-url": lambda text: transport.bytes_of_text(f"data:{text};base64,{text}"),
    "image": lambda text: decode_image(text, allow_paths=[Path("absent")]),
    "weights": read_weights,
    **{field: lambda text, field=field: parse_unit({field: text}) for field in fields},
}
for name, read in readers.items():
    for unit in units:
        for end in ("", "]x"):
            print(name, repr(unit), repr(end), flush=True)
            try:
                read(unit * (length // len(unit)) + end)
            except (RecursionError, MemoryError):
                raise
            except Exception as error:
                assert len(str(error)) < 5000, (name, len(str(error)))
"""


def test_no_reader_of_foreign_text_explodes() -> None:
    ends(TRY_FUNCTIONS, "", "200000")
