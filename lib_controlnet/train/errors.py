"""What stops a command of the trainer: a sentence for the person at the keyboard."""

from __future__ import annotations

from typing import Final

from lib_controlnet.errors import ControlNetError

NOT_TRAINED: Final = (
    "Trained here are ControlNets, ControlNet Unions, T2I-Adapters full and light, and "
    "ControlNet-LLLites. A Control-LoRA is made of a trained ControlNet by "
    "`python -m lib_controlnet.tools to-lora`; for IP-Adapters and their kin, style adapters and "
    "SparseCtrl use their authors' code."
)


class TrainError(ControlNetError):
    """A base, a data set, a setting or a run cannot be used."""


class MissingPackageError(TrainError):
    """A package that only training needs is not installed."""
