"""Training data in the layout of Fill50K: `source/`, `target/`, and `prompt.json` of JSON lines.

Each line names the control picture (`source`), the picture to learn (`target`), both relative to
the folder, and its `prompt`; where a Union is to learn several types of control pictures, also the
`control_type` of those that are not of the data set's own. Where a control picture is transparent
it is masked: inpaint controls see -1 there. Everything that is wrong with a data set is found
before training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib_controlnet.errors import ImageError
from lib_controlnet.pictures.decode import decode_image, read_plain_file, to_rgb
from lib_controlnet.pictures.maps import Size

from .errors import TrainError
from .reading import read_content

LINES: Final = "prompt.json"
ABOUT: Final = "dataset.json"
KEYS: Final = ("source", "target", "prompt")
BROKEN: Final = (OSError, ImageError)
"""What reading a picture raises where it is damaged, cut short or none."""


class Item(NamedTuple):
    """One example; paths are relative to the data set's folder."""

    source: str
    target: str
    prompt: str
    control_type: str = ""


def write_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a uint8 (H, W, 3) or (H, W, 4) picture as PNG, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    Image.fromarray(np.ascontiguousarray(picture)).save(partial, "PNG")
    partial.replace(path)


def read_picture(path: Path) -> np.ndarray:
    """A picture as uint8 (H, W, 3), read as the panel and the HTTP routes read one.

    Raises:
        ImageError: it cannot be used.
        OSError: it cannot be read.
    """
    return decode_image(read_plain_file(path), path.name)


def read_control(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A control picture, uint8 (H, W, 3), and where it is masked, boolean (H, W); None: nowhere.

    The picture is black where it is masked.

    Raises: see `read_picture`.
    """
    pixels = decode_image(read_plain_file(path), path.name, keep_alpha=True)
    if pixels.shape[2] == 3:
        return pixels, None
    masked = pixels[:, :, 3] < 128
    picture = to_rgb(pixels)
    picture[masked] = 0
    return picture, masked if masked.any() else None


def write_items(folder: Path, items: Sequence[Item]) -> None:
    """Write the lines of a data set, in one step."""
    text = "".join(_line(item) for item in items)
    write_text(folder / LINES, text)


def _line(item: Item) -> str:
    entry = item._asdict()
    if not item.control_type:
        del entry["control_type"]
    return json.dumps(entry, ensure_ascii=False) + "\n"


def about(folder: Path) -> dict[str, Any]:
    """What is known of how a data set was made; empty where nothing is."""
    path = folder / ABOUT
    content = read_content(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def read_items(folder: Path) -> tuple[list[Item], list[str]]:
    """The examples of a data set, and what is wrong with its lines.

    Raises:
        TrainError: there is no such data set.
    """
    path = folder / LINES
    if not path.is_file():
        msg = f"{folder} is no data set: {LINES} is missing; make one with annotate or fill50k"
        raise TrainError(msg)
    items, faults = [], []
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            item = _read_line(line)
            if isinstance(item, Item):
                items.append(item)
            else:
                faults.append(f"{LINES} line {number}: {item}")
    return items, faults


def _read_line(line: str) -> Item | str:
    """The example on a line, or what is wrong with it."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(entry, dict):
        return "is not a JSON object"
    missing = [key for key in KEYS if not isinstance(entry.get(key), str)]
    if missing:
        return f"has no {' and no '.join(missing)}"
    kind = entry.get("control_type", "")
    if not isinstance(kind, str):
        return "has a control_type that is no text"
    item = Item(entry["source"], entry["target"], entry["prompt"], kind)
    if not item.prompt.strip():
        return f"empty caption for {item.target}"
    return item


def check(folder: Path, items: Sequence[Item], size: Size) -> list[str]:
    """Decode every picture; sentences about those that cannot be trained with.

    Args:
        size: what all pictures must measure.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda item: list(_faults(folder, item, size)), items)
        bar = tqdm(found, desc="looking at pictures", total=len(items), mininterval=1, delay=2)
        return [fault for faults in bar for fault in faults]


def _faults(folder: Path, item: Item, size: Size) -> Iterator[str]:
    for name in (item.source, item.target):
        path = folder / name
        if not path.is_file():
            yield f"{name}: file is missing"
            continue
        try:
            height, width = read_picture(path).shape[:2]
        except BROKEN as error:
            yield f"{name}: cannot be decoded, cut short or damaged ({error})"
            continue
        if (width, height) != (size.width, size.height):
            yield f"{name}: is {width} x {height}, expected {size.width} x {size.height}"


def first_size(folder: Path, items: Sequence[Item], multiple: int) -> Size:
    """The size of the first picture that can be read, which all others must have.

    Raises:
        TrainError: no picture can be read, or its sides are no multiples of `multiple`.
    """
    for item in items:
        try:
            size = Size.from_array(read_picture(folder / item.target))
        except BROKEN:
            continue
        if size.width % multiple or size.height % multiple:
            msg = (
                f"{item.target} is {size.width} x {size.height}: both sides must be multiples of "
                f"{multiple}; annotate with --size makes them so"
            )
            raise TrainError(msg)
        return size
    msg = f"no picture of {folder} can be read"
    raise TrainError(msg)


def refuse(folder: Path, faults: Sequence[str]) -> None:
    """Stop if anything is wrong.

    Raises:
        TrainError: lists all faults.
    """
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = "\n  ".join(faults)
        msg = f"the data set {folder} has {count}; nothing was trained:\n  {lines}"
        raise TrainError(msg)
