"""The widgets of one unit by name."""

from __future__ import annotations

from types import SimpleNamespace


class UnitWidgets(SimpleNamespace):
    """What the builders made: widgets by the unit field they set, and those that serve the panel.

    A widget that sets a field has its name; `name` is the unit's element id.
    """
