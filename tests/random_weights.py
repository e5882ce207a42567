"""Random weights that two implementations of one network can share, and what came out of them.

A reference class is filled with `random_state` and run on `random_input`; its key table and its
output are kept in `tests/data/networks/`, and our network has to give the same with the same
weights. Everything follows from the seed, on any machine.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NETWORKS = Path(__file__).resolve().parent / "data" / "networks"


def random_state(
    shapes: Mapping[str, Sequence[int]], seed: int = 0, gain: float = 1.0
) -> dict[str, Tensor]:
    """Weights for every key, float32; each key's numbers follow from its name and the seed.

    Matrices and kernels are scaled by their fan-in so that signals neither fade nor explode;
    variances of batch normalisation lie in 0.5 to 1.5, scales in 0.8 to 1.2, biases are small
    and never zero; counters are 1.
    """
    return {key: _values(key, tuple(shape), seed, gain) for key, shape in shapes.items()}


def _values(key: str, shape: tuple[int, ...], seed: int, gain: float) -> Tensor:
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    uniform = torch.from_numpy(np.asarray(rng.random(shape, dtype=np.float32) * 2 - 1))
    if key.endswith("num_batches_tracked"):
        return torch.ones(shape, dtype=torch.int64)
    if key.endswith("running_var"):
        return 1 + 0.5 * uniform
    if len(shape) <= 1:
        centre = 1.0 if key.endswith(("weight", "gamma")) else 0.0
        return centre + 0.2 * uniform
    return uniform * gain * math.sqrt(3 / max(math.prod(shape[1:]), 1))


def random_input(shape: Sequence[int], low: float, high: float, seed: int = 1) -> Tensor:
    """Input of a network, float32, uniform in [low, high)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(low + (high - low) * rng.random(tuple(shape), dtype=np.float32))


def read_keys(name: str) -> dict[str, list[int]]:
    """Key table of a published file: key -> shape."""
    return json.loads((NETWORKS / f"{name}.json").read_text(encoding="utf-8"))


def write_keys(name: str, state: Mapping[str, Tensor]) -> None:
    """Keep the key table of a reference class, one key a line."""
    lines = [f"{json.dumps(key)}: {json.dumps(list(t.shape))}" for key, t in state.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (NETWORKS / f"{name}.json").write_text(text, encoding="utf-8")


def read_output(name: str) -> np.ndarray:
    """What the reference class gave, float32."""
    return np.load(NETWORKS / f"{name}.npz")["output"].astype(np.float32)


def write_output(name: str, output: np.ndarray | Tensor) -> None:
    """Keep what the reference class gave, compressed; mind the size, some ten kilobytes."""
    NETWORKS.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(NETWORKS / f"{name}.npz", output=np.asarray(output, dtype=np.float32))


def relative_error(ours: np.ndarray | Tensor, reference: np.ndarray) -> float:
    """Largest difference as a share of the reference's largest value."""
    difference = np.abs(np.asarray(ours, dtype=np.float64) - reference).max()
    return float(difference / np.abs(reference).max())
