"""The embedded host shaped as a member of the Forge family, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SHAPES = ("forge", "reforge")


@pytest.fixture(scope="session")
def family_host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A started `embedded.Host` with this repository as its extension; its shape is `like`'s."""
    import embedded

    flags = ["--like", SHAPES[0], "--disable-console-progressbars"]
    return embedded.start(tmp_path_factory.mktemp("forge"), flags)


@pytest.fixture(scope="module", params=SHAPES)
def like(request: pytest.FixtureRequest, family_host: Any) -> Iterator[str]:
    """Each member in turn; a checkpoint is loaded in its shape."""
    from miniforge import shapes
    from modules import sd_models

    shapes.use(request.param)
    sd_models.reload_model_weights(forced_reload=True)
    yield request.param
    shapes.use(SHAPES[0])


@pytest.fixture(scope="module")
def host(like: str, family_host: Any) -> Any:
    """The host in the shape of `like`."""
    return family_host


@pytest.fixture(scope="session")
def a1111(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The embedded host as it is, in a process of its own: what pictures are compared with."""
    from servers import embedded_host

    data: Path = tmp_path_factory.mktemp("a1111")
    with embedded_host(data, "--nowebui") as server:
        yield server
