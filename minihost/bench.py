"""`python dev.py bench`: what a control costs, as ratios within one run.

The U-Net has the structure of SD1.5 at reduced width and random weights; the control networks are
files on disk that go through the extension's own loader, session and hooks. Variants take turns,
one thread computes, and its CPU time is taken, so that a busy machine does not blur the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from bench_http.command import add_options, bench_http, check_alone
from minildm.unet import UNetModel, timestep_embedding
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import support  # noqa: E402
from measures import Line, flops  # noqa: E402
from sessions import FakeHost  # noqa: E402

from lib_controlnet.engine.pass_info import PassInfo  # noqa: E402
from lib_controlnet.engine.prepared import PreparedUnit  # noqa: E402
from lib_controlnet.engine.session import ControlSession  # noqa: E402
from lib_controlnet.engine.unet import BaseUNet, describe_unet  # noqa: E402
from lib_controlnet.enums import ControlMode, ResizeMode  # noqa: E402
from lib_controlnet.families import discover, load_network  # noqa: E402
from lib_controlnet.host.a1111.rows import build_layout  # noqa: E402
from lib_controlnet.pictures.maps import Size  # noqa: E402
from lib_controlnet.pictures.placement import PassGeometry  # noqa: E402
from lib_controlnet.units.unit import ControlUnit  # noqa: E402

ROWS = 2  # one picture: cond and uncond
TOKENS = 77


def empty_unet(width: int) -> UNetModel:
    """A U-Net of SD1.5's structure on the meta device; `width` is 320 there."""
    return support.empty_unet("SD1", model_channels=width, context_dim=768)


class Rig:
    """A U-Net, a control network for it, and one denoiser call to repeat."""

    def __init__(self, width: int, latent: int, folder: Path) -> None:
        self.unet = support.randomise(empty_unet(width).to_empty(device="cpu"), 1)
        control = support.tiny_controlnet("SD1", 2, self.unet)
        self.file = support.save_controlnet(folder / "control_bench.safetensors", control)
        self.base = BaseUNet(self.unet, describe_unet(self.unet), "bench", "bench")
        self.network = load_network(self.file, self.base, torch.float32, "cpu")
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(ROWS, 4, latent, latent, generator=generator)
        self.timesteps = torch.full((ROWS,), 500.0)
        self.context = torch.randn(ROWS, TOKENS, 768, generator=generator)
        pixels = np.random.default_rng(4).integers(0, 256, (8 * latent, 8 * latent, 3))
        self.picture = pixels.astype(np.uint8)
        self.geometry = PassGeometry.of_latent(Size(latent, latent))
        self.layout = build_layout([1], 1, ROWS)

    def call(self) -> Tensor:
        """One plain U-Net call."""
        return self.unet(self.x, self.timesteps, context=self.context)

    def encoder(self) -> Tensor:
        """The U-Net's encoder and middle alone: the part that a ControlNet copies."""
        embedding = timestep_embedding(self.timesteps, self.unet.model_channels)
        emb, h = self.unet.time_embed(embedding), self.x
        for block in self.unet.input_blocks:
            h = block(h, emb, self.context)
        return self.unet.middle_block(h, emb, self.context)

    def hooks(self) -> int:
        """Forward hooks on any part of the U-Net."""
        return sum(
            len(part._forward_hooks) + len(part._forward_pre_hooks) for part in self.unet.modules()
        )

    @contextmanager
    def session(self, units: Sequence[ControlUnit]) -> Iterator[Callable[[], Tensor]]:
        """A running session with these units; gives one controlled U-Net call.

        Units with another index have another picture.
        """

        model = SimpleNamespace(network=lambda _base: self.network)
        prepared = [
            PreparedUnit(unit, ResizeMode.RESIZE, np.roll(self.picture, unit.index, 0), model)
            for unit in units
        ]
        session = ControlSession(FakeHost(), prepared)
        session.begin_pass(PassInfo(self.geometry, self.base))

        def call() -> Tensor:
            session.begin_evaluation(self.layout, 0.5)
            return self.call()

        with session.sampling(self.unet):
            yield call


def measure(rig: Rig, variants: dict[str, Sequence[ControlUnit]], rounds: int) -> dict[str, float]:
    """Median seconds of a step of every variant, of the bare U-Net and of its encoder.

    A session's hooks stay on the U-Net while it runs, so each turn opens its session, makes one
    call that fills the caches, and times the next one.
    """
    times: dict[str, list[float]] = {name: [] for name in ("plain", "encoder", *variants)}

    def clock(name: str, call: Callable[[], object]) -> None:
        started = time.thread_time()
        call()
        times[name].append(time.thread_time() - started)

    rig.call()
    for _ in range(rounds):
        clock("plain", rig.call)
        clock("encoder", rig.encoder)
        for name, units in variants.items():
            with rig.session(units) as call:
                call()
                clock(name, call)
    return {name: statistics.median(values) for name, values in times.items()}


def speed_lines(rig: Rig, rounds: int) -> list[Line]:
    """Time and operations of one unit, of the modes, of several units, of none."""
    unit = ControlUnit(enabled=True, weight=1.0)
    lean = replace(unit, control_mode=ControlMode.CONTROL)
    variants = {
        "balanced": [unit],
        "control": [lean],
        "three": [replace(unit, index=index) for index in range(3)],
        "twice": [unit, replace(unit, weight=0.5)],
        "none": [],
    }
    seconds = measure(rig, variants, rounds)
    plain = seconds["plain"]
    extra = {name: seconds[name] - plain for name in variants}
    work = {"plain": flops(rig.call), "encoder": flops(rig.encoder)}
    for name in ("balanced", "control", "three"):
        with rig.session(variants[name]) as call:
            call()
            work[name] = flops(call) - work["plain"]
    share = extra["balanced"] / seconds["encoder"]
    operations = work["balanced"] / work["encoder"]
    half = extra["control"] / extra["balanced"]
    three = extra["three"] / extra["balanced"]
    twice = extra["twice"] / extra["balanced"]
    return [
        Line(
            "one unit, Balanced: extra CPU time / encoder's",
            f"{share:.2f} ({extra['balanced'] / plain:.0%} of a step of {plain * 1e3:.0f} ms)",
            "at most 1.05",
            share <= 1.05,
        ),
        Line(
            "one unit, Balanced: extra operations / encoder's operations",
            f"{operations:.3f}",
            "at most 1.05",
            operations <= 1.05,
        ),
        Line(
            "ControlNet is more important: extra CPU time / Balanced's",
            f"{half:.2f} (operations {work['control'] / work['balanced']:.2f})",
            "at most 0.55",
            half <= 0.55,
        ),
        Line(
            "three units of one model: extra CPU time / one unit's",
            f"{three:.2f} (operations {work['three'] / work['balanced']:.2f}, "
            f"whole step {seconds['three'] / seconds['balanced']:.2f})",
            "at most 2.6",
            three <= 2.6,
        ),
        Line(
            "one picture in two units (regions, weights): extra CPU time / one unit's",
            f"{twice:.2f}",
            "at most 1.1",
            twice <= 1.1,
        ),
        idle_line(rig, seconds),
    ]


def idle_line(rig: Rig, seconds: dict[str, float]) -> Line:
    """No unit: no hooks, the same bits."""
    before = rig.call()
    with rig.session([]) as call:
        hooks, same = rig.hooks(), torch.equal(call(), before)
    with rig.session([ControlUnit(enabled=True)]) as call:
        call()
        busy = rig.hooks()
    restored = rig.hooks() == 0 and torch.equal(rig.call(), before)
    return Line(
        "no unit enabled: hooks, output, CPU time / plain",
        f"{hooks} hooks ({busy} with one unit), {'bit-identical' if same else 'DIFFERENT'}, "
        f"{'restored after use' if restored else 'NOT RESTORED'}, "
        f"{seconds['none'] / seconds['plain']:.2f}",
        "0, bit-identical, none",
        hooks == 0 and same and restored,
    )


IMPORTS = """
import sys, time
sys.path[:0] = [{root!r}]
import torch, numpy, cv2, gradio, fastapi, PIL.Image, safetensors.torch
started = time.process_time()
import lib_controlnet.engine.session, lib_controlnet.families, lib_controlnet.files.catalog
import lib_controlnet.engine.residency, lib_controlnet.units.infotext
import lib_controlnet.detect.preprocess
lib_controlnet.families.discover()
print(time.process_time() - started)
"""


def import_line() -> Line:
    """Seconds to import the engine, its families and preprocessors in a fresh process."""
    seconds = []
    for _ in range(3):
        out = subprocess.run(
            [sys.executable, "-c", IMPORTS.format(root=str(ROOT))],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"},
        )
        seconds.append(float(out.stdout.split()[-1]))
    best = min(seconds)
    return Line(
        "import beyond torch, gradio, numpy, cv2, CPU time",
        f"{best:.2f} s",
        "at most 0.2 s",
        best <= 0.2,
    )


def resident_bytes() -> int:
    """Memory of this process, mapped files included (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@contextmanager
def watching(peaks: list[int]) -> Iterator[None]:
    """Append the highest `resident_bytes` seen inside the context."""
    done, seen = threading.Event(), [resident_bytes()]

    def watch() -> None:
        while not done.wait(0.0005):
            seen.append(resident_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        seen.append(resident_bytes())
        done.set()
        thread.join()
        peaks.append(max(seen))


def loading(file: Path, width: int) -> str:
    """Load a control model and read it once; peak of memory and the tensors' size, in bytes."""
    unet = empty_unet(width)
    base = BaseUNet(unet, describe_unet(unet), "bench", "bench")
    discover()  # programs are no part of a network
    before, peaks = resident_bytes(), []
    with watching(peaks):
        network = load_network(file, base, torch.float32, "cpu")
        for parameter in network.module.parameters():
            # A mapped file is not in memory before it is read; as it lies, not as it is shaped:
            # of weights channels last `max` makes a copy.
            torch.empty(0, dtype=torch.uint8).set_(parameter.untyped_storage()).max()
    return f"{peaks[0] - before} {network.nbytes}"


def memory_line(rig: Rig, width: int) -> Line:
    """Peak of memory while a control model is loaded, in a fresh process each time."""
    what, target = "model load: peak memory / tensors", "at most 1.1"
    if not Path("/proc/self/status").exists():
        return Line(what, "only measured on Linux", target, True)
    command = [sys.executable, __file__, "--load", str(rig.file), "--width", str(width)]
    ratios = []
    for _ in range(3):
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        peak, size = map(int, out.stdout.split()[-2:])
        ratios.append(peak / size)
    ratio = statistics.median(ratios)
    return Line(what, f"{ratio:.2f} of {size / 1e6:.0f} MB", target, ratio <= 1.1)


def print_controlnet(options: argparse.Namespace) -> bool:
    """What ControlNets cost, and what loading one does.

    Returns:
        Whether all targets hold; so do the other parts.
    """
    width, latent = options.width, options.latent or 64
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(width, latent, Path(folder))
        lines = [memory_line(rig, width), *speed_lines(rig, options.rounds), import_line()]
    print(f"SD1.5 structure, {conditions(options, latent)}, medians of {options.rounds}\n")
    return print_lines("| | measured | target | holds |", lines)


def print_families(options: argparse.Namespace) -> bool:
    """What one unit of each family costs."""
    from bench_families import print_table

    latent = options.latent or 32
    print(f"\nEach family: {conditions(options, latent)}, the least of {options.rounds}")
    return print_table(options.width, latent, options.rounds)


def print_published(_options: argparse.Namespace) -> bool:
    """What published files cost at their own sizes, counted."""
    from bench_published import HEAD, published_lines

    return print_lines(f"\n{HEAD}", published_lines())


def print_lossless(_options: argparse.Namespace) -> bool:
    """What is computed, copied and read how often, counted."""
    from bench_lossless import lossless_lines

    head = "\n| in a generation of 10 pictures | counted | target | holds |"
    return print_lines(head, lossless_lines())


def print_lines(head: str, lines: Iterable[Line]) -> bool:
    """A table; its rows as they come."""
    print(f"{head}\n|---|---|---|---|")
    holds = True
    for line in lines:
        print(line, flush=True)
        holds = holds and line.holds
    return holds


def conditions(options: argparse.Namespace, latent: int) -> str:
    """What was measured, in words."""
    return (
        f"{options.width} channels (published: 320), latent {latent} x {latent}, cond and uncond "
        f"row, float32, one thread, torch {torch.__version__}"
    )


PARTS = {
    "controlnet": print_controlnet,
    "families": print_families,
    "published": print_published,
    "lossless": print_lossless,
}


def main() -> int:
    """Command line entry.

    Returns:
        Exit status, 1 if a target is missed.
    """
    reader = argparse.ArgumentParser(prog="dev.py bench", description=__doc__.split("\n")[0])
    reader.add_argument("--width", type=int, default=64, help="model_channels; SD1.5 has 320")
    text = "edge of the latent; SD1.5 has 64, which is the default but for families (32)"
    reader.add_argument("--latent", type=int, help=text)
    reader.add_argument("--rounds", type=int, default=3, help="turns that each variant gets")
    text = "leave the others out; may be given again"
    reader.add_argument("--part", action="append", choices=PARTS, help=text)
    other = reader.add_mutually_exclusive_group()
    other.add_argument(
        "--preprocessors",
        nargs="*",
        metavar="NAME",
        help="measure preprocessors instead: these, or all of them",
    )
    text = "measure steps on a device instead: cuda, cuda:1, mps or cpu"
    other.add_argument("--device", metavar="NAME", help=text)
    text = "measure the page instead: of running WebUIs, up to two, or of the embedded host"
    other.add_argument("--page", nargs="*", metavar="[NAME=]URL", help=text)
    text = "with --device: steps of published size where the device has so many GiB (8 6)"
    reader.add_argument("--budgets", nargs="*", type=float, metavar="GIB", help=text)
    reader.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    add_options(reader)
    options = reader.parse_args()
    check_alone(reader, options)
    if options.webui_url:
        return bench_http(options)
    if options.page is not None:
        from bench_page import bench_page, check_addresses

        check_addresses(reader, options.page)
        return bench_page(options.page, options.rounds)
    if options.load:
        print(loading(options.load, options.width))
        return 0
    if options.budgets is not None and options.device:
        from bench_budgets import bench_budgets

        return bench_budgets(options.device, options.budgets or [8, 6], options.rounds)
    if options.device:
        from bench_device import bench_device

        return bench_device(options.device, options.width, options.latent or 64, options.rounds)
    if options.preprocessors is not None:
        from bench_preprocessors import main as bench_preprocessors

        return bench_preprocessors(options.preprocessors)
    torch.set_num_threads(1)
    with torch.no_grad():  # as hosts sample; weights made in inference mode are not changed
        holds = [PARTS[part](options) for part in options.part or PARTS]
    return 0 if all(holds) else 1


if __name__ == "__main__":
    sys.exit(main())
