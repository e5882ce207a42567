"""The README's tables of preprocessors and model families, made from the registries.

`python minihost/readme_tables.py` rewrites them; a unit test checks that they are current.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


def paragraphs(text: str | None) -> list[str]:
    """Paragraphs of a docstring, each on one line."""
    parts = inspect.cleandoc(text or "").split("\n\n")
    return [" ".join(part.split()) for part in parts]


def preprocessors() -> str:
    """One line for each preprocessor: name, control types, what it makes."""
    from annotator.registry import discover

    lines = ["| preprocessor | control types | makes |", "|---|---|---|"]
    for detector in sorted(discover().all(), key=lambda d: (d.name != "none", d.name)):
        everywhere = not detector.tags or detector.name == "none"
        tags = "all" if everywhere else ", ".join(detector.tags)
        lines.append(f"| `{detector.name}` | {tags} | {paragraphs(type(detector).__doc__)[0]} |")
    return "\n".join(lines)


def families() -> str:
    """One line for each family of control models: name, source, files it covers."""
    from lib_controlnet.families import discover

    lines = ["| family | method | files |", "|---|---|---|"]
    for family in sorted(discover(), key=lambda f: f.name):
        method, *covered = paragraphs(sys.modules[type(family).__module__].__doc__)
        lines.append(f"| {family.name} | {method} | {covered[0] if covered else ''} |")
    return "\n".join(lines)


def rewrite(text: str) -> str:
    """The README with both tables made anew.

    Raises:
        ValueError: the marks of a table are missing.
    """
    for name, table in (("preprocessors", preprocessors()), ("families", families())):
        start, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
        if start not in text or end not in text:
            msg = f"README.md lacks the lines {start} and {end}"
            raise ValueError(msg)
        head, tail = text.split(start, maxsplit=1)[0], text.split(end)[1]
        text = f"{head}{start}\n{table}\n{end}{tail}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(rewrite(readme.read_text(encoding="utf-8")), encoding="utf-8")
