"""Reading movies frame by frame, and writing a run's frames as GIF and MP4.

A movie is decoded by a process of its own (`movie_decoder`), which can be ended at any moment.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image

from lib_controlnet.errors import ControlNetError, ImageError
from lib_controlnet.pictures import movie_decoder
from lib_controlnet.pictures.movie_kinds import movie_kind

MIN_DURATION: Final = 10
"""Milliseconds: the steps in which a GIF counts time."""
MAX_DURATION: Final = 65_535 * MIN_DURATION
"""Milliseconds: a GIF counts so many steps."""
MP4_CODEC: Final = "mp4v"

FRAME_SECONDS: Final = 30.0
"""Longest time for one frame, and for the start of the decoder."""
_POLL: Final = 0.1
_ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRAM: Final = (
    "import json, sys; sys.path += json.loads(sys.argv[1]); "
    "from lib_controlnet.pictures.movie_decoder import main; main(sys.argv[2:])"
)
_ENVIRONMENT: Final = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)

Stopped = Callable[[], bool]


class MovieStoppedError(ControlNetError):
    """The user has had enough while a movie was read."""


class Movie:
    """A movie file.

    Attributes:
        path: the file.
        count: its frames, as far as they can be counted without decoding all.
        notes: what is to be said of it, known when its frames have been read.
    """

    def __init__(self, path: Path, where: str, stopped: Stopped = lambda: False) -> None:
        self.path = path
        self.notes: list[str] = []
        self._where = f"{where}: {path.name}"
        self._stopped = stopped
        self._kind = movie_kind(path, where)
        self._decoder: _Decoder | None = None
        self._decoder = self._start()
        self.count = self._decoder.count

    def frames(self) -> Generator[np.ndarray, None, None]:
        """Yield the frames in order, uint8 (H, W, 3), RGB; transparent parts are white.

        Raises:
            ImageError: the movie is damaged from here on, or takes too long.
            MovieStoppedError: the user has stopped it.
        """
        decoder = self._decoder or self._start()
        self._decoder = None
        try:
            yield from decoder.frames(self.notes)
        finally:
            decoder.close()

    def close(self) -> None:
        """End the decoder, if it has not been used."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None

    def _start(self) -> _Decoder:
        kind = self._kind
        arguments = [str(self.path.resolve()), kind.reader, kind.format, self._where]
        return _Decoder(arguments, self._stopped)


class _Decoder:
    """A running decoder; its messages are told in `movie_decoder`."""

    def __init__(self, arguments: list[str], stopped: Stopped) -> None:
        self._where = arguments[-1]
        self._stopped = stopped
        options = movie_decoder.FFMPEG_OPTIONS.format(arguments[2])
        # Behind Python's own folders: OpenCV puts one first that has a `typing` in it.
        path = [str(_ROOT), *(entry for entry in sys.path if entry)]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _PROGRAM, json.dumps(path), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT, "OPENCV_FFMPEG_CAPTURE_OPTIONS": options},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, ValueError) as error:
            msg = f"{self._where} cannot be read: no process for decoding starts ({error})"
            raise ImageError(msg) from error
        assert isinstance(self._process.stdout, io.BufferedReader)  # a pipe for bytes was asked for
        self._stream = self._process.stdout
        try:
            kind, self.count = self._head(movie_decoder.COUNT_SECONDS + FRAME_SECONDS)
            if kind != movie_decoder.COUNT:
                self._refuse(kind, self.count)
        except BaseException:
            self.close()
            raise

    def frames(self, notes: list[str]) -> Iterator[np.ndarray]:
        """Yield what comes, uint8 (H, W, 3); notes are appended.

        Raises:
            ImageError: the decoder tells a fault, ends or takes too long.
            MovieStoppedError: the user has stopped it.
        """
        while True:
            first, second = self._head(FRAME_SECONDS)
            if first == movie_decoder.END:
                return
            if first == movie_decoder.NOTE:
                notes.append(self._text(second))
            elif first > 0:
                frame = np.empty((second, first, 3), np.uint8)
                self._fill(frame.data.cast("B"), FRAME_SECONDS)
                frame.flags.writeable = False
                yield frame
            else:
                self._refuse(first, second)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._stream.close()

    def _refuse(self, kind: int, length: int) -> None:
        text = self._text(length) if kind == movie_decoder.FAULT else ""
        raise ImageError(text or f"{self._where} cannot be read: its decoder failed")

    def _text(self, length: int) -> str:
        data = bytearray(length)
        self._fill(memoryview(data), FRAME_SECONDS)
        return data.decode("utf-8", "replace")

    def _head(self, seconds: float) -> tuple[int, int]:
        data = bytearray(movie_decoder.HEAD.size)
        self._fill(memoryview(data), seconds)
        return movie_decoder.HEAD.unpack(data)

    def _fill(self, target: memoryview, seconds: float) -> None:
        """Read so many bytes, or raise where they do not come."""
        with self._guard(seconds) as guard:
            complete = self._stream.readinto(target) == len(target)
        if complete:
            return
        if self._stopped():
            msg = f"{self._where} was stopped while it was read"
            raise MovieStoppedError(msg)
        if guard.is_late:
            msg = f"{self._where} cannot be read: no frame came within {seconds:.0f} seconds"
            raise ImageError(msg)
        msg = f"{self._where} cannot be read: its decoder ended without a word"
        raise ImageError(msg)

    @contextmanager
    def _guard(self, seconds: float) -> Iterator[_Guard]:
        guard = _Guard(self._process, self._stopped, seconds)
        guard.start()
        try:
            yield guard
        finally:
            guard.done.set()
            guard.join()


class _Guard(threading.Thread):
    """Ends a process that is read from, when the user stops it or it takes too long."""

    def __init__(self, process: subprocess.Popen, stopped: Stopped, seconds: float) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.is_late = False
        self._process = process
        self._stopped = stopped
        self._until = time.monotonic() + seconds

    def run(self) -> None:
        """Watch until the reading is done."""
        while not self.done.wait(_POLL):
            self.is_late = time.monotonic() > self._until
            if self.is_late or self._stopped():
                self._process.kill()
                return


def open_movie(path: Path, where: str, stopped: Stopped = lambda: False) -> Movie:
    """A movie file of any kind that is read.

    Args:
        path: the file.
        where: how messages call it.
        stopped: whether the user has had enough; asked while the decoder is waited for.

    Raises:
        ImageError: it is absent, no movie, or its frames have an unusable size.
        MovieStoppedError: the user has stopped it.
    """
    if not path.is_file():
        msg = f"{where}: the file {path} does not exist"
        raise ImageError(msg)
    return Movie(path, where, stopped)


class MovieWriter:
    """Writes frames as `<stem>.gif` and `<stem>.mp4`, all in the first one's size.

    Args:
        stem: path without ending; the folder exists.
        duration: of one frame, milliseconds.
        with_mp4: write the MP4 as well.
        comment: text for the GIF, such as the generation parameters.
    """

    def __init__(self, stem: Path, duration: int, with_mp4: bool = True, comment: str = "") -> None:
        self.gif = stem.with_name(f"{stem.name}.gif")
        self.mp4 = stem.with_name(f"{stem.name}.mp4")
        self.duration = min(max(int(duration), MIN_DURATION), MAX_DURATION)
        self.comment = comment
        self.written: list[Path] = []
        self._with_mp4 = with_mp4
        self._video: cv2.VideoWriter | None = None
        self._frames: list[Image.Image] = []  # with palettes: a third of the memory

    def add(self, frame: Image.Image) -> None:
        """Append a frame."""
        picture = frame.convert("RGB")
        if self._frames and picture.size != self._frames[0].size:
            picture = picture.resize(self._frames[0].size, Image.Resampling.LANCZOS)
        if not self._frames and self._with_mp4:
            self._video = self._open_video(picture.width, picture.height)
        if self._video is not None:
            pixels = np.asarray(picture)[: _make_even(picture.height), : _make_even(picture.width)]
            self._video.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        self._frames.append(picture.quantize(dither=Image.Dither.FLOYDSTEINBERG))

    def _open_video(self, width: int, height: int) -> cv2.VideoWriter | None:
        """A writer; None if this build of OpenCV cannot write the coding."""
        code = cv2.VideoWriter.fourcc(*MP4_CODEC)
        size = (_make_even(width), _make_even(height))
        video = cv2.VideoWriter(str(self.mp4), code, 1000 / self.duration, size)
        return video if video.isOpened() else None

    def close(self) -> list[str]:
        """Finish the files; one that fails leaves the other.

        Returns:
            A sentence for every file that could not be written.
        """
        if not self._frames:
            return []
        notes = []
        if self._with_mp4:
            notes += self._finish_mp4()
        try:
            self._write_gif()
            self.written.insert(0, self.gif)
        except (OSError, ValueError, struct.error) as error:
            notes.append(f"no GIF was written: {getattr(error, 'strerror', None) or error}")
        return notes

    def _write_gif(self) -> None:
        first, *rest = self._frames
        timing = {"duration": self.duration, "loop": 0}
        comment = self.comment.encode("utf-8", "replace")
        first.save(self.gif, save_all=True, append_images=rest, comment=comment, **timing)

    def _finish_mp4(self) -> list[str]:
        if self._video is not None:
            self._video.release()
            self.written.append(self.mp4)
            return []
        self.mp4.unlink(missing_ok=True)
        note = (
            f"no MP4 was written, because this installation of OpenCV cannot encode {MP4_CODEC!r}; "
            "the GIF is complete"
        )
        return [note]


def _make_even(side: int) -> int:
    """The coding takes even sides only."""
    return side - side % 2
