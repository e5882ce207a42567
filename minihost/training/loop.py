"""What the training scripts share: schedules, averaged weights, clocks, logs, picture grids."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor


def cosine(step: int, total: int, warmup: int, hold: float = 0.0) -> float:
    """Learning rate factor: linear warm-up, constant until `hold * total`, cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    start = max(warmup, int(hold * total))
    if step < start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min((step - start) / max(total - start, 1), 1.0)))


class Log:
    """CSV of step, loss and seconds; also the training's clock across restarts."""

    def __init__(self, path: Path, fresh: bool) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.start = time.monotonic()
        if fresh or not path.exists():
            path.write_text("step,loss,seconds\n", encoding="utf-8")
        else:
            rows = path.read_text(encoding="utf-8").splitlines()[1:]
            self.start -= float(rows[-1].split(",")[2]) if rows else 0.0

    @property
    def seconds(self) -> float:
        """Seconds trained in all."""
        return time.monotonic() - self.start

    def write(self, step: int, loss: float) -> None:
        """Add one row."""
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([step, f"{loss:.5f}", f"{self.seconds:.0f}"])


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 (b, s, s, 3) pictures as float (b, 3, s, s) in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(tensor: Tensor) -> np.ndarray:
    """Float (b, 3, s, s) in [-1, 1] as uint8 (b, s, s, 3)."""
    scaled = ((tensor.float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def save_grid(path: Path, rows: list[np.ndarray]) -> None:
    """Write rows of uint8 (n, s, s, 3) pictures as one picture file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    cv2.imwrite(str(path), cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
