"""What stops a command of the trainer: a sentence for the person at the keyboard."""

from __future__ import annotations

from lib_controlnet.errors import ControlNetError


class TrainError(ControlNetError):
    """A base, a data set, a setting or a run cannot be used."""


class MissingPackageError(TrainError):
    """A package that only training needs is not installed."""
