"""What is computed, copied and read how often: counted, so that it is the same in every run.

Each row is a promise that nothing is done twice. A generation is one of ten pictures, one after
the other, unless a row says otherwise; networks are the tiny ones that the families offer.
"""

from __future__ import annotations

import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import sessions
import support
import torch
from bench_families import KINDS, Case, Rig, find_cases
from measures import Line, MemoryTrace
from sessions import FakeHost

from lib_controlnet.engine import prepared as preparing
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.enums import ControlMode
from lib_controlnet.families import discover, load_network
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.prepare.ahead import THREAD, LoadingAhead

PICTURES: Final = 10
STEPS: Final = 2
HALF: Final = np.repeat([[255, 0]], 64, 1).repeat(64, 0).astype(np.uint8)


@contextmanager
def counting(counts: Counter[str], owner: Any, name: str, what: str) -> Iterator[None]:
    """Count the calls of an attribute inside."""
    original = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        counts[what] += 1
        return original(*args, **kwargs)

    with patch.object(owner, name, counted):
        yield


def family(name: str) -> Any:
    """A family by its name."""
    return next(one for one in discover() if one.name == name)


def sample(session: ControlSession, rig: Rig, passes: int) -> None:
    """Sample some passes of one size."""
    for _ in range(passes):
        session.begin_pass(rig.info)
        with session.sampling(rig.base.module):
            rig.step(session)


def generation_lines(rig: Rig) -> Iterator[Line]:
    """How often maps are placed, hashed and encoded, by units that show one picture."""
    counts: Counter[str] = Counter()
    host, network = FakeHost(), family("ControlNet").tiny(rig.base)
    reference = family("Reference").make(rig.base, "reference_adain")
    regions = ({"region": HALF}, {"region": 255 - HALF})
    units = [sessions.prepared(network, **fields) for fields in regions]
    units += [sessions.prepared(reference) for _ in range(2)]
    session = ControlSession(host, [])
    session.take(units)
    with (
        counting(counts, preparing, "place_map", "maps placed"),
        counting(counts, preparing, "_digest", "hints hashed"),
        counting(counts, preparing, "place_region", REGIONS),
        counting(counts, host, "vae_encode", "pictures encoded by the VAE"),
        counting(counts, network, "encode_hint", "hints encoded by the network"),
    ):
        sample(session, rig, PICTURES)
    for what in counts:
        most = 2 if what == REGIONS else 1
        yield Line(f"{what} {SHOWN}", str(counts[what]), str(most), counts[what] == most)


def layers_called(case: Case, passes: int) -> list[list[str]]:
    """Names of the layers of its networks that the steps of a generation call, step by step."""
    session, seen = case.session(), []
    networks = {id(one.model.network(case.rig.base)): one for one in case.units}
    with ExitStack() as stack:
        for number, unit in enumerate(networks.values()):
            for name, layer in unit.model.network(case.rig.base).module.named_modules():
                note = partial(lambda name, *_args: seen[-1].append(name), f"{number} {name}")
                stack.callback(layer.register_forward_hook(note).remove)
        for _ in range(passes):
            session.begin_pass(case.rig.info)
            with session.sampling(case.rig.base.module):
                for _step in range(STEPS):
                    seen.append([])
                    case.rig.step(session)
    return seen


def count_again(case: Case, passes: int = 3) -> tuple[int, int]:
    """Calls of layers that the picture alone decides: in the first pass, and in the others."""
    steps = [Counter(names) for names in layers_called(case, passes)]
    later = steps[1]
    first, *others = ((step - later).total() for step in steps[::STEPS])
    return first, sum(others)


def family_line(rigs: Sequence[Rig]) -> Line:
    """What networks make of a picture alone, of all families."""
    found = {
        f"{case.name}, {rig.kind}": count_again(case)
        for rig in rigs
        for case in find_cases(rig)
        if len(case.units) == 1
    }
    first = sum(count for count, _again in found.values())
    again = {name: count for name, (_first, count) in found.items() if count}
    return Line(
        f"calls of layers that a picture alone decides, {len(found)} units of all families",
        f"{first} in the first picture, {sum(again.values())} in the next two"
        + "".join(f"; {name}: {count}" for name, count in again.items()),
        "0 in the next two",
        first > 0 and not again,
    )


SHOWN: Final = "for two ControlNets in regions and two references with one picture"
REGIONS: Final = "regions placed"

ROWS: Final = (
    ("Balanced", {}, None, PICTURES * 2),
    ("ControlNet is more important", {"control_mode": ControlMode.CONTROL}, None, PICTURES),
    ("calls without uncond rows (NGMS, Skip Early CFG)", {}, 1, PICTURES),
    ("weight 0", {"weight": 0.0}, None, 0),
    ("a region of nothing", {"region": HALF * 0}, None, 0),
    ("outside of its steps", {"guidance_start": 0.9}, None, 0),
)
"""A unit, the rows of a call if not all, and the rows that its network should see in ten steps."""


def row_lines(rig: Rig) -> Iterator[Line]:
    """How many rows a network is evaluated on in ten steps with a cond and an uncond row each."""
    network = family("ControlNet").tiny(rig.base)
    evaluate, seen = network.evaluate, []

    def note(x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(len(x))
        return evaluate(x, *rest, **more)

    for what, fields, rows, wanted in ROWS:
        session = ControlSession(FakeHost(), [sessions.prepared(network, **fields)])
        session.begin_pass(rig.info)
        given = support.inputs(rig.kind, rows=rows or 2, size=(rig.latent, rig.latent))
        with patch.object(network, "evaluate", note), session.sampling(rig.base.module):
            for _ in range(PICTURES):
                session.begin_evaluation(build_layout([1], 1, 2), 0.5)
                rig.base.module(**given)
        total = sum(seen)
        seen.clear()
        line = f"rows that a ControlNet is evaluated on in {PICTURES} steps: {what}"
        yield Line(line, str(total), str(wanted), total == wanted)


def loading_lines(rig: Rig, folder: Path) -> Iterator[Line]:
    """Bytes that the allocator gives while a file is loaded, and who loads which file how often."""
    network = support.tiny_controlnet("SD1", 2, rig.base.module)
    for stored in (torch.float16, torch.float32):
        file = support.save_controlnet(folder / f"{stored}.safetensors", network, stored)
        made: list[Any] = []
        load = partial(load_network, file, rig.base, torch.float16, "cpu")
        most = MemoryTrace().peak(lambda: made.append(load()))  # noqa: B023 - called at once
        beside = (most - made[0].nbytes) / 1e6
        yield Line(
            f"loading safetensors of {str(stored)[6:]} as float16: MB at a time beside the weights",
            f"{beside:.1f} (weights: {made[0].nbytes / 1e6:.1f})",
            "at most 3",
            beside <= 3,
        )
    file = support.save_controlnet(folder / "half.pth", network, torch.float16)
    counts: Counter[str] = Counter()
    with counting(counts, torch.UntypedStorage, "from_file", "mapped"):
        load_network(file, rig.base, torch.float16, "cpu")
    yield Line("a .pth file is mapped, not read", str(counts["mapped"]), "1", counts["mapped"] == 1)
    yield thread_line(rig, folder)


def thread_line(rig: Rig, folder: Path) -> Line:
    """Three models of three units."""
    loads: list[str] = []

    class Models:
        find_model, remark = Path, staticmethod(lambda _name: None)

        def can_wait(self, _path: Path, _base: Any) -> bool:
            return True

        def network(self, path: Path, base: Any) -> Any:
            loads.append(threading.current_thread().name)
            return load_network(path, base, torch.float16, "cpu")

    paths = sorted(folder.iterdir())
    ahead = LoadingAhead(Models(), rig.base)
    with ahead.begin([*paths, paths[0]]):
        for path in paths:
            ahead.network(path, rig.base)
    said = f"{len(loads)}, {loads.count(THREAD)} of them while preprocessors run"
    return Line(
        "loads of three models of four units",
        said,
        "3, all of them while preprocessors run",
        loads == [THREAD] * len(paths),
    )


def lossless_lines(families: bool = True) -> Iterator[Line]:
    """All rows.

    Args:
        families: that of all families is among them.
    """
    rigs = [Rig(kind, 32, 8) for kind in (KINDS if families else KINDS[:1])]
    yield from generation_lines(rigs[0])
    if families:
        yield family_line(rigs)
    yield from row_lines(rigs[0])
    with tempfile.TemporaryDirectory() as folder:
        yield from loading_lines(rigs[0], Path(folder))
