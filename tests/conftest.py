"""Options and fixtures that every suite can use."""

from __future__ import annotations

import gc
import os
from importlib import metadata
from pathlib import Path

import numpy as np
import photographs
import pytest

# Before any library starts its threads: suites run side by side, and threads of two processes
# that share the cores wait for each other at every small tensor.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--webui-url",
        metavar="URL",
        default=None,
        help="run tests/http or tests/matrix against this WebUI, not the embedded one",
    )
    parser.addoption(
        "--like",
        metavar="MEMBER",
        choices=("a1111", "forge", "reforge"),
        default="a1111",
        help="run tests/matrix on the embedded host shaped as this WebUI",
    )
    for kind in ("checkpoint", "control"):
        parser.addoption(
            f"--sdxl-{kind}",
            metavar="NAME",
            default=None,
            help=f"with --webui-url: its SDXL {kind}, without the file's ending",
        )


def pytest_collection_finish() -> None:
    """All that is there by now stays: collections look only at what tests make."""
    gc.collect()
    gc.freeze()


def write_no_stubs() -> None:
    """Keep gradio 4 from writing stubs beside files with components, which mypy would read."""
    if metadata.version("gradio").startswith("4"):
        from gradio import component_meta

        component_meta.create_or_modify_pyi = lambda *_words: None


write_no_stubs()  # before another conftest makes a component


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository, which is the extension's folder."""
    return ROOT


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A colour photograph of a person, uint8 (512, 512, 3), RGB."""
    return photographs.load("astronaut")
