"""The options of a measurement over HTTP, and its run."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from bench_http.measuring import Plan, Site, choose_models, run_rounds, with_checkpoint
from bench_http.meters import Meter, choose_clock
from bench_http.server import BenchError, Server, ServerError, plain
from bench_http.tables import raw, tables
from bench_http.variants import KEYS, MOST_MODELS, QUICK, Scenery

MOST_SERVERS: Final = 2
MOST_STEPS: Final = 150
MOST_PICTURES: Final = 100
MOST_ROUNDS: Final = 1000
SIDES: Final = (64, 2048)
NAMES: Final = ("A", "B")
SMALL, LARGE = (512, 512), (1024, 1024)
"""Sizes of SD1.5 and SDXL."""


def add_options(reader: argparse.ArgumentParser) -> None:
    """The options that only count together with `--webui-url`."""
    group = reader.add_argument_group(
        "over HTTP", "measure a running WebUI instead, with any ControlNet extension"
    )
    add = group.add_argument
    add(
        "--webui-url",
        action="append",
        default=[],
        metavar="[NAME=]URL",
        help="a WebUI with --api; twice: both in turn, with ratios",
    )
    add("--checkpoint", action="append", default=[], metavar="NAME", help="several: one by one")
    add(
        "--control",
        action="append",
        default=[],
        metavar="NAME",
        help="a control model, up to three for a checkpoint; default: those found to act",
    )
    text = "of the pictures, once or once for each checkpoint; default: 512x512, XL 1024x1024"
    add("--size", action="append", default=[], type=read_size, metavar="WxH", help=text)
    text = "of the short and the long pictures; default 4,12, with --quick 2,4"
    add("--steps", type=read_steps, metavar="FEW,MANY", help=text)
    text = "pictures in a batch; default 10, with --quick 3; 1: none"
    add("--batch", type=read_number(1, MOST_PICTURES), help=text)
    add("--module", default="canny", help="preprocessor of every unit")
    add("--sampler", default="Euler", help="name of the sampler")
    add("--quick", action="store_true", help="fewer variants and steps")
    text = "one more to measure, in the place of all; what a picture without units takes always is"
    add("--variant", action="append", default=[], choices=KEYS, help=text)
    add("--clock", choices=("auto", "cpu", "wall"), default="auto", help="what is measured")
    text = "for one answer; default 600"
    add("--timeout", type=read_number(1, 86400), default=600, metavar="SECONDS", help=text)
    text = "begin no turn after so long; default 60"
    add("--minutes", type=read_number(1, 10000), default=60, help=text)
    text = "docs: tables in Markdown; json: every single number"
    add("--output", choices=("docs", "json"), default="docs", help=text)


def check_alone(reader: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options of one kind of measurement that were given to the other."""
    local = ("width", "latent", "part", "preprocessors", "device", "page")
    here = {"rounds", "load", *local}
    for name, value in vars(options).items():
        if value == reader.get_default(name) or name == "webui_url":
            continue
        option = f"--{name.replace('_', '-')}"
        if options.webui_url and name in local:
            reader.error(f"{option} does not go together with --webui-url")
        if not options.webui_url and name not in here:
            reader.error(f"{option} only counts with --webui-url")


def read_number(low: int, high: int) -> type[int]:
    """A reader of whole numbers within bounds, for argparse."""

    def read(text: str) -> int:
        value = int(text) if re.fullmatch(r"\d{1,9}", text) else low - 1
        if not low <= value <= high:
            msg = f"{text} is no whole number from {low} to {high}"
            raise argparse.ArgumentTypeError(msg)
        return value

    return read  # type: ignore[return-value]


def read_size(text: str) -> tuple[int, int]:
    """ "512x768" as width and height, multiples of 8."""
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    sides = tuple(map(int, found.groups())) if found else ()
    if len(sides) != 2 or any(not SIDES[0] <= side <= SIDES[1] or side % 8 for side in sides):
        msg = f"{text}: give width and height such as 512x768, multiples of 8 from 64 to 2048"
        raise argparse.ArgumentTypeError(msg)
    return sides


def read_steps(text: str) -> tuple[int, int]:
    """ "4,12" as steps of the short and of the long pictures."""
    found = re.fullmatch(r"(\d{1,3}),(\d{1,3})", text)
    few, many = map(int, found.groups()) if found else (0, 0)
    if not 0 < few < many <= MOST_STEPS:
        msg = f"{text}: give two numbers of steps such as 4,12, the second larger, at most 150"
        raise argparse.ArgumentTypeError(msg)
    return few, many


def say(text: str) -> None:
    """Tell how it goes, where it does not mix with the tables."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def bench_http(options: argparse.Namespace) -> int:
    """Measure and print.

    Returns:
        Exit status, 1 if it could not be measured.
    """
    try:
        measure(options)
    except BenchError as error:
        say(str(error))
        return 1
    return 0


def measure(options: argparse.Namespace) -> None:
    """Every checkpoint, one by one, on all servers in turn.

    Raises:
        BenchError: in one sentence, what keeps it from being done.
    """
    check(options)
    servers = [
        Server(address, name, options.timeout)
        for address, name in zip(options.webui_url, NAMES, strict=False)
    ]
    for server in servers:
        server.control_models()  # the clearest sentence first
    meters = [Meter.of(server) for server in servers]
    clock = choose_clock(meters, options.clock)
    deadline = time.monotonic() + 60 * options.minutes
    few, many = options.steps or ((2, 4) if options.quick else (4, 12))
    batch = options.batch or (3 if options.quick else 10)
    keys = tuple(options.variant) or (QUICK if options.quick else KEYS)
    plan = Plan(few, many, batch, options.rounds, deadline, keys)
    found = []
    with checkpoints_restored(servers if options.checkpoint else ()):
        for number, checkpoint in enumerate(options.checkpoint or [""]):
            width, height = size_of(options, number, checkpoint or servers[0].present_checkpoint())
            scenery = Scenery(width, height, options.module, options.sampler)
            sites = [with_checkpoint(meter, scenery, checkpoint) for meter in meters]
            choose_models(sites, [plain(name) for name in options.control], plan, say)
            rounds, refused = run_rounds(sites, plan, say)
            if options.output == "docs":
                print(report(sites, plan, rounds, clock, refused), flush=True)
            found += raw(sites)
    if options.output == "json":
        print(json.dumps({"clock": clock, "steps": [few, many], "batch": batch, "sites": found}))


def check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        BenchError: which, and what to do.
    """
    if len(options.webui_url) > MOST_SERVERS:
        msg = f"--webui-url: at most {MOST_SERVERS} can be compared, got {len(options.webui_url)}"
        raise BenchError(msg)
    if not 1 <= options.rounds <= MOST_ROUNDS:
        msg = f"--rounds is {options.rounds}, must be 1 to {MOST_ROUNDS}"
        raise BenchError(msg)
    fitting = (0, 1, len(options.checkpoint))
    if len(options.size) not in fitting:
        msg = (
            f"--size was given {len(options.size)} times; give it once, or once for each of the "
            f"{len(options.checkpoint)} --checkpoint"
        )
        raise BenchError(msg)


def size_of(options: argparse.Namespace, number: int, checkpoint: str) -> tuple[int, int]:
    """Width and height of the pictures of a checkpoint; by its name where none was given."""
    if options.size:
        return options.size[number if len(options.size) > 1 else 0]
    return LARGE if "xl" in checkpoint.lower() else SMALL


@contextmanager
def checkpoints_restored(servers: Sequence[Server]) -> Iterator[None]:
    """Give servers back the checkpoint that they have now, whatever happens."""
    present = [(server, server.present_checkpoint()) for server in servers]
    try:
        yield
    finally:
        for server, checkpoint in present:
            with suppress(ServerError):
                server.post("/sdapi/v1/options", {"sd_model_checkpoint": checkpoint})


def report(
    sites: Sequence[Site], plan: Plan, rounds: int, clock: str, refused: Mapping[str, str]
) -> str:
    """The tables of one checkpoint, under what was measured and how."""
    first = sites[0]
    checkpoint = first.scenery.checkpoint or first.meter.server.present_checkpoint()
    names = ", ".join(f"{site.name} = {site.meter.server.url}" for site in sites)
    models = ", ".join(first.models)
    lines = [
        f"{checkpoint}, {first.scenery.width} x {first.scenery.height}, "
        f"{first.scenery.sampler}, {first.scenery.module}, {models}",
        f"{names}; {sum(site.pictures for site in sites)} pictures of {plan.few} or {plan.many} "
        f"steps, {rounds} of {plan.rounds} rounds, medians with quartiles, {clock}",
    ]
    if len(first.models) < MOST_MODELS:
        lines.append(
            f"Only {len(first.models)} control model{'s' if len(first.models) > 1 else ''} acted: "
            "what needs more is missing."
        )
    lines += [f"Left out: {variant}: {why}" for variant, why in refused.items()]
    return "\n\n".join([*lines, *tables(sites, plan)]) + "\n"
