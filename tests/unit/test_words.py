"""All texts of the panel stand in one table; nothing that users read is written elsewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import gradio as gr
import pytest
from panels import FakeRuntime, build, by_id

from lib_controlnet.detect import listing
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.words import EDITORS, PAGE, TITLES, WORDS, word

ROOT = Path(__file__).resolve().parents[2]
PANEL = sorted((ROOT / "lib_controlnet/ui").glob("*.py"))
EDITOR_SCRIPTS = sorted((ROOT / "javascript/editors").glob("*.mjs"))
SCRIPTS = [*sorted((ROOT / "javascript").glob("*.js")), *EDITOR_SCRIPTS]
TEXTS = {"label", "info", "placeholder", "title", "hint"}
"""Arguments that users read."""
SHOWN = {
    "Button",
    "UploadButton",
    "Tab",
    "Accordion",
    "HTML",
    "Markdown",
    "Error",
    "notice",
    "Misfit",
}
"""Calls whose first argument users read."""
SENTENCE = re.compile(r"^(?![<>]|[\w-]+=\").*[A-Za-z]{2,} [a-z]{2,}", re.DOTALL)
"""Two words of English, outside what is HTML."""
NAME = "ControlNet"


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def literals(node: ast.AST) -> Iterator[ast.Constant]:
    """String literals in an expression, those of formatted strings as well."""
    return (x for x in ast.walk(node) if isinstance(x, ast.Constant) and isinstance(x.value, str))


def called(node: ast.Call) -> str:
    return ast.unparse(node.func).split(".")[-1]


def has_words(text: str) -> bool:
    return bool(re.search(r"[a-z]{2}", text.replace(NAME, ""))) and not text.startswith(("<", ">"))


def stray_in_python(text: str) -> list[str]:
    """Literals in a module of the panel that users read, with their lines."""
    tree, quiet, stray = ast.parse(text), set(), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            quiet.add(node.value)  # a docstring
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log."):
            quiet.update(literals(node))
        if isinstance(node, ast.Call) and called(node) == "word":
            quiet.update(literals(node))
    for node in ast.walk(tree):
        shown = []
        if isinstance(node, ast.Call):
            shown = [key.value for key in node.keywords if key.arg in TEXTS]
            shown += node.args[:1] if called(node) in SHOWN else []
        direct = [x for x in shown if isinstance(x, ast.Constant | ast.JoinedStr | ast.BinOp)]
        found = [x for one in direct for x in literals(one) if has_words(x.value)]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = [node] if SENTENCE.search(node.value.replace(NAME, "")) else []
        stray += [f"{x.lineno}: {x.value!r}" for x in found if x not in quiet]
    return sorted(set(stray))


def strings_in(text: str) -> Iterator[tuple[int, str]]:
    """Offset and text of every string of a script, comments left out."""
    at = 0
    while at < len(text):
        two, one = text[at : at + 2], text[at]
        if two == "//":
            at = text.find("\n", at) if "\n" in text[at:] else len(text)
        elif two == "/*":
            at = text.index("*/", at) + 2
        elif one == "/" and re.search(r"[=(,:!&|?;{}]\s*$", text[max(0, at - 8) : at]):
            at = re.compile(r"/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n])*/").match(text, at).end()
        elif one in "\"'`":
            end = at + 1
            while text[end] != one:
                end += 2 if text[end] == "\\" else 1
            yield at, text[at + 1 : end]
            at = end + 1
        else:
            at += 1


IN_PAGE = re.compile(
    r"(?:\b(?:textContent|innerText|title|placeholder|ariaLabel|alt|label)\s*[:=]"
    r"|\([^()\[\]]*\"(?:textContent|title|aria-label|placeholder|alt)\",)\s*$"
)
"""What stands before a string that the page shows."""
SELECTOR = re.compile(r"^[#.:\[<]|[\[\]>_={}]|^use strict$")


def stray_in_script(text: str) -> list[str]:
    """Strings of a script that users read, with their lines."""
    stray = []
    for at, string in strings_in(text):
        plain = re.sub(r"\$\{[^}]*\}", "", string).replace(NAME, "")
        is_shown = IN_PAGE.search(text[max(0, at - 60) : at]) and has_words(plain)
        if is_shown or (SENTENCE.search(plain) and not SELECTOR.search(plain)):
            stray.append(f"{text.count(chr(10), 0, at) + 1}: {string!r}")
    return stray


@pytest.mark.parametrize("path", PANEL, ids=label)
def test_texts_of_a_module_of_the_panel_stand_in_the_table(path: Path) -> None:
    assert stray_in_python(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=label)
def test_texts_of_a_script_of_the_page_stand_in_the_table(path: Path) -> None:
    assert stray_in_script(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        'gr.Button("Close")',
        'gr.Checkbox(label="Enable")',
        'gr.HTML(f"There {count}")',
        'said = "This is wrong."',
        'said = f"{name} is wrong"',
        'gr.Error("Refused" + name)',
    ],
)
def test_stray_texts_are_found_in_python(line: str) -> None:
    assert len(stray_in_python(f'"""A module that does things."""\n{line}')) == 1
    assert stray_in_python('log.info("it is done %s", 1)\ngr.Tab(word("tab"), elem_id="a b")') == []


@pytest.mark.parametrize(
    "line",
    [
        'const LOST = "The preview failed";',
        'button.title = "Close";',
        'set(button, "title", "Close");',
        'element.setAttribute("aria-label", `Unit ${number}`);',
        'make("div", { textContent: "Close" });',
        "say('it was refused');",
    ],
)
def test_stray_texts_are_found_in_scripts(line: str) -> None:
    assert len(stray_in_script(f'// A comment with "many words".\n{line}')) == 1
    fine = 'find(".cnet-unit input:checked"); /"/.test(x); set(button, "title", word("close"));'
    assert stray_in_script(fine) == []


def names_in(paths: Iterable[Path], call: str) -> set[str]:
    """Names that sources give to a function, also behind a condition."""
    found = set()
    for path in paths:
        for match in re.finditer(rf"\b{call}\(([^()]*)", path.read_text(encoding="utf-8")):
            plain = re.sub(r"\{[^{}]*\}|\w+=.*|=== \"\w+\"", "", match[1])
            found |= set(re.findall(r"\"(\w+)\"", plain))
    return found


def test_names_that_are_asked_for_are_in_the_table() -> None:
    asked = names_in(SCRIPTS, r"(?:word|controlnetWord)")
    assert len(asked) > 20
    assert asked <= PAGE.keys() | EDITORS.keys()
    assert names_in(set(SCRIPTS) - set(EDITOR_SCRIPTS), r"(?:word|controlnetWord)") <= PAGE.keys()
    sources = [*(ROOT / "lib_controlnet").rglob("*.py")]
    assert names_in(sources, "word") <= WORDS.keys()


def test_every_text_is_used() -> None:
    sources = [*(ROOT / "lib_controlnet").rglob("*.py"), *SCRIPTS]
    text = "".join(x.read_text(encoding="utf-8") for x in sources if x.parent.name != "words")
    quoted = set(re.findall(r"[\"'](\w+)[\"'{]", text)) | FIELDS.keys()
    editors = (f"editor_{tool}" for tool in ("pose", "segmentation", "scribble", "regions"))
    made = {"threshold_a", "threshold_b", *editors}
    unused = WORDS.keys() - quoted - TITLES.keys() - made
    put_together = re.findall(r"`(\w+_)\$\{[\w.]+\}(\w*)`", text)
    parts = [re.compile(rf"{start}\w+{end}") for start, end in put_together]
    unused = {name for name in unused if not any(part.fullmatch(name) for part in parts)}
    assert {name for name in unused if name.removesuffix("_of") not in quoted} == set()


def test_every_control_has_a_note_and_every_note_a_control(tmp_path: Path) -> None:
    found = by_id(build(FakeRuntime(Catalog([tmp_path])))[0])
    unit, panel = "txt2img_controlnet_ControlNet-0_", "txt2img_controlnet_"
    titles = {name.removeprefix("title_") for name in TITLES if name.startswith("title_")}
    titled = {f"{start}controlnet_{name}" for start in (unit, panel) for name in titles}
    lost = {
        name
        for name in titles
        if not (found.keys() & {f"{unit}controlnet_{name}", f"{panel}controlnet_{name}"})
    }
    assert lost == set()
    controls = (gr.Slider, gr.Radio, gr.Checkbox, gr.Dropdown, gr.Textbox, gr.Button)
    ours = {
        name: one for name, one in found.items() if name.startswith((unit, f"{panel}controlnet_"))
    }
    bare = {
        name
        for name, one in ours.items()
        if isinstance(one, controls) and not getattr(one, "info", None) and name not in titled
    }
    assert bare == {f"{unit}{name}" for name in SPEAKING}


SPEAKING = {
    *("input_mode", "batch_image_dir", "merge_clear"),
    "controlnet_trigger_preprocessor",
}
"""Hidden ones, those that say it in themselves, and the one whose title changes."""


def test_every_control_type_has_a_sentence_and_a_picture() -> None:
    kinds = {re.sub(r"[^a-z0-9]", "", kind.lower()) for kind in listing.control_types()}
    assert {f"type_{kind}" for kind in kinds} == {
        name for name in TITLES if name.startswith("type_")
    }
    script = (ROOT / "javascript/controlnet_notes.js").read_text(encoding="utf-8")
    assert set(re.findall(r"^    (\w+): \"M", script, re.MULTILINE)) == kinds


def test_a_name_stands_for_one_text() -> None:
    from lib_controlnet.words import labels, messages, notes

    parts = [labels.LABELS, notes.NOTES, messages.MESSAGES, PAGE, EDITORS]
    assert sum(map(len, parts)) == len(WORDS)


def test_places_are_filled_with_values_as_they_are() -> None:
    assert word("none_fits", name="{kind} %s") == (
        "No control model fits the loaded checkpoint: {kind} %s is made for another base."
    )
    with pytest.raises(KeyError):
        word("none_fits", kind="Canny")
