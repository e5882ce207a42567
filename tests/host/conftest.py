"""The embedded host in this process: true callbacks and scripts, no network."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A started `embedded.Host` with this repository as its extension."""
    import embedded

    return embedded.start(tmp_path_factory.mktemp("host"), ["--disable-console-progressbars"])
