"""Movies that are none: files that name other files, bombs, hanging decoders, cut files."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lib_controlnet.errors import ImageError
from lib_controlnet.pictures import movie, movie_decoder
from lib_controlnet.pictures.movie import MovieStoppedError, MovieWriter, open_movie
from lib_controlnet.pictures.movie_decoder import FFMPEG_OPTIONS, AnimatedPicture, Budget

ROOT = Path(__file__).resolve().parents[2]
SIZE = (48, 32)
FRAMES = 4


def noise(count: int = FRAMES) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    shape = (SIZE[1], SIZE[0], 3)
    return [Image.fromarray(rng.integers(0, 255, shape, np.uint8)) for _ in range(count)]


def animated(form: str, count: int = FRAMES, **options: object) -> bytes:
    first, *rest = noise(count)
    file = io.BytesIO()
    first.save(file, form, save_all=True, append_images=rest, **options)
    return file.getvalue()


def video(path: Path, coding: str = "MJPG") -> Path:
    code = cv2.VideoWriter_fourcc(*coding)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 20, SIZE)
    for picture in noise():
        writer.write(np.asarray(picture))
    writer.release()
    return path


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A movie of the server's that nobody opened to requests."""
    return video(tmp_path / "secret.avi")


# ---- files that name other files -------------------------------------------------------------


def playlist(secret: str, end: str = "#EXT-X-ENDLIST\n") -> bytes:
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{secret}\n{end}".encode()


def box(name: bytes, content: bytes = b"", wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, name, len(content) + 16) + content
    return struct.pack(">I4s", len(content) + 8, name) + content


def referring(entry: bytes, wide: bool = False, before: bytes = box(b"ftyp", b"qt  ")) -> bytes:
    """A movie of boxes whose first track's pictures are told by an entry of its list of files."""
    content = box(b"dref", struct.pack(">II", 0, 1) + entry)
    for name in (b"dinf", b"minf", b"mdia", b"trak"):
        content = box(b"free", b"\0" * 5) + box(name, content, wide)
    return before + box(b"moov", content, wide)


def reference(kind: bytes, text: bytes, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", flags) + text)


ALIAS = b"\0" * 90 + b"/srv/movies/secret.avi\0"
PLAYLISTS: dict[str, Callable[[Path], bytes]] = {
    "hls": lambda secret: playlist(str(secret)),
    "hls-relative": lambda secret: playlist(secret.name),
    "hls-url": lambda secret: playlist(f"file://{secret}"),
    "hls-address": lambda _: playlist("http://169.254.169.254/latest/meta-data"),
    "hls-without-end": lambda secret: playlist(str(secret), end=""),
    "hls-after-mark": lambda secret: b"\xef\xbb\xbf" + playlist(str(secret)),
    "hls-master": lambda _: b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nother.m3u8\n",
    "concat": lambda secret: f"ffconcat version 1.0\nfile {secret.name}\n".encode(),
    "concat-plain": lambda secret: f"file '{secret.name}'\n".encode(),
    "dash": lambda _: b'<?xml version="1.0"?><MPD><BaseURL>secret.avi</BaseURL></MPD>',
    "sdp": lambda _: b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5 RTP/AVP 96\n",
    "asx": lambda _: b'<asx version="3.0"><entry><ref href="secret.avi"/></entry></asx>',
    "qt-reference": lambda _: b'<?xml version="1.0"?><?quicktime type="x"?><embed src="s.mov"/>',
    "svg": lambda _: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="secret.png"/></svg>',
    "avisynth": lambda secret: f'AviSource("{secret}")\n'.encode(),
    "picture-list": lambda _: b"frame%03d.png\n",
    "jpeg": lambda _: b"\xff\xd8\xff\xe0" + b"\0" * 64,
    "boxes-alias": lambda _: referring(reference(b"alis", ALIAS)),
    "boxes-url": lambda _: referring(reference(b"url ", b"file:///srv/movies/secret.mp4\0")),
    "boxes-urn": lambda _: referring(reference(b"urn ", b"name\0place\0")),
    "boxes-resource": lambda _: referring(reference(b"rsrc", ALIAS), wide=True),
    "boxes-second-entry": lambda _: referring(
        reference(b"url ", b"", flags=1) + reference(b"url ", b"http://host/x.mp4\0")
    ),
    "boxes-first-is-data": lambda _: referring(
        reference(b"alis", ALIAS), before=box(b"wide") + box(b"mdat", b"\0" * 40)
    ),
}


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("ending", [".mp4", ".m3u8"])
def test_file_that_names_others_is_refused_before_a_decoder_sees_it(
    tmp_path: Path, secret: Path, name: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(movie.subprocess, "Popen", lambda *args, **_options: started.append(args))
    path = tmp_path / f"clip{ending}"
    path.write_bytes(PLAYLISTS[name](secret))
    with pytest.raises(ImageError, match="first bytes are those of none|only refers to pictures"):
        open_movie(path, "video 1")
    assert not started


@pytest.mark.parametrize(
    "entry",
    [reference(b"url ", b"", flags=1), reference(b"alis", b"", flags=1), reference(b"url ", b"")],
)
def test_self_contained_boxes_are_no_references(tmp_path: Path, entry: bytes) -> None:
    path = tmp_path / "clip.mov"
    path.write_bytes(referring(entry))
    with pytest.raises(ImageError, match="damaged, cut short, or in a coding"):
        open_movie(path, "video 1")


def test_boxes_without_end_are_walked_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "clip.mov"
    path.write_bytes(box(b"ftyp") + box(b"free") * 200_000 + b"\0\0\0\1moov" + b"\xff" * 8)
    with pytest.raises(ImageError, match="damaged, cut short, or in a coding"):
        open_movie(path, "video 1")


def test_name_like_a_pattern_is_one_file(tmp_path: Path) -> None:
    for number in range(3):
        video(tmp_path / f"clip{number}.avi")
    with pytest.raises(ImageError, match="does not exist"):
        open_movie(tmp_path / "clip%d.avi", "video 1")
    video(tmp_path / "clip%d.avi")
    assert open_movie(tmp_path / "clip%d.avi", "video 1").count == FRAMES


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no such limits")
@pytest.mark.parametrize("form", ["hls", "concat"])
def test_decoder_opens_no_second_file_even_for_a_playlist(
    tmp_path: Path, secret: Path, form: str
) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(PLAYLISTS[form](secret))

    def told(closed: bool) -> bytes:
        opened = "" if closed else "movie_decoder._limit = lambda: None; "
        program = (
            f"import sys; from lib_controlnet.pictures import movie_decoder; {opened}"
            "movie_decoder.main(sys.argv[1:])"
        )
        options = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": FFMPEG_OPTIONS.format(form)}
        return subprocess.run(
            [sys.executable, "-c", program, str(path), "ffmpeg", form, "clip"],
            cwd=ROOT, env={**os.environ, **options}, capture_output=True, check=True, timeout=120,
        ).stdout  # fmt: skip

    if not cv2.__version__.startswith("5."):  # whose ffmpeg refuses these playlists by itself
        assert len(told(closed=False)) > FRAMES * SIZE[0] * SIZE[1] * 3, "the attack is a real one"
    refused = told(closed=True)
    assert struct.unpack_from("<q", refused) == (movie_decoder.FAULT,)
    assert len(refused) < 200


# ---- too much --------------------------------------------------------------------------------


def png_chunk(name: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png(width: int, height: int, frames: int) -> bytes:
    """An animated PNG that announces a size and a number of frames, with nothing in it."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    control = png_chunk(b"acTL", struct.pack(">II", frames, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"\0" * 10)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + control + data


def large_avi(path: Path, width: int, height: int) -> bytes:
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 20, (width, height)
    )
    writer.write(np.zeros((height, width, 3), np.uint8))
    writer.release()
    return path.read_bytes()


BOMBS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "png-frames": (lambda _: png(8, 8, 2**31 - 1), "214748364. frames of 8 x 8"),
    "png-pixels": (lambda _: png(6000, 6000, 20_000), "2000. frames of 6000 x 6000"),
    "png-size": (lambda _: png(10_000, 10_000, 2), "10000 x 10000 pixels; at most 36 million"),
    "png-vast": (lambda _: png(2**31 - 1, 2**31 - 1, 2), "cannot be read|memory|pixels; at most"),
    "gif-size": (
        lambda _: b"GIF89a" + struct.pack("<HH", 65535, 65535) + animated("GIF")[10:],
        "65535 x 65535 pixels; at most|memory",
    ),
    "avi-size": (lambda path: large_avi(path / "s.avi", 9008, 4000), "9008 x 4000 pixels; at most"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_a_sentence(tmp_path: Path, name: str) -> None:
    content, sentence = BOMBS[name]
    path = tmp_path / "clip"
    path.write_bytes(content(tmp_path))
    with pytest.raises(ImageError, match=sentence) as caught:
        open_movie(path, "video 1")
    assert caught.value.detail.startswith("video 1: clip ")


def test_gif_of_more_frames_than_are_read_is_not_counted_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.gif"
    path.write_bytes(animated("GIF", 6))
    monkeypatch.setattr(movie_decoder, "MAX_FRAMES", 3)
    with pytest.raises(ImageError, match="has 4 frames of 48 x 32 pixels or more; at most 3"):
        AnimatedPicture(path, "GIF", Budget("clip")).count()


def test_counting_ends_after_its_time() -> None:
    budget = Budget("clip")
    budget._until = time.monotonic() - 1
    with pytest.raises(ImageError, match="counting them takes over 120 seconds"):
        budget.count(8, 8)


# ---- a decoder that does not come back -------------------------------------------------------


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.gif"
    path.write_bytes(animated("GIF"))
    return path


COUNTED = "import struct, sys; sys.stdout.buffer.write(struct.pack('<qq', -1, 5)); "
HANGS = f"{COUNTED}sys.stdout.flush(); import time; time.sleep(600)"


def test_user_ends_a_decoder_that_hangs(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movie, "_PROGRAM", HANGS)
    enough = threading.Event()
    found = open_movie(clip, "video 1", stopped=enough.is_set)
    assert found.count == 5
    enough.set()
    with pytest.raises(MovieStoppedError, match=r"clip\.gif was stopped"):
        next(found.frames())


def test_user_ends_a_decoder_that_hangs_while_counting(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movie, "_PROGRAM", "import time; time.sleep(600)")
    with pytest.raises(MovieStoppedError, match=r"clip\.gif was stopped"):
        open_movie(clip, "video 1", stopped=lambda: True)


def test_frame_that_does_not_come_is_a_sentence(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movie, "_PROGRAM", HANGS)
    found = open_movie(clip, "video 1")
    monkeypatch.setattr(movie, "FRAME_SECONDS", 0.3)
    decoder = found._decoder
    with pytest.raises(ImageError, match="no frame came within 0 seconds"):
        next(found.frames())
    assert decoder._process.poll() is not None


@pytest.mark.parametrize(
    "program",
    ["pass", f"{COUNTED}sys.stdout.flush()", "raise SystemExit(3)", "import os; os.abort()"],
)
def test_decoder_that_ends_early_is_a_sentence(
    clip: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(movie, "_PROGRAM", program)
    with pytest.raises(ImageError, match="ended without a word"):
        list(open_movie(clip, "video 1").frames())


def test_system_without_processes_is_a_sentence(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ImageError, match="no process for decoding starts"):
        open_movie(clip, "video 1")


def test_decoders_end_with_their_movies(clip: Path) -> None:
    unused, begun = open_movie(clip, "video 1"), open_movie(clip, "video 2")
    processes = [found._decoder._process for found in (unused, begun)]
    frames = begun.frames()
    next(frames)
    frames.close()
    unused.close()
    assert all(process.poll() is not None for process in processes)


# ---- cut files -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["GIF", "PNG"])
def test_cut_picture_gives_its_whole_frames_and_then_a_sentence(tmp_path: Path, form: str) -> None:
    whole = animated(form)
    path = tmp_path / "clip"
    path.write_bytes(whole[: len(whole) * 7 // 10])
    frames = open_movie(path, "video 1").frames()
    given = [next(frames), next(frames)]
    with pytest.raises(ImageError, match="clip cannot be read after frame 2: it is damaged or cut"):
        next(frames)
    path.write_bytes(whole)
    wanted = open_movie(path, "video 1").frames()
    assert all(np.array_equal(one, next(wanted)) for one in given)


def test_gif_cut_between_frames_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clip.gif"
    path.write_bytes(animated("GIF")[:-1])
    found = open_movie(path, "video 1")
    assert len(list(found.frames())) == FRAMES
    assert found.notes == ["video 1: clip.gif has no end mark; it may be cut short"]


def test_cut_video_says_how_much_of_it_is_read(tmp_path: Path) -> None:
    path = video(tmp_path / "clip.avi")
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 4])
    found = open_movie(path, "video 1")
    read = len(list(found.frames()))
    assert 0 < read < FRAMES
    assert found.notes == [
        f"video 1: clip.avi announces 4 frames, of which {read} can be read; it may be cut short"
    ]


def test_cut_webp_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "clip.webp"
    path.write_bytes(animated("WEBP")[:-100])
    with pytest.raises(ImageError, match=r"clip\.webp cannot be read"):
        list(open_movie(path, "video 1").frames())


# ---- what is written -------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [1, 655_350, 10**12])
def test_any_duration_is_written(tmp_path: Path, duration: int) -> None:
    writer = MovieWriter(tmp_path / "out", duration)
    for picture in noise(2):
        writer.add(picture)
    assert writer.close() == []
    with Image.open(writer.gif) as gif:
        assert gif.info["duration"] == min(max(duration, 10), 655_350)


def test_failing_gif_leaves_the_mp4(tmp_path: Path) -> None:
    writer = MovieWriter(tmp_path / "out", 50)
    for picture in noise(2):
        writer.add(picture)
    writer.gif.mkdir()
    (note,) = writer.close()
    assert "no GIF was written" in note
    assert writer.written == [writer.mp4]
    assert open_movie(writer.mp4, "written").count == 2
