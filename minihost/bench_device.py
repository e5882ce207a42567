"""`python dev.py bench --device cuda`: time and memory of a step on a device, SD1 and SDXL.

A U-Net and control networks of random weights, loaded and moved by the extension's own loader,
session and residency, in half precision as WebUIs run them there. Variants take turns; the device
is waited for before and after each call.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final

import numpy as np
import sessions
import support
import torch
from bench_http.tables import NOTHING, spread
from torch import Tensor

from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.prepared import PreparedUnit
from lib_controlnet.engine.residency import Residency
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlMode, ResizeMode
from lib_controlnet.families import load_network
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry
from lib_controlnet.units.unit import ControlUnit

ROWS: Final = 2
KINDS: Final = ("SD1", "SDXL")
DEVICES: Final = ("cpu", "cuda", "mps")
MODELS: Final = 3
MEGABYTE: Final = 1e6


@dataclass(frozen=True)
class Device:
    """A place to compute on, with its own way to wait for it and to tell its memory."""

    name: str

    @property
    def kind(self) -> str:
        """ "cpu", "cuda" or "mps"."""
        return torch.device(self.name).type

    @property
    def dtype(self) -> torch.dtype:
        """What a WebUI computes in there."""
        return torch.float32 if self.kind == "cpu" else torch.float16

    def lacks(self) -> str:
        """Why it cannot be used, in words; empty if it can."""
        if self.name.partition(":")[0] not in DEVICES:
            return f"--device is {self.name}, must be {', '.join(DEVICES)}, or such as cuda:1"
        try:
            torch.zeros(1, device=self.name)
            self.wait()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            return f"--device {self.name} cannot be used: {str(error).strip().splitlines()[0]}"
        return ""

    def wait(self) -> None:
        """Until it has done what it was given."""
        if self.kind == "cuda":
            torch.cuda.synchronize(self.name)
        elif self.kind == "mps":
            torch.mps.synchronize()

    def now(self) -> float:
        """Seconds: of this thread where it computes itself, else those that pass."""
        self.wait()
        return time.thread_time() if self.kind == "cpu" else time.perf_counter()

    def forget_peak(self) -> None:
        """Begin a new account of memory."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(self.name)

    def peak(self) -> int | None:
        """Most bytes of tensors since `forget_peak`; on mps those of now, None where none tells."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.name)
        return torch.mps.current_allocated_memory() if self.kind == "mps" else None


class HostOnDevice(sessions.FakeHost):
    """A host whose networks compute on a device."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = torch.device(device.name)
        self.network_dtype = device.dtype
        self.residency = Residency(MODELS, 1 << 40)


@dataclass(frozen=True)
class Variant:
    """Units of a step.

    Attributes:
        title: in the table.
        models: of each unit, the number of its network.
        mode: of all of them.
    """

    title: str
    models: tuple[int, ...] = ()
    mode: ControlMode = ControlMode.BALANCED


VARIANTS: Final = (
    Variant("no unit"),
    Variant("one unit, Balanced", (0,)),
    Variant("one unit, My prompt is more important", (0,), ControlMode.PROMPT),
    Variant("one unit, ControlNet is more important", (0,), ControlMode.CONTROL),
    Variant("two units of one model", (0, 0)),
    Variant("three units of one model", (0, 0, 0)),
    Variant("three units, three models", (0, 1, 2)),
)


@dataclass
class Taken:
    """What a variant took.

    Attributes:
        seconds: of a step, one number per round.
        peaks: bytes, one number per round; empty where the device does not tell.
    """

    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)


class Rig:
    """A U-Net of one kind on a device, and three control networks of it on disk.

    Args:
        kind: "SD1" or "SDXL".
        width: model_channels.
        latent: edge of the latent.
        device: where it computes.
        folder: for the files.
        changes: what else the U-Net has larger than those of the tests.

    Attributes:
        said: what the session of the latest run has said.
    """

    def __init__(
        self,
        kind: str,
        width: int,
        latent: int,
        device: Device,
        folder: Path,
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.device, self.latent = device, latent
        self.said: list[str] = []
        empty = support.empty_unet(kind, **{"model_channels": width, **changes})
        unet = support.randomise(empty.to_empty(device="cpu"), 1)
        self.base = BaseUNet(unet, describe_unet(unet), "bench", "bench")
        self.host = HostOnDevice(device)
        self.networks = [self._network(kind, seed, folder) for seed in range(MODELS)]
        self.unet = unet.to(device.name, device.dtype)
        given = support.inputs(kind, rows=ROWS, size=(latent, latent), **changes)
        self.given = {
            name: value if value is None else value.to(device.name, device.dtype)
            for name, value in given.items()
        }

    def _network(self, kind: str, seed: int, folder: Path) -> ControlNetwork:
        made = support.tiny_controlnet(kind, seed + 2, self.base.module)
        file = support.save_controlnet(
            folder / f"{kind}_{seed}.safetensors", made, self.device.dtype
        )
        return load_network(file, self.base, self.device.dtype, "cpu")

    def call(self) -> Tensor:
        """One U-Net call."""
        return self.unet(**self.given)

    @contextmanager
    def running(self, variant: Variant) -> Iterator[Callable[[], Tensor]]:
        """The sampler's run with these units; gives one step of it."""
        edge = 8 * self.latent
        units = []
        for index, number in enumerate(variant.models):
            unit = ControlUnit(enabled=True, index=index, control_mode=variant.mode)
            picture = np.random.default_rng(index).integers(0, 256, (edge, edge, 3), np.uint8)
            model = SimpleNamespace(network=lambda _base, number=number: self.networks[number])
            units.append(PreparedUnit(unit, ResizeMode.RESIZE, picture, model))
        session = ControlSession(self.host, units)
        geometry = PassGeometry.of_latent(Size(self.latent, self.latent))
        session.begin_pass(PassInfo(geometry, self.base, alphas=self.host.alphas))

        def step() -> Tensor:
            session.begin_evaluation(build_layout([1], 1, ROWS), 0.5)
            return self.call()

        self.said = session.comments
        with session.sampling(self.unet):
            yield step
        self.host.residency.park()


def measure(rig: Rig, rounds: int) -> dict[Variant, Taken]:
    """Every variant in turn: a step that fills the caches, then one that counts."""
    taken = {variant: Taken() for variant in VARIANTS}
    with torch.no_grad():
        for _ in range(rounds):
            for variant, found in taken.items():
                with rig.running(variant) as step:
                    step()
                    rig.device.forget_peak()
                    started = rig.device.now()
                    step()
                    found.seconds.append(rig.device.now() - started)
                    peak = rig.device.peak()
                    found.peaks += [] if peak is None else [peak]
    return taken


def table(title: str, taken: Mapping[Variant, Taken]) -> str:
    """Milliseconds, the share that control adds, and memory of each variant."""
    plain = taken[VARIANTS[0]]
    lines = [f"| {title} | ms per step | extra / a step without units | peak MB | of it control |"]
    lines.append("|---|---|---|---|---|")
    for variant, found in taken.items():
        milliseconds = [1e3 * value for value in found.seconds]
        pairs = zip(found.seconds, plain.seconds, strict=True)
        extra = [value / other - 1 for value, other in pairs] if variant.models else []
        cells = [spread(milliseconds, 1), spread(extra, 2), *memory(found.peaks, plain.peaks)]
        lines.append(f"| {variant.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory(peaks: Sequence[int], plain: Sequence[int]) -> tuple[str, str]:
    """Peak, and how much of it is not there without units; medians in MB."""
    if not peaks:
        return NOTHING, NOTHING
    peak = statistics.median(peaks)
    return f"{peak / MEGABYTE:.0f}", f"{(peak - statistics.median(plain)) / MEGABYTE:.0f}"


def bench_device(name: str, width: int, latent: int, rounds: int) -> int:
    """Measure and print.

    Returns:
        Exit status, 1 if the device cannot be used.
    """
    device = Device(name)
    lacking = device.lacks()
    if lacking:
        print(lacking)
        return 1
    torch.set_num_threads(1)
    clock = "CPU time of one thread" if device.kind == "cpu" else "time that passes"
    print(
        f"{name}, {str(device.dtype).removeprefix('torch.')}, {width} channels (SD1.5, SDXL: 320), "
        f"latent {latent} x {latent}, cond and uncond row, torch {torch.__version__}, {clock}, "
        f"medians of {rounds} with quartiles\n"
    )
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            rig = Rig(kind, width, latent, device, Path(folder))
            print(table(kind, measure(rig, rounds)) + "\n", flush=True)
    return 0
