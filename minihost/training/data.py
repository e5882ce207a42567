"""Cache of rendered scenes and of their latents, so that training steps only read."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import torch
from minildm.vae import AutoencoderKL
from tqdm import tqdm

from .assets import CONFIG, RUNS
from .hints import Source, source_of
from .loop import to_tensor
from .scenes import make_scene

COUNTS: Final = {128: 10000, 192: 800, 256: 600}
CHUNK: Final = 100
NAMES: Final = tuple(field.name for field in fields(Source))


@dataclass(frozen=True)
class SceneCache:
    """Scenes of one size: what their hints are made of as memory-mapped arrays, and captions.

    Attributes:
        arrays: of n scenes, by the names of `Source`.
    """

    arrays: dict[str, np.ndarray]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def source(self, row: int) -> Source:
        """What the hints of one scene are made of."""
        return Source(**{name: array[row] for name, array in self.arrays.items()})


def _render(job: tuple[int, int]) -> tuple[list[Source], list[str]]:
    first, size = job
    cv2.setNumThreads(1)
    scenes = [make_scene(seed, size) for seed in range(first, first + CHUNK)]
    return [source_of(scene) for scene in scenes], [scene.caption for scene in scenes]


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
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES}
    return SceneCache(arrays, json.loads((folder / "captions.json").read_text("utf-8")))


def _render_all(folder: Path, size: int, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(first, size) for first in range(0, COUNTS[size], CHUNK)]
    sources: list[Source] = []
    captions: list[str] = []
    for made, texts in in_processes(_render, jobs, workers, f"scenes {size}"):
        sources += made
        captions += texts
    for name in NAMES:
        np.save(folder / f"{name}.npy", np.stack([getattr(source, name) for source in sources]))
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
            x = to_tensor(np.ascontiguousarray(scenes.arrays["picture"][i : i + batch]))
            with torch.autocast("cpu", torch.bfloat16):
                mean = vae.encode(x).mean
            out.append((mean.float() * CONFIG.scale_factor).half().numpy())
        partial = path.with_suffix(".part.npy")
        np.save(partial, np.concatenate(out))
        partial.replace(path)
    return torch.from_numpy(np.load(path))
