"""Nothing of ours keeps the WebUI from starting, with its API and its page."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lib_controlnet.host.page import settings

SMALL = {"prompt": "x", "steps": 1, "width": 64, "height": 64}
OFF = {"alwayson_scripts": {"ControlNet": {"args": [{"enabled": False}]}}}


@pytest.fixture
def broken(host: Any) -> Iterator[Any]:
    """The host, started again as it was when the test is over."""
    from modules import shared

    stored = dict(shared.opts.data)
    yield host
    shared.opts.data.clear()
    shared.opts.data.update(stored)
    host.reload_ui()


def scripts(host: Any) -> list[str]:
    return [script["name"] for script in host.get("/sdapi/v1/script-info").json()]


def page() -> str:
    """The page that the browser gets, built anew; it has to be text that can be sent."""
    from modules import ui

    config = json.dumps(ui.create_ui().get_config_file(), ensure_ascii=False, default=str)
    return config.encode().decode()


def raising(text: str) -> Any:
    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError(text)

    return fail


@pytest.mark.parametrize("what", ["controlnet.py", "panel", "movie panel"])
def test_a_script_that_fails_leaves_the_rest(what: str, broken: Any, monkeypatch) -> None:
    place = {
        "controlnet.py": "host.runtime.Runtime.__init__",
        "panel": "ui.panel._batch_options",
        "movie panel": "ui.movie._unit",
    }[what]
    if what == "controlnet.py":
        # "Reload custom script bodies" would keep the old one; a start has none.
        monkeypatch.setattr("lib_controlnet.host.runtime.find_runtime", lambda: None)
    monkeypatch.setattr(f"lib_controlnet.{place}", raising("no <panel> today"))
    broken.reload_ui()
    names, shown = scripts(broken), page()
    assert "sampler" in names
    assert ("controlnet" in names) == (what != "controlnet.py")
    assert ("controlnet m2m" in names) == (what != "controlnet.py")
    assert ("RuntimeError: no &lt;panel&gt; today" in shown) == (what != "controlnet.py")
    body = SMALL if what == "controlnet.py" else SMALL | OFF
    assert broken.post("/sdapi/v1/txt2img", body).status_code == 200


@pytest.mark.skipif(os.name == "nt", reason="pipes and names of any bytes")
def test_odd_folders_files_and_settings_all_at_once(broken: Any, tmp_path: Path) -> None:
    """Each by itself is a row of tests/unit/test_start.py and test_catalog.py."""
    from modules import paths, shared

    models = Path(shared.models_path) / "ControlNet"
    kept = models.rename(tmp_path / "kept") if models.exists() else None
    hashes = Path(paths.data_path) / "cache" / "controlnet-hashes.json"
    hashes.unlink(missing_ok=True)
    try:
        models.symlink_to(models)
        os.mkfifo(hashes)
        odd = tmp_path / "odd models"
        odd.mkdir()
        os.mkfifo(odd / "pipe.safetensors")
        (odd / os.fsdecode(b"c\xe4nny.safetensors")).write_bytes(b"x")
        for item in settings.SETTINGS:
            shared.opts.data[item.key] = {"a": [1]}
        shared.opts.data |= {
            "control_net_models_path": f'"{odd}";~nobody-at-all;a\0b',
            "control_net_modules_path": "~nobody-at-all/x",
            "control_net_unit_count": "many",
        }
        broken.reload_ui()
        assert "controlnet" in scripts(broken)
        listed = broken.get("/controlnet/model_list").json()["model_list"]
        assert r"c\xe4nny [e3b0c442]" in listed
        assert not [name for name in listed if "pipe" in name]
        assert r"c\\xe4nny" in page()
        assert broken.get("/controlnet/settings").json() == {"control_net_unit_count": 3}
        assert broken.post("/sdapi/v1/txt2img", SMALL | OFF).status_code == 200
        unit = {"model": r"c\xe4nny", "module": "none", "image": PIXEL, "enabled": True}
        wanted = SMALL | {"alwayson_scripts": {"ControlNet": {"args": [unit]}}}
        answer = broken.post("/sdapi/v1/txt2img", wanted)
        assert answer.status_code == 422
        assert r"c\xe4nny.safetensors is damaged" in answer.json()["detail"]
    finally:
        models.unlink()
        hashes.unlink(missing_ok=True)
        if kept is not None:
            shutil.move(kept, models)


PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def test_the_button_disables_the_other_and_ends_the_program(broken: Any, monkeypatch) -> None:
    from modules import script_loading, shared

    path = Path(settings.__file__).with_name("conflicts.py")
    conflicts = script_loading.load_module(str(path))
    for is_watched, end in ((True, "restart"), (False, "stop")):
        done: list[str] = []
        restart = ModuleType("modules.restart")
        restart.is_restartable = partial(bool, is_watched)
        restart.restart_program = partial(done.append, "restart")
        restart.stop_program = partial(done.append, "stop")
        monkeypatch.setitem(sys.modules, "modules.restart", restart)
        monkeypatch.setattr(sys.modules["modules"], "restart", restart, raising=False)
        shared.opts.data["disabled_extensions"] = ["another"]
        conflicts.disable("sd_x")
        conflicts.disable("sd_x")
        assert json.loads(Path(shared.config_filename).read_text())["disabled_extensions"] == [
            *("another", "sd_x")
        ]
        assert done == [end, end]
    monkeypatch.setattr(shared.cmd_opts, "disable_extension_access", True, raising=False)
    with pytest.raises(PermissionError):
        conflicts.disable("sd_y")
    assert "sd_y" not in shared.opts.disabled_extensions
