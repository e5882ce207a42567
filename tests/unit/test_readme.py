"""What the README says is true: commands, links, tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import readme_tables

import dev

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"(?:^|[`\s])(python [\w/.]+(?: [^`\n|]+)?)", README)))
LINKS = sorted(set(re.findall(r"\]\(([^)#]+)\)", README)))


def test_readme_names_the_two_commands_first() -> None:
    block = README.split("```")[1]
    commands = [line for line in block.splitlines() if line.startswith("python")]
    assert commands == ["python dev.py demo", "python dev.py test"]


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_command_is_accepted(command: str) -> None:
    script, *arguments = shlex.split(command)[1:]
    assert (ROOT / script).is_file()
    if script == "dev.py":
        options, _rest = dev.parser().parse_known_args(arguments)
        assert options.command


@pytest.mark.parametrize("link", [link for link in LINKS if "://" not in link])
def test_readme_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_readme_tables_are_those_of_the_registries() -> None:
    assert readme_tables.rewrite(README) == README, "run: python minihost/readme_tables.py"


def test_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="preprocessors"):
        readme_tables.rewrite("# nothing here")


def test_changelog_has_an_entry_for_each_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", changes, flags=re.M)[1:]
    assert sections
    assert all(re.search(r"^- \S", section, flags=re.M) for section in sections)


def test_demo_asks_for_numbers_that_the_preprocessor_takes() -> None:
    import demo

    from lib_controlnet.detect import preprocess
    from lib_controlnet.detect.sliders import find_misplaced

    assert not list(find_misplaced(preprocess.get("canny"), demo.LINES))
