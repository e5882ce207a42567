"""Counts what generations have left in memory: objects of ours, and bytes of tensors."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch


def survivors() -> list[str]:
    """Objects of a generation that are alive; call it after a collection."""
    from lib_controlnet.engine import (
        bound,
        injection,
        network,
        pass_info,
        places,
        prepared,
        session,
        step,
    )
    from lib_controlnet.engine.effects import Effect

    kinds = (
        *(session.ControlSession, prepared.PreparedUnit, prepared.Placed, pass_info.PassInfo),
        *(bound.BoundUnit, network.ActiveControl, network.Terms, places.Places, step.StepCursor),
        *(step.StepContext, step.RowLayout, step.NoisyLatent, injection.Residuals),
        *(injection.RegionMask, Effect),
    )
    return sorted(type(x).__name__ for x in gc.get_objects() if issubclass(type(x), kinds))


def tensor_bytes() -> int:
    """Bytes of all tensors made since the last freeze, the host's cache of prompts apart."""
    storages = {}
    for x in gc.get_objects():
        if issubclass(type(x), torch.Tensor) and x.device.type != "meta":
            storage = x.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    for x in tensors_of(cached_prompts()):
        storages.pop(x.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def cached_prompts() -> list[Any]:
    """What the host keeps of the last prompts; it is as large as these were."""
    from modules import processing

    base, hires = processing.StableDiffusionProcessing, processing.StableDiffusionProcessingTxt2Img
    return [base.cached_c[1], base.cached_uc[1], hires.cached_hr_c[1], hires.cached_hr_uc[1]]


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """All tensors inside lists, dicts and plain objects."""
    if isinstance(value, torch.Tensor):
        yield value
        return
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dict__"):
        value = list(vars(value).values())
    for item in value if isinstance(value, (list, tuple)) else ():
        yield from tensors_of(item)


def all_tensor_bytes() -> int:
    """Bytes of all tensors of the process."""
    gc.unfreeze()
    gc.collect()
    total = tensor_bytes()
    gc.freeze()
    return total
