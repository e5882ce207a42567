"""What the embedded host's frame does to an extension: loading, events, arguments, reload."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

FEW = {"prompt": "a red circle", "steps": 2, "width": 64, "height": 64, "seed": 1}
EVALUATION = ["cfg_denoiser", "cfg_denoised", "cfg_after_cfg"]
GENERATION = [
    "setup",
    "before_process",
    "process",
    "before_process_batch",
    "after_extra_networks_activate",
    "process_batch",
    "process_before_every_sampling",
    *EVALUATION,
    *EVALUATION,
    "post_sample",
    "postprocess_batch",
    "postprocess_batch_list",
    "postprocess_image",
    "postprocess_maskoverlay",
    "postprocess_image_after_composite",
    "postprocess",
]


class Probe:
    """The probe extension as the running host knows it."""

    def __init__(self, host: Any, folder: Path, reload_events: list[tuple[str, dict]]) -> None:
        self.host = host
        self.folder = folder
        self.reload_events = reload_events

    @property
    def package(self) -> Any:
        return sys.modules["probe_pkg"]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.package.events]

    def details(self, name: str) -> dict:
        return next(details for event, details in self.package.events if event == name)

    def generate(self, args: list | None = None, **fields: Any) -> Any:
        scripts = (
            {} if args is None else {"alwayson_scripts": {"PROBE of the host": {"args": args}}}
        )
        return self.host.txt2img(**FEW, **scripts, **fields)


@pytest.fixture(scope="module")
def installed(host: Any) -> Iterator[Probe]:
    """The host after `Reload UI` found the probe extension; reloaded without it afterwards."""
    from modules import paths_internal

    from tests.host import probe_extension

    folder = probe_extension.write(Path(paths_internal.extensions_dir))
    host.reload_ui()
    yield Probe(host, folder, list(sys.modules["probe_pkg"].events))
    shutil.rmtree(folder)
    shutil.rmtree(folder.parent / "the-early-one")
    host.reload_ui()


@pytest.fixture
def probe(installed: Probe) -> Iterator[Probe]:
    """The probe with an empty record."""
    package = installed.package
    for record in (package.events, package.raise_in, package.mutate):
        record.clear()
    yield installed
    for record in (package.events, package.raise_in, package.mutate):
        record.clear()


def error_of(call: Any) -> tuple[int, dict]:
    import embedded

    with pytest.raises(embedded.ApiError) as caught:
        call()
    return caught.value.status, caught.value.body


def test_script_file_loaded_by_path_outside_sys_modules(probe: Probe) -> None:
    from modules import scripts

    load = probe.package.loads[0]
    assert load["name"] == "probe.py"
    assert load["path"][0] == str(probe.folder)
    assert load["basedir"] == str(probe.folder)
    assert "probe.py" not in sys.modules
    found = [data for data in scripts.scripts_data if data.path == load["file"]]
    assert {data.script_class.__name__ for data in found} == {"Probe", "Selectable"}
    assert all(data.script_class.__module__ == "probe.py" for data in found)
    assert all(data.basedir == str(probe.folder) for data in found)


def test_sys_path_is_replaced_only_while_the_file_runs(probe: Probe) -> None:
    assert str(probe.folder) not in sys.path
    assert "/added/by/the/probe" not in sys.path
    assert importlib.import_module("probe_pkg.later").value == 7
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("probe_other")


def test_broken_script_file_is_reported_and_skipped(probe: Probe) -> None:
    from modules import errors

    messages = [str(record["exception"]) for record in errors.get_exceptions()]
    assert any("a_package_that_is_missing" in text for text in messages)
    assert probe.host.get("/sdapi/v1/scripts").json()["txt2img"].count("probe of the host") == 1


def test_extension_has_canonical_name_of_metadata(probe: Probe) -> None:
    from modules import extensions

    found = extensions.find_extension(str(probe.folder / "scripts" / "probe.py"))
    assert found is not None
    assert (found.name, found.canonical_name) == ("probe", "probe-canonical")
    listed = {x["name"] for x in probe.host.get("/sdapi/v1/extensions").json()}
    assert {"probe", "the-early-one", "sd-webui-controlnet"} <= listed


def test_metadata_before_moves_scripts_of_an_extension(probe: Probe) -> None:
    from modules import scripts

    names = [file.filename for file in scripts.list_scripts("scripts", ".py")]
    assert names.index("early.py") < names.index("probe.py") < len(names)
    assert names.index("broken.py") < names.index("probe.py")


def test_files_for_the_browser_are_listed_with_their_times(probe: Probe) -> None:
    from modules import ui_gradio_page

    html = ui_gradio_page.javascript_html()
    classic, module = html.index("probe.js?"), html.index("probe.mjs?")
    assert html.index("host.js?") < classic < module
    assert '<script type="module" src="file=' in html
    assert f"{probe.folder}/style.css?" in ui_gradio_page.css_html()


def test_ui_called_three_times_per_tab_with_one_api(probe: Probe) -> None:
    calls = [details for name, details in probe.reload_events if name == "ui"]
    for tab in ("txt2img", "img2img"):
        blocks = [details["blocks"] for details in calls if details["tab"] == tab]
        assert len(blocks) == 3
        assert blocks[0] != blocks[1] == blocks[2], "the second and third call share a throwaway"


def test_events_of_start_in_order(probe: Probe) -> None:
    names = [name for name, _ in probe.reload_events if name != "ui"]
    assert names == ["ui_settings", "button", "before_ui", "app_started"]


def test_events_of_a_generation_in_order(probe: Probe) -> None:
    probe.generate(sampler_name="Euler")
    assert probe.names == GENERATION
    expected = {
        "before_process_batch": ["batch_number", "prompts", "seeds", "subseeds"],
        "after_extra_networks_activate": [
            "batch_number", "extra_network_data", "prompts", "seeds", "subseeds",
        ],
        "process_batch": ["batch_number", "prompts", "seeds", "subseeds"],
        "process_before_every_sampling": ["c", "noise", "uc", "x"],
        "postprocess_batch": ["batch_number", "images"],
        "postprocess_batch_list": ["batch_number"],
    }  # fmt: skip
    for name, kwargs in expected.items():
        assert probe.details(name)["kwargs"] == kwargs, name
    assert probe.details("cfg_denoiser")["rows"] == 2


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        pytest.param(None, (1, "two", "b"), id="defaults are component values, index types too"),
        pytest.param([5], (5, "two", "b"), id="fewer"),
        pytest.param([5, "x", 0, "surplus", "more"], (5, "x", 0), id="surplus ignored"),
        pytest.param([None, {"a": 1}, []], (None, {"a": 1}, []), id="no validation"),
    ],
)
def test_api_arguments_fill_the_scripts_slice(probe: Probe, given: Any, seen: tuple) -> None:
    answer = probe.generate(given)
    for name in ("setup", "before_process", "process", "postprocess", "post_sample"):
        assert probe.details(name)["args"] == seen, name
    if seen[0] is not None:
        assert f"Probe number: {seen[0]}" in answer.info["infotexts"][0]


@pytest.mark.parametrize("method", ["setup", "before_process", "process", "postprocess_image"])
def test_exception_in_a_script_method_is_swallowed(probe: Probe, method: str, capfd: Any) -> None:
    expected = np.asarray(probe.generate().images[0])
    probe.package.events.clear()
    probe.package.raise_in.add(method)
    found = np.asarray(probe.generate().images[0])
    assert probe.names == GENERATION, "later events still come"
    assert np.array_equal(found, expected)
    assert f"*** Error running {method}: " in capfd.readouterr().err


def test_exception_in_a_callback_is_swallowed(probe: Probe, capfd: Any) -> None:
    probe.package.raise_in.add("cfg_denoiser")
    probe.generate()
    assert probe.names == GENERATION
    assert "*** Error executing callback cfg_denoiser_callback for " in capfd.readouterr().err


def test_exception_in_sampling_reaches_the_api_and_postprocess_is_not_called(
    probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import progress, sd_samplers_common, shared

    def explode(*_args: Any, **_kwargs: Any) -> None:
        msg = "the sampler fails"
        raise ArithmeticError(msg)

    monkeypatch.setattr(sd_samplers_common.Sampler, "launch_sampling", explode)
    status, body = error_of(lambda: probe.generate(force_task_id="task(left-behind)"))
    assert status == 500
    assert body == {
        "error": "ArithmeticError", "detail": "", "body": "", "errors": "the sampler fails",
    }  # fmt: skip
    assert "postprocess" not in probe.names
    assert shared.state.job == ""
    assert progress.current_task == "task(left-behind)", "the API does not finish a failed task"


def test_script_of_the_list_runs_with_its_arguments_and_its_error_is_seen(probe: Probe) -> None:
    status, body = error_of(
        lambda: probe.generate(script_name="probe IN the list", script_args=["given"])
    )
    assert (status, body["errors"]) == (500, "the script in the list fails")
    assert probe.details("run")["args"] == ("given",)


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        pytest.param(
            {"alwayson_scripts": {"nobody": {"args": []}}}, 422, "Script 'nobody' not found",
            id="unknown always-on script",
        ),
        pytest.param(
            {"alwayson_scripts": {"probe in the list": {"args": []}}}, 422,
            "Cannot have a selectable script in the always on scripts params", id="selectable",
        ),
        pytest.param(
            {"script_name": "nobody"}, 422, "Script 'nobody' not found", id="unknown script",
        ),
    ],
)  # fmt: skip
def test_requests_that_ask_for_what_is_not_there(
    probe: Probe, fields: dict, status: int, text: str
) -> None:
    found, body = error_of(lambda: probe.host.txt2img(**FEW, **fields))
    assert (found, body["detail"]) == (status, text)
    assert probe.names == []


def test_img2img_without_a_picture_is_404(probe: Probe) -> None:
    status, body = error_of(lambda: probe.host.img2img(**FEW))
    assert (status, body["detail"]) == (404, "Init image not found")


def test_request_objects_are_shared_with_the_echo(probe: Probe) -> None:
    """A script that puts an array into the request's dict breaks the answer, as in the WebUI."""
    unit = {"image": None}
    echoed = probe.generate([unit]).parameters["alwayson_scripts"]["PROBE of the host"]["args"]
    assert echoed == [unit]
    probe.package.mutate.append(np.zeros(2))
    assert error_of(lambda: probe.generate([unit]))[0] == 500


def test_only_overridden_methods_of_the_class_are_called(probe: Probe) -> None:
    from modules import scripts

    runner = scripts.scripts_txt2img
    called = {script.title() for script in runner.ordered_scripts("before_hr")}
    assert "Probe of the Host" not in called
    runner.before_hr(SimpleNamespace(script_args=(0,) * 99))
    assert "instance attribute" not in probe.names


def test_missing_script_arguments_are_a_swallowed_error(probe: Probe, capfd: Any) -> None:
    from modules import scripts

    scripts.scripts_txt2img.process(SimpleNamespace(script_args={}))
    assert "process" not in probe.names
    assert "Error running process: " in capfd.readouterr().err


def test_reload_ui_executes_files_again_and_keeps_packages(probe: Probe) -> None:
    from modules import script_callbacks, scripts

    package, loads = probe.package, len(probe.package.loads)
    old = [d.script_class for d in scripts.scripts_data if d.script_class.__name__ == "Probe"]
    old_app = probe.host.app
    probe.host.reload_ui()
    assert probe.package is package
    assert len(package.loads) == loads + 1
    new = [d.script_class for d in scripts.scripts_data if d.script_class.__name__ == "Probe"]
    assert len(new) == len(old) == 1
    assert new[0] is not old[0]
    order = [name for name in probe.names if name != "ui"]
    assert order == [
        "before_reload", "unloaded second", "unloaded first",
        "ui_settings", "button", "before_ui", "app_started",
    ]  # fmt: skip
    assert probe.details("app_started")["app"] == id(probe.host.app) != id(old_app)
    registered = script_callbacks.callback_map["callbacks_cfg_denoised"]
    assert sum(c.name.startswith("probe-canonical/") for c in registered) == 1


def test_callbacks_are_removed_by_file_and_by_function(probe: Probe) -> None:
    from modules import script_callbacks, scripts

    def count() -> int:
        lists = script_callbacks.callback_map.values()
        return sum(c.name.startswith("probe-canonical/") for callbacks in lists for c in callbacks)

    def mine(_params: Any) -> None:
        """A callback of this file."""

    before = count()
    script_callbacks.on_cfg_denoiser(mine)
    callbacks = script_callbacks.callback_map["callbacks_cfg_denoiser"]
    assert callbacks[-1].callback is mine
    script_callbacks.remove_callbacks_for_function(mine)
    assert all(c.callback is not mine for c in callbacks)
    module = next(d.module for d in scripts.scripts_data if d.script_class.__name__ == "Probe")
    assert before == 10
    module.unregister()
    assert count() == 0
    probe.host.reload_ui()
    assert count() == before


def test_preload_keeps_flags_added_before_its_error(probe: Probe, capfd: Any) -> None:
    from modules import script_loading

    parser = argparse.ArgumentParser()
    parser.add_argument("--port")
    script_loading.preload_all(parser)
    flags = parser._option_string_actions
    assert "--probe-first" in flags
    assert "--probe-later" not in flags
    assert "Error running preload() for " in capfd.readouterr().err


def test_installer_runs_in_a_process_that_can_import_launch(
    probe: Probe, capfd: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, root: Path
) -> None:
    from modules import launch_utils

    monkeypatch.chdir(tmp_path)
    launch_utils.run_extension_installer(str(probe.folder))
    lines = capfd.readouterr().out.splitlines()
    assert "installed: True False" in lines
    assert "run: 42" in lines
    assert f"python path: {root / 'minihost'}" in lines


def test_paste_casts_to_the_type_of_the_component(probe: Probe) -> None:
    from modules import infotext_utils

    text = (
        "a circle, red\nand blue\nNegative prompt: bad\nSteps: 7, Sampler: Euler a, CFG scale: 3.5,"
        ' Seed: 9, Size: 64x128, Probe number: 12, Quoted: "a: b, c"'
    )
    params = infotext_utils.parse_generation_parameters(text)
    assert params["Prompt"] == "a circle, red\nand blue"
    assert (params["Size-1"], params["Size-2"], params["Quoted"]) == ("64", "128", "a: b, c")
    fields = infotext_utils.paste_fields["txt2img"]["fields"]
    values = infotext_utils.pasted_values(fields, params)
    by_id = {
        getattr(field.component, "elem_id", None): value.get("value")
        for field, value in zip(fields, values, strict=True)
    }
    assert by_id["txt2img_prompt"] == "a circle, red\nand blue"
    assert (by_id["txt2img_width"], by_id["txt2img_height"]) == (64, 128)
    assert by_id["txt2img_steps"] == 7
    assert by_id["script_txt2img_probe_of_the_host_number"] == 12


def test_infotext_of_a_request_fills_fields_and_script_arguments(probe: Probe) -> None:
    infotext = "a square\nSteps: 3, CFG scale: 2.5, Seed: 5, Size: 64x64, Probe number: 8"
    answer = probe.host.txt2img(infotext=infotext, steps=2)
    assert answer.info["cfg_scale"] == 2.5
    assert answer.info["steps"] == 2, "a field given in the request wins"
    assert answer.info["all_prompts"] == ["a square"]
    assert probe.details("process")["args"][0] == 8
