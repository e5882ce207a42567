"""Build a data set from a folder of pictures with any preprocessor of this repository."""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from tqdm import tqdm

from lib_controlnet.detect import preprocess
from lib_controlnet.errors import ControlNetError, PreprocessorUnavailableError
from lib_controlnet.pictures.decode import decode_image, to_rgb
from lib_controlnet.pictures.maps import Size, resize_map

from . import captions
from .dataset import ABOUT, Item, about, write_items, write_picture, write_text
from .errors import TrainError
from .masks import random_mask
from .steps import seed_of

log = logging.getLogger(__name__)

PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MULTIPLE: Final = 64
"""Sides of pictures that are kept as they are get cut to multiples of this."""


@dataclass(frozen=True)
class Recipe:
    """How pictures are annotated.

    Attributes:
        preprocessor: its id.
        values: its sliders; missing ones are its defaults.
        resolution: short side that it works at; None for the picture's own.
        size: width and height of every example; None keeps each picture's, cut to multiples of 64.
    """

    preprocessor: str
    values: tuple[float | None, ...] = ()
    resolution: int | None = None
    size: tuple[int, int] | None = None

    def describe(self) -> dict[str, Any]:
        """What is kept with the data set, and must be the same when it is continued."""
        detector = preprocess.get(self.preprocessor)
        return {
            "made_by": "annotate",
            "preprocessor": detector.name,
            "values": list(preprocess.settle(detector.name, None, self.values).values)[
                : len(detector.sliders)
            ],
            "resolution": self.resolution,
            "size": list(self.size) if self.size else None,
            "control_type": detector.tags[0] if detector.tags else None,
        }


def frame(picture: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """The middle of a picture, uint8 (H, W, 3), resized so that it fills the size."""
    height, width = picture.shape[:2]
    if size is None:
        size = (width - width % MULTIPLE, height - height % MULTIPLE)
        if 0 in size:
            msg = f"is {width} x {height}, smaller than {MULTIPLE} pixels; give a --size"
            raise TrainError(msg)
    else:
        scale = max(size[0] / width, size[1] / height)
        wanted = (max(size[0], round(width * scale)), max(size[1], round(height * scale)))
        if wanted != (width, height):
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4
            picture = cv2.resize(picture, wanted, interpolation=method)
    top = (picture.shape[0] - size[1]) // 2
    left = (picture.shape[1] - size[0]) // 2
    return np.ascontiguousarray(picture[top : top + size[1], left : left + size[0]])


def control_picture(picture: np.ndarray, recipe: Recipe, name: str) -> np.ndarray:
    """What the preprocessor makes of a picture, uint8 (H, W, 3) of the picture's size.

    For inpaint preprocessors the picture itself, uint8 (H, W, 4), transparent where a random mask
    that follows from `name` covers it.
    """
    height, width = picture.shape[:2]
    if preprocess.get(recipe.preprocessor).needs_mask:
        rng = np.random.default_rng(seed_of("mask", name))
        masked = random_mask(width, height, rng)
        return np.dstack([np.where(masked[..., None], 0, picture), np.where(masked, 0, 255)])
    return map_of(picture, recipe)


def map_of(picture: np.ndarray, recipe: Recipe) -> np.ndarray:
    """What the preprocessor alone makes of a picture, uint8 (H, W, 3) of the picture's size."""
    height, width = picture.shape[:2]
    side = recipe.resolution or min(height, width)
    detection = preprocess.run_preprocessor(
        recipe.preprocessor, picture, side, recipe.values, pixel_perfect=True
    )
    return resize_map(detection.image[:, :, :3], Size(width, height))


def annotate_one(path: Path, item: Item, folder: Path, recipe: Recipe) -> str | None:
    """Write one example's pictures; what went wrong, or None."""
    try:
        picture = frame(to_rgb(decode_image(path.read_bytes(), path.name)), recipe.size)
        control = control_picture(picture, recipe, item.source)
    except PreprocessorUnavailableError:
        raise  # all others would fail alike
    except (ControlNetError, OSError) as error:
        return f"{path.name}: {error}"
    write_picture(folder / item.source, control.astype(np.uint8))
    write_picture(folder / item.target, picture)
    return None


def _begin_worker() -> None:
    """Workers share the machine, one thread each; on Ctrl+C they finish their picture."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    import torch

    torch.set_num_threads(1)


def find_pictures(folder: Path) -> list[Path]:
    """All pictures below a folder, by name.

    Raises:
        TrainError: there are none.
    """
    found = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file()
    )
    if not found:
        msg = f"{folder} holds no pictures ({', '.join(PICTURES)})"
        raise TrainError(msg)
    return found


def item_of(path: Path, pictures: Path, prompt: str) -> Item:
    """Where an example of a picture goes: one flat name for each place in the folder."""
    name = "__".join(path.relative_to(pictures).parts) + ".png"
    return Item(f"source/{name}", f"target/{name}", prompt)


def annotate(
    pictures: Path, folder: Path, recipe: Recipe, caption_source: str = "text", workers: int = 1
) -> list[str]:
    """Write a data set; what an earlier call has finished is kept.

    Returns:
        One sentence for each picture that was left out.

    Raises:
        TrainError: nothing can be made: no pictures, unfit preprocessor, or other settings than
            those of the data set that is there.
    """
    detector = preprocess.get(recipe.preprocessor)
    preprocess.require(detector)
    if not detector.gives_picture:
        msg = f"preprocessor {detector.name} makes no control picture of a picture alone"
        raise TrainError(msg)
    settings, known = recipe.describe(), about(folder)
    if known and known != settings:
        msg = f"{folder} holds another data set ({json.dumps(known)}); choose another folder"
        raise TrainError(msg)
    caption = captions.choose(caption_source)
    found = find_pictures(pictures)
    faults = [f"{path.name!a}: its name is no text" for path in found if not _listable(path)]
    jobs = [(path, item_of(path, pictures, caption(path))) for path in found if _listable(path)]
    faults += [f"{path.name}: no caption" for path, item in jobs if not item.prompt]
    jobs = [(path, item) for path, item in jobs if item.prompt]
    names = Counter(item.target for _path, item in jobs)
    faults += [f"{path}: another one's name" for path, item in jobs if names[item.target] > 1]
    jobs = [(path, item) for path, item in jobs if names[item.target] == 1]
    write_text(folder / ABOUT, json.dumps(settings, indent=1))
    open_jobs = [job for job in jobs if not _done(folder, job[1])]
    faults += _run(open_jobs, folder, recipe, workers, len(jobs))
    done = [item for _path, item in jobs if _done(folder, item)]
    write_items(folder, done)
    log.info("%d examples in %s, %d pictures left out", len(done), folder, len(faults))
    return faults


def _listable(path: Path) -> bool:
    """Whether a name is text: other systems' files may hold bytes that are none."""
    return str(path).encode(errors="replace").decode() == str(path)


def _done(folder: Path, item: Item) -> bool:
    """Whether an example is complete; its target is written last."""
    return (folder / item.source).is_file() and (folder / item.target).is_file()


def _run(
    jobs: Sequence[tuple[Path, Item]], folder: Path, recipe: Recipe, workers: int, total: int
) -> list[str]:
    bar = tqdm(total=total, initial=total - len(jobs), desc=recipe.preprocessor, mininterval=1)
    faults: list[str | None] = []
    with bar:
        if workers <= 1 or len(jobs) < 2:
            for path, item in jobs:
                faults.append(annotate_one(path, item, folder, recipe))
                bar.update()
        else:
            for fault in _in_processes(jobs, folder, recipe, workers):
                faults.append(fault)
                bar.update()
    return sorted(fault for fault in faults if fault)


def _in_processes(
    jobs: Sequence[tuple[Path, Item]], folder: Path, recipe: Recipe, workers: int
) -> Iterator[str | None]:
    # Fresh processes: a fork would share torch's threads and the opened networks.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker)
    try:
        asked = [pool.submit(annotate_one, path, item, folder, recipe) for path, item in jobs]
        for future in as_completed(asked):
            yield future.result()
    except BrokenProcessPool as error:
        msg = (
            f"one of {workers} processes died, most likely for want of memory; the same command "
            "with fewer --workers goes on from here"
        )
        raise TrainError(msg) from error
    finally:  # `with` would wait for all pictures that are left
        pool.shutdown(cancel_futures=True)
