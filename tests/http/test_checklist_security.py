"""Row 26 of the checklist: what requests from the network may not do."""

from __future__ import annotations

import base64
import io
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from checklist import DETECT, MODEL, ask, pictures, shapes
from PIL import Image


@pytest.fixture(scope="module")
def unit(codec: Any) -> dict[str, Any]:
    """A working unit."""
    return {"module": "canny", "model": MODEL, "image": codec.encode(shapes())}


def pickled() -> str:
    """A pickle that would run a command, as base64."""

    class Trap:
        def __reduce__(self) -> tuple:
            return os.system, ("touch pickled-trap",)

    return base64.b64encode(pickle.dumps(Trap())).decode()


def test_row_26_nothing_from_the_network_is_unpickled(webui: Any, unit: dict, root: Path) -> None:
    trap = pickled()
    unit = {**unit, "region_colour": "red"}
    for field in ("image", "mask", "effective_region_mask", "ipadapter_input", "region_map"):
        for value in (trap, [trap]):
            answer = ask(webui, {**unit, field: value})
            assert answer.status_code in (200, 422), answer.text[:300]
    assert webui.post(DETECT, {"controlnet_input_images": [trap]}).status_code == 422
    folders = [root, Path.cwd()]
    assert not any((folder / "pickled-trap").exists() for folder in folders)


@pytest.mark.parametrize("path", ["OWN", "/etc/hostname", "~/.bashrc", "C:\\windows\\win.ini"])
@pytest.mark.parametrize("field", ["image", "mask", "effective_region_mask", "region_map"])
def test_row_26_file_paths_are_refused(
    webui: Any, unit: dict, root: Path, field: str, path: str
) -> None:
    path = str(root / "docs" / "images" / "demo.jpg") if path == "OWN" else path
    module = "inpaint" if field == "mask" else "canny"
    sent = {**unit, "module": module, "model": "control_demo_inpaint", field: path}
    sent |= {"region_colour": "red"} if field == "region_map" else {}
    for answer in (ask(webui, sent), webui.post(DETECT, {"controlnet_input_images": [path]})):
        assert answer.status_code == 422
        told = answer.json()["detail"]
        # Text without a dot may be base64, and is then no picture.
        assert "not allowed here" in told or ("cannot be decoded" in told and "." not in path)


@pytest.mark.parametrize("field", ["batch_images", "batch_image_dir", "batch_mask_dir"])
def test_row_26_batch_folders_are_refused(webui: Any, unit: dict, root: Path, field: str) -> None:
    folder = str(root / "docs" / "images")
    sent = {**unit, "module": "inpaint", "input_mode": "batch", "batch_images": [unit["image"]]}
    if field == "batch_image_dir":
        sent.pop("batch_images")
    answer = ask(webui, {**sent, field: folder})
    assert answer.status_code == 422, answer.text[:300]
    assert "open a folder in the settings" in answer.json()["detail"]


def test_row_26_nothing_is_written_to_a_named_folder(
    webui: Any, unit: dict, tmp_path: Path
) -> None:
    target = tmp_path / "written"
    for more in ({}, {"input_mode": "batch", "batch_images": [unit["image"]]}):
        ask(webui, {**unit, "output_dir": str(target), **more})
    assert not target.exists()


def test_row_26_error_does_not_tell_whether_a_file_exists(webui: Any, unit: dict) -> None:
    def told(path: str) -> str:
        return ask(webui, {**unit, "image": path}).json()["detail"].replace(path, "")

    assert told("/etc/passwd.txt") == told("/etc/passwd-that-is-not-there.txt")


def test_row_26_message_handlers_of_the_page_look_at_the_origin(root: Path) -> None:
    for file in sorted((root / "javascript").glob("*.js")):
        text = file.read_text(encoding="utf-8")
        listeners = re.findall(r"addEventListener\(\s*[\"']message[\"']", text)
        assert not listeners or ".origin" in text, file.name


def test_row_26_picture_in_an_answer_carries_no_path(webui: Any, unit: dict) -> None:
    for text in pictures(webui, unit):
        info = Image.open(io.BytesIO(base64.b64decode(text))).info
        assert "/models/" not in str(info)
