"""Settings, HTTP services and the panel as the host sees them."""

from __future__ import annotations

import base64
import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

import lib_controlnet
from lib_controlnet import api
from lib_controlnet.host.page import logs, settings
from lib_controlnet.settings import BY_KEY
from lib_controlnet.units import infotext
from lib_controlnet.units.fields import Written
from lib_controlnet.units.unit import FIELDS


def runtime() -> Any:
    """The services of the running extension; the host must have been started."""
    from lib_controlnet.host.runtime import runtime as running

    return running()


SETTINGS = {
    "control_net_detectedmap_dir": ("detected_maps", "Directory for detected maps auto saving"),
    "control_net_models_path": (
        "",
        "Extra path to scan for ControlNet models (e.g. training output directory)",
    ),
    "control_net_modules_path": (
        "",
        "Path to directory containing annotator model directories "
        "(overrides corresponding command line flag)",
    ),
    "control_net_unit_count": (3, "Multi-ControlNet: ControlNet unit number"),
    "control_net_model_cache_size": (2, "Model cache size"),
    "control_net_inpaint_blur_sigma": (7, "ControlNet inpainting Gaussian blur sigma"),
    "control_net_no_detectmap": (False, "Do not append detectmap to output"),
    "control_net_detectmap_autosaving": (False, "Allow detectmap auto saving"),
    "control_net_allow_script_control": (False, "Allow other script to control this extension"),
    "control_net_sync_field_args": (True, "Paste ControlNet parameters in infotext"),
    "controlnet_show_batch_images_in_ui": (False, "Show batch images in gradio gallery output"),
    "controlnet_increment_seed_during_batch": (
        False,
        "Increment seed after each controlnet batch iteration",
    ),
    "controlnet_disable_openpose_edit": (False, "Disable openpose edit"),
    "controlnet_ignore_noninpaint_mask": (
        False,
        "Ignore mask on ControlNet input image if control type is not inpaint",
    ),
    "controlnet_control_type_dropdown": (False, "Display control type as dropdown"),
    "control_net_on_error": ("stop", "When a ControlNet unit cannot do what it was asked"),
}
"""Key -> default and label."""


def test_row_21_settings_have_their_published_keys_labels_and_defaults(host: object) -> None:
    from modules import shared

    for key, (default, label) in SETTINGS.items():
        option = shared.opts.data_labels[key]
        assert (option.default, option.label) == (default, label)
        assert tuple(option.section)[:2] == ("control_net", "ControlNet")
    assert {item.key for item in settings.SETTINGS} >= set(SETTINGS)
    assert all(item.key in shared.opts.data_labels for item in settings.SETTINGS)


def test_every_setting_is_read_somewhere() -> None:
    """A setting that nothing reads does nothing; its default stands in the table alone."""
    package = Path(lib_controlnet.__file__).parent
    files = [file for file in package.rglob("*.py") if file.name != "settings.py"]
    code = "".join(file.read_text("utf-8") for file in files)
    scripts = (package.parent / "javascript").rglob("controlnet*.js")
    page = "".join(file.read_text("utf-8") for file in scripts)
    unread = [key for key in BY_KEY if f'"{key}"' not in code and f"opts.{key}" not in page]
    assert unread == []


def test_runtime_reads_settings_when_asked(host: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "control_net_unit_count", 5)
    assert runtime().unit_count() == 5


def test_unit_count_of_an_older_config_is_taken_over(
    host: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "control_net_max_models_num", 7)
    monkeypatch.delitem(shared.opts.data, "control_net_unit_count", raising=False)
    settings.register()
    assert runtime().unit_count() == 7
    monkeypatch.setitem(shared.opts.data, "control_net_unit_count", 4)
    settings.register()
    assert runtime().unit_count() == 4, "a newer choice stands"


@pytest.mark.parametrize(("level", "shown"), [("INFO", 2), ("WARNING", 1), ("nonsense", 2)])
def test_log_lines_have_their_form_once(
    host: object, capsys: pytest.CaptureFixture, level: str, shown: int
) -> None:
    log = logging.getLogger("lib_controlnet.engine.session")
    try:
        logs.set_up(level)
        logs.set_up(level)
        log.info("unit 0: acts")
        log.warning("unit 1: does not")
    finally:
        logs.set_up("INFO")
    lines = [line.split(" - ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    expected = ["ControlNet - INFO - unit 0: acts", "ControlNet - WARNING - unit 1: does not"]
    assert lines == expected[-shown:]


def test_a_line_comes_once_where_another_prints_what_has_our_name(
    host: object, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As preprocessors that are built into a host do, which are loaded before us."""
    from modules import scripts

    theirs = logging.getLogger("ControlNet")
    monkeypatch.setattr(theirs, "handlers", [logging.StreamHandler(sys.stdout)])
    titles = {script.title(): script for script in scripts.scripts_txt2img.alwayson_scripts}
    logs.set_up("INFO")
    theirs.warning("of a neighbour")
    type(titles["ControlNet"]).process.__globals__["log"].info("of ours")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "of a neighbour"
    assert [line.split(" - ", 1)[1] for line in lines[1:]] == ["ControlNet - INFO - of ours"]


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        (None, {}),
        ("me:secret", {"me": "secret"}),
        ("me:se:cret,you:other", {"me": "se:cret", "you": "other"}),
    ],
)
def test_credentials_are_those_of_the_flag(
    host: object, monkeypatch: pytest.MonkeyPatch, flag: str | None, expected: dict
) -> None:
    from modules import shared

    from lib_controlnet.host.page.web import A1111Web

    monkeypatch.setattr(shared.cmd_opts, "api_auth", flag)
    assert A1111Web().credentials() == expected


def test_routes_obey_the_hosts_credentials(host: object, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import shared

    monkeypatch.setattr(shared.cmd_opts, "api_auth", "me:secret")
    app = FastAPI()
    api.mount(app, runtime())
    with TestClient(app) as client:
        assert client.get("/controlnet/version").status_code == 401
        assert client.get("/controlnet/version", auth=("me", "secret")).json() == {"version": 3}


@pytest.mark.parametrize(("samples", "kind"), [("png", "PNG"), ("jpg", "JPEG")])
def test_pictures_are_encoded_in_the_format_of_samples(
    host: object, monkeypatch: pytest.MonkeyPatch, samples: str, kind: str
) -> None:
    from modules import shared

    from lib_controlnet.host.page.web import A1111Web

    monkeypatch.setitem(shared.opts.data, "samples_format", samples)
    text = A1111Web().encode(Image.new("RGB", (8, 8), "red"))
    assert Image.open(io.BytesIO(base64.b64decode(text))).format == kind


def test_fetch_of_a_local_address_is_refused(host: object) -> None:
    from lib_controlnet.host.page.web import A1111Web

    with pytest.raises(OSError, match=r"(?i)request"):
        A1111Web().fetch("http://127.0.0.1/picture.png")


def test_row_01_panel_can_be_built_again_and_again(host: object) -> None:
    from modules import scripts

    for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
        script = next(s for s in runner.alwayson_scripts if s.title() == "ControlNet")
        assert script.args_to - script.args_from == runtime().unit_count()
        for argument in script.api_info.args:
            assert set(FIELDS) == set(dict(argument.value))
        without_widget = {"region_colour"}
        fields = {field.name for field in infotext.fields(Written.ALWAYS, *infotext.IF_SET)}
        written = len(fields - without_widget)
        # besides: enable, both types, weight type and composition, the button beside the models,
        # three lines of messages, and once StyleAlign
        assert len(script.infotext_fields) == (written + 9) * runtime().unit_count() + 1
