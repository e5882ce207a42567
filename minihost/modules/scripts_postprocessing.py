"""Base class of postprocessing scripts; this host has no Extras tab and only registers them."""

from __future__ import annotations

from typing import Any


class PostprocessedImage:
    """A picture on its way through the postprocessing scripts."""

    def __init__(self, image: Any) -> None:
        self.image = image
        self.info: dict[str, Any] = {}
        self.shared: Any = None
        self.extra_images: list[Any] = []
        self.nametags: list[str] = []
        self.disable_processing = False
        self.caption: str | None = None


class ScriptPostprocessing:
    """Base class of postprocessing scripts."""

    filename: str | None = None
    controls: dict | None = None
    args_from: int | None = None
    args_to: int | None = None
    order = 1000
    name: str | None = None
    group: Any = None

    def ui(self) -> dict:
        """Build components and return them by argument name."""
        return {}

    def process(self, pp: PostprocessedImage, **args: Any) -> None:
        """Change a picture."""

    def process_firstpass(self, pp: PostprocessedImage, **args: Any) -> None:
        """Look at a picture before any is changed."""

    def image_changed(self) -> None:
        """The input picture changed."""


class ScriptPostprocessingRunner:
    """Postprocessing scripts; empty here."""

    def __init__(self) -> None:
        self.scripts: list[ScriptPostprocessing] | None = None
        self.ui_created = False
