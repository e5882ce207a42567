"""A trained control as the file that is used: precision, layout, and the facts about it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from safetensors.torch import load_file

from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.files.containers import open_container

from . import control_file, state
from .base import UNET, LdmBase, open_base
from .dataset import write_text
from .errors import TrainError
from .kinds import KINDS, kind_of_file
from .names import unet_renamer
from .reading import read_mapping
from .run import SETTINGS

if TYPE_CHECKING:
    from torch import Tensor

    from .base import Base

log = logging.getLogger(__name__)

WEIGHTS: Final = "control.safetensors"
DIFFUSERS_NAME: Final = "diffusion_pytorch_model.safetensors"


def find_weights(source: Path) -> Path:
    """The weights that a run has written, or the file itself.

    Raises:
        TrainError: there is neither.
    """
    path = source / WEIGHTS if source.is_dir() else source
    if not path.is_file():
        what = f"the run {source} has not saved weights yet" if source.is_dir() else f"no {source}"
        msg = f"{what}; give the folder of a run or a ControlNet file"
        raise TrainError(msg)
    return path


def base_of(source: Path, given: str | None) -> Base:
    """The base that a control was trained for: the one given, or the run's.

    Raises:
        TrainError: neither is known.
    """
    settings = source / SETTINGS
    if not given and settings.is_file():
        given = read_mapping(settings).get("base")
    if not given:
        msg = f"{source} does not say for which base it was trained; add --base"
        raise TrainError(msg)
    return open_base(given)


def export(
    source: Path,
    out: Path,
    dtype: str = "fp16",
    layout: str = "ldm",
    base: str | None = None,
    facts: dict[str, str] | None = None,
    force: bool = False,
) -> Path:
    """Write a trained control.

    Args:
        source: folder of a run, or a ControlNet file.
        out: a `.safetensors` file; for diffusers' layout a folder.
        dtype: `fp32`, `fp16` or `bf16`.
        layout: `ldm` or `diffusers`.
        base: for files whose base is not known; only diffusers' layout needs one.
        facts: metadata to add or replace.

    Returns:
        The file of weights.
    """
    path = find_weights(source)
    ckpt = open_checkpoint(path)
    metadata = {**ckpt.metadata, **(facts or {})}
    if layout == "ldm":
        control_file.write(dict(ckpt.tensors()), out, dtype, metadata, force)
        return out
    kind = kind_of_file(path)
    if kind is not KINDS["controlnet"]:
        msg = (
            f"{path.name} is a {kind.title}, which is written with its published names only; "
            "leave out --layout diffusers"
        )
        raise TrainError(msg)
    model = base_of(source, base)
    tensors = control_file.network(model, path).state_dict()
    file = out / DIFFUSERS_NAME
    control_file.write(tensors, file, dtype, metadata, force)
    config = control_file.diffusers_config(model, tensors)
    write_text(out / "config.json", json.dumps(config, indent=1))
    return file


def export_base(run: Path, out: Path, dtype: str = "fp16", force: bool = False) -> None:
    """Write the base with the decoder that a run has trained (`--unlock-decoder`).

    Raises:
        TrainError: the run kept the decoder locked, or its base is no single file.
    """
    found = state.latest(run)
    base = base_of(run, None)
    if found is None or not (found / "decoder.safetensors").is_file():
        msg = f"{run} has no trained decoder; runs with --unlock-decoder have"
        raise TrainError(msg)
    if not isinstance(base, LdmBase):
        msg = "a trained decoder is written into a single checkpoint file; the base is a folder"
        raise TrainError(msg)
    trained = load_file(found / "decoder.safetensors")
    with torch.device("meta"):
        from diffusers.models import UNet2DConditionModel

        rename = unet_renamer(UNet2DConditionModel(**base.unet_arguments).state_dict())
    changed: dict[str, Tensor] = {UNET + rename(name): value for name, value in trained.items()}
    file = open_container(base.path)
    tensors = dict(file.read(file.infos, None, "cpu"))
    tensors |= {name: value.reshape(tensors[name].shape) for name, value in changed.items()}
    control_file.write(tensors, out, dtype, dict(file.metadata), force)
    log.info("%s: %d tensors of the decoder replaced", out, len(changed))
