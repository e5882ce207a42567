"""The import paths of other extensions: same objects by every route, and none that means Forge."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lib_controlnet.detect import preprocess
from lib_controlnet.interop import aliases, services
from lib_controlnet.interop import api as python_api

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "extensions.sd-webui-controlnet"
ROUTES = (
    "internal_controlnet.external_code",
    "scripts.external_code",
    f"{FOLDER}.scripts.external_code",
)
CLASSES = (
    *("ControlNetUnit", "ControlMode", "ResizeMode", "BatchOption", "InputMode"),
    *("Preprocessor", "PreprocessorParameter", "HiResFixOption"),
)
HELD = {
    "scripts.batch_hijack": ("InputMode",),
    "scripts.cldm": ("ControlNet",),
    "scripts.controlmodel_ipadapter": ("ImageEmbed",),
    "scripts.controlnet": ("Script",),
    "scripts.controlnet_ui.controlnet_ui_group": ("ControlNetUiGroup", "UiControlNetUnit"),
    "scripts.enums": (
        *("InputMode", "ControlModelType", "StableDiffusionVersion", "HiResFixOption"),
        *("ResizeMode", "ControlMode", "PuLIDMode", "ControlNetUnionControlType", "BatchOption"),
    ),
    "scripts.global_state": ("update_cn_models", "cn_preprocessor_modules"),
    "scripts.hook": ("ControlModelType", "UnetHook"),
    "scripts.ipadapter.ipadapter_model": ("ImageEmbed",),
    "scripts.logging": ("logger",),
    "scripts.supported_preprocessor": ("Preprocessor", "PreprocessorParameter"),
    "scripts.utils": ("resize_image_with_pad", "visualize_inpaint_mask"),
}


class Script:
    """Stands for the script's class."""


class UnetHook:
    """Stands for the view's class."""


def register(*roots: Path) -> None:
    aliases.register(roots or (ROOT,), {"Script": Script}, {"UnetHook": UnetHook})


@pytest.fixture
def paths() -> Iterator[None]:
    """The paths are registered in this test."""
    register()
    yield
    aliases.unregister()


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_gives_the_same_classes(paths: None, route: str) -> None:
    found = importlib.import_module(route, "external_code")
    assert found is python_api, "what a neighbour puts there would be seen by its route alone"
    for name in (*CLASSES, *python_api.__all__):
        assert getattr(found, name) is getattr(python_api, name)
    namespace: dict[str, Any] = {}
    exec(f"from {route} import *" if "-" not in route else "pass", namespace)
    if "-" not in route:
        assert namespace["ControlNetUnit"] is python_api.ControlNetUnit


@pytest.mark.parametrize("route", [*ROUTES, f"{FOLDER}.scripts.global_state"])
def test_route_answers_find_spec(paths: None, route: str) -> None:
    assert importlib.util.find_spec(route) is not None


def test_every_name_is_there_and_of_one_kind(paths: None) -> None:
    found = {path: importlib.import_module(path) for path in HELD}
    for path, names in HELD.items():
        for name in names:
            assert hasattr(found[path], name), f"{path}.{name}"
    group = found["scripts.controlnet_ui.controlnet_ui_group"]
    assert group.UiControlNetUnit is python_api.ControlNetUnit
    hook, enums = found["scripts.hook"], found["scripts.enums"]
    assert hook.ControlModelType is enums.ControlModelType
    assert hook.UnetHook is UnetHook
    assert found["scripts.controlnet"].Script is Script
    assert enums.InputMode is found["scripts.batch_hijack"].InputMode is python_api.InputMode


@pytest.mark.parametrize("path", [*HELD, "scripts.external_code", "internal_controlnet"])
def test_paths_work_in_import_statements(paths: None, path: str) -> None:
    parent, _, child = path.rpartition(".")
    namespace: dict[str, Any] = {}
    if parent:
        exec(f"from {parent} import {child} as found", namespace)
        assert namespace["found"] is sys.modules[path]
    exec(f"import {path}", namespace)
    assert eval(path, namespace) is sys.modules[path]


def test_folder_with_its_own_name_is_a_route_too(tmp_path: Path, paths: None) -> None:
    own = tmp_path / "extensions" / "my-controlnet-2"
    (own / "scripts").mkdir(parents=True)
    (own / "scripts" / "external_code.py").touch()
    register(own, tmp_path)
    for prefix in (FOLDER, "extensions.my-controlnet-2"):
        assert importlib.import_module(f"{prefix}.scripts.external_code") is python_api
        assert importlib.import_module(f"{prefix}.annotator.util").HWC3
    assert not [name for name in sys.modules if name.startswith(f"{tmp_path.parent.name}.")]


def test_registering_again_keeps_the_classes(paths: None) -> None:
    unit = importlib.import_module("scripts.external_code").ControlNetUnit
    kinds = importlib.import_module("scripts.hook").ControlModelType
    aliases.unregister()
    assert "scripts.external_code" not in sys.modules
    assert not any(name.startswith(FOLDER) for name in sys.modules)
    register()
    assert importlib.import_module("scripts.external_code").ControlNetUnit is unit
    assert importlib.import_module("scripts.hook").ControlModelType is kinds


def test_module_of_another_extension_stays(paths: None, monkeypatch: pytest.MonkeyPatch) -> None:
    aliases.unregister()
    theirs = ModuleType("scripts.utils")
    monkeypatch.setitem(sys.modules, "scripts.utils", theirs)
    register()
    assert sys.modules["scripts.utils"] is theirs
    assert importlib.import_module("scripts.hook").UnetHook is UnetHook
    aliases.unregister()
    assert sys.modules["scripts.utils"] is theirs


@pytest.mark.parametrize("file", ["utils.py", "utils/__init__.py"])
def test_script_that_another_extension_has_on_the_path_stays_its(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where hosts have the folders of all extensions on the path at once."""
    script = tmp_path / "scripts" / file
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    register()
    try:
        assert "scripts.utils" not in sys.modules
        assert importlib.import_module("scripts.hook").UnetHook is UnetHook
        assert importlib.import_module(f"{FOLDER}.scripts.utils").resize_image_with_pad
    finally:
        aliases.unregister()


def test_annotator_of_another_extension_stays(paths: None, monkeypatch: pytest.MonkeyPatch) -> None:
    aliases.unregister()
    declarations = SimpleNamespace(__name__="controlnet_annotator.registry")
    monkeypatch.setattr(preprocess, "declarations", declarations)
    register()
    assert "annotator.util" not in sys.modules
    assert importlib.import_module(f"{FOLDER}.annotator.util").HWC3


def test_nothing_looks_like_forge(paths: None) -> None:
    """The tests by which neighbours decide, each as it is written there."""
    for statement in (
        "from lib_controlnet import external_code",  # Replacer
        "from lib_controlnet.external_code import ResizeMode",  # Replacer, earlier
        "from lib_controlnet import global_state",  # lama cleaner masked content
        "from lib_controlnet import external_code, global_state",  # ADetailer
        "import lib_controlnet; from lib_controlnet.global_state import get_preprocessor",
        "from lib_controlnet.controlnet_ui.controlnet_ui_group import ControlNetUiGroup",
        "import modules_forge.forge_util",
    ):
        with pytest.raises(ImportError):
            exec(statement, {})
    for name in ("external_code", "global_state", "controlnet_ui", "utils"):
        assert importlib.util.find_spec(f"lib_controlnet.{name}") is None


def test_row_14_hwc3_and_resize_image_with_pad(paths: None) -> None:
    from scripts.utils import resize_image_with_pad

    from annotator.util import HWC3

    grey = np.full((40, 20), 9, np.uint8)
    assert HWC3(grey).shape == HWC3(grey[..., None]).shape == (40, 20, 3)
    assert (HWC3(np.zeros((4, 4, 4), np.uint8)) == 255).all()
    padded, remove_pad = resize_image_with_pad(grey, 100)
    assert padded.shape == (256, 128, 3)
    assert remove_pad(padded).shape == (200, 100, 3)


def test_global_state_lists_models_and_runs_preprocessors(
    paths: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[int] = []
    files = {"control_canny [01234567]": SimpleNamespace(path=Path("x/control_canny.pth"))}
    runtime = SimpleNamespace(
        catalog=SimpleNamespace(files=files, names=lambda: list(files)),
        refresh_models=lambda: scans.append(1),
    )
    monkeypatch.setattr(services, "_PROVIDERS", [lambda: runtime])
    state = importlib.import_module(f"{FOLDER}.scripts.global_state", "global_state")
    state.update_cn_models()
    assert scans == [1]
    assert list(state.cn_models) == ["None", "control_canny [01234567]"]
    assert state.cn_models_names["control_canny"] == "control_canny [01234567]"
    assert state.reverse_preprocessor_aliases["inpaint_global_harmonious"] == "inpaint"
    assert state.get_module_basename("inpaint_global_harmonious") == "inpaint"
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found, is_image = state.cn_preprocessor_modules["canny"](image, res=64, thr_a=50, thr_b=90)
    expected = preprocess.run_preprocessor("canny", image, 64, (50, 90)).image
    assert is_image
    assert np.array_equal(found, expected)
    assert python_api.global_state is sys.modules["scripts.global_state"]
    with pytest.raises(AttributeError, match="no attribute 'no_such'"):
        state.no_such


def test_row_13_ui_group_takes_what_neighbours_set(paths: None) -> None:
    import copy

    from scripts.controlnet_ui.controlnet_ui_group import ControlNetUiGroup

    kept = copy.copy(ControlNetUiGroup.a1111_context)
    ControlNetUiGroup.a1111_context.img2img_submit_button = "theirs"
    assert len(ControlNetUiGroup.all_ui_groups) == 0
    ControlNetUiGroup.a1111_context = copy.copy(kept)
    assert ControlNetUiGroup.a1111_context.img2img_submit_button is None


EARLY = """
import importlib, importlib.util, sys
sys.path[:] = [path for path in sys.path if path]
sys.path.insert(0, {webui!r})
before = list(sys.path)
found = importlib.import_module("extensions.sd-webui-controlnet.scripts.external_code")
assert sys.path == before
import lib_controlnet.interop.api as api
assert found is api and found.ControlNetUnit(weight=0.5).weight == 0.5
spec = importlib.util.spec_from_file_location("external_code.py", {file!r})
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
assert script.ControlNetUnit is api.ControlNetUnit and sys.path == before
from pathlib import Path
import lib_controlnet.interop.aliases as legacy
legacy.register((Path({root!r}),), {{}}, {{}})
assert importlib.import_module("scripts.external_code") is api
assert legacy.__file__.startswith({root!r})
assert "pydantic" not in sys.modules and "gradio" not in sys.modules
"""


def test_import_by_path_before_the_scripts_are_loaded_gives_the_same_module(tmp_path: Path) -> None:
    """An extension earlier in the alphabet imports the file through the WebUI's folder."""
    folder = tmp_path / "extensions" / "sd-webui-controlnet"
    for name in ("scripts", "lib_controlnet", "annotator"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    file = folder / "scripts" / "external_code.py"
    code = EARLY.format(root=str(folder), webui=str(tmp_path), file=str(file))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
