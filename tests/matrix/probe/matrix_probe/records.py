"""What is noted of a generation, and its form as JSON."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matrix_probe.fitting import NOTHING, Row


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array for JSON."""
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
    return {"shape": list(array.shape), "type": str(array.dtype), "data": data}


def levels(picture: Tensor) -> np.ndarray:
    """(3, H, W) with 1 as white -> int16 (H, W, 3) in levels of 255; -1 stays below 0."""
    scaled = (picture.detach().float().cpu() * 255.0).round().short()
    return scaled.permute(1, 2, 0).numpy()


@dataclass
class Evaluation:
    """One call of the guided denoiser.

    Attributes:
        structure: number of the U-Net's structure among those that the generation met.
        conds, unconds, total: rows announced by the host.
        calls: rows of each U-Net call.
        rows: one entry per row, in the order of the calls.
        places: of each of them, a key that sorts it where A1111 has it.
    """

    structure: int
    conds: int
    unconds: int
    total: int
    calls: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    places: list[tuple[int, ...]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        sorted_rows = sorted(zip(self.places, self.rows, strict=True), key=lambda pair: pair[0])
        factors = [row.factors for row in self.rows if row.hint != NOTHING]
        return {
            "structure": self.structure,
            "conds": self.conds,
            "unconds": self.unconds,
            "total": self.total,
            "calls": self.calls,
            "hints": [row.hint for _place, row in sorted_rows],
            "unexplained": sum(row.error == float("inf") for row in self.rows),
            "error": max((min(row.error, 9e9) for row in self.rows), default=0.0),
            "factors": np.mean(factors, axis=0).tolist() if factors else [],
            "spread": float(np.ptp(factors, axis=0).max()) if factors else 0.0,
        }


@dataclass
class Pass:
    """One run of a sampler.

    Attributes:
        is_hires: second pass of a hires fix.
        sampler: its name.
        latent: width and height.
        structure: number of the structure of the U-Net that was loaded when the pass began.
    """

    is_hires: bool
    sampler: str
    latent: tuple[int, int]
    structure: int
    evaluations: list[Evaluation] = field(default_factory=list)

    def maps(self) -> list[dict[str, Any]]:
        """Strength per cell and layer, mean over the last evaluation that had additions."""
        for evaluation in reversed(self.evaluations):
            rows = [row for row in evaluation.rows if row.hint != NOTHING]
            if rows:
                stacks = zip(*(row.maps for row in rows), strict=True)
                return [packed(torch.stack(stack).mean(0).float().numpy()) for stack in stacks]
        return []

    def as_json(self) -> dict[str, Any]:
        return {
            "is_hires": self.is_hires,
            "sampler": self.sampler,
            "latent": list(self.latent),
            "structure": self.structure,
            "evaluations": [evaluation.as_json() for evaluation in self.evaluations],
            "maps": self.maps(),
        }


@dataclass
class Generation:
    """One call of the host's `process_images`.

    Attributes:
        given: the img2img picture as the path handed it over, uint8 (H, W, 3).
        given_mask: its mask, uint8 (H, W).
        encoded: pictures that the host encoded while it prepared, int16 (H, W, 3).
        mask: the host's prepared mask, uint8 (H, W).
        hints: what control networks were given, int16 (H, W, 3), masked pixels negative.
        numbers: what the host computed for itself: crop, sizes.
    """

    given: np.ndarray | None = None
    given_mask: np.ndarray | None = None
    encoded: list[np.ndarray] = field(default_factory=list)
    mask: np.ndarray | None = None
    hints: list[np.ndarray] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    is_finished: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "encoded": [packed(picture) for picture in self.encoded[:1]],
            "given": None if self.given is None else packed(self.given),
            "given_mask": None if self.given_mask is None else packed(self.given_mask),
            "mask": None if self.mask is None else packed(self.mask),
            "hints": [packed(hint) for hint in self.hints],
            "passes": [one.as_json() for one in self.passes],
            "numbers": self.numbers,
            "comments": self.comments,
            "is_finished": self.is_finished,
        }
