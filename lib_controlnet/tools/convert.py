"""`convert` and `extract`: another precision, layout or container for the same control model."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lib_controlnet.tools.errors import ToolError
from lib_controlnet.tools.renaming import diffusers_config, to_diffusers
from lib_controlnet.tools.source import (
    RENAMED_KINDS,
    ControlFile,
    cast,
    facts,
    open_control,
    plan_of,
    read_all,
)
from lib_controlnet.tools.writer import (
    nbytes,
    refuse_to_overwrite,
    whole_file,
    write_safetensors,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

log = logging.getLogger(__name__)

LAYOUTS: Final = ("keep", "ldm", "diffusers")
MODEL_FILE: Final = "diffusion_pytorch_model.safetensors"
CONFIG_FILE: Final = "config.json"


def convert(
    source: Path,
    out: Path,
    dtype: torch.dtype | None = None,
    layout: str = "keep",
    force: bool = False,
) -> None:
    """Write a control model anew, its tensors' values kept or rounded.

    Args:
        source: a control model in any container.
        out: a `.safetensors` file; in diffusers' layout also a folder, which gets a `config.json`.
        dtype: precision of floating point tensors; None keeps the file's.
        layout: `keep`, `ldm` or `diffusers`.
        force: replace what is there.

    Raises:
        ControlNetError: the source cannot be used, or the target not be written.
    """
    model, config = _targets(out, layout)
    if config is None:
        refuse_to_overwrite(model, force)
    elif model.exists() and not force:
        msg = f"{model} is there already; add --force to replace it, or choose another folder"
        raise ToolError(msg)
    control = open_control(source)
    write_control(control, model, config, dtype, layout)


def extract(source: Path, out: Path, dtype: torch.dtype | None = None, force: bool = False) -> None:
    """Write the control part of a file that holds more; nothing else of the file is read.

    Raises:
        ControlNetError: the source holds nothing else, cannot be used, or the target not be
            written.
    """
    refuse_to_overwrite(out, force)
    control = open_control(source)
    if not control.others:
        msg = f"{control.name} holds {control.title} and nothing else; use convert"
        raise ToolError(msg)
    write_control(control, out, None, dtype, "keep", "extract")


def write_control(
    control: ControlFile,
    model: Path,
    config: Path | None,
    dtype: torch.dtype | None,
    layout: str,
    command: str = "convert",
) -> None:
    """Write a control model, and diffusers' configuration where one is asked for."""
    rename = renamer(control, layout)
    plan = {rename(key): entry for key, entry in plan_of(control, dtype).items()}
    content = "" if config is None else _configuration(control)
    metadata = facts(control, f"{command} {control.name}")
    made = config is not None and not model.parent.exists()
    try:
        if made:
            model.parent.mkdir()
        write_safetensors(model, plan, _rename(control, rename, dtype), metadata)
        if config is not None:
            with whole_file(config) as stream:
                stream.write(content.encode())
    except BaseException:
        if made:
            shutil.rmtree(model.parent, ignore_errors=True)
        raise
    if control.others:
        log.info("%d tensors beside the control model were left out", control.others)
    log.info("wrote %s: %d tensors, %.1f MB", model, len(plan), nbytes(plan) / 1e6)


def renamer(control: ControlFile, layout: str) -> Callable[[str], str]:
    """A function from LDM names to the names in a layout.

    Raises:
        ToolError: files of this kind have one layout only.
    """
    key = "" if control.kind is None else control.kind.key
    if key not in RENAMED_KINDS:
        if layout != "keep":
            msg = f"{control.name} is {control.title}; only ControlNets have another layout"
            raise ToolError(msg)
        return control.file_names.__getitem__
    if layout == "diffusers" and control.is_difference:
        msg = f"{control.name} is {control.title}, which diffusers does not know; transfer it first"
        raise ToolError(msg)
    if layout == "diffusers" or (layout == "keep" and control.ckpt.diffusers):
        return to_diffusers(control.ckpt.keys)
    return str


def _rename(
    control: ControlFile, rename: Callable[[str], str], dtype: torch.dtype | None
) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in read_all(control):
        yield rename(key), cast(key, tensor, dtype)


def _targets(out: Path, layout: str) -> tuple[Path, Path | None]:
    """The model file and, where a folder is named for diffusers' layout, its configuration."""
    if layout == "diffusers" and (out.is_dir() or not out.suffix):
        if not out.parent.is_dir():
            msg = f"{out.name} cannot be written: there is no folder {out.parent}"
            raise ToolError(msg)
        return out / MODEL_FILE, out / CONFIG_FILE
    return out, None


def _configuration(control: ControlFile) -> str:
    """The text of `config.json`; the one beside the source where there is one."""
    config: Mapping[str, object] = control.ckpt.config
    if "_class_name" not in config:
        if control.kind is not None and control.kind.key != "controlnet":
            msg = (
                f"{control.name} is {control.title}, whose configuration is not known; name a "
                ".safetensors file to write it without"
            )
            raise ToolError(msg)
        control.shape()
        config = diffusers_config(control.ckpt.shapes, control.ckpt.global_average_pooling)
    return json.dumps(dict(config), indent=2) + "\n"
