"""A stand-in for AnimateDiff: its own modules, what it does to units, and its windows of frames."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from neighbours import Forward, Frames, controlnet_script, rows_of
from torch import Tensor

UTILS = "scripts.animatediff_utils"
BATCH_TAB = "scripts.animatediff_i2ibatch"


@dataclass
class AnimateDiff:
    """AnimateDiff on one page.

    Attributes:
        length: frames, which it makes the host's batch size; at most so many control pictures.
        enable: its checkbox.
        video: folder of frames for units without a picture (its video to video).
        claims: whether it marks the units whose batch it takes over.
        is_i2i_batch: set by ControlNet in the batch tab of img2img.
        batch_calls: arguments with which its own batch was called.
    """

    length: int
    enable: bool = True
    video: str | None = None
    claims: bool = True
    is_i2i_batch: bool = False
    batch_calls: list[Any] = field(default_factory=list)

    def before_process(self, p: Any) -> None:
        """What its script does before ControlNet's `process`."""
        from scripts import external_code

        if not self.enable:
            return
        p.batch_size = self.length
        script = external_code.find_cn_script(p.scripts)
        for unit in p.script_args[script.args_from : script.args_to]:
            if unit.enabled:  # of a request, too, whose units would be dicts
                self.claim(unit)

    def claim(self, unit: Any) -> None:
        """Make a unit's batch its own."""
        mode = unit.input_mode.name
        if mode == "MERGE":
            assert unit.batch_input_gallery
        if self.video and (mode, unit.image) == ("SIMPLE", None):
            unit.input_mode = unit.input_mode.__class__.BATCH
            unit.batch_images = self.video
        folder, *lines = unit.batch_images.split("\n")  # whatever the mode
        if unit.input_mode.name != "BATCH" or not self.claims:
            return
        for line in lines:
            if line.startswith("mask:"):
                unit.batch_mask_dir = line.removeprefix("mask:").strip()
            if line.startswith("keyframe:"):
                unit.batch_keyframe_idx = line.removeprefix("keyframe:").strip()
        unit.batch_images = folder
        unit.animatediff_batch = True
        unit.batch_modifiers.append(lambda files, _p: files[: self.length])

    def batch(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Its replacement for the host's batch of img2img: all files are frames of one run."""
        from modules.processing import process_images
        from PIL import Image

        self.batch_calls.append((args, kwargs))
        p.init_images = [Image.open(path) for path in sorted(Path(args[0]).iterdir())]
        return process_images(p)


@contextmanager
def installed(animatediff: AnimateDiff, runner: Any) -> Iterator[None]:
    """AnimateDiff's modules are importable and its script runs before the others."""
    utils, tab = ModuleType(UTILS), ModuleType(BATCH_TAB)
    utils.get_animatediff_arg = lambda _p: animatediff  # type: ignore[attr-defined]
    tab.animatediff_i2i_batch = animatediff.batch  # type: ignore[attr-defined]
    before = runner.before_process

    def before_process(p: Any) -> None:
        animatediff.before_process(p)
        before(p)

    sys.modules |= {UTILS: utils, BATCH_TAB: tab}
    runner.before_process = before_process
    try:
        yield
    finally:
        del sys.modules[UTILS], sys.modules[BATCH_TAB]
        del runner.before_process


class OwnFrames(Frames):
    """Windows over the hints that the units bring themselves, picked by rows: cond, then uncond."""

    def __init__(self, windows: list[list[int]]) -> None:
        super().__init__(torch.empty(0), windows)
        self.given: list[tuple[int, ...]] = []
        self.used: list[tuple[int, ...]] = []

    def attach(self, _sampler: Any, forward: Forward) -> Forward:
        from scripts.hook import ControlModelType

        network = controlnet_script().latest_network
        params = [] if network is None else network.control_params
        special = (ControlModelType.IPAdapter, ControlModelType.Controlllite)
        assert not any(param.control_model_type in special for param in params)
        self.given += [tuple(param.hint_cond.shape) for param in params]

        def windowed(x: Tensor, sigma: Tensor, cond: Any) -> Tensor:
            half = x.shape[0] // 2
            out = torch.zeros_like(x)
            self.used = [tuple(param.hint_cond.shape) for param in params]
            for window in self.windows:
                rows = [*window, *(frame + half for frame in window)]
                self.select(params, rows)
                out[rows] = forward(x[rows], sigma[rows], cond=rows_of(cond, rows))
                self.put_back(params, rows)
            return out

        return windowed

    @staticmethod
    def select(params: list[Any], rows: list[int]) -> None:
        for param in params:
            for name in ("hint_cond", "hr_hint_cond"):
                hint = getattr(param, name)
                if hint is not None and hint.shape[0] > len(rows):
                    setattr(param, f"{name}_backup", hint)
                    setattr(param, name, hint[rows])

    @staticmethod
    def put_back(params: list[Any], rows: list[int]) -> None:
        for param in params:
            for name in ("hint_cond", "hr_hint_cond"):
                kept = getattr(param, f"{name}_backup", None)
                if kept is not None:
                    kept[rows] = getattr(param, name)
                    setattr(param, name, kept)
                    setattr(param, f"{name}_backup", None)
