"""The command line: `python -m lib_controlnet.tools COMMAND ...`, run from the extension's folder.

Exit status 0: done; 1: it could not be done, or `check` found a fault; 2: wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from lib_controlnet.errors import ControlNetError
from lib_controlnet.tools import check, combine, convert, describe, low_rank, obtain
from lib_controlnet.tools.source import DTYPES

log = logging.getLogger("lib_controlnet.tools")

DONE, FAILED = 0, 1


def parser() -> argparse.ArgumentParser:
    """All commands and their arguments."""
    top = argparse.ArgumentParser(
        prog="python -m lib_controlnet.tools", description="Work on control model files."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    info = commands.add_parser("info", help="what a file is and where the panel lists it")
    info.add_argument("files", nargs="+", type=Path, metavar="FILE")
    info.add_argument("--json", action="store_true", help="for programs: a list of objects")

    checked = commands.add_parser("check", help="missing names, NaN, untrained layers")
    checked.add_argument("files", nargs="+", type=Path, metavar="FILE")
    checked.add_argument("--strict", action="store_true", help="a remark counts as a fault")
    checked.add_argument(
        "--sha256", action="store_true", help="compare the SHA-256 with the published file's"
    )

    brought = commands.add_parser(
        "download", help="published control models: the list of them, or some of them"
    )
    brought.add_argument(
        "names", nargs="*", metavar="NAME", help="files; without any they are listed"
    )
    brought.add_argument("--type", default="All", help="list those of a control type")
    brought.add_argument("--base", choices=("SD1", "SD2", "SDXL"), default="", help="for a base")
    brought.add_argument("--folder", type=Path, help="instead of the WebUI's folder")
    brought.add_argument("--mirror", default="", help="address that stands for huggingface.co")

    converted = _add_writer(commands, "convert", "another precision, layout or container", "IN")
    converted.add_argument(
        "--layout", choices=convert.LAYOUTS, default="keep", help="names of the tensors"
    )
    _add_writer(commands, "extract", "the control part of a larger file", "IN")
    _add_writer(commands, "diff", "control minus base, added to any checkpoint on loading",
             "CONTROL", "BASE")  # fmt: skip
    moved = _add_writer(commands, "transfer", "the same change on another base", "CONTROL")
    moved.add_argument(
        "--from", dest="old", type=Path, metavar="BASE", help="the base of a full control model"
    )
    moved.add_argument(
        "--to", dest="new", type=Path, metavar="BASE2", required=True, help="the base to fit"
    )
    reduced = _add_writer(commands, "to-lora", "a Control-LoRA of a given rank", "CONTROL", "BASE")
    reduced.add_argument("--rank", type=int, required=True, help="such as 128 or 256")
    return top


def _add_writer(
    commands: argparse._SubParsersAction, name: str, text: str, *sources: str
) -> argparse.ArgumentParser:
    """A command that reads some files and writes one."""
    command = commands.add_parser(name, help=text)
    for source in sources:
        command.add_argument(source.lower(), type=Path, metavar=source)
    command.add_argument("out", type=Path, metavar="OUT")
    command.add_argument("--dtype", choices=DTYPES, help="precision; the source's unless given")
    command.add_argument("--force", action="store_true", help="replace OUT if it is there")
    return command


def run(options: argparse.Namespace) -> int:
    """Do what was asked; the exit status.

    Raises:
        ControlNetError: it cannot be done.
    """
    name = options.command
    if name == "info":
        return _info(options.files, options.json)
    if name == "check":
        return max([_check(path, options.strict, options.sha256) for path in options.files])
    if name == "download":
        return _download(options)
    dtype, force = DTYPES.get(options.dtype), options.force
    if name == "convert":
        convert.convert(vars(options)["in"], options.out, dtype, options.layout, force)
    elif name == "extract":
        convert.extract(vars(options)["in"], options.out, dtype, force)
    elif name == "diff":
        combine.make_difference(options.control, options.base, options.out, dtype, force)
    elif name == "transfer":
        combine.transfer(options.control, options.old, options.new, options.out, dtype, force)
    else:
        control, base, out = options.control, options.base, options.out
        report = low_rank.to_low_rank(control, base, out, options.rank, dtype, force)
        _show(report.table())
    return DONE


def _info(files: Sequence[Path], as_json: bool) -> int:
    found, status = [], DONE
    for path in files:
        try:
            found.append(describe.describe(path))
        except ControlNetError as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence for the user, the next file goes on
            status = FAILED
    if as_json:
        _show(json.dumps(found, indent=2))
    elif found:
        _show("\n\n".join(map(describe.as_text, found)))
    return status


def _download(options: argparse.Namespace) -> int:
    folder = options.folder or obtain.find_folder()
    if not options.names:
        _show(obtain.make_table(obtain.find_models(options.type, options.base), folder))
        return DONE
    status, how = DONE, obtain.read_options(options.mirror)
    for one in obtain.find_wanted(options.names):
        try:
            _show(obtain.bring(one, folder, how))
        except ControlNetError as error:
            log.error("%s", error)  # noqa: TRY400 - a sentence for the user, the next file goes on
            status = FAILED
        except KeyboardInterrupt:
            log.error("stopped; the same command continues")  # noqa: TRY400
            return FAILED
    return status


def _check(path: Path, strict: bool, with_sum: bool) -> int:
    try:
        verdict = check.check(path, with_sum)
    except ControlNetError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence for the user, the next file goes on
        return FAILED
    state = "faulty" if verdict.faults else "sound"
    _show(f"{path.name}: {verdict.title}, {verdict.tensors} tensors, {state}")
    _show("".join(f"  fault: {text}\n" for text in verdict.faults), end="")
    _show("".join(f"  remark: {text}\n" for text in verdict.remarks), end="")
    _show("".join(f"  {text}\n" for text in verdict.notes), end="")
    return FAILED if verdict.faults or (strict and verdict.remarks) else DONE


def _show(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. What goes wrong is one sentence in the log."""
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except ControlNetError as error:
        log.error("%s", error)  # noqa: TRY400 - a sentence for the user
    except KeyboardInterrupt:
        log.error("interrupted; nothing was written")  # noqa: TRY400
    return FAILED


def _interrupt(*_arguments: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
