"""Data sets of the trainer: made, continued, checked; every fault is named before training."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lib_controlnet.errors import ControlNetError, PreprocessorUnavailableError
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.pictures.maps import Size
from lib_controlnet.train import annotate as module
from lib_controlnet.train.__main__ import main, parse_size
from lib_controlnet.train.annotate import Recipe, _in_processes, annotate, frame
from lib_controlnet.train.captions import choose
from lib_controlnet.train.dataset import (
    Item,
    check,
    first_size,
    read_control,
    read_items,
    read_picture,
    refuse,
)
from lib_controlnet.train.errors import TrainError
from lib_controlnet.train.fill50k import COLOURS, draw
from lib_controlnet.train.masks import random_mask


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(folder: Path) -> list[dict]:
    text = (folder / "prompt.json").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_circles_are_where_the_drawing_says_in_the_colours_of_the_prompt() -> None:
    seen = set()
    for number in range(20):
        drawing, picture, prompt = draw(3, number, 64)
        _a, inside, _circle, _on, around, _background = prompt.split()
        assert inside != around
        seen |= {inside, around}
        y, x = np.argwhere(drawing[:, :, 0] == 255).mean(axis=0).round().astype(int)
        assert tuple(picture[y, x]) == COLOURS[inside]
        assert tuple(picture[0, 0]) == COLOURS[around]
        border = cv2.dilate((drawing[:, :, 0] > 0).astype(np.uint8), np.ones((5, 5))) > 0
        others = picture[~border].reshape(-1, 3)
        assert {tuple(colour) for colour in others} == {COLOURS[inside], COLOURS[around]}
    assert len(seen) >= 6


def test_fill50k_is_the_same_again_and_can_be_enlarged(tmp_path: Path) -> None:
    arguments = ["--size", "32", "--seed", "7"]
    assert main(["fill50k", str(tmp_path / "a"), "--count", "6", *arguments]) == 0
    assert main(["fill50k", str(tmp_path / "b"), "--count", "3", *arguments]) == 0
    (tmp_path / "b/source/000001.png").unlink()
    assert main(["fill50k", str(tmp_path / "b"), "--count", "6", *arguments]) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert [entry["source"] for entry in lines(tmp_path / "a")][:2] == [
        *("source/000000.png", "source/000001.png")
    ]


def test_fill50k_does_not_mix_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["fill50k", str(tmp_path), "--count", "2", "--size", "32"]) == 0
    before = content(tmp_path)
    assert main(["fill50k", str(tmp_path), "--count", "2", "--size", "64"]) == 1
    assert "another data set" in caplog.text
    assert content(tmp_path) == before


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of one square each, in a folder and one below, with captions beside them."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(("red_square.png", "blue-square-2.jpg", "more/a green one.png")):
        picture = np.full((80, 100, 3), 255, np.uint8)
        picture[20:60, 20 + 10 * number : 60] = (200, 30, 60)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / name)
        (folder / name).with_suffix(".txt").write_text(f"square\nnumber {number}\n")
    return folder


def test_annotate_writes_the_layout_of_fill50k(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["annotate", str(pictures), str(out), "--preprocessor", "canny", "--workers", "1"]
    assert main([*command, "--size", "64", "--values", "50", "150"]) == 0
    found = lines(out)
    assert [entry["prompt"] for entry in found] == [
        *("square number 1", "square number 2", "square number 0")
    ]
    for entry in found:
        source, target = (read_picture(out / entry[key]) for key in ("source", "target"))
        assert source.shape == target.shape == (64, 64, 3)
        expected = cv2.Canny(target, 50, 150)
        assert expected.any()
        assert np.array_equal(source, np.repeat(expected[:, :, None], 3, axis=2))
    about = json.loads((out / "dataset.json").read_text())
    assert (about["preprocessor"], about["control_type"]) == ("canny", "Canny")
    assert about["values"] == [50, 150]


def test_annotate_goes_on_where_it_stopped(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = Recipe("canny", size=(64, 64))
    assert annotate(pictures, out, recipe) == []
    whole = content(out)
    first = next((out / "source").iterdir())
    first.unlink()
    others = [path for path in out.glob("*/*.png")]
    times = {path: path.stat().st_mtime_ns for path in others}
    assert annotate(pictures, out, recipe) == []
    assert content(out) == whole
    again = [path for path in others if path.stat().st_mtime_ns != times[path]]
    assert [path.name for path in again] == [first.name]  # its target; all others stayed


def test_annotate_in_processes_makes_the_same(pictures: Path, tmp_path: Path) -> None:
    recipe = Recipe("canny", size=(64, 64))
    assert annotate(pictures, tmp_path / "one", recipe, workers=1) == []
    assert annotate(pictures, tmp_path / "two", recipe, workers=2) == []
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.fixture
def jobs(tmp_path: Path) -> list[tuple[Path, Item]]:
    """So many small pictures that processes are busy with them for a while."""
    picture = tmp_path / "one.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    return [(picture, Item(f"source/{i}.png", f"target/{i}.png", "one")) for i in range(2000)]


def test_annotate_that_is_stopped_leaves_the_pictures_that_are_left(
    jobs: list[tuple[Path, Item]], tmp_path: Path
) -> None:
    going = _in_processes(jobs, tmp_path, Recipe("canny", size=(64, 64)), workers=2)
    assert next(going) is None
    going.close()  # as Ctrl+C does
    assert 0 < len(list((tmp_path / "target").iterdir())) < len(jobs)
    assert not multiprocessing.active_children()


def test_annotate_whose_process_dies_says_so(jobs: list[tuple[Path, Item]], tmp_path: Path) -> None:
    going = _in_processes(jobs, tmp_path, Recipe("canny", size=(64, 64)), workers=2)
    next(going)
    multiprocessing.active_children()[0].kill()
    with pytest.raises(TrainError, match="fewer --workers"):
        list(going)


def test_annotate_stops_where_no_picture_can_be_made(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        msg = "a weight file is missing"
        raise PreprocessorUnavailableError(msg)

    monkeypatch.setattr(module, "control_picture", fail)
    with pytest.raises(PreprocessorUnavailableError):
        annotate(pictures, tmp_path / "out", Recipe("canny", size=(64, 64)))


def test_captions_and_lines_of_windows_are_read(pictures: Path, tmp_path: Path) -> None:
    (pictures / "red_square.txt").write_text("a red square", encoding="utf-8-sig")
    (pictures / "blue-square-2.txt").write_text("un carr\u00e9 bleu", encoding="cp1252")
    out = tmp_path / "out"
    assert annotate(pictures, out, Recipe("canny", size=(64, 64))) == []
    prompts = [entry["prompt"] for entry in lines(out)]
    assert prompts == ["un carr\ufffd bleu", "square number 2", "a red square"]
    file = out / "prompt.json"
    file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    items, faults = read_items(out)
    assert [item.prompt for item in items] == prompts
    assert not faults


def test_names_in_any_script_are_kept_and_names_that_are_no_text_left_out(
    pictures: Path, tmp_path: Path
) -> None:
    name = "\u732b \U0001f431.png"
    (pictures / "red_square.png").rename(pictures / name)
    (pictures / "red_square.txt").rename((pictures / name).with_suffix(".txt"))
    broken = pictures / os.fsdecode(b"caf\xe9.png")
    try:
        broken.write_bytes((pictures / name).read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    faults = annotate(pictures, tmp_path / "out", Recipe("canny", size=(64, 64)))
    assert faults == ["'caf\\udce9.png': its name is no text"]
    items, _ = read_items(tmp_path / "out")
    assert f"target/{name}.png" in [item.target for item in items]
    assert check(tmp_path / "out", items, Size(64, 64)) == []


def test_annotate_lists_what_it_leaves_out(pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "red_square.png").read_bytes()
    (pictures / "red_square.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "blue-square-2.txt").unlink()
    faults = annotate(pictures, tmp_path / "out", Recipe("canny"))
    assert [fault.split(":")[0] for fault in faults] == ["blue-square-2.jpg", "red_square.png"]
    assert "no caption" in faults[0]
    assert [entry["prompt"] for entry in lines(tmp_path / "out")] == ["square number 2"]
    # Without a size, sides are cut to multiples of 64.
    assert read_picture(tmp_path / "out" / lines(tmp_path / "out")[0]["target"]).shape[:2] == (
        64,
        64,
    )


def test_annotate_leaves_out_pictures_that_would_share_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    for name in ("a/b.png", "a__b.png", "c.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), "red").save(folder / name)
    faults = annotate(folder, tmp_path / "out", Recipe("canny"), "names")
    assert [Path(fault.split(":")[0]).name for fault in faults] == ["b.png", "a__b.png"]
    assert [entry["target"] for entry in lines(tmp_path / "out")] == ["target/c.png.png"]


def test_annotate_for_inpaint_masks_each_picture_in_its_own_way(
    pictures: Path, tmp_path: Path
) -> None:
    recipe = Recipe("inpaint_only", size=(64, 64))
    assert annotate(pictures, tmp_path / "one", recipe) == []
    assert annotate(pictures, tmp_path / "two", recipe) == []
    assert content(tmp_path / "one") == content(tmp_path / "two")
    masks = []
    for entry in lines(tmp_path / "one"):
        control, masked = read_control(tmp_path / "one" / entry["source"])
        target = read_picture(tmp_path / "one" / entry["target"])
        assert 0.02 < masked.mean() < 0.98
        assert np.array_equal(control[~masked], target[~masked])
        assert not control[masked].any()
        masks.append(masked)
    assert not any(np.array_equal(masks[0], other) for other in masks[1:])


def test_random_masks_are_of_every_kind_and_size() -> None:
    rng = np.random.default_rng(0)
    for width, height in ((64, 64), (96, 32), (32, 160)):
        masks = [random_mask(width, height, rng) for _ in range(60)]
        assert all(mask.shape == (height, width) and mask.dtype == bool for mask in masks)
        shares = [mask.mean() for mask in masks]
        assert all(0 < share < 1 for share in shares)
        assert min(shares) < 0.2
        assert max(shares) > 0.5


def test_annotate_refuses_other_settings_and_unfit_preprocessors(
    pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    annotate(pictures, out, Recipe("canny", size=(64, 64)))
    with pytest.raises(TrainError, match="another data set"):
        annotate(pictures, out, Recipe("canny", (10, 20), size=(64, 64)))
    with pytest.raises(ControlNetError, match="preprocessor clip_vision"):
        annotate(pictures, tmp_path / "other", Recipe("clip_vision"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainError, match="holds no pictures"):
        annotate(tmp_path / "empty", tmp_path / "other", Recipe("canny"))


def test_captions_of_names_and_of_lines(pictures: Path, tmp_path: Path) -> None:
    names = choose("names")
    assert names(pictures / "red_square.png") == "red square"
    assert names(pictures / "blue-square-2.jpg") == "blue square"
    file = tmp_path / "captions.jsonl"
    entries = [
        {"file_name": "red_square.png", "text": "by name"},
        {"image": "more/a green one.png", "caption": "by place"},
    ]
    file.write_text("\n".join(map(json.dumps, entries)))
    of_lines = choose(str(file))
    assert of_lines(pictures / "red_square.png") == "by name"
    assert of_lines(pictures / "more/a green one.png") == "by place"
    assert of_lines(pictures / "blue-square-2.jpg") == ""
    file.write_text('{"file": "a.png"}\nno json\n')
    with pytest.raises(TrainError, match="line 1, line 2"):
        choose(str(file))
    with pytest.raises(TrainError, match="no such file"):
        choose(str(tmp_path / "gone.jsonl"))


def test_pictures_are_filled_and_cropped_to_the_size() -> None:
    picture = np.zeros((100, 300, 3), np.uint8)
    picture[:, 100:200] = 255
    assert frame(picture, (64, 64)).shape == (64, 64, 3)
    assert frame(picture, (64, 64)).mean() == 255, "the middle third fills a square"
    assert frame(picture, None).shape == (64, 256, 3)
    with pytest.raises(TrainError, match="smaller than 64"):
        frame(picture[:50], None)


@pytest.mark.parametrize("text", ["0", "64x", "64x64x64", "axb", "-3"])
def test_unusable_size_is_refused(text: str, tmp_path: Path) -> None:
    assert parse_size("64") == (64, 64)
    assert parse_size("64X128") == (64, 128)
    assert main(["annotate", "a", "b", "--preprocessor", "canny", f"--size={text}"]) == 1


def test_every_fault_of_a_data_set_is_listed_with_its_file(tmp_path: Path) -> None:
    assert main(["fill50k", str(tmp_path), "--count", "8", "--size", "32"]) == 0
    (tmp_path / "source/000001.png").unlink()
    whole = (tmp_path / "target/000002.png").read_bytes()
    (tmp_path / "target/000002.png").write_bytes(whole[: len(whole) * 2 // 3])
    Image.new("RGB", (40, 32)).save(tmp_path / "source/000003.png")
    (tmp_path / "target/000004.png").write_bytes(b"not a picture")
    entries = lines(tmp_path)
    entries[5]["prompt"] = "  "
    del entries[6]["target"]
    text = "\n".join(map(json.dumps, entries)) + '\n{"source": \n[1]\n\n'
    (tmp_path / "prompt.json").write_text(text)
    items, faults = read_items(tmp_path)
    assert len(items) == 6
    faults += check(tmp_path, items, first_size(tmp_path, items, 16))
    with pytest.raises(TrainError) as caught:
        refuse(tmp_path, faults)
    message = str(caught.value)
    for text in (
        "8 faults",
        "prompt.json line 6: empty caption for target/000005.png",
        "prompt.json line 7: has no target",
        "prompt.json line 9: is not JSON",
        "prompt.json line 10: is not a JSON object",
        "source/000001.png: file is missing",
        "target/000002.png: cannot be decoded",
        "source/000003.png: is 40 x 32, expected 32 x 32",
        "target/000004.png: cannot be decoded",
    ):
        assert text in message
    assert "000000" not in message
    assert "000007" not in message


def ramp(dtype: type, top: float) -> Image.Image:
    return Image.fromarray(np.tile(np.linspace(0, top, 64).astype(dtype), (64, 1)))


def halves() -> np.ndarray:
    return np.repeat(np.uint8([255, 0]), 32)[:, None, None] * np.ones((64, 64, 3), np.uint8)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


FILES = {
    "16-bit.png": (ramp(np.uint16, 65535), {}),
    "float.tiff": (ramp(np.float32, 1), {}),
    "rotated.jpg": (Image.fromarray(halves()), {"exif": rotated()}),
    "clear.png": (Image.fromarray(np.dstack([halves(), halves()[..., 0].T])), {}),
    "palette.png": (Image.fromarray(halves()).quantize(4), {"transparency": 0}),
    "grey-clear.png": (Image.fromarray(np.dstack([halves()[..., :1]] * 2)), {}),
    "one-bit.png": (Image.fromarray(halves()).convert("1"), {}),
    "cmyk.jpg": (Image.fromarray(halves()).convert("CMYK"), {}),
}


@pytest.mark.parametrize("name", FILES)
def test_training_reads_what_the_panel_shows(name: str, tmp_path: Path) -> None:
    image, options = FILES[name]
    image.save(tmp_path / name, **options)
    shown = decode_image((tmp_path / name).read_bytes())
    assert np.array_equal(read_picture(tmp_path / name), shown)
    picture, masked = read_control(tmp_path / name)
    alpha = decode_image((tmp_path / name).read_bytes(), keep_alpha=True)[:, :, 3:]
    clear = alpha[..., 0] < 128 if alpha.size else np.zeros((64, 64), bool)
    assert clear.any() == (name in ("clear.png", "palette.png", "grey-clear.png"))
    assert np.array_equal(np.zeros_like(clear) if masked is None else masked, clear)
    assert np.array_equal(picture[~clear], shown[~clear])
    item = Item(name, name, "a caption")
    assert check(tmp_path, [item], Size(64, 64)) == []


def test_rotated_pictures_have_the_size_they_are_shown_in(tmp_path: Path) -> None:
    Image.new("RGB", (64, 128)).save(tmp_path / "a.jpg", exif=rotated())
    item = Item("a.jpg", "a.jpg", "a caption")
    assert first_size(tmp_path, [item], 64) == Size(128, 64)
    assert check(tmp_path, [item], Size(128, 64)) == []


def test_data_set_that_is_none_or_of_an_odd_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"prompt\.json is missing"):
        read_items(tmp_path)
    assert main(["fill50k", str(tmp_path), "--count", "2", "--size", "40"]) == 0
    items, faults = read_items(tmp_path)
    assert not faults
    with pytest.raises(TrainError, match="multiples of 16"):
        first_size(tmp_path, items, 16)
    assert first_size(tmp_path, items, 8) == Size(40, 40)
    refuse(tmp_path, [])
