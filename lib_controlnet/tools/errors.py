"""What the tools refuse to do, as one sentence for the user."""

from __future__ import annotations

from lib_controlnet.errors import ControlNetError


class ToolError(ControlNetError):
    """A command cannot do what it was asked; nothing was written."""
