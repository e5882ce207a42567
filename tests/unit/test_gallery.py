"""docs/preprocessors.md is what the registry says, and its example works."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lib_controlnet.detect import listing, preprocess

MAX_BYTES = 400_000


@pytest.fixture
def gallery(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_gallery", root / "docs/make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_is_up_to_date(gallery: ModuleType) -> None:
    written = gallery.PAGE.read_text(encoding="utf-8")
    assert written == gallery.page(), "run `python docs/make_gallery.py`"


def test_every_picture_is_there_and_small(gallery: ModuleType) -> None:
    named = set(re.findall(r"\((preprocessors/[^)]+)\)", gallery.page()))
    found = {f"preprocessors/{path.name}" for path in gallery.PICTURES.iterdir()}
    assert found == named
    assert sum(path.stat().st_size for path in gallery.PICTURES.iterdir()) < MAX_BYTES


def test_example_of_a_new_preprocessor_works(gallery: ModuleType, photograph: np.ndarray) -> None:
    code = re.search(r"```python\n(.*?)```", gallery.page(), re.DOTALL)[1]
    scope = {"__package__": "annotator", "__name__": "annotator.softedge_sobel"}
    try:
        exec(compile(code, "example", "exec"), scope)  # a page of our own
        found = preprocess.run_preprocessor("softedge_sobel", photograph, 64)
        assert found.image.shape == (64, 64, 3)
        assert found.image.std() > 20
        assert "softedge_sobel" in listing.labels_for("SoftEdge")
    finally:
        preprocess.registry.remove("softedge_sobel")
