"""A headless Chromium for tests, from which nothing but the server under test is reachable."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""Of programs, in the order in which they are looked for: the first has no windows to keep."""
PLACES = (
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    # A camera that shows a test picture, and needs nobody's word.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--process-per-site",  # pages that follow one another find the host's scripts compiled
    # The page's objects are made at once and stay: room for them, and no collection in between.
    "--js-flags=--min-semi-space-size=64 --max-semi-space-size=64",
)

FORGET_STORED = """async () => {
  localStorage.clear();
  const remove = ({ name }) => new Promise((done) => {
    const request = indexedDB.deleteDatabase(name);
    request.onsuccess = request.onerror = request.onblocked = done;
  });
  await Promise.all((await indexedDB.databases()).map(remove));
}"""
"""Empties what a site has stored in the browser."""


def find_browser() -> str | None:
    """An installed Chromium: from $CHROMIUM, from PATH, from the usual places."""
    named = [os.environ.get("CHROMIUM")]
    named += [shutil.which(name) for name in NAMES]
    return next((path for path in [*named, *PLACES] if path and Path(path).is_file()), None)


def start_browser(playwright: Any, host: str) -> Any:
    """A browser that reaches one host; without one the test fails with what to do.

    Args:
        playwright: of its synchronous interface.
        host: name or address without a port.
    """
    from playwright.sync_api import Error

    only = f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {host}"
    try:
        return playwright.chromium.launch(
            executable_path=find_browser(), headless=True, args=[*ARGUMENTS, only]
        )
    except Error as error:
        pytest.fail(
            "no browser to test the page with: install Chromium (Debian and Ubuntu: "
            "`apt-get install chromium`), or name one with CHROMIUM=/path, or leave these "
            f"tests out with --no-browser ({str(error).splitlines()[0]})",
            pytrace=False,
        )
