"""`python dev.py tried-on`: a short list of cases in running WebUIs, as a table in Markdown.

Every case is generated with a control and without. A control has to act, an error to be told in a
sentence, and nothing to stay behind; pictures of all WebUIs are compared with those of the first.
They may run one after the other, where memory is for one: each run adds its WebUI to a file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from bench_http.command import read_number, read_size
from bench_http.server import BenchError, Server, plain
from trials.cases import TITLES
from trials.trial import Result, Trial, read_picture, write_picture

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs/hosts.md"
SMALLEST: Final = 128
START, END = "<!-- tried: generated -->", "<!-- tried: end -->"


def table(results: Sequence[Result]) -> str:
    """The table: what the WebUIs are, then a line for each case."""
    names = [result.name for result in results]
    rows = [["", *names], ["---"] * (len(names) + 1)]
    rows += [[fact, *(one.facts.get(fact, "-") for one in results)] for fact in results[0].facts]
    rows += [[title, *(_cell(title, one, results[0]) for one in results)] for title in TITLES]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _cell(title: str, result: Result, first: Result) -> str:
    """What is said of a case, and how far its pictures are from those of the first WebUI."""
    said = [result.words.get(title, "-")]
    if result is not first:
        pairs = ((result.bare, first.bare), (result.controlled, first.controlled))
        off = [_difference(mine.get(title), theirs.get(title)) for mine, theirs in pairs]
        found = [text for text in off if text]
        said += [" / ".join(found)] if found else []
    return "; ".join(part for part in said if part) or "a picture"


def _difference(mine: np.ndarray | None, theirs: np.ndarray | None) -> str:
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return ""
    return str(np.abs(mine.astype(int) - theirs).max())


def load(path: Path) -> list[Result]:
    """The WebUIs of earlier runs."""
    if not path.is_file():
        return []
    results = []
    for row in json.loads(path.read_text(encoding="utf-8")):
        shown = {
            kind: {title: read_picture(text) for title, text in row[kind].items()}
            for kind in ("bare", "controlled")
        }
        results.append(Result(row["name"], row["facts"], row["words"], **shown))
    return results


def save(path: Path, results: Sequence[Result]) -> None:
    """Keep what WebUIs did, pictures included."""
    rows = [
        {
            "name": one.name,
            "facts": one.facts,
            "words": one.words,
            "bare": {title: write_picture(shown) for title, shown in one.bare.items()},
            "controlled": {title: write_picture(shown) for title, shown in one.controlled.items()},
        }
        for one in results
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")


def add(results: Sequence[Result], made: Result) -> list[Result]:
    """The results with another one, in the place of an earlier one of its name."""
    names = [one.name for one in results]
    if made.name not in names:
        return [*results, made]
    return [made if one.name == made.name else one for one in results]


def heading(trial: Trial, options: argparse.Namespace) -> str:
    """What was asked of every WebUI."""
    width, height = options.size
    return f"{width} x {height} pixels, {options.steps} steps, `{plain(trial.model)}`."


def write(made: str) -> None:
    """Put what was made into the page, between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.split(START)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{START}\n{made}\n{END}{tail}", encoding="utf-8")


def read_options(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    reader = argparse.ArgumentParser(prog="dev.py tried-on", description=__doc__.split("\n")[0])
    add = reader.add_argument
    text = "a WebUI with --api; several: compared with the first"
    add("--webui-url", action="append", required=True, metavar="[NAME=]URL", help=text)
    add("--control", metavar="NAME", help="control model; default: the first for canny")
    add("--size", type=read_size, default=(512, 512), metavar="WxH", help="default 512x512")
    add("--steps", type=read_number(1, 150), default=8, help="default 8")
    add("--timeout", type=read_number(1, 86400), default=600, metavar="SECONDS")
    text = "add these WebUIs to those of earlier runs in this file, and compare all"
    add("--file", type=Path, metavar="FILE", help=text)
    add("--write", action="store_true", help="put the table into docs/hosts.md")
    options = reader.parse_args(words)
    if min(options.size) < SMALLEST:
        reader.error(f"--size: at least {SMALLEST} on each side, for the mask and what is kept")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Try, and print the table.

    Returns:
        Exit status, 1 if something failed.
    """
    options = read_options(words)
    results = load(options.file) if options.file else []
    try:
        servers = [
            Server(url, f"WebUI {number}", options.timeout)
            for number, url in enumerate(options.webui_url, 1)
        ]
        trials = [Trial(server, options) for server in servers]
        for trial in trials:
            print(f"trying {trial.server.name}", file=sys.stderr, flush=True)
            made = trial.run()
            results = add(results, made)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    if options.file:
        save(options.file, results)
    made = f"{heading(trials[0], options)}\n\n{table(results)}"
    print(made)
    if options.write:
        write(made)
    return 0 if all(result.is_sound for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
