"""A run of the cases in one WebUI, over HTTP."""

from __future__ import annotations

import argparse
import base64
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from bench_http.server import BenchError, Server, ServerError, plain
from bench_http.variants import distance, drawing

from trials.cases import AGAIN, CASES, IMG2IMG, REFUSED, TXT2IMG, Case, Pictures, Shown

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("torch", "gradio", "pydantic", "numpy")
NO_MODEL: Final = "a model that is not there"
PROMPT: Final = "an ink drawing in orange and blue"
LEAST: Final = 1.0
"""Mean difference, of 255, from which on a control counts as acting."""

FAILS: Final = "**fails:**"


@dataclass
class Result:
    """What a WebUI did.

    Attributes:
        name: heads its column.
        facts: of the WebUI, by what they are.
        words: by title of the case, what is said of it; a problem begins with FAILS.
        bare: by title, the first picture without a unit.
        controlled: with it.
    """

    name: str
    facts: dict[str, str]
    words: dict[str, str] = field(default_factory=dict)
    bare: dict[str, np.ndarray] = field(default_factory=dict)
    controlled: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether every case did as it should."""
        return not any(words.startswith(FAILS) for words in self.words.values())


class Trial:
    """The cases in one WebUI.

    Args:
        server: the WebUI.
        options: of the command line.
    """

    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self.server = server
        self.size = options.size
        self.steps = options.steps
        models = server.control_models()
        wanted = plain(options.control) if options.control else None
        names = [name for name in models if name == wanted or (not wanted and "canny" in name)]
        if not names:
            msg = f"{server.url} has no control model {wanted or 'for canny'}; give --control"
            raise BenchError(msg)
        self.model = models[names[0]]
        self._known = read_fields(server)
        width, height = self.size
        self.init = read_picture(drawing(5, width, height))
        self.mask = np.zeros((height, width), np.uint8)
        self.mask[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = 255

    def run(self) -> Result:
        """Go through the cases."""
        result = Result(self.server.name, read_facts(self.server))
        earlier: dict[str, Pictures] = {}
        for case in CASES:
            try:
                result.words[case.title] = self._try(case, result, earlier)
            except ServerError as error:
                result.words[case.title] = f"{FAILS} {error}"
        result.words[REFUSED] = self._refusal()
        result.words[AGAIN] = self._again(earlier)
        return result

    def _try(self, case: Case, result: Result, earlier: dict[str, Pictures]) -> str:
        bare = self._generate(case, None)
        controlled = [] if case.unit is None else self._generate(case, case.unit)
        earlier[case.title] = controlled or bare
        result.bare[case.title] = bare[0]
        if not controlled:
            return ""
        result.controlled[case.title] = controlled[0]
        acts = distance(controlled[0], bare[0])
        if acts < LEAST:
            return f"{FAILS} no effect"
        shown = Shown(bare, controlled, self.init, self.mask, earlier, self.size)
        problem = case.problem(shown)
        return f"{FAILS} {problem}" if problem else f"acts ({acts:.0f})"

    def _generate(self, case: Case, unit: Mapping[str, Any] | None) -> Pictures:
        """Pictures of a case.

        Raises:
            ServerError: there are none.
        """
        width, height = self.size
        body: dict[str, Any] = {
            "prompt": PROMPT,
            "seed": 1,
            "steps": self.steps,
            "cfg_scale": 4,
            "sampler_name": "Euler",
            "width": width,
            "height": height,
            "do_not_save_grid": True,
            **case.fields,
        }
        if case.route == IMG2IMG:
            body |= {"init_images": [write_picture(self.init)], "mask": write_picture(self.mask)}
            body |= {"denoising_strength": 0.8, "inpainting_fill": 1, "inpaint_full_res": False}
        known = self._known.get(case.route)
        body = {name: value for name, value in body.items() if not known or name in known}
        if unit is not None:
            body["alwayson_scripts"] = {"controlnet": {"args": [self._unit() | dict(unit)]}}
        answer = self.server.post(f"/sdapi/v1/{case.route}", body)
        count = case.fields.get("batch_size", 1)
        pictures = [read_picture(str(one)) for one in answer["images"][:count]]
        if not pictures:
            msg = f"{self.server.url} gave no picture"
            raise ServerError(msg)
        return pictures

    def _unit(self) -> dict[str, Any]:
        width, height = self.size
        return {
            "enabled": True,
            "image": drawing(3, width, height),
            "module": "canny",
            "model": self.model,
            "processor_res": min(width, height),
            "threshold_a": 100,
            "threshold_b": 200,
        }

    def _refusal(self) -> str:
        try:
            self._generate(Case(REFUSED), {"model": NO_MODEL})
        except ServerError as error:
            found = re.search(r"answered (4\d\d) ", str(error))
            if found and NO_MODEL in str(error):
                return f"{found[1]}, in a sentence"
            return f"{FAILS} {error}"
        return f"{FAILS} gives a picture"

    def _again(self, earlier: Mapping[str, Pictures]) -> str:
        """Whether the first picture of all is the same after all others."""
        try:
            found = self._generate(CASES[0], None)
        except ServerError as error:
            return f"{FAILS} {error}"
        before = earlier.get(CASES[0].title)
        is_same = before is not None and np.array_equal(found[0], before[0])
        return "the same picture" if is_same else f"{FAILS} another picture"


def read_picture(text: str) -> np.ndarray:
    """A picture of an answer, uint8 (H, W, 3)."""
    data = np.frombuffer(base64.b64decode(text.rpartition(",")[2]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if picture is None:
        msg = "the answer holds something else than pictures"
        raise ServerError(msg)
    return np.asarray(picture)


def write_picture(picture: np.ndarray) -> str:
    """A picture as base64 of a PNG."""
    return base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode("ascii")


def read_fields(server: Server) -> dict[str, set[str]]:
    """Fields of a request that a WebUI knows, by route; empty where it does not tell."""
    try:
        told = server.get("/openapi.json")
        found = {}
        for route in (TXT2IMG, IMG2IMG):
            body = told["paths"][f"/sdapi/v1/{route}"]["post"]["requestBody"]
            name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            found[route] = set(told["components"]["schemas"][name]["properties"])
    except (ServerError, LookupError, TypeError, AttributeError):
        return {}
    return found


def read_facts(server: Server) -> dict[str, str]:
    """What a WebUI tells of itself; "-" for what it does not."""
    try:
        told = server.get("/internal/sysinfo")
    except ServerError:
        told = {}
    packages = told.get("Packages")
    pins = [str(one) for one in packages] if isinstance(packages, list) else []
    found = dict(pin.split("==", 1) for pin in pins if "==" in pin)
    version = f"{told.get('Version', '-')}"
    version += f" ({str(told['Commit'])[:8]})" if told.get("Commit") else ""
    facts = {"tried": _stamp(), "version": version, "Python": str(told.get("Python", "-"))}
    return facts | {name: found.get(name, "-") for name in PACKAGES}


def _stamp() -> str:
    """The day, and the commit of this repository."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"{datetime.now(timezone.utc).date()}, commit {told or 'unknown'}"
