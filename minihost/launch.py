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

from modules.launch_utils import (  # noqa: E402 (the path comes first)
    args,  # noqa: F401 (installers take these from here)
    index_url,  # noqa: F401
    is_installed,  # noqa: F401
    prepare_environment,
    python,  # noqa: F401
    run,  # noqa: F401
    run_extension_installer,  # noqa: F401
    run_pip,  # noqa: F401
)


def start() -> None:
    """Start the server."""
    # The page must not report to anybody, and requests to itself must not take a proxy.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    local = "localhost,127.0.0.1,0.0.0.0"
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(x for x in (os.environ.get(name), local) if x)
    sys.modules.setdefault("launch", sys.modules[__name__])

    import webui

    webui.run()


if __name__ == "__main__":
    prepare_environment()
    start()
