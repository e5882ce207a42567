"""Movies: every frame is read, whatever the container, and what is written can be read again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lib_controlnet.errors import ImageError
from lib_controlnet.pictures import movie
from lib_controlnet.pictures.movie import MovieWriter, open_movie

LEVELS = (20, 60, 100, 140, 180)
SIZE = (48, 32)


def frame(level: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A red frame with a bar, uint8 (H, W, 3), RGB."""
    array = np.zeros((size[1], size[0], 3), np.uint8)
    array[:, :, 0] = level
    array[:, : size[0] // 4, 2] = 255 - level
    return array


@pytest.fixture(params=["gif", "webp", "png", "mp4", "mov", "avi", "webm", "mkv"])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A movie of five frames."""
    path = tmp_path / f"clip.{request.param}"
    frames = [Image.fromarray(frame(level)) for level in LEVELS]
    if request.param in ("gif", "webp", "png"):
        lossless = {"lossless": True} if request.param == "webp" else {}
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=50, **lossless)
        return path
    coding = {"mp4": "mp4v", "mov": "mp4v", "webm": "VP80"}.get(request.param, "MJPG")
    code = cv2.VideoWriter_fourcc(*coding)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 20, SIZE)
    assert writer.isOpened()
    for picture in frames:
        writer.write(np.asarray(picture)[:, :, ::-1].copy())
    writer.release()
    return path


def test_open_movie_gives_every_frame_in_order_as_rgb(clip: Path) -> None:
    found = open_movie(clip, "video 0")
    assert found.count == len(LEVELS)
    frames = list(found.frames())
    assert [array.shape for array in frames] == [(32, 48, 3)] * 5
    assert all(array.dtype == np.uint8 for array in frames)
    for array, level in zip(frames, LEVELS, strict=True):
        assert abs(int(np.median(array[:, 20:, 0])) - level) < 12
        assert int(np.median(array[:, 20:, 2])) < 30
        assert abs(int(np.median(array[:, :8, 2])) - (255 - level)) < 30


def test_folders_of_other_programs_hide_nothing_from_the_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV and extensions put folders first in the path, with names of Python's own in them."""
    path = tmp_path / "clip.gif"
    Image.fromarray(frame(20)).save(path, save_all=True, append_images=[], duration=50)
    for name in ("typing", "json", "struct"):
        (tmp_path / f"{name}.py").write_text("raise ImportError", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(list(open_movie(path, "video 0").frames())) == 1


def test_open_movie_frames_can_be_read_again(clip: Path) -> None:
    found = open_movie(clip, "video 0")
    first, again = next(found.frames()), next(found.frames())
    assert (first == again).all()


def test_transparent_frames_lie_on_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", SIZE, (200, 0, 0, alpha)) for alpha in (0, 255)]
    path = tmp_path / "clip.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    clear, solid = open_movie(path, "video").frames()
    assert (clear == 255).all()
    assert (solid == (200, 0, 0)).all()


def test_gif_of_partial_frames_is_composed(tmp_path: Path) -> None:
    base, changed = Image.new("RGB", SIZE, "black"), Image.new("RGB", SIZE, "black")
    changed.paste("white", (4, 4, 8, 8))
    path = tmp_path / "clip.gif"
    base.save(path, save_all=True, append_images=[changed], duration=50)
    first, second = open_movie(path, "video").frames()
    assert not first.any()
    assert (second[4:8, 4:8] == 255).all()
    assert not second[8:, 8:].any()


BROKEN = (b"", b"garbage" * 20, b"GIF89a", b"RIFF\4\0\0\0AVI ", b"\0\0\0\x08ftyp", b"FLV\1")


@pytest.mark.parametrize("content", BROKEN)
def test_open_movie_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"video 1: clip\.mp4 cannot be read"):
        open_movie(path, "video 1")


def test_open_movie_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"video 1: the file .*absent\.mp4 does not exist"):
        open_movie(tmp_path / "absent.mp4", "video 1")


@pytest.mark.parametrize("size", [SIZE, (51, 33)], ids=["even", "odd"])
def test_writer_makes_gif_and_mp4_that_read_as_written(tmp_path: Path, size: tuple) -> None:
    writer = MovieWriter(tmp_path / "out-1.5", 40, comment="a circle\nSteps: 4")
    for level in LEVELS:
        writer.add(Image.fromarray(frame(level, size)))
    assert writer.close() == []
    assert [path.name for path in writer.written] == ["out-1.5.gif", "out-1.5.mp4"]
    for path in writer.written:
        found = open_movie(path, "written")
        assert found.count == len(LEVELS)
        for array, level in zip(found.frames(), LEVELS, strict=True):
            assert abs(int(np.median(array[:, 20:, 0])) - level) < 12
    with Image.open(writer.gif) as gif:
        assert (gif.size, gif.info["duration"], gif.info["loop"]) == (size, 40, 0)
        assert gif.info["comment"] == b"a circle\nSteps: 4"
    width, height = size[0] - size[0] % 2, size[1] - size[1] % 2
    assert {array.shape for array in open_movie(writer.mp4, "x").frames()} == {(height, width, 3)}
    capture = cv2.VideoCapture(str(writer.mp4))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25)
    capture.release()


def test_writer_brings_frames_to_the_first_one_s_size(tmp_path: Path) -> None:
    writer = MovieWriter(tmp_path / "out", 50)
    writer.add(Image.fromarray(frame(20)))
    writer.add(Image.fromarray(frame(200, (96, 64))))
    writer.close()
    assert [array.shape for array in open_movie(writer.mp4, "x").frames()] == [(32, 48, 3)] * 2


def test_writer_without_the_coding_says_so_and_leaves_the_gif(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoWriter:
        def __init__(self, *_arguments: object) -> None:
            pass

        def isOpened(self) -> bool:  # OpenCV's name
            return False

    monkeypatch.setattr(movie.cv2, "VideoWriter", NoWriter)
    monkeypatch.setattr(NoWriter, "fourcc", lambda *_code: 0, raising=False)
    writer = MovieWriter(tmp_path / "out", 50)
    writer.add(Image.fromarray(frame(20)))
    assert "cannot encode 'mp4v'; the GIF is complete" in writer.close()[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out.gif"]


def test_writer_without_frames_writes_nothing(tmp_path: Path) -> None:
    assert MovieWriter(tmp_path / "out", 50).close() == []
    assert not list(tmp_path.iterdir())


def test_writer_can_leave_out_the_mp4(tmp_path: Path) -> None:
    writer = MovieWriter(tmp_path / "out", 50, with_mp4=False)
    writer.add(Image.fromarray(frame(20)))
    assert writer.close() == []
    assert [path.name for path in tmp_path.iterdir()] == ["out.gif"]
