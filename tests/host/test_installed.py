"""The extension in a WebUI's folder, between others that look for it while scripts load.

One process of its own: the working directory is the WebUI's, nothing of the repository but the
embedded host is importable, and the neighbours are extension folders before and behind ours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = "sd-webui-controlnet"
PARTS = ("scripts", "lib_controlnet", "annotator", "javascript")
FILES = ("metadata.ini", "install.py", "preload.py", "style.css")

EARLY = """
import importlib
from modules import scripts
try:
    from lib_controlnet import external_code, global_state
    FORGE = True
except ImportError:
    FORGE = False
CNET = importlib.import_module("extensions.sd-webui-controlnet.scripts.external_code", "x")
UNIT = CNET.ControlNetUnit
scripts.early = (FORGE, UNIT)
"""
COMPANION = """
import numpy as np
from internal_controlnet.external_code import Preprocessor, PreprocessorParameter
from scripts.utils import resize_image_with_pad

class Flat(Preprocessor):
    def __init__(self):
        super().__init__(name="depth_flat")
        self.tags = ["Depth"]
        self.slider_1 = PreprocessorParameter(
            label="Level", minimum=0, maximum=255, value=9, step=1, visible=True)

    def __call__(self, input_image, resolution, slider_1=None, **kwargs):
        image, remove_pad = resize_image_with_pad(input_image, resolution)
        return remove_pad(np.full_like(image, int(slider_1)))

Preprocessor.add_supported_preprocessor(Flat())
"""
RIVAL = """
from internal_controlnet.external_code import Preprocessor

class Rival(Preprocessor):
    def __call__(self, input_image, resolution, **kwargs):
        return input_image

Preprocessor.add_supported_preprocessor(Rival(name="canny"))
"""
LATE = """
from modules import scripts
try:
    from lib_controlnet import external_code
    FORGE = True
except ImportError:
    FORGE = False

class Late(scripts.Script):
    forge = FORGE

    def title(self):
        return "late"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def at_run_time(self):
        from scripts import external_code
        from scripts.controlnet_ui.controlnet_ui_group import ControlNetUiGroup
        from scripts.cldm import ControlNet
        from scripts.hook import ControlModelType
        from scripts.batch_hijack import InputMode
        from annotator.util import HWC3
        return external_code.ControlNetUnit
"""
AFTER = f"[scripts]\nAfter = {OURS}\n"
NEIGHBOURS = {
    "a-detailer": (EARLY, None),
    f"{OURS}-companion": (
        COMPANION,
        f"[Extension]\nRequires = {OURS}\n[scripts]\nAfter = {OURS}\n",
    ),
    f"{OURS}-rival": (RIVAL, f"[scripts]\nAfter = {OURS}\n"),
    "z-late": (LATE, None),
}
PROGRAM = """
import importlib, json, sys
sys.path[:] = [path for path in sys.path if path and "site-packages" in path or "lib/python" in path
               or path.endswith(".zip")]
sys.path[:0] = [{host!r}, {data!r}]
import embedded
host = embedded.start({data!r}, ["--disable-console-progressbars"])
from modules import scripts

def facts():
    forge, early_unit = scripts.early
    late = next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "late")
    api = importlib.import_module("extensions.sd-webui-controlnet.scripts.external_code")
    lists = host.get("/controlnet/module_list").json()
    own = next(s for s in scripts.scripts_txt2img.alwayson_scripts if s.title() == "ControlNet")
    return {{
        "early forge": forge,
        "late forge": late.forge,
        "same class": early_unit is late.at_run_time() is api.ControlNetUnit,
        "depth_flat": lists["module_list"].count("depth_flat"),
        "canny": [slider["name"] for slider in lists["module_detail"]["canny"]["sliders"]],
        "file": sys.modules[type(early_unit()).__module__].__file__,
        "module": type(own).__module__,
        "spec": importlib.util.find_spec(
            "extensions.sd-webui-controlnet.scripts.external_code") is not None,
        "on the path": [path for path in sys.path if "extensions" in path.split("webui")[-1]],
    }}

first = facts()
kept = scripts.early[1]
host.reload_ui()
second = facts()
print("FACTS" + json.dumps({{"first": first, "second": second, "kept": kept is scripts.early[1]}}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the process found, and what it printed."""
    webui = tmp_path_factory.mktemp("webui")
    ours = webui / "extensions" / OURS
    ours.mkdir(parents=True)
    for part in PARTS:
        shutil.copytree(ROOT / part, ours / part)
    for file in FILES:
        shutil.copy(ROOT / file, ours / file)
    for name, (script, metadata) in NEIGHBOURS.items():
        folder = webui / "extensions" / name
        (folder / "scripts").mkdir(parents=True)
        (folder / "scripts" / f"{name.replace('-', '_')}.py").write_text(script, encoding="utf-8")
        if metadata:
            (folder / "metadata.ini").write_text(metadata, encoding="utf-8")
    program = PROGRAM.format(host=str(ROOT / "minihost"), data=str(webui))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=webui,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.rpartition("FACTS")[2])
    return {**found, "stderr": done.stderr, "folder": str(ours)}


@pytest.fixture(params=["first", "second"], ids=["at the start", "after Reload UI"])
def facts(request: pytest.FixtureRequest, installed: dict) -> dict:
    return installed[request.param]


def test_neighbours_before_and_behind_do_not_take_the_host_for_forge(facts: dict) -> None:
    assert (facts["early forge"], facts["late forge"]) == (False, False)


def test_import_while_scripts_load_and_at_run_time_give_one_class(facts: dict) -> None:
    assert facts["same class"]
    assert facts["spec"]
    assert facts["on the path"] == [], "only its script files see an extension's folder"


def test_class_is_that_of_the_installed_copy_and_survives_a_reload(installed: dict) -> None:
    assert installed["kept"]
    assert Path(installed["first"]["file"]).is_relative_to(installed["folder"])
    assert installed["first"]["module"] == installed["second"]["module"] == "controlnet.py"


def test_companion_is_listed_once(facts: dict) -> None:
    assert facts["depth_flat"] == 1


def test_rival_disables_only_itself_with_a_sentence(facts: dict, installed: dict) -> None:
    assert facts["canny"] == ["Resolution", "Low Threshold", "High Threshold"]
    assert installed["stderr"].count("exists already, from ControlNet itself") == 2
