"""Reading movies frame by frame, and writing a run's frames as GIF and MP4.

OpenCV reads what its build has decoders for (MP4, AVI, WebM); Pillow reads GIF, animated WebP and
animated PNG, which OpenCV may not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image

from lib_controlnet.decode import check_size, decode_image
from lib_controlnet.errors import ImageError

_PILLOW_FORMATS: Final = ("GIF", "WEBP", "PNG")
_GIF_UNIT: Final = 10
"""Milliseconds: the steps in which a GIF counts time."""
MP4_CODEC: Final = "mp4v"


class Movie(ABC):
    """A movie file.

    Attributes:
        path: the file.
        count: its frames.
    """

    path: Path
    count: int

    @abstractmethod
    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames in order, uint8 (H, W, 3), RGB; transparent parts are white."""


class VideoFile(Movie):
    """A movie that OpenCV reads; frames are decoded when they are asked for."""

    def __init__(self, path: Path, where: str) -> None:
        self.path = path
        # What a file says of its length may be wrong, so they are counted.
        self.count = sum(1 for _ in self._grabbed(decode=False))
        if not self.count:
            msg = (
                f"{where}: {path.name} cannot be read as a movie; send MP4, AVI, WebM or GIF, in a "
                "coding that this installation of OpenCV reads"
            )
            raise ImageError(msg)
        first = next(self.frames())
        check_size(first.shape[1], first.shape[0], f"{where}: {path.name}")

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames in order, uint8 (H, W, 3), RGB."""
        for frame in self._grabbed(decode=True):
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def _grabbed(self, decode: bool) -> Iterator[np.ndarray | None]:
        capture = cv2.VideoCapture(str(self.path))
        try:
            while True:
                found, frame = capture.read() if decode else (capture.grab(), None)
                if not found:
                    return
                yield frame
        finally:
            capture.release()


class AnimatedPicture(Movie):
    """A GIF, WebP or PNG, animated or not."""

    def __init__(self, path: Path, where: str) -> None:
        self.path = path
        with Image.open(path, formats=_PILLOW_FORMATS) as image:
            check_size(image.width, image.height, f"{where}: {path.name}")
            self.count = int(getattr(image, "n_frames", 1))

    def frames(self) -> Iterator[np.ndarray]:
        """Yield the frames in order, uint8 (H, W, 3), RGB; transparent parts are white."""
        with Image.open(self.path, formats=_PILLOW_FORMATS) as image:
            for number in range(self.count):
                image.seek(number)
                yield decode_image(image.convert("RGBA"), f"{self.path.name}, frame {number + 1}")


def open_movie(path: Path, where: str) -> Movie:
    """A movie file of any kind that is read.

    Args:
        path: the file.
        where: how messages call it.

    Raises:
        ImageError: it is absent, no movie, or its frames have an unusable size.
    """
    if not path.is_file():
        msg = f"{where}: the file {path} does not exist"
        raise ImageError(msg)
    try:
        return AnimatedPicture(path, where)
    except (OSError, SyntaxError, ValueError):  # not one of Pillow's
        return VideoFile(path, where)


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
        self.duration = max(int(duration), _GIF_UNIT)
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
            pixels = np.asarray(picture)[: _even(picture.height), : _even(picture.width)]
            self._video.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        self._frames.append(picture.quantize(dither=Image.Dither.FLOYDSTEINBERG))

    def _open_video(self, width: int, height: int) -> cv2.VideoWriter | None:
        """A writer; None if this build of OpenCV cannot write the coding."""
        code = cv2.VideoWriter_fourcc(*MP4_CODEC)
        size = (_even(width), _even(height))
        video = cv2.VideoWriter(str(self.mp4), code, 1000 / self.duration, size)
        return video if video.isOpened() else None

    def close(self) -> str | None:
        """Finish the files.

        Returns:
            One sentence if the MP4 could not be written, else None.
        """
        if not self._frames:
            return None
        first, *rest = self._frames
        timing = {"duration": self.duration, "loop": 0}
        comment = self.comment.encode()
        first.save(self.gif, save_all=True, append_images=rest, comment=comment, **timing)
        self.written.append(self.gif)
        if not self._with_mp4:
            return None
        if self._video is None:
            self.mp4.unlink(missing_ok=True)
            return (
                f"no MP4 was written, because this installation of OpenCV cannot encode "
                f"{MP4_CODEC!r}; the GIF is complete"
            )
        self._video.release()
        self.written.append(self.mp4)
        return None


def _even(side: int) -> int:
    """The coding takes even sides only."""
    return side - side % 2
