"""From whatever a client sends as a picture to uint8 RGB.

Accepted: base64, data URL, http(s) URL through the host's fetcher, PIL image, numpy array and,
only where the user opened a folder for it, a file path.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import stat
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps

from lib_controlnet.errors import ImageError
from lib_controlnet.files.paths import PATH_FAULTS, Folders, list_folders, open_file, open_path
from lib_controlnet.limits import MAX_FILE_BYTES, MAX_PIXELS, MAX_SIDE
from lib_controlnet.pictures.transport import bytes_of_text, png_fault

_STRIP: Final = 1 << 20
"""Pixels converted in one go where that takes wider numbers."""

_FORMATS: Final = (
    *("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "TGA", "ICO"),
    *("JPEG2000", "AVIF"),
)
"""File formats read; those that start external programs (EPS) are left out on purpose."""

DECODE_FAULTS: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, AttributeError),
    *(OverflowError, RuntimeError, MemoryError, struct.error, zlib.error),
    *(Image.DecompressionBombError,),
)
"""What Pillow raises on damaged files."""

_PATH_LIKE: Final = re.compile(r"\.[A-Za-z0-9]{1,5}$|^~|^/(?!9j/)|^[A-Za-z]:[\\/]|\\")
"""Text that means a file; base64 of a JPEG file begins with `/9j/`."""
_URL: Final = re.compile(r"^https?://", re.IGNORECASE)

_FOREIGN: Final = re.compile(r"^(?!https?:|data:)[a-z][a-z0-9+.-]{0,31}://", re.IGNORECASE)

Fetch = Callable[[str], bytes | Image.Image]


class Decoded(Protocol):
    """Keeps decoded pictures by a digest of their files' bytes."""

    def find(self, key: bytes, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The picture, made if it is not there."""
        ...


def to_rgb(array: np.ndarray) -> np.ndarray:
    """Bring a picture to three channels.

    Args:
        array: uint8 (H, W), (H, W, 1), (H, W, 2) grey and alpha, (H, W, 3) or (H, W, 4).

    Returns:
        uint8 (H, W, 3), contiguous. Grey is repeated; alpha is composited on white, rounding
        down. Three channels come back as they are, without a copy.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    channels = array.shape[2]
    if channels == 1:
        return cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_GRAY2RGB)
    if channels == 3:
        return np.ascontiguousarray(array)
    colour, alpha = array[:, :, :-1], array[:, :, -1:]
    if alpha.min(initial=255) == 255:
        return to_rgb(np.ascontiguousarray(colour))
    flat = np.empty(colour.shape, np.uint8)
    for rows in _strips(array):
        wide = alpha[rows].astype(np.uint16)  # 255 * 255 fits
        flat[rows] = (colour[rows] * wide + 255 * (255 - wide)) // 255
    return to_rgb(flat)


def _strips(array: np.ndarray) -> Iterator[slice]:
    """Slices of about a million pixels, so that wide numbers never fill the memory."""
    step = max(_STRIP // max(array.shape[1], 1), 1)
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def decode_image(
    value: object,
    where: str = "image",
    allow_paths: Folders = False,
    fetch: Fetch | None = None,
    keep_alpha: bool = False,
    decoded: Decoded | None = None,
) -> np.ndarray:
    """Decode one picture.

    EXIF rotation is applied; palettes, grey, one-bit, 16-bit and floating point pictures become
    8-bit RGB; transparent parts become white. A file that is damaged or cut short is refused.

    Args:
        value: base64 text, data URL, http(s) URL, path, bytes, PIL image, or array: uint8, bool
            or uint16, (H, W) or (H, W, 1 to 4).
        where: how messages call it, such as "unit 0: image".
        allow_paths: folders whose files may be read by path; True allows any, False none.
        fetch: loads an http(s) URL; None refuses them.
        keep_alpha: return the alpha channel instead of compositing it on white.
        decoded: files that need not be decoded again; None decodes in any case.

    Returns:
        uint8 (H, W, 3), or with `keep_alpha` (H, W, 4) where there is transparency; read-only where
        it comes from a file.

    Raises:
        ImageError: with the reason, and what to send instead.
    """
    if isinstance(value, np.ndarray):
        array = _from_array(value, where)
    elif isinstance(value, Image.Image):
        array = _from_pil(value, where)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        array = _from_bytes(bytes(value), where, decoded)
    elif isinstance(value, str):
        array = _from_text(value.strip(), where, allow_paths, fetch, decoded)
    elif isinstance(value, Path):
        array = _from_bytes(_read_file(value, where, allow_paths), where, decoded)
    else:
        msg = (
            f"{where} cannot be decoded: it is {type(value).__name__}; send base64 text, "
            "a data URL, a PIL image or a uint8 array"
        )
        raise ImageError(msg)
    if keep_alpha and array.shape[2] == 4 and array[:, :, 3].min() < 255:
        return array
    return to_rgb(array)


def decode_mask(
    value: object,
    where: str = "mask",
    allow_paths: Folders = False,
    fetch: Fetch | None = None,
    decoded: Decoded | None = None,
) -> np.ndarray:
    """Decode a mask: uint8 (H, W).

    Its alpha channel where it has transparency, as the host reads masks: drawing programs save
    strokes on a transparent ground. Else the first channel of what `decode_image` gives.
    """
    drawn = decode_image(value, where, allow_paths, fetch, keep_alpha=True, decoded=decoded)
    return np.ascontiguousarray(drawn[:, :, 3 if drawn.shape[2] == 4 else 0])


def is_picture_name(name: str) -> bool:
    """Whether a file's ending is that of a format that is read."""
    Image.init()
    return Image.EXTENSION.get(Path(name).suffix.lower()) in _FORMATS


def check_file(path: Path, where: str) -> None:
    """Refuse a file whose head is not that of a usable picture; its pixels are not decoded.

    Raises:
        ImageError: it cannot be read, is no picture, or has an unusable size.
    """
    try:
        with _open(path) as image:
            check_size(image.width, image.height, where)
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(where)) from error
    except DECODE_FAULTS as error:
        reason = getattr(error, "strerror", None) or "it is no picture in a known format"
        msg = f"{where} cannot be used: {reason}"
        raise ImageError(msg) from error


def _open(source: Path | io.BytesIO) -> Image.Image:
    Image.init()
    return Image.open(source, formats=[f for f in _FORMATS if f in Image.OPEN])


def _too_large(where: str) -> str:
    return (
        f"{where} has too many pixels; at most {MAX_SIDE} a side and "
        f"{MAX_PIXELS // 1_000_000} million in all can be used, make it smaller"
    )


def check_size(width: int, height: int, where: str) -> None:
    """Refuse empty and absurdly large pictures.

    Raises:
        ImageError: a side is 0 or above 16384 pixels, or the area above 128 million.
    """
    if width < 1 or height < 1:
        msg = f"{where} cannot be used: it is empty ({width} x {height} pixels)"
        raise ImageError(msg)
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        msg = (
            f"{where} is {width} x {height} pixels; at most {MAX_SIDE} a side and "
            f"{MAX_PIXELS // 1_000_000} million in all can be used, make it smaller"
        )
        raise ImageError(msg)


def _from_text(
    text: str,
    where: str,
    allow_paths: Folders,
    fetch: Fetch | None,
    decoded: Decoded | None,
) -> np.ndarray:
    if not text:
        msg = f"{where} cannot be decoded: the text is empty; send base64 text or a data URL"
        raise ImageError(msg)
    if _URL.match(text):
        return _from_url(text, where, fetch, decoded)
    if is_foreign_address(text):
        kind = text.partition("://")[0]
        msg = (
            f"{where} cannot be loaded: {kind}://... names it, which only the program that made "
            "the name can read, or could; put the picture in again, or send it as base64"
        )
        raise ImageError(msg)
    if open_file(text, allow_paths) is not None:
        return _from_bytes(_read_file(text, where, allow_paths), where, decoded)
    data = bytes_of_text(text)
    if data is not None:
        return _from_bytes(data, where, decoded)
    if text[:5].lower() in ("data:", "data%"):
        msg = (
            f'{where} cannot be decoded: the data URL must read "data:image/...;base64," and base64'
        )
    elif len(text) < 4096 and _PATH_LIKE.search(text):
        return _from_bytes(_read_file(text, where, allow_paths), where, decoded)
    else:
        msg = f"{where} cannot be decoded: the text is neither base64 nor a data URL"
    raise ImageError(msg)


def is_foreign_address(text: object) -> bool:
    """Whether a text is an address of a kind that no other program can load."""
    return isinstance(text, str) and bool(_FOREIGN.match(text))


def _from_url(url: str, where: str, fetch: Fetch | None, decoded: Decoded | None) -> np.ndarray:
    if fetch is None:
        msg = f"{where} is a URL, which this WebUI does not load; send the picture as base64"
        raise ImageError(msg)
    try:
        fetched = fetch(url)
    except (OSError, ValueError) as error:
        msg = f"{where} cannot be loaded from {url}: {error}"
        raise ImageError(msg) from error
    if isinstance(fetched, Image.Image):
        return _from_pil(fetched, where)
    return _from_bytes(fetched, where, decoded)


def read_plain_file(path: Path) -> bytes:
    """The bytes of a file; a pipe or a device could be read for ever.

    Raises:
        OSError: it cannot be read, is no plain file, or too long for any picture.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "it is no plain file")
    if state.st_size > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_FILE_BYTES // 2**20} MB")
    return path.read_bytes()


def _read_file(named: str | Path, where: str, allow_paths: Folders) -> bytes:
    """Read a file below an opened folder. Without one, whether it exists stays unsaid."""
    if not allow_paths:
        msg = (
            f"{where} is a file path, and reading local files is not allowed here; "
            "send the picture as base64"
        )
        raise ImageError(msg)
    try:
        path = open_path(named, allow_paths)
        if path is None:
            opened = list_folders(allow_paths)
            msg = f"{where} lies outside the folders opened for pictures: {opened}"
            raise ImageError(msg)
        return read_plain_file(path)
    except PATH_FAULTS as error:
        reason = getattr(error, "strerror", None) or error
        msg = f"{where} cannot be read from {str(named)!r}: {reason}"
        raise ImageError(msg) from error


def _from_bytes(data: bytes, where: str, decoded: Decoded | None) -> np.ndarray:
    if decoded is None:
        return _decode(data, where)
    digest = hashlib.sha1(data, usedforsecurity=False).digest()
    return decoded.find(digest, lambda: _decode(data, where))


def _decode(data: bytes, where: str) -> np.ndarray:
    """uint8 (H, W, 3 or 4) of a file, read-only."""
    if fault := png_fault(data):
        msg = f"{where} cannot be decoded: the file is damaged ({fault}); send it again"
        raise ImageError(msg)
    try:
        image = _open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(where)) from error
    except DECODE_FAULTS as error:
        msg = (
            f"{where} cannot be decoded: its {len(data)} bytes are no picture in a known format "
            "(PNG, JPEG, WebP, BMP, GIF, TIFF)"
        )
        raise ImageError(msg) from error
    picture = _from_pil(image, where)
    picture.flags.writeable = False
    return picture


def _from_pil(image: Image.Image, where: str) -> np.ndarray:
    """uint8 (H, W, 3 or 4) of any Pillow image, upright."""
    check_size(image.width, image.height, where)
    try:
        with _WHOLE:
            image.load()
        upright = _upright(image)
        if upright.mode == "F":
            return to_rgb(_from_float(np.asarray(upright), where))
        if upright.mode.startswith("I"):
            return to_rgb(_eight_bits(np.asarray(upright), image.format is not None))
        has_alpha = "transparency" in upright.info or upright.mode in ("LA", "La", "PA", "RGBa")
        if has_alpha or upright.mode in ("P", "RGBA"):
            return np.asarray(upright.convert("RGBA"))
        return np.asarray(upright.convert("RGB"))
    except DECODE_FAULTS as error:
        msg = f"{where} cannot be decoded: the file is damaged or cut short ({error})"
        raise ImageError(msg) from error


class _WholeFiles:
    """Pillow refuses files that are cut short while this is entered; threads may enter it at once.

    It does so by itself, unless another extension has set its switch for the whole process; then
    the missing part would be grey.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._found = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._found = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
            self._inside += 1

    def __exit__(self, *_error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = self._found


_WHOLE: Final = _WholeFiles()


def _upright(image: Image.Image) -> Image.Image:
    """Apply the camera's rotation; a damaged EXIF block counts as none."""
    if image.format == "TIFF":  # Pillow has turned it while loading, and keeps the tag
        return image
    try:
        return ImageOps.exif_transpose(image) or image
    except DECODE_FAULTS:
        return image


def _eight_bits(levels: np.ndarray, sixteen: bool) -> np.ndarray:
    """uint8 of integer grey levels: 16 bits if they come from a file or exceed 8 bits."""
    if not sixteen and levels.max(initial=0) <= 255:
        return levels.clip(0, 255).astype(np.uint8)
    narrow = np.empty(levels.shape, np.uint8)
    for rows in _strips(levels):
        narrow[rows] = (levels[rows].astype(np.int64).clip(0, 65535) + 128) // 257
    return narrow


def _from_float(levels: np.ndarray, where: str) -> np.ndarray:
    """uint8 of floating point grey levels: 0 to 1, or 0 to 255 if one of them exceeds 1."""
    low, high = float(levels.min()), float(levels.max())
    if not 0.0 <= low <= high <= 255.0:  # NaN fails too
        msg = (
            f"{where} cannot be used: it has floating point pixels from {low:g} to {high:g}; send "
            "0 to 1, 0 to 255, or a picture of 8 or 16 bits"
        )
        raise ImageError(msg)
    return np.rint(levels * (255.0 if high <= 1.0 else 1.0)).astype(np.uint8)


def _from_array(array: np.ndarray, where: str) -> np.ndarray:
    shape = " x ".join(map(str, array.shape))
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or not 1 <= array.shape[2] <= 4:
        msg = f"{where} cannot be used: the array is {shape}; expected height x width x 1 to 4"
        raise ImageError(msg)
    check_size(array.shape[1], array.shape[0], where)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype == np.uint16:
        array = _eight_bits(array, sixteen=True)
    if array.dtype != np.uint8:
        msg = (
            f"{where} cannot be used: the array holds {array.dtype} numbers; "
            "expected uint8 from 0 to 255"
        )
        raise ImageError(msg)
    if array.shape[2] == 2:
        array = array[:, :, [0, 0, 0, 1]]
    return array if array.shape[2] == 4 else to_rgb(array)
