"""A WebUI that finds the files of a local server in the lists of what there is to download."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub_server import Hub
from published_rows import REPOSITORY, group, row

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "minihost" / "assets" / "control_demo_canny.safetensors"
"""What is downloaded, under another name."""
NAME = "control_brought_canny.safetensors"
XL = "control_brought_canny_xl.safetensors"
WEIGHTS = "/teed.pth"
"""Where the server has the weights of the preprocessor TEED."""

SCRIPT = '''
"""Has the extension read another table of published models."""

from pathlib import Path

from modules import script_callbacks


def change(*_arguments):
    from lib_controlnet.files import published

    published.TABLE = Path(__file__).parents[1] / "published.json"
    published.list_published.cache_clear()


script_callbacks.on_app_started(change)
'''


def install(webui: Path) -> None:
    """Add two rows to the table that a WebUI reads, as an extension of it."""
    folder = webui / "extensions" / "downloads_probe"
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts" / "downloads_probe.py").write_text(SCRIPT, encoding="utf-8")
    table = json.loads((ROOT / "lib_controlnet/files/published.json").read_text(encoding="utf-8"))
    rows = row(NAME, MODEL.read_bytes()), row(XL, base="SDXL")
    table["repositories"].append(group(*rows))
    (folder / "published.json").write_text(json.dumps(table), encoding="utf-8")


@contextmanager
def environment(hub: Hub) -> Iterator[None]:
    """Have processes that are started in here download from a server, and from nowhere else."""
    hub.publish(REPOSITORY, NAME, MODEL.read_bytes())
    changes = {"HF_ENDPOINT": hub.url, "CONTROLNET_TEED_MODEL_URL": f"{hub.url}{WEIGHTS}"}
    before = dict(os.environ)
    os.environ.update(changes)
    os.environ.pop("HF_HUB_OFFLINE", None)
    try:
        yield
    finally:
        for name in (*changes, "HF_HUB_OFFLINE"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def forget(webui: Path) -> None:
    """Take away what was downloaded."""
    (webui / "models" / "ControlNet" / NAME).unlink(missing_ok=True)
    shutil.rmtree(webui / "weights", ignore_errors=True)
