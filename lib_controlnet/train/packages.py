"""Packages that training needs and the extension does not: imported late, named when missing."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Final

from .errors import MissingPackageError

PIP: Final = {
    "diffusers": "diffusers>=0.30",
    "transformers": "transformers>=4.40,<5",
    "accelerate": "accelerate>=1.0",
    "yaml": "PyYAML>=6.0",
    "matplotlib": "matplotlib>=3.6",
}
"""What pip calls the packages, with the versions that are known to work."""


def need(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingPackageError: it is not installed; the sentence has the pip line.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        msg = f'this command needs the package {name}: run `pip install "{PIP[name]}"` ({error})'
        raise MissingPackageError(msg) from error
