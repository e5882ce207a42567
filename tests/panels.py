"""A panel built without a host: a runtime, widgets by id, pictures as a browser sends them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from lib_controlnet.detect.stopping import StoppedRuns
from lib_controlnet.families import FileFacts, Refusal, look_into
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.prepare.detection import detect_unit
from lib_controlnet.prepare.inputs import ChosenPicture, PictureSource
from lib_controlnet.presets.store import Presets
from lib_controlnet.settings import DEFAULTS
from lib_controlnet.ui.panel import build_panel
from lib_controlnet.ui.unit_value import UnitValue
from lib_controlnet.units.batch import BatchSource

CANNY = "control_demo_canny [e3b0c442]"

FOLLOWING = 8
"""Widgets that follow a preprocessor; those of families stand behind them."""


@dataclass
class FakeRuntime:
    """The runtime interface over a real catalog and real preprocessors."""

    catalog: Catalog
    units: int = 3
    options: dict[str, Any] = field(default_factory=dict)
    queue: bool = True
    saved: dict[str, str] = field(default_factory=dict)
    refused: dict[Path, Refusal] = field(default_factory=dict)
    checkpoint: str = ""
    waiting: frozenset[Path] = frozenset()
    own_canvas: Any = None
    presets: Presets = field(default_factory=lambda: Presets(lambda: Path("no-presets")))
    stopped_previews: StoppedRuns = field(default_factory=StoppedRuns)

    def option(self, key: str) -> object:
        return self.options.get(key, DEFAULTS[key])

    def unit_count(self) -> int:
        return self.units

    def refusals(self) -> Any:
        return self.refused.get

    def find_base(self) -> None:
        """No checkpoint is loaded."""

    def checkpoint_name(self) -> str:
        return self.checkpoint

    def facts(self, path: Path) -> FileFacts:
        return look_into(path, None)[0]

    def look_into(self, paths: Iterable[Path], patience: float = 0) -> frozenset[Path]:
        return self.waiting & frozenset(paths)

    def canvas(self) -> Any:
        return self.own_canvas

    def has_queue(self) -> bool:
        return self.queue

    def read_saved_default(self, key: str) -> str | None:
        return self.saved.get(key)

    def report_to(self, listener: Any, is_stopped: Any = bool) -> Any:
        return nullcontext()

    def batch_source(self) -> BatchSource:
        return BatchSource(folders=True)

    def refresh_models(self) -> None:
        self.catalog.refresh()

    def detect_unit(self, choice: ChosenPicture) -> Any:
        ignore = bool(self.option("controlnet_ignore_noninpaint_mask"))
        return detect_unit(choice, PictureSource(ignore_masks=ignore)).detection


def data_url(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def build(runtime: FakeRuntime, tab: str = "txt2img") -> tuple[gr.Blocks, list[UnitValue]]:
    with gr.Blocks(analytics_enabled=False) as demo:
        units = build_panel(tab == "img2img", tab, runtime)
    return demo, units


def by_id(demo: gr.Blocks) -> dict[str, Any]:
    return {block.elem_id: block for block in demo.blocks.values() if block.elem_id}
