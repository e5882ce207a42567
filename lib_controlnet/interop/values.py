"""Enums and values that other extensions know by name, and that the engine itself does not use."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple


class ControlModelType(Enum):
    """Families of control models, as neighbours tell them apart."""

    ControlNet = "ControlNet"
    T2I_Adapter = "T2I_Adapter"
    T2I_StyleAdapter = "T2I_StyleAdapter"
    T2I_CoAdapter = "T2I_CoAdapter"
    MasaCtrl = "MasaCtrl"
    GLIGEN = "GLIGEN"
    AttentionInjection = "AttentionInjection"
    StableSR = "StableSR"
    PromptDiffusion = "PromptDiffusion"
    ControlLoRA = "ControlLoRA"
    ReVision = "ReVision"
    IPAdapter = "IPAdapter"
    Controlllite = "Controlllite"
    InstantID = "InstantID"
    SparseCtrl = "SparseCtrl"
    ControlNetUnion = "ControlNetUnion"


class StableDiffusionVersion(Enum):
    """Families of base models."""

    UNKNOWN = 0
    SD1x = 1
    SD2x = 2
    SDXL = 3


class ImageEmbed(NamedTuple):
    """Image prompt tokens for cond and uncond rows."""

    cond_emb: Any
    uncond_emb: Any
