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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from bench_http.command import add_options, bench_http, check_alone
from minildm.unet import UNetModel, timestep_embedding
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sessions  # noqa: E402
import support  # noqa: E402
from sessions import FakeHost  # noqa: E402

from lib_controlnet.engine.pass_info import PassInfo  # noqa: E402
from lib_controlnet.engine.prepared import PreparedUnit  # noqa: E402
from lib_controlnet.engine.session import ControlSession  # noqa: E402
from lib_controlnet.engine.unet import BaseUNet, describe_unet  # noqa: E402
from lib_controlnet.enums import ControlMode, ControlNetUnionControlType, ResizeMode  # noqa: E402
from lib_controlnet.families import discover, load_network  # noqa: E402
from lib_controlnet.host.a1111.rows import build_layout  # noqa: E402
from lib_controlnet.pictures.maps import Size  # noqa: E402
from lib_controlnet.pictures.placement import PassGeometry  # noqa: E402
from lib_controlnet.units.unit import ControlUnit  # noqa: E402

ROWS = 2  # one picture: cond and uncond
TOKENS = 77


@dataclass(frozen=True)
class Line:
    """One row of the printed table."""

    what: str
    measured: str
    target: str
    holds: bool

    def __str__(self) -> str:
        return (
            f"| {self.what} | {self.measured} | {self.target} | {'yes' if self.holds else 'NO'} |"
        )


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


def flops(call: Callable[[], object]) -> int:
    """Floating point operations of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


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


@dataclass(frozen=True)
class Share:
    """What a family may cost in a step after the first one of a pass, as a share of the U-Net's.

    Attributes:
        family: its name.
        kind: of the base.
        work: operations.
        time: CPU time.
        preprocessor: which one, of a family without files.
        units: how many, each with another picture.
    """

    family: str
    kind: str
    work: float
    time: float
    preprocessor: str = ""
    units: int = 1

    def __str__(self) -> str:
        return f"{self.preprocessor or self.family}{f' x {self.units}' if self.units > 1 else ''}"


SHARES = (
    Share("T2I-Adapter", "SD1", 0.0, 0.03),
    Share("T2I-Adapter", "SDXL", 0.0, 0.03),
    Share("T2I-Adapter (style)", "SD1", 0.01, 0.05),
    Share("ControlNet-LLLite", "SDXL", 0.01, 0.1),
    Share("Reference", "SD1", 3.0, 3.5, "reference_only"),
    Share("Reference", "SD1", 0.5, 0.6, "reference_adain"),
    Share("Reference", "SD1", 1.0, 1.1, "reference_adain", 2),
    Share("Reference", "SDXL", 2.5, 3.0, "reference_only"),
    Share("IP-Adapter", "SD1", 0.01, 0.1),
    Share("IP-Adapter", "SDXL", 0.01, 0.1),
    Share("IP-Adapter-FaceID", "SD1", 0.1, 0.3),
    Share("PuLID", "SDXL", 0.05, 0.3),
    Share("Revision", "SDXL", 0.0, 0.03, "revision_clipvision"),
    Share("ControlNet Union", "SDXL", 0.5, 0.6),
    Share("ControlNet Union", "SDXL", 0.5, 0.6, units=2),
    Share("SparseCtrl", "SD1", 0.6, 0.8),
    Share("Fooocus inpaint", "SDXL", 1.0, 1.5),
)
"""A T2I-Adapter is evaluated once for a picture, so a step costs additions. LLLite: 0.8 % of SDXL's
operations at 32 and 64 channels, counted; here its layers are as narrow as the U-Net. Reference
units look at their pictures in one more call, as far as the last layer that is read; with style
fidelity their attention over twice the tokens stands beside the plain one. Image prompts have their
keys and values made once in a pass. Two units of one Union are one evaluation. Fooocus' patch acts
beside the layers that it changes, here a third of them."""

TYPES = (ControlNetUnionControlType.DEPTH, ControlNetUnionControlType.HARD_EDGE)
"""What the pictures of a Union's units show."""


def family_lines(width: int, latent: int, rounds: int) -> list[Line]:
    """Operations, time and memory of families that are no copies of the U-Net's encoder."""
    lines = []
    for kind in dict.fromkeys(share.kind for share in SHARES):
        unet = support.randomise(
            support.empty_unet(kind, model_channels=width).to_empty(device="cpu"), 1
        )
        base = BaseUNet(unet, describe_unet(unet), "bench", "bench")
        given = support.inputs(kind, rows=ROWS, size=(latent, latent))
        plain = partial(unet, **given)
        weight = sum(parameter.nbytes for parameter in unet.parameters())
        geometry = PassGeometry.of_latent(Size(latent, latent))
        unit_info = PassInfo(geometry, base, alphas=FakeHost.alphas)
        for share in (one for one in SHARES if one.kind == kind):
            family = next(one for one in discover() if one.name == share.family)
            name = share.preprocessor
            network = family.make(base, name) if name else family.tiny(base)
            units = [
                sessions.prepared(network, seed, union_control_type=TYPES[seed])
                for seed in range(share.units)
            ]
            session = ControlSession(FakeHost(), units)
            session.begin_pass(unit_info)
            lines.append(family_line(share, session, plain, rounds, weight))
    return lines


def family_line(
    share: Share, session: ControlSession, plain: Callable[[], Tensor], rounds: int, weight: int
) -> Line:
    """What one family costs in a step.

    Args:
        share: the family, and what it may cost.
        session: with one unit of it.
        plain: calls the U-Net.
        rounds: how often it is timed.
        weight: bytes of the U-Net's weights.
    """
    network = session.active[0].network

    def step() -> Tensor:
        session.begin_evaluation(build_layout([1], 1, ROWS), 0.5)
        return plain()

    times: dict[bool, list[float]] = {False: [], True: []}
    work = flops(plain)
    for _ in range(rounds):
        for is_controlled, call in ((False, plain), (True, step)):
            with session.sampling(plain.func) if is_controlled else nullcontext():
                call()
                started = time.thread_time()
                call()
                times[is_controlled].append(time.thread_time() - started)
    with session.sampling(plain.func):
        step()
        more = (flops(step) - work) / work
    seconds = {key: statistics.median(values) for key, values in times.items()}
    extra = seconds[True] / seconds[False] - 1
    return Line(
        f"{share} ({share.kind}): extra CPU time, operations and weights / the U-Net's",
        f"{extra:.1%}, {more:.2%}, {network.nbytes / weight:.1%}",
        f"at most {share.time:.0%}, {share.work:.0%}",
        extra <= share.time and more <= share.work,
    )


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
    before, peaks = resident_bytes(), []
    with watching(peaks):
        network = load_network(file, base, torch.float32, "cpu")
        for parameter in network.module.parameters():
            parameter.max()  # a mapped file is not in memory before it is read
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


def main() -> int:
    """Command line entry.

    Returns:
        Exit status, 1 if a target is missed.
    """
    reader = argparse.ArgumentParser(prog="dev.py bench", description=__doc__.split("\n")[0])
    reader.add_argument("--width", type=int, default=64, help="model_channels; SD1.5 has 320")
    reader.add_argument("--latent", type=int, default=64, help="edge of the latent; SD1.5 has 64")
    reader.add_argument("--rounds", type=int, default=3, help="turns that each variant gets")
    other = reader.add_mutually_exclusive_group()
    other.add_argument(
        "--preprocessors",
        nargs="*",
        metavar="NAME",
        help="measure preprocessors instead: these, or all of them",
    )
    text = "measure steps on a device instead: cuda, cuda:1, mps or cpu"
    other.add_argument("--device", metavar="NAME", help=text)
    reader.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    add_options(reader)
    options = reader.parse_args()
    check_alone(reader, options)
    if options.webui_url:
        return bench_http(options)
    if options.load:
        print(loading(options.load, options.width))
        return 0
    if options.device:
        from bench_device import bench_device

        return bench_device(options.device, options.width, options.latent, options.rounds)
    if options.preprocessors is not None:
        from bench_preprocessors import main as bench_preprocessors

        return bench_preprocessors(options.preprocessors)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rig = Rig(options.width, options.latent, folder)
        lines = [memory_line(rig, options.width), *speed_lines(rig, options.rounds), import_line()]
        lines += family_lines(options.width, options.latent, options.rounds)
    print(
        f"SD1.5 structure at {options.width} channels (SD1.5: 320), latent {options.latent} x "
        f"{options.latent}, cond and uncond row, float32, one thread, "
        f"torch {torch.__version__}, medians of {options.rounds}\n"
    )
    print("| | measured | target | holds |\n|---|---|---|---|")
    print("\n".join(map(str, lines)))
    return 0 if all(line.holds for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
