"""Command line flags, read by the WebUI before it parses its arguments.

Each flag is added by itself: another host or extension may already define one of them, and that
must not cost us the others. Absent flags are read with a default.
"""

from __future__ import annotations

import argparse

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
    """Add every flag that the host does not have yet."""
    for name, options in FLAGS:
        try:
            parser.add_argument(name, **options)
        except argparse.ArgumentError:  # the host or a neighbour has it: theirs serves as well
            continue
