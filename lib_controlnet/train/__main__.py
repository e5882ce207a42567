"""Train your own ControlNet from the command line.

Run it in the extension's folder: `python -m lib_controlnet.train init BASE OUT`, then annotate (or
fill50k), run, export. `docs/training.md` is the tutorial.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lib_controlnet.errors import ControlNetError

from . import config
from .errors import NOT_TRAINED

log = logging.getLogger("lib_controlnet.train")

DONE, FAILED, MISUSED, STOPPED = 0, 1, 2, 130
"""Exit codes: done, something is wrong, wrong arguments, Ctrl+C."""
MAX_WORKERS: Final = 61
"""Windows waits for no more processes."""
METADATA: Final = ("control_type", "preprocessor")
KINDS: Final = ("controlnet", "union", "t2i", "t2i_light", "lllite")
"""Here as words, because torch is imported late."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m lib_controlnet.train", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    init = commands.add_parser(
        "init", help="make a new control for a base checkpoint", epilog=NOT_TRAINED
    )
    init.add_argument("base", help="checkpoint file or diffusers folder (SD1, SD2, SDXL)")
    init.add_argument("out", help="the .safetensors file to write")
    init.add_argument("--kind", choices=KINDS, default="controlnet", help="what to make")
    init.add_argument("--start", help="a trained ControlNet that a union begins with")
    init.add_argument(
        "--types",
        type=int,
        choices=range(1, 65),
        metavar="1..64",
        help="that a union tells apart (default: 6)",
    )
    init.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    init.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    init.add_argument(
        "--gaussian", action="store_true", help="ablation: random instead of zero convolutions"
    )
    init.add_argument(
        "--everywhere",
        action="store_true",
        help="an LLLite acts in the decoder and on convolutions too, not where published ones do",
    )
    init.add_argument("--force", action="store_true", help="replace an existing file")

    fill = commands.add_parser("fill50k", help="make a data set of circles")
    fill.add_argument("out", help="folder to write")
    fill.add_argument("--count", type=int, default=50000)
    fill.add_argument("--size", type=int, default=512)
    fill.add_argument("--seed", type=int, default=0)

    _add_annotate(commands.add_parser("annotate", help="make a data set of a folder of pictures"))

    run = commands.add_parser("run", help="train")
    run.add_argument("config", nargs="?", help="JSON or YAML file of settings; options count first")
    config.add_arguments(run)

    export = commands.add_parser("export", help="write a trained control to use")
    export.add_argument("source", help="folder of a run, or a ControlNet file")
    export.add_argument("out", help=".safetensors file; a folder for --layout diffusers")
    export.add_argument("--dtype", choices=("fp32", "fp16", "bf16", "fp8"), default="fp16")
    export.add_argument("--layout", choices=("ldm", "diffusers"), default="ldm")
    export.add_argument("--base", help="for files that are not of a run")
    export.add_argument("--control-type", help="where the panel lists it, such as Canny")
    export.add_argument("--preprocessor", help="which preprocessor goes with it")
    export.add_argument("--base-out", help="write the base with the decoder that was trained too")
    export.add_argument("--force", action="store_true", help="replace an existing file")
    return top


def _add_annotate(annotate: argparse.ArgumentParser) -> None:
    annotate.add_argument("pictures", help="folder of pictures, searched below too")
    annotate.add_argument("out", help="folder to write")
    annotate.add_argument("--preprocessor", required=True, help="one of this extension, by name")
    annotate.add_argument(
        "--values", type=float, nargs="*", default=[], help="its sliders, in the panel's order"
    )
    annotate.add_argument("--resolution", type=int, help="short side it works at")
    annotate.add_argument("--size", help="W or WxH of every example; pictures are cropped to it")
    annotate.add_argument(
        "--captions",
        default="text",
        help="text (a .txt file beside each picture), names (words of the file name), or a file "
        "of JSON lines with file_name and text",
    )
    workers = min(MAX_WORKERS, max(1, (os.cpu_count() or 2) // 2))
    annotate.add_argument("--workers", type=int, default=workers, help="processes")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`512` or `512x768` as width and height."""
    if not text:
        return None
    parts = text.lower().split("x")
    if not all(part.isdigit() and int(part) > 0 for part in parts) or len(parts) > 2:
        msg = f"--size is {text!r}, expected a number or WIDTHxHEIGHT, such as 512x768"
        raise ControlNetError(msg)
    return int(parts[0]), int(parts[-1])


def init_command(options: argparse.Namespace) -> None:
    """Write a new control."""
    from . import control_file
    from .base import open_base
    from .kinds import KINDS, Begin

    base, kind = open_base(options.base), KINDS[options.kind]
    kind.refuse_options(options)
    start = Path(options.start) if options.start else None
    begin = Begin(options.seed, options.gaussian, start, options.types, options.everywhere)
    tensors = dict(kind.new_tensors(base, begin))
    facts = {
        "base": base.name,
        "base_family": str(base.shape.kind),
        "training": {"steps": 0, "seed": options.seed, "gaussian": options.gaussian},
    }
    control_file.write(
        tensors, Path(options.out), options.dtype, control_file.facts(facts), options.force
    )
    count = sum(tensor.numel() for tensor in tensors.values())
    log.info("%s: a %s for %s, %.1f M parameters", options.out, kind.title, base.shape, count / 1e6)


def annotate_command(options: argparse.Namespace) -> int:
    """Write a data set; failed pictures are listed and make the exit code."""
    from .annotate import Recipe, annotate

    size = parse_size(options.size)
    recipe = Recipe(options.preprocessor, tuple(options.values), options.resolution, size)
    faults = annotate(
        *(Path(options.pictures), Path(options.out), recipe, options.captions, options.workers)
    )
    for fault in faults:
        log.warning("left out: %s", fault)
    return FAILED if faults else DONE


def export_command(options: argparse.Namespace) -> None:
    """Write a trained control."""
    from .export import export, export_base

    facts = {key: getattr(options, key) for key in METADATA if getattr(options, key)}
    source, out = Path(options.source), Path(options.out)
    written = export(
        *(source, out, options.dtype, options.layout, options.base, facts, options.force)
    )
    log.info("%s: %.1f MB", written, written.stat().st_size / 1e6)
    if options.base_out:
        export_base(source, Path(options.base_out), options.dtype, options.force)


def perform(options: argparse.Namespace) -> int:
    """Do what was asked; the exit code."""
    if options.command == "init":
        init_command(options)
    elif options.command == "fill50k":
        from .fill50k import make

        make(Path(options.out), options.count, options.size, options.seed)
    elif options.command == "annotate":
        return annotate_command(options)
    elif options.command == "run":
        from .run import run

        run(config.from_arguments(options))
    else:
        export_command(options)
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and perform; errors are one sentence.

    Returns:
        The exit code.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("diffusers", "accelerate", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    options = parser().parse_args(arguments)
    try:
        return perform(options)
    except (ControlNetError, OSError) as error:  # OSError: no space, no permission
        log.error("%s: %s", options.command, error)  # noqa: TRY400 - a sentence, no traceback
        return FAILED
    except KeyboardInterrupt:
        text = "%s: stopped; the same command goes on from what is saved"
        log.error(text, options.command)  # noqa: TRY400
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
