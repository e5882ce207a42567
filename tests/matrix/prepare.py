"""Put what the matrix needs into a WebUI's folder, or take it out again.

    python tests/matrix/prepare.py /path/to/stable-diffusion-webui
    python tests/matrix/prepare.py /path/to/stable-diffusion-webui --remove

Copies the probe into `extensions`, and writes the derived checkpoints and the demo models; with
`--probe` the probe alone, and a small random LaMa where there is none. Start the WebUI with `--api`
afterwards, then run `python dev.py test tests/matrix --webui-url URL`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "minihost", ".")]

import sdxl_models
import torch
from matrix import checkpoints
from random_weights import random_state

from annotator.lama import LAMA
from annotator.nets.lama import Lama, LamaParams

PROBE = Path(__file__).resolve().parent / "probe"
EXTENSION = "zz-matrix-probe"
"""Sorted behind the controls: its callbacks run after theirs."""
LIST = ".matrix-files"


def put_probe(webui: Path) -> Path:
    """Copy the probe; the folder that it is in."""
    target = webui / "extensions" / EXTENSION
    shutil.copytree(PROBE, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    _list(webui, target, [target])
    return target


def put_lama(webui: Path) -> list[Path]:
    """Write a small LaMa of random weights where the WebUI's own weight files lie."""
    path = webui / "models" / "ControlNetPreprocessor" / LAMA.folder / LAMA.name
    if path.exists():
        return []
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in Lama(LamaParams(8, 1)).state_dict().items()}
    torch.save(random_state(shapes, 1), path)
    return [path]


def put(webui: Path, with_models: bool = True) -> None:
    """Copy and write everything; what was there already stays and is not removed later.

    Args:
        webui: the folder that holds `extensions` and `models`.
        with_models: the demo models too, which the embedded host has of its own. Without, also
            the SDXL ones, which only that host loads.
    """
    target = put_probe(webui)
    folder, controls = webui / "models" / "Stable-diffusion", webui / "models" / "ControlNet"
    added = [target]
    clip = folder / f"{checkpoints.BASE}-clip"
    if not clip.exists():
        shutil.copytree(checkpoints.ASSETS / clip.name, clip)
        added.append(clip)
    added += checkpoints.write(folder)
    if with_models:
        added += _copy("demo.*", folder)
        added += _copy("control_demo_*.safetensors", controls)
    else:
        added += [
            *sdxl_models.write(folder, sdxl_models.NAMES),
            sdxl_models.write_control(controls),
            sdxl_models.write_union(controls),
        ]
    _list(webui, target, added)


def _list(webui: Path, target: Path, added: list[Path]) -> None:
    names = [path.relative_to(webui).as_posix() for path in added]
    (target / LIST).write_text("\n".join(names), encoding="utf-8")


def _copy(pattern: str, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    copied = []
    for source in checkpoints.ASSETS.glob(pattern):
        if not (folder / source.name).exists():
            shutil.copy(source, folder)
            copied.append(folder / source.name)
    return copied


def remove(webui: Path) -> None:
    """Take out what `put` added."""
    listed = webui / "extensions" / EXTENSION / LIST
    for name in reversed(listed.read_text(encoding="utf-8").splitlines()):
        path = webui / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("webui", type=Path, help="folder of the WebUI")
    parser.add_argument("--remove", action="store_true", help="take everything out again")
    parser.add_argument("--probe", action="store_true", help="for a WebUI with models of its own")
    options = parser.parse_args()
    if options.remove:
        remove(options.webui)
    elif options.probe:
        target = put_probe(options.webui)
        _list(options.webui, target, [target, *put_lama(options.webui)])
    else:
        put(options.webui)


if __name__ == "__main__":
    main()
