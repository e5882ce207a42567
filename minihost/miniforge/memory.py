"""The memory manager: moves nothing here, but notes what it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from modules import devices

calls: list[tuple[str, Any]] = []
"""Name of each function that was called, and what it was given."""

chunks_at_once: list[int] = []
"""Holds how many chunks of rows fit into one call of the U-Net; empty: all."""


def get_torch_device() -> torch.device:
    """Where models compute."""
    return devices.device


def load_models_gpu(
    models: Sequence[Any], memory_required: float = 0, hard_memory_preservation: float = 0
) -> None:
    """Bring models to the device, and keep room for something else."""
    del memory_required
    calls.append(("load_models_gpu", (list(models), hard_memory_preservation)))


def load_model_gpu(model: Any) -> None:
    """Bring one model to the device."""
    load_models_gpu([model])


def free_memory(memory_required: float, device: torch.device) -> None:
    """Make room for something."""
    calls.append(("free_memory", (memory_required, device)))


def soft_empty_cache(force: bool = False) -> None:
    """Give unused memory back to the device."""
    calls.append(("soft_empty_cache", force))


def unload_all_models() -> None:
    """Take all models off the device."""
    calls.append(("unload_all_models", None))
