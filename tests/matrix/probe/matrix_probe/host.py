"""Where the host keeps things: A1111 and the members of the Forge family differ in it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from modules import shared
from torch import nn

COND = 0
"""What the family's calls say of a chunk of rows that carries the prompt."""
MEMBERS = (("reforge", "ldm_patched"), ("forge", "backend"))
"""Names, and the package that the member alone has."""


def member() -> str:
    """What the host is: `a1111`, `forge` or `reforge`."""
    return next((name for name, package in MEMBERS if find_spec(package)), "a1111")


def parts(model: Any) -> Any:
    """The parts of a checkpoint in the family; None in A1111."""
    return getattr(model, "forge_objects", None)


def loaded_unet(model: Any = None) -> nn.Module | None:
    """The U-Net of a checkpoint, or of the loaded one; None before a member has loaded any."""
    model = shared.sd_model if model is None else model
    found = parts(model)
    holder = getattr(model, "model", None) if found is None else found.unet.model
    return getattr(holder, "diffusion_model", None)


def sampled_unet(denoiser: Any) -> nn.Module:
    """The U-Net that a denoiser calls; the family's may be another than the loaded one."""
    model = denoiser.inner_model.inner_model
    return loaded_unet(model if parts(model) else None)


def count_rows(params: Any) -> tuple[int, int, int]:
    """Rows with the prompt, without it, and all, of an evaluation that the host announces.

    A1111 shows all rows, the family each picture once, and no negative prompt without guidance.
    """
    conds = params.text_cond.shape[0]
    unconds = 0 if params.text_uncond is None else params.text_uncond.shape[0]
    return conds, unconds, params.x.shape[0] if parts(shared.sd_model) is None else conds + unconds


def places_of(arguments: Mapping[str, Any], count: int, images: int) -> list[tuple[int, ...]]:
    """Of each row of a U-Net call, a key that sorts it where A1111 has it.

    A1111 puts each picture's prompts first, picture by picture, then all pictures without the
    prompt. The family's calls hold chunks of all pictures, in any order, and say which are which.

    Args:
        arguments: of the call, by name.
        count: of its rows.
        images: pictures of the batch.
    """
    marks = (arguments.get("transformer_options") or {}).get("cond_or_uncond")
    if marks is None:
        return [()] * count
    chunks = [row // images for row in range(count)]
    return [(int(marks[chunk] != COND), row % images, chunk) for row, chunk in enumerate(chunks)]
