"""Paths as people type them, and the rule on which of them may be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from lib_controlnet.detect.preprocess import store
from lib_controlnet.errors import ControlNetError
from lib_controlnet.files.paths import open_file, open_path, parse_folders, parse_path
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.ui.uploads import upload
from lib_controlnet.units.batch import BatchSource
from lib_controlnet.units.plan import plan
from lib_controlnet.units.unit import parse_unit

posix = pytest.mark.skipif(os.name == "nt", reason="paths of other systems")

AS_TYPED = [
    "{}", '"{}"', "'{}'", " {} ", "\t{}\n", "“{}”", "„{}“", ' " {} " ', "'\"{}\"'", "«{}»", "`{}`",
]  # fmt: skip


@pytest.mark.parametrize("form", AS_TYPED)
def test_quotes_and_blanks_round_a_path_do_not_count(form: str) -> None:
    assert parse_path(form.format("/data/my models")) == "/data/my models"


def test_home_is_filled_in_and_variables_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/me")
    monkeypatch.setenv("USERPROFILE", "/people/me")
    monkeypatch.setenv("MODELS", "/data")
    assert parse_path('"~/models"') == "/people/me/models"
    assert parse_path("$MODELS/control") == "$MODELS/control", "requests name paths as well"


@pytest.mark.parametrize("value", [None, True, 3, 1.5, [], {}, ["/a"], b"/a", "", "  ", '""'])
def test_what_is_no_path_is_none(value: object) -> None:
    assert parse_path(value).strip('"') == ""
    assert parse_folders(value) in ([], ['""'])


@posix
def test_flag_that_the_host_reads_as_a_path_is_one(tmp_path: Path) -> None:
    assert parse_path(tmp_path) == str(tmp_path)
    assert parse_folders(tmp_path) == [str(tmp_path)]


def test_several_folders_in_one_field(tmp_path: Path) -> None:
    one, two = (str(tmp_path / name) for name in ("one", "two, three"))
    for text in (f"{one};{two}-", f"{one}:{two}-", f'"{one}" "{two}-"', f"{one}\n{two}-\n\n"):
        assert parse_folders(text)[0] == one
        assert len(parse_folders(text)) > 1
    assert parse_folders(f'"{one}", "{two}", "{one}"') == [one, two]
    (tmp_path / "two, three").mkdir()
    assert parse_folders(two) == [two], "a folder that exists is one folder, whatever its name"


@posix
@pytest.mark.parametrize(
    "text", ["~nobody-at-all/x", "a\0b", "/" + "a" * 5000, "~", "$", "%%", "//"]
)
def test_no_path_raises(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    assert isinstance(parse_path(text), str)
    assert isinstance(parse_folders(text), list)
    assert store.folders(parse_path(text))


# --- which of them may be used -----------------------------------------------------------------


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    """An opened folder among closed ones, with links out of it; each holds `a.png`."""
    for name in ("open", "open-too", "closed"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "a.png")
    folder = tmp_path / "open"
    (folder / "door").symlink_to(tmp_path / "closed")
    (folder / "link.png").symlink_to(tmp_path / "closed" / "a.png")
    (folder / "circle").symlink_to(folder / "circle")
    return folder


CLOSED = {
    "beside": "{open}/../closed/a.png",
    "same beginning": "{open}-too/a.png",
    "through a linked folder": "{open}/door/a.png",
    "a link": "{open}/link.png",
    "quoted": '"{open}/link.png"',
    "no ending": "{open}/../closed",
    "absent": "{open}/../gone.png",
    "root": "/",
    "a circle": "{open}/circle/a.png",
    "NUL": "{open}/a.png\0",
    "somebody's home": "~nobody-at-all/a.png",
    "home": "~",
}


def _decode(text: str, folders: Sequence[str | Path]) -> object:
    return decode_image(text, allow_paths=folders)


def _decode_path(text: str, folders: Sequence[str | Path]) -> object:
    return decode_image(Path(text), allow_paths=folders)


def _list(text: str, folders: Sequence[str | Path]) -> object:
    unit = parse_unit({"input_mode": "batch", "batch_images": text})
    return plan([unit], BatchSource(folders=folders))


def _list_masks(text: str, folders: Sequence[str | Path]) -> object:
    picture = Image.new("RGB", (8, 8))
    unit = parse_unit({"input_mode": "batch", "batch_images": [picture], "batch_mask_dir": text})
    return plan([unit], BatchSource(folders=folders))


DOORS: dict[str, Callable[[str, Sequence[str | Path]], object]] = {
    "text": _decode,
    "path": _decode_path,
    "folder": _list,
    "masks": _list_masks,
    "file": open_file,
}


@posix
@pytest.mark.parametrize("attack", CLOSED)
@pytest.mark.parametrize("door", DOORS)
def test_no_door_opens_a_closed_path(door: str, attack: str, opened: Path) -> None:
    text = CLOSED[attack].format(open=opened)
    for folders in ([str(opened)], ["", opened], [], False):
        try:
            found = DOORS[door](text, folders)
        except ControlNetError:
            continue
        assert found is None


@posix
@pytest.mark.parametrize("form", ["{open}", "{open}/", "{open}/..", '"{open}"', " {open} "])
def test_all_below_an_opened_folder_may_be_used(form: str, opened: Path) -> None:
    folders = [form.format(open=opened)]
    inside = str(opened / "a.png")
    assert open_file(inside, folders) == open_path(Path(inside), folders) == (opened / "a.png")
    assert open_path(str(opened), folders) == opened, "the folder itself"
    for door in (_decode, _decode_path):
        assert door(inside, folders) is not None
    with pytest.raises(ControlNetError, match=r"link\.png lies outside"):
        _list(str(opened), [str(opened)])
    (opened / "link.png").unlink()
    assert _list(str(opened), folders).count == 1
    assert _list_masks(str(opened), folders).turns[0][0].mask == opened / "a.png"


def test_what_is_no_picture_does_not_tell_whether_a_closed_file_exists(opened: Path) -> None:
    """A name without an ending could be base64 as well."""
    said = set()
    for name in ("closed", "absent"):
        with pytest.raises(ControlNetError) as caught:
            _decode(str(opened.parent / name), [opened])
        said.add(str(caught.value))
    (opened.parent / "absent").write_bytes(b"a file")
    with pytest.raises(ControlNetError) as caught:
        _decode(str(opened.parent / "absent"), [opened])
    assert said == {str(caught.value)}


@posix
@pytest.mark.parametrize("attack", [*CLOSED, "stripped"])
def test_uploads_are_files_of_their_folder(
    attack: str, opened: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very text that is checked is used: nothing may be taken off it on the way."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(opened))
    text = CLOSED.get(attack, " {open}/a.png ").format(open=opened)
    assert upload(text) is None
    assert upload(str(opened / "a.png")) == opened / "a.png"
