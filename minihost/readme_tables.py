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
    """One line for each control type: its preprocessors, by what they need."""
    from annotator.registry import discover

    detectors = [d for d in discover().all() if d.listed and (d.requires or not d.unavailable)]
    lines = [
        "| control type | at once | with a weight file, fetched at first use |",
        "|---|---|---|",
    ]
    types = sorted({tag for detector in detectors for tag in detector.tags} - {"InstructP2P"})
    for name in [*types, ""]:
        found = [d for d in detectors if (name in d.tags if name else not d.tags)]
        plain = [d for d in found if not (d.files or d.requires) and d.name != "none"]
        others = [d for d in found if d.files or d.requires]
        cells = (", ".join(f"`{d.name}`" for d in part) for part in (plain, others))
        lines.append(f"| {name or 'listed under All'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def families() -> str:
    """One line for each family of control models: name, source, files it covers."""
    from lib_controlnet.families import discover

    lines = ["| family | method | files |", "|---|---|---|"]
    for family in sorted(discover(), key=lambda f: f.name):
        method, *covered = paragraphs(sys.modules[type(family).__module__].__doc__)
        lines.append(f"| {family.name} | {method} | {covered[0] if covered else ''} |")
    return "\n".join(lines)


def missing() -> str:
    """The kinds of control models that are told apart and refused, in a sentence."""
    from lib_controlnet.families import discover
    from lib_controlnet.files.signatures import NO_CONTROL, SIGNATURES

    keys = NO_CONTROL.union(key for family in discover() for key in family.kinds)
    told = dict.fromkeys(kind.title for kind in SIGNATURES if kind.key not in keys)
    return "; ".join(told) + "."


def rewrite(text: str) -> str:
    """The README with its generated parts made anew.

    Raises:
        ValueError: the marks of a part are missing.
    """
    made = {"preprocessors": preprocessors(), "families": families(), "missing": missing()}
    for name, table in made.items():
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
