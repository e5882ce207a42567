"""What is compared: units of a generation, the pictures that they are shown, and the models."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np

MODES: Final = ("Balanced", "My prompt is more important", "ControlNet is more important")
MOST_MODELS: Final = 3
NONE: Final = "none"
ONE: Final = "one"
THREE: Final = "three models"
PREPROCESSOR_SIZE: Final = 512


@dataclass(frozen=True)
class Variant:
    """Units that act together.

    Attributes:
        key: short, as in the raw numbers.
        title: in the tables.
        models: of each unit, which of the chosen models.
        mode: of all of them.
    """

    key: str
    title: str
    models: tuple[int, ...] = ()
    mode: str = MODES[0]


VARIANTS: Final = (
    Variant(NONE, "no unit"),
    Variant(ONE, "one unit, Balanced", (0,)),
    Variant("prompt", "one unit, My prompt is more important", (0,), MODES[1]),
    Variant("control", "one unit, ControlNet is more important", (0,), MODES[2]),
    Variant("two units", "two units of one model", (0, 0)),
    Variant("three units", "three units of one model", (0, 0, 0)),
    Variant("two models", "two units, two models", (0, 1)),
    Variant(THREE, "three units, three models", (0, 1, 2)),
)
KEYS: Final = tuple(variant.key for variant in VARIANTS)
QUICK: Final = (NONE, ONE, "control", THREE)


def variants_for(models: int, keys: Collection[str]) -> tuple[Variant, ...]:
    """Those of some keys that as many models as were found can make up, and the one without."""
    return tuple(
        variant
        for variant in VARIANTS
        if max(variant.models, default=-1) < models and variant.key in {NONE, *keys}
    )


@lru_cache(maxsize=64)
def drawing(seed: int, width: int, height: int) -> str:
    """A PNG in base64 of coloured shapes with clear edges; each seed has others."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), rng.integers(160, 256, 3), np.uint8)
    edge = min(width, height)
    for _ in range(12):
        colour = tuple(map(int, rng.integers(0, 256, 3)))
        x, y = int(rng.integers(width)), int(rng.integers(height))
        size = max(2, int(edge * rng.uniform(0.05, 0.3)))
        if rng.random() < 0.5:
            cv2.circle(picture, (x, y), size, colour, -1)
        else:
            cv2.rectangle(picture, (x, y), (x + size, y + size), colour, -1)
    return base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode("ascii")


def pixels(answer: dict[str, Any]) -> np.ndarray:
    """The first picture of a generation's answer, uint8 (H, W, 3).

    Raises:
        ValueError: there is none.
    """
    images = answer.get("images") or [""]
    data = base64.b64decode(str(images[0]).rpartition(",")[2])
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if picture is None:
        msg = "no picture"
        raise ValueError(msg)
    return picture


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference of two pictures in levels of 255; 255 if their sizes differ."""
    if first.shape != second.shape:
        return 255.0
    return float(np.abs(first.astype(np.float32) - second.astype(np.float32)).mean())


@dataclass(frozen=True)
class Scenery:
    """What all generations of a measurement share.

    Attributes:
        width: of the pictures.
        height: of them.
        module: preprocessor of every unit.
        sampler: of the WebUI.
        checkpoint: title, as this server spells it; empty for the one it has.
    """

    width: int
    height: int
    module: str
    sampler: str
    checkpoint: str = ""

    def body(
        self, models: Sequence[str], mode: str, shown: int, steps: int, count: int = 1
    ) -> dict[str, Any]:
        """A request to txt2img.

        Args:
            models: of the units, as the server spells them.
            mode: control mode of the units.
            shown: seed of the first unit's drawing; the next units have the next ones.
            steps: of the sampler.
            count: batch count.
        """
        body: dict[str, Any] = {
            "prompt": "a house beside a lake",
            "negative_prompt": "blurred",
            "seed": 1,
            "steps": steps,
            "cfg_scale": 7,
            "n_iter": count,
            "sampler_name": self.sampler,
            "width": self.width,
            "height": self.height,
            "do_not_save_grid": True,
        }
        if self.checkpoint:
            body["override_settings"] = {"sd_model_checkpoint": self.checkpoint}
            body["override_settings_restore_afterwards"] = False
        units = [self._unit(name, mode, shown + index) for index, name in enumerate(models)]
        return body | {"alwayson_scripts": {"controlnet": {"args": units}}} if units else body

    def _unit(self, model: str, mode: str, seed: int) -> dict[str, Any]:
        """Only keys that every version of the common interface knows."""
        return {
            "enabled": True,
            "image": drawing(seed, self.width, self.height),
            "module": self.module,
            "model": model,
            "weight": 1.0,
            "resize_mode": "Crop and Resize",
            "control_mode": mode,
            "processor_res": min(PREPROCESSOR_SIZE, self.width, self.height),
            "threshold_a": 100,
            "threshold_b": 200,
            "guidance_start": 0.0,
            "guidance_end": 1.0,
            "pixel_perfect": False,
        }
