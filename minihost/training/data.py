"""Cache of rendered scenes and of their latents, so that training steps only read."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from minildm.vae import AutoencoderKL
from tqdm import tqdm

from .assets import RUNS, SCALE_FACTOR
from .hints import canny_edges
from .loop import to_tensor
from .scenes import SEGMENT_COLOURS, Scene, boundary, make_scene
from .vocabulary import SHAPES

COUNTS: Final = {128: 10000, 192: 800, 256: 600}
MOSAIC: Final = 255
CHUNK: Final = 100


@dataclass(frozen=True)
class SceneCache:
    """Scenes of one size as memory-mapped arrays, n scenes of s pixels.

    Attributes:
        pictures: uint8 (n, s, s, 3).
        edges: uint8 (n, s, s), 255 on Canny edges of the un-inked picture and on free lines.
        borders: uint8 (n, s, s), 255 on region boundaries and on free lines.
        depth: uint8 (n, s, s), 255 is near.
        classes: uint8 (n, s, s), 0 background, 1 + index in SHAPES, or MOSAIC.
        captions: n captions.
    """

    pictures: np.ndarray
    edges: np.ndarray
    borders: np.ndarray
    depth: np.ndarray
    classes: np.ndarray
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)


def segment_picture(classes: np.ndarray) -> np.ndarray:
    """Class map (s, s) as palette colours, uint8 (s, s, 3); background and mosaics are black."""
    table = np.zeros((256, 3), np.uint8)
    for i, shape in enumerate(SHAPES, 1):
        table[i] = SEGMENT_COLOURS[shape]
    return table[classes]


def class_map(scene: Scene) -> np.ndarray:
    """Shape class of every pixel, uint8 (s, s)."""
    if not scene.things:
        return np.full(scene.labels.shape, MOSAIC, np.uint8)
    table = np.array([0, *(1 + SHAPES.index(t.shape) for t in scene.things)], np.uint8)
    return table[scene.labels]


def _render(job: tuple[int, int]) -> tuple[list[np.ndarray], list[str]]:
    first, size = job
    cv2.setNumThreads(1)
    scenes = [make_scene(seed, size) for seed in range(first, first + CHUNK)]
    arrays = [
        np.stack([s.picture for s in scenes]),
        np.stack([np.where(s.lines, 255, canny_edges(s.flat)).astype(np.uint8) for s in scenes]),
        np.stack([(boundary(s.labels) | s.lines).astype(np.uint8) * 255 for s in scenes]),
        np.stack([(s.depth * 255).astype(np.uint8) for s in scenes]),
        np.stack([class_map(s) for s in scenes]),
    ]
    return arrays, [s.caption for s in scenes]


def in_processes(
    work: Callable[[Any], Any], jobs: Sequence[Any], workers: int, label: str
) -> Iterator[Any]:
    """Results of jobs in their order, with a progress bar; in this process for one worker."""
    if workers <= 1:
        yield from tqdm(map(work, jobs), total=len(jobs), desc=label, mininterval=1)
        return
    # Fresh processes: a fork would copy the locks of torch's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        yield from tqdm(pool.map(work, jobs), total=len(jobs), desc=label, mininterval=1)


def load_scenes(size: int, workers: int = 2) -> SceneCache:
    """Scenes of the seeds from 0, rendered on the first call."""
    folder = RUNS / f"scenes_{size}"
    if not (folder / "captions.json").exists():
        _render_all(folder, size, workers)
    names = ("pictures", "edges", "borders", "depth", "classes")
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in names]
    return SceneCache(*arrays, json.loads((folder / "captions.json").read_text("utf-8")))


def _render_all(folder: Path, size: int, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(first, size) for first in range(0, COUNTS[size], CHUNK)]
    parts: list[list[np.ndarray]] = []
    captions: list[str] = []
    for arrays, texts in in_processes(_render, jobs, workers, f"scenes {size}"):
        parts.append(arrays)
        captions += texts
    names = ("pictures", "edges", "borders", "depth", "classes")
    for name, arrays in zip(names, zip(*parts, strict=True), strict=True):
        np.save(folder / f"{name}.npy", np.concatenate(arrays))
    (folder / "captions.json").write_text(json.dumps(captions), encoding="utf-8")


@torch.no_grad()
def load_latents(vae: AutoencoderKL, size: int, batch: int = 16) -> torch.Tensor:
    """Scaled latents of the cached scenes, fp16 (n, 4, s/8, s/8), encoded on the first call."""
    path = RUNS / f"latents_{size}.npy"
    if not path.exists():
        scenes = load_scenes(size)
        batch = max(1, batch * 128 * 128 // size**2)
        out = []
        for i in tqdm(range(0, len(scenes), batch), desc=f"latents {size}", mininterval=5):
            x = to_tensor(np.ascontiguousarray(scenes.pictures[i : i + batch]))
            with torch.autocast("cpu", torch.bfloat16):
                mean = vae.encode(x).mean
            out.append((mean.float() * SCALE_FACTOR).half().numpy())
        partial = path.with_suffix(".part.npy")
        np.save(partial, np.concatenate(out))
        partial.replace(path)
    return torch.from_numpy(np.load(path))
