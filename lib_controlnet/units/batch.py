"""The pictures of a unit that has several, listed in natural order, and names for their results.

Every file is opened as far as its head, so that a broken one is named before the first result.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lib_controlnet.enums import InputMode
from lib_controlnet.errors import ImageError, UnitError
from lib_controlnet.files.paths import PATH_FAULTS, Folders, open_path
from lib_controlnet.gate import Bounded
from lib_controlnet.limits import MAX_FILES, MAX_LISTED
from lib_controlnet.pictures.decode import (
    Decoded,
    Fetch,
    check_file,
    decode_image,
    is_picture_name,
    read_plain_file,
)
from lib_controlnet.units.unit import ControlUnit

MAX_CHECKED: Final = 16_384
"""Files that are remembered as pictures."""
_DIGITS: Final = re.compile(r"(\d+)")
_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_DATA_URL: Final = "data:"
_MASK_LINE: Final = "mask:"
_KEYFRAME_LINE: Final = "keyframe:"


@dataclass(frozen=True)
class BatchPicture:
    """One picture of a batch, undecoded.

    Attributes:
        name: file name, or "picture-3" for one that has none.
        value: a file, or whatever `decode_image` takes.
        mask: the same for its mask, None without one.
    """

    name: str
    value: Any
    mask: Any = None

    @property
    def stem(self) -> str:
        """Name without the ending."""
        return Path(self.name).stem if isinstance(self.value, Path) else self.name

    def give_to(self, unit: ControlUnit) -> ControlUnit:
        """The unit with this picture as its own.

        Raises:
            ImageError: the file has gone since it was listed.
        """
        image, mask = _bytes_of(self.value), _bytes_of(self.mask)
        return dataclasses.replace(
            unit, input_mode=InputMode.SIMPLE, batch_images="", image=image, mask=mask
        )


def give_all(pictures: Sequence[BatchPicture], unit: ControlUnit) -> ControlUnit:
    """The unit with all of these pictures at once.

    Raises:
        ImageError: a file has gone since it was listed.
    """
    given = tuple({"image": _bytes_of(one.value), "mask": _bytes_of(one.mask)} for one in pictures)
    return dataclasses.replace(
        unit, input_mode=InputMode.SIMPLE, batch_images="", image=given, mask=None
    )


def _bytes_of(value: Any) -> Any:
    if not isinstance(value, Path):
        return value
    try:
        return read_plain_file(value)
    except OSError as error:
        msg = f"{value.name} cannot be read: {error.strerror or error}"
        raise ImageError(msg) from error


@dataclass(frozen=True)
class BatchSource:
    """Where pictures may come from.

    Attributes:
        folders: folders that may be listed, with what is below; True for any, False for none.
        paths: folders whose files a list of pictures may name, in the same way.
        fetch: loads http(s) URLs, None refuses them.
        refusal: what to do instead where no folder may be listed.
        decoded: files that need not be decoded again.
        checked: files that are known to be pictures, by path and state.
    """

    folders: Folders = False
    paths: Folders = False
    fetch: Fetch | None = None
    refusal: str = "send the pictures as a list of base64"
    decoded: Decoded | None = None
    checked: Bounded[tuple, None] = field(default_factory=lambda: Bounded(MAX_CHECKED))


def keyframe_line(given: Any) -> str | None:
    """The numbers of a line `keyframe:0,6` behind the folder of the pictures, if there is one."""
    return _line(given, _KEYFRAME_LINE)


def natural_key(name: str) -> tuple[object, ...]:
    """Sorts `frame2` before `frame10`, letter case aside."""
    parts = _DIGITS.split(name.lower())
    return (*(int(part) if i % 2 else part for i, part in enumerate(parts)), name)


def list_pictures(folder: Path) -> list[Path]:
    """Picture files of a folder in natural order; hidden ones and other kinds are passed over."""
    found = [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and is_picture_name(path.name) and path.is_file()
    ]
    return sorted(found, key=lambda path: natural_key(path.name))


def pictures_of(
    unit: ControlUnit, source: BatchSource, folders: list[Path], most: int | None = None
) -> tuple[BatchPicture, ...]:
    """Every picture of a unit, checked; its folder is added to `folders`.

    Raises:
        UnitError: there are none, more than `most` (None: than a batch may have), or their folder
            is absent, closed or empty.
        ImageError: one of them cannot be used; it is named.
    """
    given = unit.batch_images
    if isinstance(given, str):
        given = given.splitlines()[0].strip() if given.strip() else None
    if given is None and isinstance(unit.image, (list, tuple)):
        given = unit.image
    if isinstance(given, str) and given[:5].lower() == _DATA_URL:
        given = [given]
    if isinstance(given, (str, Path)):
        return _list(f"{unit.name}: batch_images", given, source, folders, most)
    if isinstance(given, (list, tuple)) and given:
        _check_count(f"{unit.name}: batch_images", len(given), most or MAX_LISTED)
        return tuple(
            _check(f"{unit.name}: picture {i + 1}", f"picture-{i + 1}", value, source)
            for i, value in enumerate(given)
        )
    msg = (
        f"{unit.name}: input mode is {unit.input_mode.value!r}, but no pictures are given; name a "
        "folder, add pictures, or choose a single image"
    )
    raise UnitError(msg)


def _check_count(where: str, count: int, most: int) -> None:
    """Refuse more pictures than one request may bring, before any of them is read."""
    if count > most:
        msg = f"{where} has {count} pictures; at most {most} can be used here, give fewer"
        raise UnitError(msg)


def _list(
    where: str,
    text: str | Path,
    source: BatchSource,
    folders: list[Path],
    most: int | None = None,
) -> tuple[BatchPicture, ...]:
    if not source.folders:
        msg = f"{where} names a folder, and folders may not be read here; {source.refusal}"
        raise UnitError(msg)
    try:
        folder = open_path(text, source.folders)
        if folder is None:
            raise UnitError(_outside(f"{where}: {text}", source.folders))
        if not folder.is_dir():
            msg = f"{where}: the folder {text} does not exist"
            raise UnitError(msg)
        files = list_pictures(folder)
    except PATH_FAULTS as error:
        msg = f"{where}: the folder {str(text)!r} cannot be read ({error})"
        raise UnitError(msg) from error
    if not files:
        msg = f"{where}: there is no picture in the folder {text}"
        raise UnitError(msg)
    _check_count(where, len(files), most or MAX_FILES)
    for path in files:  # a link may lead out of the folder
        if source.folders is not True and open_path(path, source.folders) is None:
            raise UnitError(_outside(f"{where}: {path}", source.folders))
        _check_once(path, where, source)
    folders.append(folder)
    return tuple(BatchPicture(path.name, path) for path in files)


def _check_once(path: Path, where: str, source: BatchSource) -> None:
    """Refuse a file that is no picture; the batch tab of the host asks anew for each of its files.

    Raises:
        ImageError: see `check_file`.
    """
    try:
        state = path.stat()
    except OSError:
        check_file(path, f"{where}: {path}")
    else:
        key = path, state.st_size, state.st_mtime_ns
        source.checked.find(key, lambda: check_file(path, f"{where}: {path}"))


def _outside(what: str, folders: Any) -> str:
    return f"{what} lies outside of {', '.join(map(str, folders))}"


def _check(where: str, name: str, value: Any, source: BatchSource) -> BatchPicture:
    """A picture of a list; all but those behind a URL are decoded once to be sure."""
    mask = None
    if isinstance(value, Mapping):
        value, mask = value.get("image"), value.get("mask") or None
    if value is None or not (isinstance(value, str) and _URL.match(value.strip())):
        decode_image(value, where, source.paths, source.fetch, decoded=source.decoded)
    return BatchPicture(name, value, mask)


def pair_masks(
    unit: ControlUnit, source: BatchSource, folders: list[Path]
) -> tuple[BatchPicture, ...]:
    """The same with the masks of `batch_mask_dir`, by name or in order; one mask is for all.

    Raises:
        UnitError: also, there are several masks, but fewer than pictures.
        ImageError: see `pictures_of`.
    """
    pictures = pictures_of(unit, source, folders)
    folder = unit.batch_mask_dir or _line(unit.batch_images, _MASK_LINE)
    if not folder:
        return pictures
    masks = _list(f"{unit.name}: batch_mask_dir", folder, source, [])
    if len(masks) == 1:
        return tuple(dataclasses.replace(one, mask=masks[0].value) for one in pictures)
    choose = _by_name(masks, [picture.stem for picture in pictures])
    if choose is None and len(masks) < len(pictures):
        msg = (
            f"{unit.name}: batch_mask_dir holds {len(masks)} masks for {len(pictures)} pictures; "
            "give one for each, or a single one for all"
        )
        raise UnitError(msg)
    return tuple(
        dataclasses.replace(one, mask=(choose or masks.__getitem__)(i).value)
        for i, one in enumerate(pictures)
    )


def _line(given: Any, start: str) -> str | None:
    """What a line behind the folder of the pictures says, as AnimateDiff has it: `mask:folder`."""
    lines = given.splitlines()[1:] if isinstance(given, str) else []
    found = [line.removeprefix(start).strip() for line in lines if line.startswith(start)]
    return next(iter(found), None)


def _by_name(
    found: Sequence[BatchPicture], stems: Sequence[str]
) -> Callable[[int], BatchPicture] | None:
    """Gives the picture with the i-th of these names; None if one of them is missing."""
    named = {picture.stem: picture for picture in found}
    return (lambda i: named[stems[i]]) if set(stems) <= set(named) else None


class ResultNames:
    """File names for results: the control picture's, `-1`, `-2` for further ones, none twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, stem: str, number: int, suffix: str) -> str:
        """A name that was not given away yet, without its ending.

        Args:
            stem: name of the control picture without its ending.
            number: of the result among those of the same control picture, from 0.
            suffix: ending that the file will have, such as ".png".
        """
        name = stem if number == 0 else f"{stem}-{number}"
        while f"{name}{suffix}".lower() in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(f"{name}{suffix}".lower())
        return name
