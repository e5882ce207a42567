"""Command line flags, read by the WebUI before it parses its arguments.

Each flag is added by itself: another host or extension may already define one of them, and that
must not cost us the others. Absent flags are read with a default.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent

FLAGS: tuple[tuple[str, dict], ...] = (
    (
        "--controlnet-dir",
        {"type": str, "default": None, "help": "another folder with ControlNet models"},
    ),
    (
        "--controlnet-annotator-models-path",
        {"type": str, "default": None, "help": "folder for the preprocessors' own models"},
    ),
    (
        "--no-half-controlnet",
        {
            "action": "store_true",
            "default": None,
            "help": "keep ControlNet models in full precision",
        },
    ),
    (
        "--controlnet-preprocessor-cache-size",
        {"type": int, "default": 16, "help": "number of detected maps kept (default 16)"},
    ),
    (
        "--controlnet-loglevel",
        {
            "default": "INFO",
            "choices": ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
            "help": "how much ControlNet writes to the log",
        },
    ),
    (
        "--controlnet-tracemalloc",
        {"action": "store_true", "default": None, "help": "log where memory was allocated"},
    ),
)


def preload(parser: argparse.ArgumentParser) -> None:
    """Add every flag that the host does not have yet, nor anything built into it will add.

    The first thing of ours that runs in a host: from now on its own packages go before ours.
    """
    runpy.run_path(str(ROOT / "lib_controlnet" / "standing.py"))["give_way"]()
    built_in = "\n".join(read_built_in())
    for name, options in FLAGS:
        if name in built_in:  # added later, by one that does not expect it to be there
            continue
        try:
            parser.add_argument(name, **options)
        except argparse.ArgumentError:  # the host or a neighbour has it: theirs serves as well
            continue


def read_built_in() -> Iterator[str]:
    """The `preload.py` of all that is built into the host, which runs them after ours."""
    paths = sys.modules.get("modules.paths_internal")
    folder = (
        getattr(paths, "extensions_builtin_dir", None) or ROOT.parents[1] / "extensions-builtin"
    )
    for path in sorted(Path(folder).glob("*/preload.py")):
        with suppress(OSError, UnicodeDecodeError):
            yield path.read_text(encoding="utf-8")
