"""Files that the tools read: a control model with its kind, and a base checkpoint's encoder.

Both know names and shapes only; tensors are read one at a time when they are asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from tqdm import tqdm

from lib_controlnet.engine.unet import UNetShape, read_shape
from lib_controlnet.errors import BrokenCheckpointError
from lib_controlnet.families.base_weights import FIRST_BLOCK, SHARED_WITH_BASE
from lib_controlnet.files.checkpoint import Checkpoint
from lib_controlnet.files.containers import TensorFile, TorchFile, open_container
from lib_controlnet.files.layouts import FULL_CHECKPOINT, diffusers_renamer, normalise
from lib_controlnet.files.signatures import NO_CONTROL, Signature
from lib_controlnet.tools.errors import ToolError
from lib_controlnet.tools.writer import Entry

log = logging.getLogger(__name__)

RENAMED_KINDS: Final = frozenset({"controlnet", "union"})
"""Kinds that exist with LDM and with diffusers' names."""

DTYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

PIECE: Final = 2**19
"""Elements of a tensor that are worked on at a time."""


@dataclass(frozen=True)
class ControlFile:
    """An opened control model.

    Attributes:
        file: its container, with the names that the file uses.
        ckpt: the control part alone, with LDM names.
        kind: what it is; None for a file of no known kind.
    """

    file: TensorFile
    ckpt: Checkpoint
    kind: Signature | None

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.ckpt.path

    @property
    def name(self) -> str:
        """File name, for messages."""
        return self.ckpt.path.name

    @property
    def file_names(self) -> dict[str, str]:
        """The name in the file for every LDM name."""
        return normalise(self.file.infos)

    @property
    def others(self) -> int:
        """Tensors beside the control part: the rest of a Stable Diffusion model, bookkeeping."""
        return len(self.file.infos) - len(self.ckpt.keys)

    @property
    def key(self) -> str:
        """Short name of its kind; "" for a file of no known kind."""
        return "" if self.kind is None else self.kind.key

    @property
    def is_pickle(self) -> bool:
        """It is no safetensors file, whatever its extension."""
        return isinstance(self.file, TorchFile)

    @property
    def is_difference(self) -> bool:
        """It holds "control minus base"."""
        return "difference" in self.ckpt

    @property
    def title(self) -> str:
        """What it is, with an article."""
        if self.kind is None:
            return "no model of a known kind"
        return "a difference ControlNet" if self.is_difference else self.kind.title

    def shape(self) -> UNetShape:
        """Structure of the U-Net it is made for.

        Raises:
            BrokenCheckpointError: a tensor that decides is missing.
        """
        try:
            return read_shape(self.ckpt.shapes)
        except (KeyError, IndexError) as error:
            msg = f"{self.name} is {self.title}, but incomplete: {error.args[0]} is missing"
            raise BrokenCheckpointError(msg) from None


def open_any(path: Path) -> ControlFile:
    """Open a file of tensors, whatever it holds.

    Raises:
        ModelNotFoundError: there is no such file.
        BrokenCheckpointError: it is damaged, empty, not a model file, or unsafe to load.
    """
    file = open_container(path)
    ckpt = Checkpoint(path, file)
    return ControlFile(file, ckpt, ckpt.kind)


def open_control(path: Path, kinds: Collection[str] = ()) -> ControlFile:
    """Open a control model.

    Args:
        path: the file.
        kinds: the kinds a command works on; empty for every control model.

    Raises:
        ToolError: it is something else.
        ModelNotFoundError: there is no such file.
        BrokenCheckpointError: it is damaged, empty, not a model file, or unsafe to load.
    """
    control = open_any(path)
    if control.key in ("", *NO_CONTROL):
        msg = f"{control.name} is {control.title}, not a control model"
        raise ToolError(msg)
    if kinds and control.key not in kinds:
        msg = f"{control.name} is {control.title}; this works on ControlNets only"
        raise ToolError(msg)
    return control


def plan_of(control: ControlFile, dtype: torch.dtype | None) -> dict[str, Entry]:
    """Shapes and dtypes of a control model by LDM name, in another precision if one is given."""
    ckpt = control.ckpt
    return {
        key: (ckpt.shape(key), dtype if dtype and own.is_floating_point else own)
        for key in ckpt.keys
        for own in [ckpt.dtype(key)]
    }


def read_all(control: ControlFile) -> Iterator[tuple[str, Tensor]]:
    """All tensors by LDM name, one at a time, with progress where somebody watches."""
    tensors, total = control.ckpt.tensors(), len(control.ckpt.keys)
    yield from tqdm(tensors, control.name, total, unit="tensor", disable=None)


def facts(control: ControlFile, step: str) -> dict[str, str]:
    """The file's metadata for a file made from it, and what lay beside the file until now.

    Args:
        control: where the tensors come from.
        step: what is done to it, for the entry `history`.
    """
    metadata = {str(key): str(value) for key, value in control.file.metadata.items()}
    if control.ckpt.global_average_pooling:
        metadata.setdefault("global_average_pooling", "true")
    if control.ckpt.config.get("controlnet_conditioning_channel_order") == "bgr":
        log.warning(
            "%s reads BGR pictures, as the configuration beside it says and no tensor does: put "
            "a copy of that configuration beside the new file, under its name with .json",
            control.name,
        )
    before = f"{metadata['history']}; " if "history" in metadata else ""
    return {**metadata, "history": f"{before}{step}"}


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of equally large tensors, flat, in step: temporary copies of a part are small."""
    yield from zip(*(tensor.reshape(-1).split(PIECE) for tensor in tensors), strict=True)


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(part.float().isfinite().all()) for (part,) in pieces(tensor))


def cast(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor in another precision; None and integers change nothing.

    Raises:
        ToolError: a finite value is too large for the precision.
    """
    if dtype is None or not tensor.is_floating_point() or tensor.dtype is dtype:
        return tensor
    result = tensor.to(dtype)
    for before, after in pieces(tensor, result):
        if bool((after.float().isinf() & before.float().isfinite()).any()):
            largest = before.float().nan_to_num(0.0, 0.0, 0.0).abs().max().item()
            msg = (
                f"{name} holds values up to {largest:.3g}, {str(dtype).removeprefix('torch.')} "
                f"ends at {torch.finfo(dtype).max:.3g}; choose bf16 or fp32"
            )
            raise ToolError(msg)
    return result


class BaseFile:
    """The encoder of a base checkpoint's U-Net, with LDM names.

    Reads whole checkpoints (`model.diffusion_model.`), a U-Net alone, and diffusers' U-Net file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_container(path)
        names = _unet_names(self._file.infos)
        self._names = {new: old for new, old in names.items() if new.startswith(SHARED_WITH_BASE)}
        if FIRST_BLOCK not in self._names:
            msg = f"{path.name} is no base checkpoint: it holds no U-Net of SD1, SD2 or SDXL"
            raise ToolError(msg)
        self.shape = read_shape(self.shapes)

    @property
    def name(self) -> str:
        """File name, for messages."""
        return self.path.name

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the encoder's tensors by LDM name."""
        return {name: self._file.infos[old].shape for name, old in self._names.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def tensor(self, name: str, shape: Sequence[int]) -> Tensor:
        """Read one tensor in its own precision, in a control model's shape of it.

        Inpainting checkpoints read more channels than control models, and 1x1 convolutions may
        be kept as linear layers.
        """
        tensor = next(iter(self._file.read([self._names[name]], None, "cpu")))[1]
        if name == FIRST_BLOCK:
            tensor = tensor[:, : shape[1]]
        return tensor.reshape(tuple(shape))


def _unet_names(infos: Collection[str]) -> dict[str, str]:
    """LDM names of a U-Net's tensors and their names in the file; {} where there is none."""
    for prefix in (FULL_CHECKPOINT, "diffusion_model."):
        inside = {name[len(prefix) :]: name for name in infos if name.startswith(prefix)}
        if inside:
            return inside
    if any(name.startswith("output_blocks.") for name in infos):
        return {name: name for name in infos}
    if "up_blocks.0.resnets.0.conv1.weight" in infos:
        rename = diffusers_renamer(infos)
        return {rename(name): name for name in infos}
    return {}


def names_of_base(control: ControlFile) -> list[str]:
    """Names of the control model's tensors that began as copies of the base's."""
    return [name for name in control.ckpt.keys if name.startswith(SHARED_WITH_BASE)]


def require_fit(control: ControlFile, base: BaseFile) -> None:
    """Check that a control model was made for a base checkpoint's structure.

    Raises:
        ToolError: base family, widths or the shape of a tensor differ.
    """
    shape = control.shape() if not control.is_difference else None
    theirs = (base.shape.context_dim, base.shape.adm_channels)
    if shape is not None and (shape.context_dim or theirs[0], shape.adm_channels) != theirs:
        msg = f"{control.name} is made for {shape}, {base.name} is {base.shape}; name another base"
        raise ToolError(msg)
    for name in names_of_base(control):
        ours = control.ckpt.shape(name)
        same = base.shapes.get(name)
        if same is None or not _same_layer(name, ours, same):
            what = "has no such tensor" if same is None else f"has {same}"
            msg = f"{control.name} does not fit {base.name}: {name} is {ours}, the base {what}"
            raise ToolError(msg)


def _same_layer(name: str, ours: Sequence[int], theirs: Sequence[int]) -> bool:
    if name == FIRST_BLOCK:
        return ours[0] == theirs[0] and ours[1] <= theirs[1] and ours[2:] == theirs[2:]
    longest = max(len(ours), len(theirs), 4)
    pad = [(*shape, *[1] * (longest - len(shape))) for shape in (ours, theirs)]
    return pad[0] == pad[1]
