"""Weight files from the command line: `python -m annotator list`, `python -m annotator download`.

Run it in the extension's folder with the WebUI's Python; the WebUI itself need not run.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .registry import Detector, Registry, discover
from .store import STORE, folders
from .weights import Options, WeightFile, WeightsError, all_files

EXTENSION: Final = Path(__file__).resolve().parents[1]
CONFIG_LIMIT: Final = 2**24
"""Bytes of the WebUI's settings that are read."""
DONE, FAILED, MISUSED, STOPPED = 0, 1, 2, 130
"""Exit codes: everything is there, something is not, wrong arguments, Ctrl+C."""

EPILOG: Final = """\
A NAME is a preprocessor (hed, softedge_hed), a file (ControlNetHED.pth), or "all". Downloads that
were broken off are continued. The WebUI's settings for mirror and offline count, HF_ENDPOINT and
HF_HUB_OFFLINE too.

exit codes: 0 everything is there, 1 a download failed, 2 unknown name, 130 stopped by Ctrl+C"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    asked = parser().parse_args(arguments)
    STORE.roots = roots(asked.folder)
    registry = discover()
    for name, reason in registry.broken.items():
        print(f"annotator/{name}.py cannot be loaded: {reason}", file=sys.stderr)
    if asked.command == "list":
        print(table(registry))
        return DONE
    options = read_options(asked.mirror)
    STORE.options = lambda: options
    try:
        return download(asked.names, registry)
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        return STOPPED


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m annotator",
        description="Weight files of ControlNet's preprocessors.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--folder",
        default="",
        help="folder of the weight files (default: the WebUI's setting, else annotator/downloads)",
    )
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="show every file and where it lies")
    fetch = commands.add_parser("download", parents=[common], help="bring what is missing")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="preprocessor, file, or all")
    fetch.add_argument(
        "--mirror", default="", help="address of the hub, before that of the settings"
    )
    return made


def find_webui() -> Path | None:
    """The folder of the WebUI round this extension; None where there is none."""
    return EXTENSION.parent.parent if EXTENSION.parent.name == "extensions" else None


def read_settings() -> dict[str, Any]:
    """The settings of the WebUI round this extension; empty where they cannot be read."""
    webui = find_webui()
    if webui is None:
        return {}
    try:
        with (webui / "config.json").open("rb") as stream:
            saved = json.loads(stream.read(CONFIG_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return saved if isinstance(saved, dict) else {}


def read_options(mirror: str = "") -> Options:
    """How files may be had, by the settings of the WebUI round this extension.

    Args:
        mirror: another address of the hub; "" for that of the settings.
    """
    saved = read_settings()
    hub = mirror or str(saved.get("controlnet_hub_mirror") or "").strip()
    return Options(hub=hub, offline=saved.get("controlnet_offline") is True)


def roots(chosen: str) -> tuple[Path, ...]:
    """The folders that the WebUI round this extension would use, if there is one."""
    webui = find_webui()
    if webui is None:
        return folders(chosen)
    setting = str(read_settings().get("control_net_modules_path") or "")
    first = str(Path(chosen).absolute()) if chosen else setting
    return folders(first, webui, webui / "models", EXTENSION)


def table(registry: Registry) -> str:
    """One line for each file, then the preprocessors that cannot run here."""
    head = ("file", "size", "where", "licence", "used by")
    rows = [
        (file.name, file.size_text, _place(file), file.licence, ", ".join(_users(file, registry)))
        for file in all_files(registry.all())
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    lines = [
        "  ".join([*map(str.ljust, row[:-1], widths), row[-1]]).rstrip() for row in (head, *rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines += ["", f"downloads go to {STORE.roots[0]}"]
    lines += [f"{d.name} cannot run here: {d.unavailable}" for d in registry.all() if d.unavailable]
    return "\n".join(lines)


def _users(file: WeightFile, registry: Registry) -> list[str]:
    return [detector.name for detector in registry.all() if file in detector.files]


def _place(file: WeightFile) -> str:
    path = STORE.locate(file)
    return str(path) if path else "missing"


def download(names: Sequence[str], registry: Registry) -> int:
    """Bring the files of some names and say where each one is."""
    wanted: list[WeightFile] = []
    for name in names:
        found = select(name, registry)
        if found is None:
            print(f"{name!r} is no preprocessor and no file; {_close(name, registry)}")
            return MISUSED
        if not found:
            print(f"{name} needs no files")
        wanted += [file for file in found if file not in wanted]
    code = DONE
    for file in wanted:
        state = "was there" if STORE.locate(file) else "downloaded"
        try:
            print(f"{file.name}: {STORE.fetch(file)} ({state})")
        except WeightsError as error:
            print(error, file=sys.stderr)
            code = FAILED
    return code


def select(name: str, registry: Registry) -> list[WeightFile] | None:
    """The files that a name stands for, None if it is unknown."""
    if name.lower() == "all":
        return [file for detector in registry.all() for file in detector.weights]
    files = [file for file in all_files(registry.all()) if file.name.lower() == name.lower()]
    if files:
        return files
    detector: Detector | None = registry.get(name)
    return None if detector is None else list(detector.weights)


def _close(name: str, registry: Registry) -> str:
    known = [detector.name for detector in registry.all() if detector.weights]
    known += [file.name for file in all_files(registry.all())]
    similar = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    return f"{hint}`python -m annotator list` shows them all"


if __name__ == "__main__":
    sys.exit(main())
