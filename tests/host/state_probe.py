"""Two probe extensions, one before ControlNet and one after it: tests decide what they do."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PLACES = ("early", "late")
SCRIPT_EVENTS = (
    "before_process",
    "process",
    "before_process_batch",
    "after_extra_networks_activate",
    "process_batch",
    "before_hr",
    "process_before_every_sampling",
    "post_sample",
    "postprocess_batch",
    "postprocess_batch_list",
    "postprocess_image",
    "postprocess_maskoverlay",
    "postprocess_image_after_composite",
    "postprocess",
)
CFG_EVENTS = ("cfg_denoiser", "cfg_denoised", "cfg_after_cfg")

PROBE_PACKAGE = '''
"""What a test wants to happen at an event: {(place, event): function}."""
hooks = {}


def fire(place, event, *args, **kwargs):
    hook = hooks.get((place, event))
    if hook is not None:
        hook(*args, **kwargs)
'''
PROBE_SCRIPT = """
from modules import script_callbacks, scripts
from state_probe_pkg import fire


class Probe(scripts.Script):
    def title(self):
        return "State probe {place}"

    def show(self, is_img2img):
        return scripts.AlwaysVisible


def method(event):
    return lambda self, *args, **kwargs: fire("{place}", event, *args, **kwargs)


for name in {events}:
    setattr(Probe, name, method(name))
for name in {callbacks}:
    getattr(script_callbacks, "on_" + name)(
        lambda params, name=name: fire("{place}", name, params)
    )
"""


def hooks() -> dict[tuple[str, str], Callable[..., None]]:
    """What happens at the probes' events: {(place, event): function}."""
    return sys.modules["state_probe_pkg"].hooks


def at_call(number: int, act: Callable[..., None]) -> Callable[..., None]:
    """A hook that acts at its n-th call, counted from 0, and only then."""
    calls = itertools.count()

    def hook(*args: Any, **kwargs: Any) -> None:
        if next(calls) == number:
            act(*args, **kwargs)

    return hook


def write_probes(extensions_dir: Path) -> list[Path]:
    """Write two extensions, one loaded before ControlNet and one after it."""
    folders = []
    for place, name in zip(PLACES, ("a-state-early", "z-state-late"), strict=True):
        folder = extensions_dir / name
        files = {"scripts/state_probe.py": PROBE_SCRIPT, "state_probe_pkg/__init__.py": ""}
        files["state_probe_pkg/__init__.py"] = PROBE_PACKAGE
        for file, text in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            for word, value in (
                ("{place}", place),
                ("{events}", repr(SCRIPT_EVENTS)),
                ("{callbacks}", repr(CFG_EVENTS)),
            ):
                text = text.replace(word, value)
            path.write_text(text, encoding="utf8")
        folders.append(folder)
    return folders
