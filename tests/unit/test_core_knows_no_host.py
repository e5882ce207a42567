"""What a WebUI calls its things stands in `host/` alone; the core is the same for all of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "lib_controlnet"
CORE: Final = ("nets", "files", "pictures", "units", "detect", "engine", "families", "prepare")

FACTS: Final = {
    "the loaded checkpoint": r"sd_model\b|sd_hijack|cond_stage_model|first_stage_model\.|sd_unet|"
    r"model\.diffusion_model\.\w+\(|model_data|forge_objects|\.predictor\b|model_sampling",
    "its sampling": r"text_(un)?cond|transformer_options|cond_or_uncond|cond_mark|model_options|"
    r"model_wrap|launch_sampling|CFGDenois|on_cfg_|mask_before_denoising|function_wrapper",
    "its memory and LoRA": r"network_(weights|bias)_backup|fp16_(weight|bias)|lora_loader|"
    r"load_models?_gpu|memory_management|model_management",
    "the processing object": r"is_hr_pass|hr_upscale|extra_generation_params|"
    r"ScriptRunner|before_every_sampling|alwayson",
    "its settings and modules": r"cmd_opts|shared\.opts|modules_forge|ldm_patched|script_callbacks",
}
"""Names by which hosts call what only `host/` may know, by what they are about."""

ALLOWED: Final = {
    # A file of weights is no host: names inside it are its own.
    ("files", "first_stage_model."),
    ("files", "cond_stage_model"),
}


def hits(text: str, pattern: str) -> list[str]:
    """Lines that hold such a name, with their numbers."""
    found = re.compile(pattern)
    return [f"{n}: {line}" for n, line in enumerate(text.splitlines(), 1) if found.search(line)]


@pytest.mark.parametrize("about", FACTS)
def test_core_has_no_name_of_a_host(about: str) -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{hit}"
        for room in CORE
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for hit in hits(path.read_text(encoding="utf-8"), FACTS[about])
        if not any(room == where and name in hit for where, name in ALLOWED)
    ]
    assert not wrong


@pytest.mark.parametrize("about", FACTS)
def test_host_has_them(about: str) -> None:
    """Else the pattern finds nothing anywhere, and the test above says nothing."""
    files = (PACKAGE / "host").rglob("*.py")
    assert any(hits(path.read_text(encoding="utf-8"), FACTS[about]) for path in files)


PROGRAMS: Final = r"forge(?!t)|a1111|patcher|\bldm\b|\bsgm\b|k_diffusion|\bbackend\b|processing$"
"""Programs that hosts are, or are made of, and what they call their parts; in any case."""

SAID: Final = {("prepare/detection.py", "A1111 inpaint and ControlNet inpaint duplicated")}
"""Sentences that users know."""


def words_of(text: str) -> list[str]:
    """Names and texts of a module's code, without its docstrings and comments."""
    tree, found = ast.parse(text), []
    told = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            found += [node.value] if isinstance(node.value, str) and id(node) not in told else []
            continue
        for key in ("id", "attr", "arg", "name", "module"):
            value = getattr(node, key, None)
            found += [value] if isinstance(value, str) else []
    return found


def test_core_names_no_program() -> None:
    wrong = [
        (str(path.relative_to(PACKAGE)), word)
        for room in CORE
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for word in words_of(path.read_text(encoding="utf-8"))
        if re.search(PROGRAMS, word, re.IGNORECASE)
    ]
    assert not [
        (path, word)
        for path, word in wrong
        if not any(path == where and said in word for where, said in SAID)
    ]


@pytest.mark.parametrize(
    "line",
    [
        "from ldm.modules import attention",
        "import sgm.modules",
        "x = unet.patcher",
        "def is_forge(): ...",
        "f('as A1111 does')",
        "from backend import memory",
        "def act(processing): ...",
    ],
)
def test_a_program_would_be_seen(line: str) -> None:
    assert any(re.search(PROGRAMS, word, re.IGNORECASE) for word in words_of(line))
    assert not words_of(f'"""{line}"""\n# {line}')
