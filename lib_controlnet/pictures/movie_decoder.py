"""Decodes one movie in a process of its own, and writes its frames to standard output.

Foreign movies meet large C libraries here. On its own, a decoder can be ended at any moment, may
take a bounded amount of memory, and may open no file but the movie: options of OpenCV's decoder
hold for a whole process, and so do the limits of the system.

The output is a sequence of messages, each with a head `HEAD` of two numbers: `COUNT` and how many
frames there are; width and height, then the pixels, RGB; `NOTE` or `FAULT` and the length of a
sentence, then the sentence in UTF-8; `END` and 0.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import cv2
import numpy as np
from PIL import Image

from lib_controlnet.errors import ImageError
from lib_controlnet.limits import MAX_FRAME_PIXELS, MAX_FRAMES, MAX_MOVIE_PIXELS
from lib_controlnet.pictures.decode import DECODE_FAULTS, check_size, decode_image

HEAD: Final = struct.Struct("<qq")
COUNT: Final = -1
NOTE: Final = -2
FAULT: Final = -3
END: Final = -4

COUNT_SECONDS: Final = 120.0
"""Longest time for counting the frames."""
_GIF_TAIL: Final = 16
"""Bytes among which a GIF's end mark is looked for."""
_MEMORY: Final = 8 << 30
"""Bytes of address space."""

FFMPEG_OPTIONS: Final = (
    "input_format;{0}|format_whitelist;{0}|protocol_whitelist;file|enable_drefs;0"
    "|use_absolute_path;0"
)
"""Options of OpenCV's decoder, for one container (ffmpeg-formats and ffmpeg-protocols)."""


class Budget:
    """Counts what a movie takes, and ends it with a sentence where that is too much.

    Attributes:
        where: how messages call the movie.
        made: frames that have been given out.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.made = 0
        self._pixels = 0
        self._frames = 0
        self._until = time.monotonic() + COUNT_SECONDS

    def size(self, width: int, height: int) -> None:
        """Refuse frames of an unusable size.

        Raises:
            ImageError: they are empty or too large.
        """
        check_size(width, height, self.where)
        if width * height > MAX_FRAME_PIXELS:
            msg = (
                f"{self.where} has frames of {width} x {height} pixels; at most "
                f"{MAX_FRAME_PIXELS // 1_000_000} million can be used, make it smaller"
            )
            raise ImageError(msg)

    def count(self, width: int, height: int, frames: int = 1) -> int:
        """Count further frames; how many there are by now.

        Raises:
            ImageError: there are too many, or counting takes too long.
        """
        self._frames += frames
        self._pixels += frames * width * height
        if self._frames > MAX_FRAMES or self._pixels > MAX_MOVIE_PIXELS:
            msg = (
                f"{self.where} has {self._frames} frames of {width} x {height} pixels or more; "
                f"at most {MAX_FRAMES} frames and {MAX_MOVIE_PIXELS // 10**9} thousand million "
                "pixels in all can be used, cut it shorter"
            )
            raise ImageError(msg)
        if time.monotonic() > self._until:
            msg = (
                f"{self.where} has more than {self._frames} frames, and counting them takes over "
                f"{COUNT_SECONDS:.0f} seconds; cut it shorter or make it smaller"
            )
            raise ImageError(msg)
        return self._frames


class VideoFile:
    """A container that OpenCV's decoder reads."""

    is_cut = False  # what it announces is compared

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self._budget = budget
        self.announced = 0

    def count(self) -> int:
        """Count the frames; what a file says of its length may be wrong."""
        found = 0
        with self._open() as capture:
            width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
            height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            if capture.isOpened():
                self._budget.size(width, height)  # before a frame is decoded
                self.announced = int(max(capture.get(cv2.CAP_PROP_FRAME_COUNT), 0))
            while capture.grab():
                found = self._budget.count(width, height)
        if not found:
            msg = (
                f"{self._budget.where} cannot be read as a movie: it is damaged, cut short, or in "
                "a coding that this installation of OpenCV does not read"
            )
            raise ImageError(msg)
        return found

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 (H, W, 3), RGB."""
        with self._open() as capture:
            while capture.grab():
                found, frame = capture.retrieve()
                if not found:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    @contextlib.contextmanager
    def _open(self) -> Iterator[cv2.VideoCapture]:
        # An absolute path and this one backend: no pattern of numbered pictures, no device.
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
        try:
            yield capture
        finally:
            capture.release()


class AnimatedPicture:
    """A GIF, WebP or PNG, animated or not."""

    def __init__(self, path: Path, format_: str, budget: Budget) -> None:
        self._image = Image.open(path, formats=[format_])
        self._budget = budget
        self.announced = 0
        self.is_cut = format_ == "GIF" and not self._has_end()

    def count(self) -> int:
        """Count the frames without decoding them."""
        width, height = self._image.size
        self._budget.size(width, height)
        if self._image.format == "GIF":  # which does not tell
            self.announced = self._budget.count(width, height)
            with contextlib.suppress(*DECODE_FAULTS):  # what is whole before the damage is read
                while True:
                    self._image.seek(self.announced)
                    self.announced = self._budget.count(width, height)
        else:
            told = int(getattr(self._image, "n_frames", 1))
            self.announced = self._budget.count(width, height, told)
        return self.announced

    def _has_end(self) -> bool:
        """Whether a GIF's end mark is among its last bytes; some programs append to it."""
        stream = self._image.fp
        here, size = stream.tell(), stream.seek(0, os.SEEK_END)
        stream.seek(max(size - _GIF_TAIL, 0))
        tail = stream.read(_GIF_TAIL)
        stream.seek(here)
        return b";" in tail

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames, uint8 (H, W, 3), RGB; transparent parts are white."""
        number = 0
        while True:
            try:
                self._image.seek(number)
            except EOFError:
                return
            number += 1
            self._budget.size(*self._image.size)
            where = f"{self._budget.where}, frame {number}"
            yield decode_image(self._image.convert("RGBA"), where)


def main(arguments: Sequence[str]) -> None:
    """Decode one movie.

    Args:
        arguments: path, reader and format as in `movie_kinds.MovieKind`, and how messages call
            the movie.
    """
    path, reader, format_, where = arguments
    Image.init()  # while files can be opened
    _limit()
    output, budget = sys.stdout.buffer, Budget(where)
    with contextlib.suppress(BrokenPipeError):
        try:
            _decode(Path(path), reader, format_, budget, output)
        except ImageError as error:
            _tell(output, FAULT, error.detail)
        except (MemoryError, Image.DecompressionBombError):
            _tell(output, FAULT, f"{where} takes more memory than a movie may; make it smaller")
        except (cv2.error, *DECODE_FAULTS):
            after = f" after frame {budget.made}" if budget.made else ""
            _tell(output, FAULT, f"{where} cannot be read{after}: it is damaged or cut short")
        output.flush()
    os._exit(0)  # nothing of a library's end may fail or wait


def _limit() -> None:
    """Bound the memory, and let one file more be opened: the movie.

    Where the system has no such limits the closed protocols of the decoder stand alone.
    """
    try:
        import resource
    except ImportError:
        return
    next_one = os.dup(0)
    os.close(next_one)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one + 1, next_one + 1))


def _decode(path: Path, reader: str, format_: str, budget: Budget, output: BinaryIO) -> None:
    is_picture = reader == "pillow"
    movie = AnimatedPicture(path, format_, budget) if is_picture else VideoFile(path, budget)
    output.write(HEAD.pack(COUNT, movie.count()))
    output.flush()
    for frame in movie.frames():
        height, width = frame.shape[:2]
        budget.size(width, height)
        output.write(HEAD.pack(width, height))
        output.write(np.ascontiguousarray(frame).data)
        output.flush()
        budget.made += 1
    if budget.made < movie.announced:
        note = (
            f"{budget.where} announces {movie.announced} frames, of which {budget.made} can be "
            "read; it may be cut short"
        )
        _tell(output, NOTE, note)
    elif movie.is_cut:
        _tell(output, NOTE, f"{budget.where} has no end mark; it may be cut short")
    output.write(HEAD.pack(END, 0))


def _tell(output: BinaryIO, kind: int, sentence: str) -> None:
    data = sentence.encode("utf-8", "replace")
    output.write(HEAD.pack(kind, len(data)) + data)
