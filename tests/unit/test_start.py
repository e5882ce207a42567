"""What is read when the WebUI starts: folders of models, and settings of any type."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lib_controlnet.enums import OnError
from lib_controlnet.host.folders import find_folders
from lib_controlnet.host.page import logs, settings
from lib_controlnet.settings import BY_KEY, Setting

posix = pytest.mark.skipif(os.name == "nt", reason="paths of other systems")


@pytest.fixture(autouse=True)
def unsaid() -> Iterator[None]:
    """Nothing was said yet."""
    logs.say_once.cache_clear()
    yield
    logs.say_once.cache_clear()


# --- folders ----------------------------------------------------------------------------------

Prepare = Callable[[Path], object]
HINDRANCES: dict[str, Prepare] = {
    "a dangling link": lambda models: (models / "ControlNet").symlink_to(models / "gone"),
    "a file": lambda models: (models / "ControlNet").write_text("x"),
    "a loop": lambda models: (models / "ControlNet").symlink_to(models / "ControlNet"),
    "a pipe": lambda models: os.mkfifo(models / "ControlNet"),
}


@posix
@pytest.mark.parametrize("what", HINDRANCES)
def test_the_models_folder_may_be_anything(what: str, tmp_path: Path) -> None:
    HINDRANCES[what](tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    found, notes = find_folders(tmp_path, [other], {})
    assert found == [other]
    assert notes[0].startswith(f"the models folder {tmp_path / 'ControlNet'} is not there and")


@posix
def test_models_of_the_host_may_be_missing_or_read_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for models in (tmp_path / "file", tmp_path / "file" / "models", Path("/proc/none/models")):
        found, notes = find_folders(models, [], {})
        assert found == []
        assert "cannot be made" in notes[0]


@posix
def test_typed_folders_are_found_or_said(tmp_path: Path) -> None:
    one, two = tmp_path / "one more", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (tmp_path / "file.safetensors").write_text("x")
    models = tmp_path / "models"
    for text in (f'"{one}"', f" {one} ", f"{one};{two}", f"{tmp_path}/gone\n{one}"):
        found, notes = find_folders(models, [], {"the setting": text})
        assert one in found
        assert (two in found) == (str(two) in text)
        assert len(notes) == text.count("gone")
    for text in (
        str(one) + "-",
        "a\0b",
        "/" + "a" * 5000,
        "~nobody-at-all/x",
        f"{tmp_path}/file.s",
    ):
        found, notes = find_folders(models, [], {"the setting x": text})
        assert found == [models / "ControlNet"]
        assert notes[0].startswith("the setting x: ")
        assert notes[0].endswith("is no folder that can be read; it is left out")
        assert len(notes[0]) < 300


def test_folders_in_other_letter_case_and_links_to_one_count_once(tmp_path: Path) -> None:
    (tmp_path / "ControlNet").mkdir()
    (tmp_path / "controlnet").mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(tmp_path / "ControlNet")
    first = tmp_path / "ControlNet"
    found, notes = find_folders(tmp_path, [tmp_path / "link"], {"x": str(first)})
    assert found[0] == first
    assert len(found) == len({folder.stat().st_ino for folder in found})
    assert not notes


# --- settings ---------------------------------------------------------------------------------

WRONG = [
    *(None, True, False, 0, 1, -1, 3, 3.0, 2.5, 10**30, float("nan"), float("inf"), float("-inf")),
    *("", "x", "3", " 4 ", "3.0", "1e999", "9" * 10**5, "true", "\ud800", [], [3], {}, {"a": 1}),
]


def means_the_same(value: object, found: object) -> bool:
    """Whether nothing was lost when a stored value became one of the right type."""
    text = str(value).strip().lower()
    words = {True: ("1", "1.0"), False: ("0", "0.0", "")}.get(found, ()) if found in (0, 1) else ()
    return (
        value == found
        or (value is None and found == "")
        or text
        in (
            *(str(found).lower(), f"{found}.0"),
            *words,
        )
    )


@pytest.mark.parametrize("item", BY_KEY.values(), ids=lambda item: item.key)
def test_every_setting_has_its_type_whatever_is_stored(
    item: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    for value in WRONG:
        caplog.clear()
        logs.say_once.cache_clear()
        with caplog.at_level(logging.WARNING):
            found = settings.read(item.key, value)
        assert type(found) is type(item.default)
        if item.widget == "slider":
            assert item.limits["minimum"] <= found <= item.limits["maximum"]
        if item.widget == "radio":
            assert found in item.limits["choices"]
        said = item.key in caplog.text
        assert said or means_the_same(value, found), f"{value!r} became {found!r} without a word"
        assert len(caplog.text) < 400


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("control_net_unit_count", 3.0, 3),
        ("control_net_unit_count", "4", 4),
        ("control_net_unit_count", "many", 3),
        ("control_net_unit_count", 2.5, 3),
        ("control_net_unit_count", 10**9, 10),
        ("control_net_unit_count", 0, 1),
        ("control_net_unit_count", True, 3),
        ("control_net_inpaint_blur_sigma", 0, 0),
        ("control_net_no_detectmap", "false", False),
        ("control_net_no_detectmap", 1, True),
        ("control_net_no_detectmap", 5, False),
        ("control_net_models_path", None, ""),
        ("control_net_models_path", ["/a"], ""),
        ("control_net_on_error", "SKIP", OnError.SKIP.value),
        ("control_net_on_error", 7, OnError.STOP.value),
        ("control_net_models_sort_models_by", "Date", "date"),
        ("inpainting_mask_weight", 0, 0.0),
        ("inpainting_mask_weight", 0.25, 0.25),
        ("inpainting_mask_weight", "heavy", 1.0),
        ("img2img_background_color", "#000000", "#000000"),
        ("img2img_background_color", None, "#ffffff"),
        ("api_enable_requests", 1, True),
    ],
)
def test_settings_are_read_as_they_are_meant(key: str, value: object, found: object) -> None:
    assert settings.read(key, value) == found


def test_setting_that_is_in_no_table_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        settings.read("control_net_unit_cuont", 3)


def test_a_wrong_setting_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        settings.read("control_net_unit_count", "many")
    assert caplog.text.count("the setting control_net_unit_count is 'many'") == 1


def test_log_lines_take_any_name(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(logs, "PACKAGES", ("of_this_test",))
    logs.set_up("INFO")
    logging.getLogger("of_this_test").warning("file %s", "mod\udce4ll")
    sys.stdout.flush()
    assert r"file mod\xe4ll" in capsys.readouterr().out
