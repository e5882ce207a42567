"""ControlNet files that the trainer writes: new ones, in either layout, with their facts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lib_controlnet.enums import LATENT_CHANNELS
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.files.layouts import diffusers_renamer

from .errors import TrainError
from .packages import need

if TYPE_CHECKING:
    from diffusers.models import ControlNetModel
    from torch import Tensor

    from .base import Base

HINT_WIDTHS: Final = (3, 16, 16, 32, 32, 96, 96, 256)
"""Channels between the published hint encoder's convolutions; the last goes to the model's."""
HINT_GAIN: Final = 2.2
HINT_LAST_GAIN: Final = 0.5
DTYPES: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
EIGHT_BITS: Final = "fp8"
"""Matrices and kernels in 8 bits (e4m3), the few other numbers in fp16."""
ADM_ARGUMENTS: Final = (
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
)
SHARED_ARGUMENTS: Final = (
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "transformer_layers_per_block",
    "cross_attention_dim",
    "use_linear_projection",
    "attention_head_dim",
    "num_attention_heads",
    *ADM_ARGUMENTS,
)
"""Arguments of diffusers' U-Net class that its ControlNet class takes too."""


def new_tensors(base: Base, seed: int = 0, gaussian: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a new ControlNet for a base, by original names.

    Encoder and middle are the base's own. The hint encoder starts larger than torch would: with
    torch's numbers a one-pixel line fades to nothing on its way through eight convolutions.

    Args:
        seed: decides the hint encoder's numbers.
        gaussian: the paper's ablation: convolutions that should start at zero get random numbers.
    """
    for name, tensor in base.encoder():
        if name == "input_blocks.0.0.weight":  # inpainting bases read more channels
            tensor = tensor[:, :LATENT_CHANNELS].contiguous()
        yield name, tensor
    generator = torch.Generator().manual_seed(seed)
    shape = base.shape
    widths = (*HINT_WIDTHS, shape.model_channels)
    for i, (width_in, width) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
        last = i == len(widths) - 2
        spread = (HINT_LAST_GAIN if last else HINT_GAIN) / (width_in * 9) ** 0.5
        weight = torch.randn(width, width_in, 3, 3, generator=generator) * spread
        yield f"input_hint_block.{2 * i}.weight", weight
        yield f"input_hint_block.{2 * i}.bias", torch.zeros(width)
    names = [f"zero_convs.{i}.0" for i in range(len(shape.skips))]
    for name, width in zip(
        [*names, "middle_block_out.0"], [*shape.skips, shape.middle], strict=True
    ):
        spread = width**-0.5 if gaussian else 0.0
        yield f"{name}.weight", torch.randn(width, width, 1, 1, generator=generator) * spread
        yield f"{name}.bias", torch.zeros(width)


def start_from(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """New tensors, those replaced that a ControlNet's file has too, in float32.

    Raises:
        TrainError: the file is no ControlNet of this structure.
    """
    ckpt = open_checkpoint(path)
    shapes = {name: tuple(shape) for name, shape in ckpt.shapes.items()}
    other = sorted(n for n in shapes if n not in tensors or shapes[n] != tuple(tensors[n].shape))
    if other or "zero_convs.0.0.weight" not in shapes:
        what = f": {len(other)} tensors differ, such as {other[0]}" if other else ""
        msg = f"{path.name} is no ControlNet for this base{what}"
        raise TrainError(msg)
    return {**tensors, **dict(ckpt.tensors(None, torch.float32))}


def network(base: Base, path: Path) -> ControlNetModel:
    """A ControlNet file as diffusers' class, float32, on the CPU.

    Args:
        base: the base it is made for, which knows the attention heads.
        path: a file in either layout.

    Raises:
        TrainError: the file does not fit the base.
    """
    ckpt = open_checkpoint(path)
    arguments = {
        key: value for key, value in base.unet_arguments.items() if key in SHARED_ARGUMENTS
    }
    hints = sorted(
        (int(name.split(".")[1]), shape[0])
        for name, shape in ckpt.shapes.items()
        if name.startswith("input_hint_block.") and name.endswith(".weight")
    )
    arguments["conditioning_embedding_out_channels"] = tuple(w for _, w in hints[:-1:2])
    with torch.device("meta"):
        module = need("diffusers").ControlNetModel(in_channels=LATENT_CHANNELS, **arguments)
    rename = diffusers_renamer(module.state_dict())
    wanted = {rename(name): name for name in module.state_dict()}
    different = wanted.keys() ^ set(ckpt.keys)
    if different:
        msg = (
            f"{path.name} is no ControlNet for {base.name} ({base.shape}): {len(different)} "
            f"tensors differ, such as {sorted(different)[0]}"
        )
        raise TrainError(msg)
    shapes = {name: value.shape for name, value in module.state_dict().items()}
    try:
        tensors = {
            wanted[name]: tensor.reshape(shapes[wanted[name]])
            for name, tensor in ckpt.tensors(wanted, torch.float32)
        }
        module.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        msg = f"{path.name} is no ControlNet for {base.name} ({base.shape}): sizes differ"
        raise TrainError(msg) from error
    return module


def ldm_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A ControlNet's tensors by original names, from diffusers' names."""
    rename = diffusers_renamer(tensors)
    return {rename(name): tensor for name, tensor in tensors.items()}


def diffusers_config(base: Base, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The `config.json` that diffusers wants beside a ControlNet, from diffusers' names."""
    arguments = {
        key: value for key, value in base.unet_arguments.items() if key in SHARED_ARGUMENTS
    }
    embedding = "controlnet_cond_embedding"
    widths = [tensors[f"{embedding}.conv_in.weight"].shape[0]]
    widths += [
        tensors[f"{embedding}.blocks.{i}.weight"].shape[0]
        for i in range(1, 2 * len(tensors), 2)
        if f"{embedding}.blocks.{i}.weight" in tensors
    ]
    return {
        "_class_name": "ControlNetModel",
        "in_channels": LATENT_CHANNELS,
        "conditioning_embedding_out_channels": widths,
        **arguments,
    }


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors; a file that cannot be finished is removed.

    Raises:
        TrainError: it cannot be written, such as where the disk is full.
    """
    try:
        save_file(dict(tensors), path, metadata=dict(metadata) if metadata else None)
    except (OSError, SafetensorError) as error:
        path.unlink(missing_ok=True)
        msg = f"{path} cannot be written: {error}"
        raise TrainError(msg) from error


def write(
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: str | None = None,
    metadata: Mapping[str, str] | None = None,
    force: bool = False,
) -> None:
    """Write tensors as safetensors, in one step; an existing file stays unless `force`.

    Raises:
        TrainError: there is such a file already, or it cannot be written.
    """
    if path.exists() and not force:
        msg = f"{path} exists already; give another name, or --force to replace it"
        raise TrainError(msg)
    if path.suffix.lower() != ".safetensors":
        msg = f"{path.name} must end with .safetensors"
        raise TrainError(msg)
    kept = {name: _cast(tensor.detach(), dtype) for name, tensor in tensors.items()}
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(kept, partial, {"format": "pt", **(metadata or {})})
        partial.chmod(_usual_mode())  # safetensors makes files that only their owner may read
        partial.replace(path)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror or error}"
        raise TrainError(msg) from error
    finally:
        partial.unlink(missing_ok=True)


def _cast(tensor: Tensor, dtype: str | None) -> Tensor:
    """A copy for a file; whole numbers, such as positions of tokens, stay such."""
    if dtype == EIGHT_BITS:
        wanted: torch.dtype | None = torch.float8_e4m3fn if tensor.dim() > 1 else torch.float16
    else:
        wanted = DTYPES[dtype] if dtype else None
    if not tensor.is_floating_point():
        wanted = None
    return tensor.to("cpu", wanted).contiguous()


def _usual_mode() -> int:
    """Permissions that new files get from everybody else."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def facts(values: Mapping[str, object]) -> dict[str, str]:
    """Facts as safetensors keeps them: text; nested ones as JSON, absent ones left out."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for key, value in values.items()
        if value not in (None, "")
    }
