"""The soak: many generations, malformed requests and damaged files, then everything as before.

`python dev.py soak --help` tells the options, docs/fuzz.md what was found. The host must hold the
probe of this folder; the embedded one gets it, for another see `--install`.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 2)]

from fuzz.cases import FEW, GOOD, NOISE, file
from fuzz.run import SHARES, Score, fuzz, table
from servers import embedded_host

PROBE: Final = Path(__file__).resolve().parent / "probe"
EXTENSION: Final = "zz-soak-probe"
STATE: Final = "/soak-probe/state"
SAMPLERS: Final = ("Euler", "Euler a", "DPM++ 2M", "DDIM", "Heun")
TYPES: Final = {"Canny": "canny", "Depth": "none", "Inpaint": "inpaint_only", "Scribble": "none"}
"""Control types whose first models are used, with a preprocessor that needs no download."""
MODES: Final = ("Balanced", "My prompt is more important", "ControlNet is more important")
RESIZE: Final = ("Just Resize", "Crop and Resize", "Resize and Fill")
MASK: Final = file(NOISE.convert("L"))
REFUSED: Final = (
    {"model": "no such model"},
    {"module": "no such preprocessor"},
    {"image": None},
    {"image": GOOD[:60]},
    {"weight": "heavy"},
    {"guidance_start": 7},
)
"""What makes a unit a fault; such a request is refused before it samples."""


def install(webui: Path) -> None:
    """Copy the probe into a WebUI's extensions."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROBE, webui / "extensions" / EXTENSION, ignore=ignored, dirs_exist_ok=True)


def models(client: httpx.Client) -> dict[str, str]:
    """A preprocessor for the first model of each control type that has one."""
    known = client.get("/controlnet/control_types").json()["control_types"]
    chosen = {}
    for kind, module in TYPES.items():
        named = [name for name in known[kind]["model_list"] if name != "None"]
        if named:
            chosen[named[0]] = module
    return chosen


def generation(rng: random.Random, known: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Route and body of a random generation; every tenth one has a unit that is refused."""
    body: dict[str, Any] = {**FEW, "steps": 2, "seed": rng.randrange(1000)}
    body["sampler_name"] = rng.choice(SAMPLERS)
    body["width"], body["height"] = rng.choice(((64, 64), (64, 96), (128, 64)))
    body["batch_size"] = rng.choice((1, 1, 1, 2))
    units = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        model, module = rng.choice(list(known.items()))
        start = rng.choice((0, 0, 0.3))
        unit = {"model": model, "module": module, "image": GOOD, "processor_res": 64}
        unit |= {"weight": rng.choice((0.4, 1, 1.7)), "control_mode": rng.choice(MODES)}
        unit |= {"guidance_start": start, "guidance_end": rng.choice((0.8, 1))}
        unit |= {"resize_mode": rng.choice(RESIZE), "pixel_perfect": rng.random() < 0.3}
        if module.startswith("inpaint"):
            unit["mask_image"] = MASK
        if rng.random() < 0.2:
            unit |= {"region": "Own mask", "effective_region_mask": MASK}
        units.append(unit)
    if units and rng.random() < 0.1:
        units[-1] |= rng.choice(REFUSED)
    route = rng.choice(("txt2img", "txt2img", "img2img", "inpaint", "hires"))
    if route in ("img2img", "inpaint"):
        body |= {"init_images": [GOOD], "denoising_strength": 1.0}
    if route == "inpaint":
        body |= {"mask": MASK, "inpaint_full_res": rng.random() < 0.5}
    if route == "hires":
        body |= {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 1.0}
        body["hr_upscaler"] = rng.choice(("Latent", "None"))
    if units:
        body["alwayson_scripts"] = {"ControlNet": {"args": units}}
    return "img2img" if "init_images" in body else "txt2img", body


@dataclass
class Soak:
    """A running soak.

    Attributes:
        client: of the WebUI.
        seed: decides all requests.
        limit: bytes that the server may grow by.
        failures: what must not be.
        answers: statuses of the generations.
        sizes: resident memory at every look, in bytes.
    """

    client: httpx.Client
    seed: int = 1
    limit: int = 0
    failures: list[str] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = models(self.client)

    def state(self) -> dict[str, Any]:
        """What the probe counts now."""
        answer = self.client.get(STATE)
        if answer.status_code != httpx.codes.OK:
            msg = (
                f"{self.client.base_url} lacks the probe: run `python dev.py soak --install WEBUI` "
                "with the WebUI's folder and restart it"
            )
            raise SystemExit(msg)
        found = answer.json()
        self.sizes.append(found["memory"].get("RSS", 0))
        return found

    def pictures(self) -> list[str]:
        """A plain picture, then one with a unit and its map, as the server writes them."""
        model, module = next(iter(self.known.items()))
        unit = {"model": model, "module": module, "image": GOOD, "processor_res": 64}
        plain = {**FEW, "steps": 2}
        controlled = {**plain, "alwayson_scripts": {"ControlNet": {"args": [unit]}}}
        found = []
        for body in (plain, controlled):
            answer = self.client.post("/sdapi/v1/txt2img", json=body)
            assert answer.status_code == httpx.codes.OK, answer.text[:2000]
            found += answer.json()["images"]
        return found

    def generate(self, count: int, first: int = 0) -> None:
        """Random generations; a few are interrupted while they run."""
        for number in range(first, first + count):
            rng = random.Random(f"{self.seed} {number}")
            route, body = generation(rng, self.known)
            timer = None
            if rng.random() < 0.05:
                timer = threading.Timer(rng.random() / 4, self._interrupt)
                timer.start()
            answer = self.client.post(f"/sdapi/v1/{route}", json=body)
            if timer is not None:
                timer.join()
            self.answers[answer.status_code] += 1
            if answer.status_code not in (200, 404, 422):
                units = body.get("alwayson_scripts")
                text = f"generation {number}: {answer.status_code} {answer.text[:400]} for {units}"
                self.failures.append(text[:1500])

    def _interrupt(self) -> None:
        self.client.post("/sdapi/v1/interrupt")

    def malformed(self, count: int, part: int, score: Score, threads: int) -> None:
        """Requests that are wrong somewhere (fuzz.run), for a model that is there."""
        model = next(iter(self.known)).partition(" [")[0]
        start = self.seed * 100 + part
        for kind, share in SHARES.items():
            fuzz(self.client, kind, max(count * share // 100, 1), start, score, threads, model)

    def compare(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Nothing of ours is left, nothing has grown."""
        if after["hooks"]:
            self.failures.append(f"hooks left: {after['hooks'][:10]}")
        for name in ("functions", "objects", "threads", "files"):
            more = Counter(after[name]) - Counter(before[name])
            if more:
                self.failures.append(f"{name} left: {dict(more.most_common(10))}")
        grown = after["memory"].get("RSS", 0) - before["memory"].get("RSS", 0)
        if self.limit and grown > self.limit:
            self.failures.append(f"memory grew by {grown >> 20} MB, limit {self.limit >> 20} MB")
        high = after["memory"].get("HWM", 0) - before["memory"].get("RSS", 0)
        if self.limit and high > self.limit + PEAK:
            self.failures.append(f"memory was {high >> 20} MB higher at its highest")


PEAK: Final = 1 << 30
"""What a single request may take for a while, in bytes."""


def soak(
    work: Soak, generations: int, requests: int, threads: int, say: Callable[[str], object]
) -> Score:
    """Both kinds of requests in ten parts, then the pictures and the state of the beginning."""
    work.generate(min(generations, 10), first=10**6)  # caches fill, threads of the pool start
    reference, before = work.pictures(), work.state()
    score = Score()
    for part in range(10):
        each = generations // 10 + (part < generations % 10)
        work.generate(each, first=part * generations)
        if requests:
            work.malformed(max(requests // 10, 1), part, score, threads)
        size = work.state()["memory"].get("RSS", 0)
        failed = len(work.failures) + len(score.failures)
        say(f"part {part + 1} of 10: {size >> 20} MB, {failed} failures")
    work.failures += score.failures
    if work.pictures() != reference:
        work.failures.append("the pictures differ from those of the beginning")
    work.compare(before, work.state())
    return score


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(prog="dev.py soak", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--generations", type=int, default=500, help="random generations")
    found.add_argument("--requests", type=int, default=2000, help="malformed requests")
    found.add_argument("--files", type=int, default=2000, help="damaged files, read in-process")
    found.add_argument("--seed", type=int, default=1, help="decides all of them")
    found.add_argument("--threads", type=int, default=1, help="malformed requests at a time")
    found.add_argument("--memory-limit", type=int, default=300, metavar="MB", help="growth allowed")
    found.add_argument("--webui-url", metavar="URL", help="a running WebUI with the probe")
    found.add_argument("--install", type=Path, metavar="WEBUI", help="copy the probe and end")
    found.add_argument("--keep", type=Path, metavar="FOLDER", help="where failing files are left")
    return found


def main(arguments: list[str]) -> int:
    """Run what the options ask for; the exit status."""
    options = parser().parse_args(arguments)
    if options.install:
        install(options.install)
        return 0
    failures = 0
    if options.files:
        from fuzz import damaged  # imports torch

        failures += damaged.main(options.files, options.seed, options.keep)
    if not options.generations and not options.requests:
        return bool(failures)
    with ExitStack() as stack:
        url = options.webui_url
        if not url:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            install(data)
            url = stack.enter_context(embedded_host(data)).url
        client = stack.enter_context(httpx.Client(base_url=url, timeout=300, trust_env=False))
        work = Soak(client, options.seed, options.memory_limit << 20)
        started = time.perf_counter()
        score = soak(work, options.generations, options.requests, options.threads, print)
        spent = time.perf_counter() - started
    print(f"generations: {dict(work.answers)}")
    print(table(score))
    print(f"{spent:.0f} s, seed {options.seed}")
    print("memory:", ", ".join(f"{size >> 20}" for size in work.sizes), "MB")
    print(f"failures: {len(work.failures)}", *work.failures[:30], sep="\n")
    return bool(failures or work.failures)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
