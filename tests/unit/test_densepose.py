"""DensePose: its pictures against comfyui_controlnet_aux 1.1.5, and a small script in its place.

`data/poses/densepose.png` shows what that project's visualiser made of `pose_scenes.surfaces`,
Viridis above and Parula below, both still on black.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pose_scenes import picture, surfaces
from weights import weights_folder

from annotator import densepose
from annotator.registry import _BROKEN
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.errors import PreprocessorUnavailableError

WIDTH, HEIGHT = 160, 128
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "poses" / "densepose.png"
NAMES = {"densepose": (68, 1, 84), "densepose_parula": (0, 0, 0)}


class Tiny(torch.nn.Module):
    """One person on the left half of any picture; the brighter, the higher the part's number."""

    def forward(
        self, image: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        height, width = image.shape[1], image.shape[2]
        part = int(image.float().mean() / 255 * 24)
        coarse = torch.zeros(1, 2, 4, 4)
        coarse[:, 1] = 1
        fine = torch.zeros(1, 25, 4, 4)
        fine[:, part] = 1
        boxes = torch.tensor([[0.0, 0.0, width / 2.0, float(height)]])
        return boxes, coarse, fine, fine, fine


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A small script in the place of the published one, which needs no operator of torchvision."""
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    with weights_folder(tmp_path / "weights") as folder:
        path = folder / densepose.SCRIPT.places[0]
        path.parent.mkdir(parents=True)
        torch.jit.script(Tiny()).save(str(path))
        yield path


@pytest.mark.parametrize(
    ("detector", "half"), [(densepose.DensePose, 0), (densepose.DenseParula, 1)]
)
def test_people_are_painted_as_by_the_reference(detector: type, half: int) -> None:
    wanted = np.asarray(Image.open(GOLDEN))[half * HEIGHT :][:HEIGHT]
    found = surfaces(6, WIDTH, HEIGHT, people=3)
    labels = densepose.read_labels(found[:3], WIDTH, HEIGHT)
    painted = densepose.paint(labels, detector.colours, detector.background)
    body = labels > 0
    assert len(np.unique(labels)) > 10
    assert np.array_equal(painted[body], wanted[body])
    assert not wanted[~body].any()
    assert (painted[~body] == NAMES[detector.name]).all()


def test_box_beyond_the_edge_is_cut() -> None:
    boxes = torch.tensor([[-10.0, 20, 30, 200], [50, 60, 50, 90]])
    coarse, fine = torch.zeros(2, 2, 4, 4), torch.zeros(2, 25, 4, 4)
    coarse[:, 1], fine[:, 3] = 1, 1
    labels = densepose.read_labels((boxes, coarse, fine), 100, 80)
    wanted = np.zeros((80, 100), np.uint8)
    wanted[20:, :30] = 3
    assert np.array_equal(labels, wanted)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 96), (61, 83), (1, 3)], ids=str)
def test_script_runs_from_end_to_end(name: str, size: tuple[int, int], script: Path) -> None:
    given = np.full((*size, 3), 150, np.uint8)
    found = run_preprocessor(name, given, 64).image
    factor = 64 / min(size)
    height, width = (round(side * factor) for side in size)
    assert found.shape == (height, width, 3)
    padded = -(-width // 64) * 64
    maps = {"densepose": cv2.COLORMAP_VIRIDIS, "densepose_parula": cv2.COLORMAP_PARULA}
    level = np.array([[int(14 * 255 / 24)]], np.uint8)  # 150 of 255 is part 14
    colour = cv2.applyColorMap(level, maps[name])[0, 0, ::-1]
    assert (found[:, : padded // 2] == colour).all()
    assert (found[:, padded // 2 :] == NAMES[name]).all()


def test_damaged_script_is_named(script: Path) -> None:
    script.write_bytes(b"no script")
    with pytest.raises(PreprocessorUnavailableError, match=r"densepose_r50_fpn_dl\.torchscript"):
        run_preprocessor("densepose", picture(1, 64, 64), 64)


def test_without_torchvision_the_reason_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with weights_folder(tmp_path / "weights") as folder:
        path = folder / densepose.SCRIPT.places[0]
        path.parent.mkdir(parents=True)
        torch.jit.script(Tiny()).save(str(path))
        try:
            with pytest.raises(PreprocessorUnavailableError, match="nms does not exist"):
                run_preprocessor("densepose", picture(1, 64, 64), 64)
        finally:
            _BROKEN.pop("torchvision", None)
