"""Starts the embedded host: `python minihost/launch.py [flags]`.

The flags are the WebUI's, see `--help`. Extensions' installers import this module for
`is_installed`, `run_pip` and `run`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_HERE = str(Path(__file__).resolve().parent)
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)

from modules import launch_utils  # noqa: E402 (the path comes first)

args = launch_utils.args
python = launch_utils.python
index_url = launch_utils.index_url
is_installed = launch_utils.is_installed
run = launch_utils.run
run_pip = launch_utils.run_pip
run_extension_installer = launch_utils.run_extension_installer
prepare_environment = launch_utils.prepare_environment


def start() -> None:
    """Start the server."""
    # The page must not report to anybody, and requests to itself must not take a proxy.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    local = "localhost,127.0.0.1,0.0.0.0"
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(x for x in (os.environ.get(name), local) if x)
    sys.modules.setdefault("launch", sys.modules[__name__])
    launch_utils.start()


if __name__ == "__main__":
    launch_utils.prepare_environment()
    start()
