"""The script "controlnet m2m" in the embedded host: every frame is a single run's picture."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from batches import job, m2m, pixels, same
from controls import MODEL, SIZE, STEPS, encoded, picture, request, unet_hooks, unit
from neighbours import process as run
from PIL import Image

from lib_controlnet.errors import ImageError
from lib_controlnet.pictures.movie import open_movie

FRAMES = 5
TITLE = "controlnet m2m"
NO_PICTURE = {"module": "none", "model": MODEL}


def frame(number: int) -> np.ndarray:
    """A grey frame with a bar that moves, uint8 (H, W, 3)."""
    array = np.full((SIZE, SIZE, 3), 40 * number, np.uint8)
    array[:, 8 * number : 8 * number + 12] = 255
    return array


@pytest.fixture
def gif(tmp_path: Path) -> Path:
    """Five frames, exact: grey levels fit a palette."""
    path = tmp_path / "clip.gif"
    frames = [Image.fromarray(frame(number)) for number in range(FRAMES)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    return path


@pytest.fixture
def mp4(tmp_path: Path) -> Path:
    """Three frames."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 20, (SIZE, SIZE))
    assert writer.isOpened()
    for number in range(3):
        writer.write(frame(number))
    writer.release()
    return path


@pytest.fixture
def shown(webui, monkeypatch) -> None:
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "controlnet_show_batch_images_in_ui", True)


def single(*units: dict, **fields: Any) -> np.ndarray:
    return pixels(run(job(*units, **fields)).images)[0]


def expected(movie: Path, **fields: Any) -> list[np.ndarray]:
    """A single run with each frame of the movie."""
    frames = open_movie(movie, "test").frames()
    return [single(unit(image=encoded(array)), **fields) for array in frames]


def test_script_is_in_both_lists_with_its_arguments(webui):
    listed = webui.get("/sdapi/v1/scripts").json()
    assert TITLE in listed["txt2img"]
    assert TITLE in listed["img2img"]
    infos = [info for info in webui.get("/sdapi/v1/script-info").json() if info["name"] == TITLE]
    assert [(info["is_alwayson"], len(info["args"])) for info in infos] == [(False, 10)] * 2
    duration = infos[0]["args"][-1]
    assert (duration["label"], duration["value"]) == ("Duration", 50)
    assert (duration["minimum"], duration["maximum"], duration["step"]) == (10, 200, 10)


def test_element_ids_are_the_published_ones(webui):
    from modules import scripts

    script = scripts.scripts_txt2img.title_map[TITLE]
    ids = [control.elem_id for control in script.controls]
    assert ids == [
        *(f"{name}_{i}" for i in range(3) for name in ("video", "image", "save_pre")),
        "controlnet_movie2movie_duration_slider",
    ]


def test_every_frame_is_generated_and_written(webui, gif, shown, tmp_path):
    asked = dict(NO_PICTURE)
    p = job(asked, save_to=tmp_path / "out")
    answer = m2m(p, (str(gif), None, False), duration=80)
    pictures = expected(gif)
    assert same(pixels(answer.images), pictures)
    assert len({array.tobytes() for array in pictures}) == FRAMES
    assert asked == NO_PICTURE
    saved = sorted(path for path in (tmp_path / "out").rglob("*.png"))
    assert same([np.array(Image.open(path)) for path in saved], pictures), "saved by the host"

    folder = tmp_path / "out" / "controlnet-m2m"
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000-5-animation.gif", "00000-5-animation.mp4",
    ]  # fmt: skip
    for path in folder.iterdir():
        movie = open_movie(path, "test")
        assert movie.count == FRAMES
        for made, wanted in zip(movie.frames(), pictures, strict=True):
            assert np.abs(made.astype(int) - wanted).mean() < 12
    with Image.open(folder / "00000-5-animation.gif") as image:
        assert image.info["duration"] == 80
        assert b"ControlNet 0:" in image.info["comment"]
    assert f"{TITLE}: 5 frames, saved as {folder}" in answer.comments
    assert len(answer.infotexts) == FRAMES
    assert unet_hooks() == 0

    m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out"), (str(gif), None, False))
    assert (folder / "00001-5-animation.gif").is_file()


def test_page_shows_the_animation_instead_of_all_frames(webui, gif, tmp_path):
    answer = m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out"), (str(gif), None, False))
    (poster,) = answer.images
    assert Path(poster.already_saved_as).name == "00000-5-animation.gif"
    assert len(answer.infotexts) == 1


def test_shortest_movie_ends_and_pictures_stay(webui, gif, mp4, shown, tmp_path):
    still = {"image": picture(seed=7), "mask": np.zeros((SIZE, SIZE, 3), np.uint8)}
    units = [{**NO_PICTURE, "weight": 0.5} for _ in range(3)]
    p = job(*units, save_to=tmp_path / "out")
    answer = m2m(p, (str(gif), None, False), (str(mp4), None, False), (None, still, False))
    movies = [open_movie(path, "test").frames() for path in (gif, mp4)]
    for made, one, two in zip(pixels(answer.images), *movies, strict=False):
        given = [encoded(one), encoded(two), encoded(picture(seed=7))]
        assert np.array_equal(made, single(*({**u, "image": g} for u, g in zip(units, given))))  # noqa: B905
    assert len(answer.images) == 3


def test_batch_count_and_size_count_as_one(webui, gif, shown, tmp_path):
    p = job(dict(NO_PICTURE), save_to=tmp_path / "out", n_iter=3, batch_size=2)
    answer = m2m(p, (str(gif), None, False))
    assert same(pixels(answer.images), expected(gif))
    assert (p.n_iter, p.batch_size) == (3, 2)


def test_preprocessed_frames_become_an_animation(webui, gif, tmp_path):
    asked = {**NO_PICTURE, "module": "invert"}
    m2m(job(asked, save_to=tmp_path / "out"), (str(gif), None, True))
    movie = open_movie(tmp_path / "out" / "controlnet-m2m" / "00000-5-control0.gif", "test")
    for number, shown in enumerate(movie.frames()):
        assert np.abs(shown.astype(int) - (255 - frame(number))).max() <= 8
    assert movie.count == FRAMES


def test_progress_counts_frames(webui, gif, calls, tmp_path):
    from modules import shared

    seen = []
    calls.on_call = lambda _count: seen.append((shared.state.job, shared.state.job_count))
    m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out"), (str(gif), None, False))
    assert seen[::STEPS] == [(f"Frame {n} of 5", 5) for n in range(1, 6)]


def test_interrupt_keeps_the_frames_that_are_done(webui, gif, calls, shown, tmp_path):
    from modules import shared

    calls.on_call = lambda count: count == 2 * STEPS + 2 and shared.state.interrupt()
    answer = m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out"), (str(gif), None, False))
    calls.on_call = None
    assert len(calls.rows) == 2 * STEPS + 2
    assert same(pixels(answer.images), expected(gif)[:2])
    written = sorted((tmp_path / "out" / "controlnet-m2m").iterdir())
    assert [open_movie(path, "test").count for path in written] == [2, 2]


def test_skip_leaves_out_one_frame(webui, gif, calls, shown, tmp_path):
    from modules import shared

    calls.on_call = lambda count: count == 2 * STEPS + 2 and shared.state.skip()
    answer = m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out"), (str(gif), None, False))
    calls.on_call = None
    wanted = expected(gif)
    assert same(pixels(answer.images), [*wanted[:2], *wanted[3:]])


def test_failure_in_the_middle_keeps_the_frames_that_are_done(webui, gif, calls, tmp_path):
    calls.fail_at = 2 * STEPS + 2
    with pytest.raises(RuntimeError, match="simulated failure"):
        m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out"), (str(gif), None, False))
    calls.fail_at = None
    written = sorted((tmp_path / "out" / "controlnet-m2m").iterdir())
    assert [open_movie(path, "test").count for path in written] == [2, 2]
    assert unet_hooks() == 0


def test_without_movie_it_is_an_ordinary_generation(webui, tmp_path):
    answer = m2m(job(unit(), save_to=tmp_path / "out"))
    assert np.array_equal(pixels(answer.images)[0], single(unit()))
    assert not (tmp_path / "out" / "controlnet-m2m").exists()


@pytest.mark.parametrize("asked", [[], [{**NO_PICTURE, "enabled": False}]])
def test_movie_of_a_unit_that_is_off_is_refused(webui, gif, calls, asked, tmp_path):
    with pytest.raises(Exception, match="a movie is given for unit 0, which is not enabled"):
        m2m(job(*asked, save_to=tmp_path / "out"), (str(gif), None, False))
    assert calls.rows == []


def test_broken_movie_is_named(webui, calls, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"no movie")
    with pytest.raises(Exception, match=r"the movie of unit 0: broken\.mp4 cannot be read"):
        m2m(job(dict(NO_PICTURE)), (str(path), None, False))
    assert calls.rows == []


def test_img2img_feeds_the_units_only(webui, gif, shown, tmp_path):
    fields = {
        "kind": "Img2Img", "denoising_strength": 0.6, "mask_blur": 0,
        "init_images": [Image.fromarray(picture(seed=3))],
    }  # fmt: skip
    answer = m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out", **fields), (str(gif), None, False))
    assert len(answer.images) == FRAMES


# ---- over HTTP -----------------------------------------------------------------------------


def api_request(movie: Any) -> dict:
    args = [movie, None, False, None, None, False, None, None, False, 50]
    return request(dict(NO_PICTURE), script_name=TITLE, script_args=args)


def test_api_takes_the_movie_as_base64_while_a_folder_is_opened(webui, gif, monkeypatch, tmp_path):
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "control_net_allowed_image_folder", str(tmp_path))
    answer = webui.txt2img(**api_request(base64.encodebytes(gif.read_bytes()).decode()))
    assert same(pixels(answer.images), expected(gif))


def test_api_path_needs_the_setting(webui, gif, monkeypatch):
    from modules import shared

    refused = webui.post("/sdapi/v1/txt2img", api_request(str(gif)))
    assert refused.status_code == 422
    assert "the movie of unit 0 is neither base64 nor a file" in refused.json()["detail"]
    monkeypatch.setitem(shared.opts.data, "control_net_allowed_image_folder", str(gif.parent))
    assert len(webui.txt2img(**api_request(str(gif))).images) == FRAMES


def test_api_without_movie_is_an_ordinary_generation(webui):
    asked = request(unit(), script_name=TITLE, script_args=api_request(None)["script_args"])
    assert np.array_equal(pixels(webui.txt2img(**asked).images)[0], single(unit()))


def sent_as(data: bytes) -> dict[str, str]:
    """What clients make of one file; none of it may depend on whether a folder is opened."""
    text = base64.b64encode(data).decode()
    return {
        "plain": text,
        "line-breaks": base64.encodebytes(data).decode(),
        "windows-breaks": base64.encodebytes(data).decode().replace("\n", "\r\n"),
        "spaces-around": f"  {text}\n",
        "data-url": f"data:image/gif;base64,{text}",
        "data-url-breaks": f"data:video/mp4;base64,{base64.encodebytes(data).decode()}",
        "data-url-upper": f"DATA:image/gif;BASE64,{text}",
        "data-url-quoted": "data:image/gif;base64," + text.replace("+", "%2B").replace("/", "%2F"),
        "data-url-parameters": f"data:video/mp4;codecs=avc1;base64,{text}",
        "url-alphabet": base64.urlsafe_b64encode(data).decode(),
        "no-padding": text.rstrip("="),
    }


@pytest.fixture(params=[False, True], ids=["closed", "opened"])
def opened(request: pytest.FixtureRequest, webui, monkeypatch, tmp_path: Path) -> bool:
    """Whether a folder is opened to requests."""
    from modules import shared

    folder = tmp_path / "opened"
    folder.mkdir()
    value = str(folder) if request.param else ""
    monkeypatch.setitem(shared.opts.data, "control_net_allowed_image_folder", value)
    return request.param


def read(value: str, scratch: Path) -> bytes:
    from modules import scripts

    from lib_controlnet.host.runs import movie

    (found,) = [
        script.controlnet_runtime
        for script in scripts.scripts_txt2img.alwayson_scripts
        if getattr(script, "controlnet_runtime", None) is not None
    ]
    path = movie._movie_file(value, 0, SimpleNamespace(is_api=True), found, scratch)
    return path.read_bytes()


def test_api_reads_a_file_in_whatever_form_it_is_sent(opened, tmp_path):
    for size in (40, 200, 3000, 100_000):
        data = np.random.default_rng(size).bytes(size)
        for name, text in sent_as(data).items():
            assert read(text, tmp_path) == data, (size, name)


def test_api_reads_files_of_opened_folders_only(opened, tmp_path):
    outside, inside = tmp_path / "secret.mp4", tmp_path / "opened" / "clip.mp4"
    for path in (outside, inside):
        path.write_bytes(path.name.encode())
    (tmp_path / "opened" / "link.mp4").symlink_to(outside)
    closed = [outside, tmp_path / "opened" / ".." / "secret.mp4", tmp_path / "opened" / "link.mp4"]
    for path in [*closed, "concat:/etc/passwd", "subfile,,start,0,end,9,,:/x.mp4"]:
        with pytest.raises(ImageError, match="neither base64 nor a file in a folder"):
            read(str(path), tmp_path)
    if opened:
        assert read(str(inside), tmp_path) == b"clip.mp4"
    else:
        with pytest.raises(ImageError, match="neither base64 nor a file in a folder"):
            read(str(inside), tmp_path)


def test_api_playlist_is_refused(webui, mp4):
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{mp4}\n#EXT-X-ENDLIST\n"
    answer = webui.post("/sdapi/v1/txt2img", api_request(base64.b64encode(text.encode()).decode()))
    assert answer.status_code == 422
    assert "playlists and lists of files are not read" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        *((-1, value, "the duration of a frame is") for value in (5, -1, 655_351, 1e300, "fast")),
        *((-1, value, "the duration of a frame is") for value in (True, [50], float("nan"))),
        *((0, value, "the movie of unit 0 is") for value in (5, ["x"], {"name": "/etc/passwd"})),
    ],
)
def test_api_unusable_argument_is_named(webui, place, value, sentence):
    asked = api_request(None)
    asked["script_args"][place] = value
    asked = json.loads(json.dumps(asked))
    answer = webui.post("/sdapi/v1/txt2img", asked)
    assert answer.status_code == 422, answer.text
    assert f"controlnet m2m: {sentence} " in answer.json()["detail"]


def test_damage_in_the_middle_keeps_the_frames_before_it(webui, gif, shown, tmp_path):
    content = gif.read_bytes()
    gif.write_bytes(content[: len(content) * 6 // 10])
    made = 0
    with pytest.raises(ImageError, match="damaged or cut short"):
        for _ in open_movie(gif, "test").frames():
            made += 1
    answer = m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out"), (str(gif), None, False))
    assert len(answer.images) == made > 0
    assert f"the movie of unit 0: clip.gif cannot be read after frame {made}: " in answer.comments
    assert f"; the run ends after frame {made}" in answer.comments
    told = answer.extra_generation_params["ControlNet notes"]
    assert f"; the run ends after frame {made}" in told, "all that the host's API answers with"
    written = sorted((tmp_path / "out" / "controlnet-m2m").iterdir())
    assert [open_movie(path, "test").count for path in written] == [made, made]


def test_interrupt_ends_the_reading_of_a_movie(webui, gif, tmp_path, monkeypatch):
    from modules import shared

    from lib_controlnet.pictures import movie

    monkeypatch.setattr(movie, "_PROGRAM", "import time; time.sleep(600)")
    threading.Timer(0.3, shared.state.interrupt).start()
    answer = m2m(job(dict(NO_PICTURE), save_to=tmp_path / "out"), (str(gif), None, False))
    assert answer.images == []
    assert "the movie of unit 0: clip.gif was stopped while it was read" in answer.comments
