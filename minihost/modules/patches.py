"""Registry of replaced functions: each key may replace a field once."""

from __future__ import annotations

from typing import Any

originals: dict[tuple[str, int, str], Any] = {}


def patch(key: str, obj: Any, field: str, replacement: Any) -> Any:
    """Replace `obj.field` and return the original; RuntimeError if `key` did so already."""
    patch_key = (key, id(obj), field)
    if patch_key in originals:
        msg = f"patch of {field!r} by {key!r} is already applied"
        raise RuntimeError(msg)
    original_value = getattr(obj, field)
    originals[patch_key] = original_value
    setattr(obj, field, replacement)
    return original_value


def undo(key: str, obj: Any, field: str) -> None:
    """Put the original of `obj.field` back; RuntimeError if `key` has not replaced it."""
    patch_key = (key, id(obj), field)
    if patch_key not in originals:
        msg = f"there is no patch of {field!r} by {key!r} to undo"
        raise RuntimeError(msg)
    setattr(obj, field, originals.pop(patch_key))


def original(key: str, obj: Any, field: str) -> Any:
    """The original of `obj.field`, or None if `key` has not replaced it."""
    return originals.get((key, id(obj), field))
