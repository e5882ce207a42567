"""What a request may set, and what it gets to read where it may not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controls import first, request, unit

from lib_controlnet.errors import ControlNetError, UnitError

OPTIONS = "/sdapi/v1/options"
RESTRICTED = {
    "control_net_modules_path": "/etc",
    "control_net_allowed_image_folder": "/",
    "controlnet_hub_mirror": "http://127.0.0.1:1",
    "controlnet_onnx_engine": "OpenCV",
    "controlnet_presets_folder": "/etc",
    "controlnet_last_used": "With pictures",
}
OUTSIDE = ("/etc/maps", "../../maps", "~/maps", "a/../../../../b", "maps\0", "'/etc'")
NUMBERS = ("x", 2.5, 4.0, "3", True, None, [], {}, 0, 1000, -1)
TRUTHS = ("x", 1, 0, 0.5, "true", None, [], {})
TEXTS = (1, 2.5, True, [], {}, "\ud800")


def wrong_values() -> list[tuple[str, Any]]:
    """Every setting of ours with values of another type than its own, or out of its range."""
    from lib_controlnet.enums import OnError

    choices = ("control_net_on_error", "controlnet_store_8_bit", "controlnet_speed")
    values = [(key, value) for key in choices for value in ("x", 1, None, [], True)]
    assert OnError.STOP.value == "stop"
    for key in ("unit_count", "model_cache_size", "inpaint_blur_sigma"):
        wrong = NUMBERS if key != "inpaint_blur_sigma" else [n for n in NUMBERS if n != 0]
        values += [(f"control_net_{key}", value) for value in wrong]
    for key in (
        *("control_net_no_detectmap", "control_net_detectmap_autosaving"),
        "controlnet_embedding_autosaving",
        *("control_net_allow_script_control", "control_net_sync_field_args"),
        *("controlnet_show_batch_images_in_ui", "controlnet_increment_seed_during_batch"),
        *("controlnet_ignore_noninpaint_mask", "controlnet_offline"),
        "controlnet_disable_openpose_edit",
        *("controlnet_control_type_dropdown", "controlnet_type_enables"),
    ):
        values += [(key, value) for value in TRUTHS]
    values += [("control_net_models_path", value) for value in TEXTS]
    values += [("control_net_detectedmap_dir", value) for value in (*TEXTS, *OUTSIDE)]
    return values + [(key, value) for key, value in RESTRICTED.items()]


@pytest.fixture
def stored(webui):
    """The settings, which nothing that is refused may change."""
    from modules import shared

    before = dict(shared.opts.data)
    yield before
    shared.opts.data.clear()
    shared.opts.data.update(before)


def test_every_setting_is_tried(webui):
    from lib_controlnet.host.page.settings import SETTINGS

    assert {key for key, _ in wrong_values()} == {item.key for item in SETTINGS}


def test_wrong_values_are_refused_on_both_ways_and_change_nothing(webui, stored):
    from modules import shared

    for key, value in wrong_values():
        for path, body in (
            (OPTIONS, {key: value}),
            ("/sdapi/v1/txt2img", request(override_settings={key: value})),
        ):
            if value == "\ud800":
                continue  # no JSON text
            answer = webui.post(path, body)
            assert answer.status_code == 422, (path, key, value, answer.text)
            assert key in answer.json()["detail"]
            assert dict(shared.opts.data) == stored


def test_models_folder_is_the_owners_where_others_reach_the_server(webui, stored, monkeypatch):
    from modules import shared

    asked = {"control_net_models_path": "/etc"}
    for is_shared, status in ((True, 422), (False, 200)):
        monkeypatch.setattr(shared.cmd_opts, "disable_extension_access", is_shared)
        answer = webui.post("/sdapi/v1/txt2img", request(override_settings=asked, steps=1))
        assert answer.status_code == status
        assert webui.post(OPTIONS, asked).status_code == status
    assert shared.opts.control_net_models_path == "/etc"


def test_settings_as_they_are_may_be_sent_back(webui, stored):
    from modules import shared

    assert webui.post(OPTIONS, webui.get(OPTIONS).json()).status_code == 200
    assert webui.post(OPTIONS, {"control_net_unit_count": 4}).status_code == 200
    assert shared.opts.control_net_unit_count == 4
    assert webui.post(OPTIONS, {"control_net_detectedmap_dir": "maps"}).status_code == 200


def test_maps_are_saved_where_the_request_may_write_and_nowhere_else(webui, stored, tmp_path):
    from modules import shared

    shared.opts.data["control_net_detectmap_autosaving"] = True
    outputs, elsewhere = tmp_path / "outputs", tmp_path / "elsewhere"
    shared.opts.data["outdir_samples"] = str(outputs)
    asked = request(unit(module="invert"), steps=1)
    below = {"control_net_detectedmap_dir": str(outputs / "own")}
    webui.txt2img(**asked, override_settings=below)
    assert [path.name for path in outputs.iterdir()] == ["own"]
    shared.opts.data["control_net_detectedmap_dir"] = str(elsewhere)  # the owner's word
    webui.txt2img(**asked)
    assert [path.name for path in elsewhere.iterdir()] == ["invert"]


def test_maps_of_a_job_that_names_a_folder_itself_stay_below_the_outputs(webui, stored, tmp_path):
    """Other extensions have routes of their own, and hand over what their clients ask for."""
    from modules import shared
    from neighbours import process, processing_of

    shared.opts.data["control_net_detectmap_autosaving"] = True
    override = {"control_net_detectedmap_dir": str(tmp_path / "elsewhere")}
    p = processing_of(unit(module="invert"), steps=1, override_settings=override)
    p.outpath_samples = str(tmp_path / "outputs")
    made = process(p)
    assert "map could not be saved" in made.comments
    assert "map could not be saved" in made.extra_generation_params["ControlNet notes"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["file in the way", "disk"])
def test_maps_that_cannot_be_saved_are_said_and_the_picture_is_there(
    webui, stored, tmp_path, monkeypatch, fault
):
    from modules import images, shared

    shared.opts.data["control_net_detectmap_autosaving"] = True
    shared.opts.data["outdir_samples"] = str(tmp_path)
    if fault == "disk":

        def full(*_args: Any, **_named: Any) -> None:
            raise OSError(28, "No space left on device", str(tmp_path))

        monkeypatch.setattr(images, "save_image", full)
    else:
        (tmp_path / "detected_maps").write_text("a file")
    answer = webui.txt2img(**request(unit(module="invert"), steps=1))
    notes = answer.info["extra_generation_params"]["ControlNet notes"]
    assert "unit 0: its detected map could not be saved" in notes
    assert str(tmp_path) not in answer.raw["info"]
    assert len(answer.images) == 2


REFUSALS = {
    "model": (unit(model="absent"), 404),
    "damaged": (unit(model="damaged"), 422),
    "picture by path": (unit(image="/etc/hostname"), 422),
    "output folder": (unit(input_mode="batch", batch_images=["x"], output_dir="/etc/x"), 422),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_request_names_no_folder_and_prints_one_line(webui, caplog, capfd, case):
    from modules import paths

    asked, status = REFUSALS[case]
    with caplog.at_level(logging.INFO):
        answer = webui.post("/sdapi/v1/txt2img", request(asked))
    assert answer.status_code == status, answer.text
    for folder in (str(paths.data_path), str(paths.script_path), str(Path.home())):
        assert folder.rstrip("/") + "/" not in answer.text
    assert "Traceback" not in capfd.readouterr().err
    told = [r for r in caplog.records if "refused" in r.getMessage()]
    assert len(told) == 1
    assert not any(record.exc_info for record in caplog.records)


def test_refusal_is_of_its_own_class_and_of_the_one_that_the_host_answers_quietly(webui):
    from fastapi import HTTPException
    from modules import paths
    from neighbours import process, processing_of

    from lib_controlnet.host import clients

    with pytest.raises(UnitError, match="no input image") as raised:
        process(processing_of(unit(image=None)))
    assert isinstance(raised.value, HTTPException)
    assert (raised.value.status_code, str(raised.value)) == (422, raised.value.detail)
    job = processing_of(unit(image=None))
    job.is_api = False
    with pytest.raises(UnitError) as raised:
        process(job)
    assert not isinstance(raised.value, HTTPException), "the page shows errors as they are"
    text = f"in {paths.data_path}/models/x y, '/srv/a/b.txt'. See /controlnet/detect or and/or"
    shown = "in models/x y, 'b.txt'. See /controlnet/detect or and/or"
    assert clients.public(text) == shown
    assert clients.public(r"C:\Users\me\x.png: no") == "x.png: no"
    assert issubclass(UnitError, ControlNetError)


def test_a_generation_after_all_that_is_as_before(webui, plain):
    assert np.array_equal(first(webui.txt2img(**request())), plain)
