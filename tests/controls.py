"""Requests with controls for tests of a generation, and what the network was asked meanwhile."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = 64
STEPS = 4
MODEL = "random_control"


@dataclass
class Calls:
    """What the control network was asked during one test."""

    rows: list[int] = field(default_factory=list)
    hints: list[tuple[int, int]] = field(default_factory=list)
    fail_at: int | None = None
    on_call: object = None


def host_folder() -> Path:
    """The host's folder of control models."""
    from modules import paths

    folder = Path(paths.models_path) / "ControlNet"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def encoded(array: np.ndarray) -> str:
    """uint8 picture -> base64 PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def picture(width: int = SIZE, height: int = SIZE, seed: int = 0) -> np.ndarray:
    """Noise, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def unit(**fields: object) -> dict:
    """A unit on a random control model with a picture of noise."""
    return {"module": "none", "model": MODEL, "image": encoded(picture()), **fields}


def request(*units: dict, **fields: object) -> dict:
    """A request of a few steps with these units."""
    base = {
        "prompt": "a red circle",
        "steps": STEPS,
        "width": SIZE,
        "height": SIZE,
        "seed": 5,
        "cfg_scale": 4,
        "sampler_name": "Euler",
    }
    if units:
        base["alwayson_scripts"] = {"ControlNet": {"args": list(units)}}
    return {**base, **fields}


def first(answer: object) -> np.ndarray:
    """The first generated picture, uint8."""
    return np.array(answer.images[0])


def loaded_unet() -> Any:
    """The U-Net of the loaded checkpoint, whatever the host is shaped as."""
    from modules import shared

    parts = getattr(shared.sd_model, "forge_objects", None)
    model = shared.sd_model.model if parts is None else parts.unet.model
    return model.diffusion_model


def unet_hooks() -> int:
    """Forward hooks on the loaded U-Net and below it."""
    names = ("_forward_hooks", "_forward_pre_hooks")
    modules = loaded_unet().modules()
    return sum(len(getattr(module, name)) for module in modules for name in names)
