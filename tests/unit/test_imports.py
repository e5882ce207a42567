"""Imports point down the layers, the extension is light to import, and files stay readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_CONSTRUCTOR_LINES = 100

# Low rooms first: a module may import its own room and those before it, never in a circle.
# A name is a package or a module of lib_controlnet.
ROOMS = (
    *("errors", "enums", "limits", "gate", "settings"),
    *("nets", "files", "pictures", "units", "detect", "engine"),
    *("families", "prepare", "tools", "train", "interop"),
    *("host", "ui", "api"),
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


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute dotted names that a file imports, for type checkers alone too, with the line."""
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level]) if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{stem}.{alias.name}", node.lineno) for alias in node.names)


def lines_for_type_checkers(path: Path) -> set[int]:
    """Lines of a file that only a type checker runs."""
    return {
        line
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for line in range(node.lineno, (node.body[-1].end_lineno or node.lineno) + 1)
    }


def room(dotted: str) -> str | None:
    """The room in ROOMS of a dotted name inside lib_controlnet."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "lib_controlnet" else None


def wrong_arrows(path: Path) -> list[str]:
    """Imports of a file that point up, or out of the extension where that is not allowed."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    top, own = parts[0], parts[1] if len(parts) > 1 else ""
    typing = lines_for_type_checkers(path)
    wrong = []
    for name, line in imported(path):
        head, target = name.split(".")[0], room(name)
        may_see_host = top == "scripts" or (top == "lib_controlnet" and own == "host")
        may_see_web = top == "scripts" or own in ("ui", "api", "host")
        bad = (
            (head in HOST_MODULES and not may_see_host)
            or (head in WEB and top in ("lib_controlnet", "annotator") and not may_see_web)
            or (head == "gradio" and own == "api")
            or (head == "lib_controlnet" and top == "annotator")
            or (head == "annotator" and top == "lib_controlnet" and line not in typing)
            or (head in ("minihost", "minildm", "tests"))
            or (target in RANK and own in RANK and RANK[target] > RANK[own])
        )
        if bad:
            wrong.append(f"{label(path)}:{line} imports {name}")
    return wrong


@pytest.mark.parametrize("path", EXTENSION, ids=label)
def test_imports_of_the_extension_point_down(path: Path) -> None:
    assert not wrong_arrows(path)


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
        names = {name for name, _line in imported(path)}
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
    excluded = {"host", "ui", "api"}
    loaded = modules_after(IMPORT_CORE.format(excluded=excluded), ".")
    assert "torch" in loaded, "the probe imported nothing"
    unwanted = loaded & {*OPTIONAL, *WEB, *HOST_MODULES}
    assert not unwanted, f"importing the core pulls in {sorted(unwanted)}"


def test_installer_imports_nothing_heavy_and_installs_nothing() -> None:
    code = f"import runpy; runpy.run_path({str(ROOT / 'install.py')!r}, run_name='__main__')"
    loaded = modules_after(code)
    heavy = {"torch", "numpy", "cv2", "gradio", "PIL", "pip", "subprocess", "launch", *OPTIONAL}
    assert not loaded & heavy
    names = {name.split(".")[0] for name, _ in imported(ROOT / "install.py")}
    assert names == {"__future__", "importlib"}


def functions(path: Path) -> Iterator[tuple[str, int, int]]:
    """(name, line, lines of the body) of every function in a file.

    Signature and docstring do not count: some signatures are the host's.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            first = body[0].lineno if body else node.end_lineno
            yield node.name, node.lineno, node.end_lineno - first + 1


@pytest.mark.parametrize("path", EVERYTHING, ids=label)
def test_file_and_functions_fit_their_limits(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{label(path)} has {lines} lines; split it"
    long = [
        f"{label(path)}:{line} {name} has {length} lines"
        for name, line, length in functions(path)
        if length > (MAX_CONSTRUCTOR_LINES if name == "__init__" else MAX_FUNCTION_LINES)
    ]
    assert not long


HOME = r"/(?:home|Users)/(?!runner\b)\w+/|/root/|[A-Z]:\\\\Users\\\\\w+"


@pytest.mark.parametrize("path", EVERYTHING, ids=label)
def test_file_names_no_path_of_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path == Path(__file__):
        text = text.replace(HOME, "")
    assert not re.findall(HOME, text)
    assert not re.findall(r"[\"' ]/(?:work|opt/env)\b", text.replace(HOME, ""))


ARRAYS = re.compile(r"\b(ndarray|Tensor)\b")


@pytest.mark.parametrize("path", EXTENSION, ids=label)
def test_objects_that_hold_arrays_compare_by_identity(path: Path) -> None:
    """`==`, `in`, `remove` and `index` on the generated comparison of arrays raise."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        made = [ast.unparse(item) for item in getattr(node, "decorator_list", [])]
        made = [text for text in made if text.split("(")[0].endswith("dataclass")]
        if not isinstance(node, ast.ClassDef) or not made:
            continue
        fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
        held = [ast.unparse(x.target) for x in fields if ARRAYS.search(ast.unparse(x.annotation))]
        assert not held or "eq=False" in made[0], f"{node.name} holds arrays: {held}"


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
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            word = node.name.lstrip("_").split("_")[0]
            is_noun = any("property" in ast.unparse(one) for one in node.decorator_list)
            if PARTICIPLE.fullmatch(word) and word not in VERBS and not is_noun:
                wrong.append(f"{label(path)}:{node.lineno}: {node.name}")
    assert not [one for one in wrong if one.split()[-1] not in NO_VERBS]
