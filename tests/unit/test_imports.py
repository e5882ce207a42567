"""Imports point down the layers, the extension is light to import, and files stay readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_CONSTRUCTOR_LINES = 100

# Low rooms first: a module may import its own room and those before it, never in a circle.
# A name is a package or a module of lib_controlnet.
ROOMS = (
    *("standing", "errors", "enums", "limits", "gate", "settings", "words"),
    *("nets", "files", "pictures", "units", "presets", "detect", "engine"),
    *("families", "prepare", "tools", "train", "interop"),
    *("host", "ui", "api", "script"),
)
RANK = {name: rank for rank, name in enumerate(ROOMS)}
HOST_MODULES = {"modules", "launch", "modules_forge", "backend"}
WEB = {"gradio", "fastapi", "pydantic", "starlette"}
OPTIONAL = (
    *(
        "diffusers",
        "transformers",
        "onnxruntime",
        "openvino",
        "mediapipe",
        "insightface",
        "kornia",
        "timm",
    ),
    *("torchvision", "skimage", "scipy", "matplotlib", "huggingface_hub"),
)


def sources(*folders: str) -> list[Path]:
    """Every Python file below some folders of the repository."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


EXTENSION = [
    *sources("lib_controlnet", "annotator", "scripts"),
    *(ROOT / name for name in ("install.py", "preload.py")),
]
EVERYTHING = [*EXTENSION, *sources("minihost", "tests"), ROOT / "dev.py"]
EVERYTHING = [path for path in EVERYTHING if "data" not in path.relative_to(ROOT).parts[:2]]


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Held:
    """What the tests ask of a source, read in one walk: syntax trees are too large to be kept.

    Attributes:
        lines: how many it has.
        imports: absolute dotted names, for type checkers alone too, with the line.
        typing: lines that only a type checker runs.
        functions: (name, line, lines of the body, whether it is a property) of every function.
            Signature and docstring do not count: some signatures are the host's.
        arrays: fields that hold arrays, by dataclass that has a generated comparison.
        homes: paths that only one machine has.
    """

    lines: int
    homes: list[str]
    imports: list[tuple[str, int]] = field(default_factory=list)
    typing: set[int] = field(default_factory=set)
    functions: list[tuple[str, int, int, bool]] = field(default_factory=list)
    arrays: dict[str, list[str]] = field(default_factory=dict)


@cache
def read(path: Path) -> Held:
    """What a source holds."""
    text = path.read_text(encoding="utf-8")
    held = Held(len(text.splitlines()), homes(path, text))
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            held.imports.extend((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level]) if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            held.imports.extend((f"{stem}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.If):
            if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                end = node.body[-1].end_lineno or node.lineno
                held.typing.update(range(node.lineno, end + 1))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            first = body[0].lineno if body else node.end_lineno
            is_noun = any("property" in ast.unparse(one) for one in node.decorator_list)
            length = node.end_lineno - first + 1
            held.functions.append((node.name, node.lineno, length, is_noun))
        elif isinstance(node, ast.ClassDef):
            held.arrays.update(compared_arrays(node))
    return held


ARRAYS = re.compile(r"\b(ndarray|Tensor)\b")


def compared_arrays(node: ast.ClassDef) -> dict[str, list[str]]:
    """The fields with arrays of a dataclass whose comparison is generated, by its name."""
    made = [ast.unparse(item) for item in node.decorator_list]
    made = [text for text in made if text.split("(")[0].endswith("dataclass")]
    if not made or "eq=False" in made[0]:
        return {}
    fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
    arrays = [ast.unparse(x.target) for x in fields if ARRAYS.search(ast.unparse(x.annotation))]
    return {node.name: arrays} if arrays else {}


HOME = r"/(?:home|Users)/(?!runner\b)\w+/|/root/|[A-Z]:\\\\Users\\\\\w+"


def homes(path: Path, text: str) -> list[str]:
    if path == Path(__file__):
        text = text.replace(HOME, "")
    return [*re.findall(HOME, text), *re.findall(r"[\"' ]/(?:work|opt/env)\b", text)]


def room(dotted: str) -> str | None:
    """The room in ROOMS of a dotted name inside lib_controlnet."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "lib_controlnet" else None


def wrong_arrows(path: Path) -> list[str]:
    """Imports of a file that point up, or out of the extension where that is not allowed."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    top, own = parts[0], parts[1] if len(parts) > 1 else ""
    wrong = []
    for name, line in read(path).imports:
        head, target = name.split(".")[0], room(name)
        may_see_host = top == "scripts" or own in ("host", "script")
        may_see_web = top == "scripts" or own in ("ui", "api", "host", "script")
        bad = (
            (head in HOST_MODULES and not may_see_host)
            or (head in WEB and top in ("lib_controlnet", "annotator") and not may_see_web)
            or (head == "gradio" and own == "api")
            or (head == "lib_controlnet" and top == "annotator")
            or (head == "annotator" and top == "lib_controlnet" and line not in read(path).typing)
            or (head in ("minihost", "minildm", "tests"))
            or (target in RANK and own in RANK and RANK[target] > RANK[own])
        )
        if bad:
            wrong.append(f"{label(path)}:{line} imports {name}")
    return wrong


def test_imports_of_the_extension_point_down() -> None:
    assert not [arrow for path in EXTENSION for arrow in wrong_arrows(path)]


def test_rooms_name_every_module_of_the_core() -> None:
    """A new module has to say where it belongs, otherwise no arrow of it is checked."""
    found = {path.stem for path in (ROOT / "lib_controlnet").glob("*.py")} - {"__init__"}
    found |= {path.parent.name for path in (ROOT / "lib_controlnet").glob("*/__init__.py")}
    assert found <= set(RANK), f"add to ROOMS: {sorted(found - set(RANK))}"


def graph(package: str) -> dict[str, set[str]]:
    """Which modules of a package each of them imports, type checkers' imports included."""
    paths = {
        label(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path
        for path in sources(package)
    }
    arrows: dict[str, set[str]] = {}
    for module, path in paths.items():
        names = {name for name, _line in read(path).imports}
        found = {name if name in paths else name.rpartition(".")[0] for name in names}
        arrows[module] = (found & paths.keys()) - {module}
    return arrows


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach each other."""
    reached = {start: reach(start, arrows) for start in arrows}
    rings = [frozenset(b for b in reached[a] if a in reached[b]) for a in arrows if a in reached[a]]
    return sorted(map(set, set(rings)), key=sorted)


def reach(start: str, arrows: dict[str, set[str]]) -> set[str]:
    """Every module that a chain of imports leads to."""
    seen: set[str] = set()
    todo = list(arrows[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += arrows[name]
    return seen


@pytest.mark.parametrize("package", ["lib_controlnet", "annotator"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    arrows = graph(package)
    assert any(arrows.values()), "no arrow was read"
    assert not circles(arrows)


def modules_after(code: str, *paths: str) -> set[str]:
    """Top-level modules in sys.modules after some code has run in a fresh process."""
    script = "\n".join(
        [
            "import sys",
            f"sys.path[:0] = {[str(ROOT / path) for path in paths]!r}",
            code,
            "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))",
        ]
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert out.returncode == 0, out.stderr
    return set(out.stdout.split())


IMPORT_CORE = """
import importlib, pathlib, pkgutil
import lib_controlnet, annotator
for package in (lib_controlnet, annotator):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name.split(".")[1] not in {excluded}:
            importlib.import_module(module.name)
"""


def test_core_imports_nothing_optional_and_no_web_framework() -> None:
    excluded = {"host", "ui", "api", "script"}
    loaded = modules_after(IMPORT_CORE.format(excluded=excluded), ".")
    assert "torch" in loaded, "the probe imported nothing"
    unwanted = loaded & {*OPTIONAL, *WEB, *HOST_MODULES}
    assert not unwanted, f"importing the core pulls in {sorted(unwanted)}"


def test_installer_imports_nothing_heavy_and_installs_nothing() -> None:
    code = f"import runpy; runpy.run_path({str(ROOT / 'install.py')!r}, run_name='__main__')"
    loaded = modules_after(code)
    heavy = {"torch", "numpy", "cv2", "gradio", "PIL", "pip", "subprocess", "launch", *OPTIONAL}
    assert not loaded & heavy
    names = {name.split(".")[0] for name, _ in read(ROOT / "install.py").imports}
    assert names == {"__future__", "importlib"}


def test_files_and_functions_fit_their_limits() -> None:
    long = []
    for path in EVERYTHING:
        held = read(path)
        if held.lines > MAX_FILE_LINES:
            long.append(f"{label(path)} has {held.lines} lines; split it")
        for name, line, length, _is_noun in held.functions:
            if length > (MAX_CONSTRUCTOR_LINES if name == "__init__" else MAX_FUNCTION_LINES):
                long.append(f"{label(path)}:{line} {name} has {length} lines")
    assert not long


def test_no_file_names_a_path_of_one_machine() -> None:
    assert not {label(path): read(path).homes for path in EVERYTHING if read(path).homes}


def test_objects_that_hold_arrays_compare_by_identity() -> None:
    """`==`, `in`, `remove` and `index` on the generated comparison of arrays raise."""
    assert not {label(path): read(path).arrays for path in EXTENSION if read(path).arrays}


# Published to other extensions, or what the field calls a context.
NO_VERBS = {"cached_call", "sampling"}
VERBS = {"need", "seed", "embed", "bring", "setting"}
PARTICIPLE = re.compile(
    r"[a-z0-9]+(ed|ing)|known|drawn|taken|given|shown|held|kept|lent|made|found|sent|told|left|laid"
    r"|born|brought|built|bound|chosen|gone|grown|hidden|seen|spent|spelt|written"
)


def test_no_function_is_named_by_a_participle() -> None:
    wrong = []
    for path in EXTENSION:
        for name, line, _length, is_noun in read(path).functions:
            word = name.lstrip("_").split("_")[0]
            if PARTICIPLE.fullmatch(word) and word not in VERBS and not is_noun:
                wrong.append(f"{label(path)}:{line}: {name}")
    assert not [one for one in wrong if one.split()[-1] not in NO_VERBS]
