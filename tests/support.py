"""Tiny real networks for tests: a U-Net of each kind, ControlNets for it, files that hold them."""

from __future__ import annotations

import copy
import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from minildm.unet import UNetModel
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.families.controlnet import ControlNetNetwork
from lib_controlnet.files.checkpoint import Checkpoint
from lib_controlnet.files.containers import TensorInfo
from lib_controlnet.host.a1111.originals import ModuleOriginals
from lib_controlnet.nets.cldm import ControlNet, read_params

WIDTH = 32
TABLES = Path(__file__).resolve().parent / "data" / "keys"


def golden(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file, from the tables of `data/make_keys.py`."""
    text = gzip.decompress((TABLES / f"{name}.json.gz").read_bytes())
    return {key: tuple(shape) for key, shape in json.loads(text).items()}


def save_sparse(path: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """A safetensors file with these tensors, all zero, which takes no place on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + end)
    return path


UNETS: Mapping[str, dict] = {
    "SD1": {
        "channel_mult": (1, 2, 4, 4),
        "attention_resolutions": (4, 2, 1),
        "num_heads": 8,
        "context_dim": 48,
    },
    "SD2": {
        "channel_mult": (1, 2, 4, 4),
        "attention_resolutions": (4, 2, 1),
        "num_head_channels": 32,
        "context_dim": 64,
        "use_linear_in_transformer": True,
    },
    "SDXL": {
        "channel_mult": (1, 2, 4),
        "attention_resolutions": (4, 2),
        "num_head_channels": 32,
        "context_dim": 80,
        "use_linear_in_transformer": True,
        "transformer_depth": (0, 2, 3),
        "num_classes": "sequential",
        "adm_in_channels": 96,
    },
    "demo": {
        "model_channels": 64,
        "num_res_blocks": 1,
        "channel_mult": (1, 2, 2),
        "attention_resolutions": (2, 4),
        "num_heads": 8,
        "context_dim": 128,
    },
}
"""Constructor arguments of the U-Nets: published structures at reduced width, and the demo's."""


def randomise(module: nn.Module, seed: int, scale: float = 0.2) -> nn.Module:
    """Give every parameter non-trivial values, zero convolutions and norms included."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
        with torch.no_grad():
            if parameter.dim() > 1:
                parameter.copy_(noise / fan_in**0.5)
            else:
                is_norm_gain = name.endswith("weight")
                parameter.copy_(noise * scale + (1.0 if is_norm_gain else 0.0))
    return module.eval().requires_grad_(False)


def empty_unet(kind: str, **changes: object) -> UNetModel:
    """The structure of `tiny_unet(kind)`, on the meta device."""
    arguments = {"in_channels": 4, "out_channels": 4, "model_channels": WIDTH, "num_res_blocks": 2}
    with torch.device("meta"):  # skips the constructors' own random numbers
        return UNetModel(**{**arguments, **UNETS[kind], **changes})


@lru_cache(maxsize=4)
def _random_unet(kind: str, seed: int) -> UNetModel:
    return randomise(empty_unet(kind).to_empty(device="cpu"), seed)


def tiny_unet(kind: str, seed: int = 0, **changes: object) -> UNetModel:
    """A random U-Net in LDM layout, the caller's own; kind is SD1, SD2, SDXL or demo."""
    if changes:
        return randomise(empty_unet(kind, **changes).to_empty(device="cpu"), seed)
    return twin(_random_unet(kind, seed))


_own = getattr(torch.Tensor, "_lazy_clone", torch.Tensor.clone)
"""A copy of a tensor; of newer versions of torch one that is made when either is written to."""


def twin(module: nn.Module) -> Any:
    """A module like one that nothing was registered on, with weights of its own.

    Ten times as fast as a deep copy, which looks at everything that a module has.
    """
    made = object.__new__(type(module))
    own = made.__dict__
    for name, value in vars(module).items():
        if isinstance(value, (dict, set)):  # of parameters, buffers, modules and hooks
            value = value.copy() if value else type(value)()  # most are empty
        own[name] = value
    for name, parameter in module._parameters.items():
        if parameter is not None:
            weight = _own(parameter.detach())
            made._parameters[name] = nn.Parameter(weight, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            made._buffers[name] = _own(buffer)
    for name, child in module._modules.items():
        if child is not None:
            made._modules[name] = twin(child)
    return made


def base_of(unet: nn.Module, name: str, identity: str = "") -> BaseUNet:
    """A U-Net as the engine sees it."""
    return BaseUNet(unet, describe_unet(unet), name, identity, originals=ModuleOriginals(unet))


def tiny_base(kind: str, seed: int = 0, name: str = "tiny") -> BaseUNet:
    """The U-Net as the engine sees it."""
    return base_of(tiny_unet(kind, seed), f"{name}-{kind}", f"{name}-{kind}-{seed}")


HINT_WIDTHS = (3, 16, 16, 32, 32, 96, 96, 256)
"""Channels of the published hint blocks; the last convolution goes to the model's width."""

TINY_HINT_WIDTHS = (3, 4, 4, 8, 8, 12, 12, 16)


def controlnet_shapes(
    unet: nn.Module, hint: tuple[int, ...] = TINY_HINT_WIDTHS
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a ControlNet for a U-Net, in LDM layout."""
    kept = ("time_embed.", "label_emb.", "input_blocks.", "middle_block.")
    shapes = {k: tuple(v.shape) for k, v in unet.state_dict().items() if k.startswith(kept)}
    first = shapes["input_blocks.0.0.weight"]
    shapes["input_blocks.0.0.weight"] = (first[0], 4, *first[2:])
    shape = describe_unet(unet)
    for i, width in enumerate(shape.skips):
        shapes |= _conv(f"zero_convs.{i}.0", width, width, 1)
    shapes |= _conv("middle_block_out.0", shape.middle, shape.middle, 1)
    widths = (*hint, shape.model_channels)
    for i in range(8):
        shapes |= _conv(f"input_hint_block.{2 * i}", widths[i], widths[i + 1], 3)
    return shapes


def _conv(name: str, width_in: int, width_out: int, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width_out, width_in, size, size), f"{name}.bias": (width_out,)}


@lru_cache(maxsize=8)
def _random_controlnet(kind: str, seed: int) -> ControlNetNetwork:
    return _new_controlnet(kind, seed, empty_unet(kind))


def _new_controlnet(kind: str, seed: int, unet: nn.Module) -> ControlNetNetwork:
    shape = describe_unet(unet)
    params = read_params(controlnet_shapes(unet), lambda block, _width: shape.heads[block])
    with torch.device("meta"):
        module = ControlNet(params)
    randomise(module.to_empty(device="cpu"), seed + 1000)
    return ControlNetNetwork(f"tiny-{kind}-{seed}", module, shape)


def tiny_controlnet(kind: str, seed: int = 0, unet: nn.Module | None = None) -> ControlNetNetwork:
    """A random ControlNet for `tiny_unet(kind)`, or for a given U-Net; the caller's own."""
    if unet is not None:
        return _new_controlnet(kind, seed, unet)
    network = copy.copy(_random_controlnet(kind, seed))
    network.module = twin(network.module)
    return network


def save_controlnet(
    path: Path,
    network: ControlNetNetwork,
    dtype: torch.dtype = torch.float32,
    prefix: str = "",
    metadata: Mapping[str, str] | None = None,
    **extra: Tensor,
) -> Path:
    """Write a network to a file; the extension decides the container (safetensors or torch)."""
    weights = network.module.state_dict().items()
    # Contiguous: those of convolutions may lie channels last, which no file does.
    tensors = {prefix + name: value.to(dtype).contiguous() for name, value in weights}
    tensors |= extra
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata=dict(metadata or {}))
    else:
        torch.save(tensors, path)
    return path


class MemoryFile:
    """A file that was never written: tensors, or their shapes alone, under the file's names."""

    def __init__(self, tensors: Mapping[str, Tensor | tuple[int, ...]]) -> None:
        self.tensors = tensors
        self.metadata: dict[str, str] = {}
        self.infos = {
            name: TensorInfo(tuple(value.shape), value.dtype, i)
            if isinstance(value, Tensor)
            else TensorInfo(tuple(value), torch.float16, i)
            for i, (name, value) in enumerate(tensors.items())
        }

    def read(
        self, names: Iterable[str], dtype: torch.dtype | None, device: torch.device | str
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield fresh tensors, see `TensorFile.read`; shapes on meta."""
        for name in names:
            tensor = self.tensors[name]
            if not isinstance(tensor, Tensor):
                tensor = torch.empty(tensor, dtype=self.infos[name].dtype, device="meta")
            final = dtype if tensor.is_floating_point() else None
            yield name, tensor.to(device, final, copy=True)


def memory_checkpoint(
    tensors: Mapping[str, Tensor | tuple[int, ...]], name: str = "model.safetensors"
) -> Checkpoint:
    """A checkpoint of tensors, or of shapes alone, without a file."""
    return Checkpoint(Path(name), MemoryFile(tensors))


def inputs(
    kind: str, rows: int = 2, size: tuple[int, int] = (8, 16), seed: int = 5, **changes: object
) -> dict:
    """Random arguments of one U-Net call: x, timesteps, context, and y where the kind has it.

    Args:
        kind: SD1, SD2, SDXL or demo.
        rows: of the call.
        size: height and width of the latent.
        seed: of the random numbers.
        changes: arguments of the U-Net that are not those of the kind.
    """
    generator = torch.Generator().manual_seed(seed)
    arguments = {**UNETS[kind], **changes}
    adm = arguments.get("adm_in_channels")
    return {
        "x": torch.randn(rows, 4, *size, generator=generator),
        "timesteps": torch.linspace(981.25, 3.5, rows),
        "context": torch.randn(rows, 7, arguments["context_dim"], generator=generator),
        "y": None if adm is None else torch.randn(rows, adm, generator=generator),
    }


def random_hint(size: tuple[int, int] = (64, 128), rows: int = 1, seed: int = 9) -> Tensor:
    """A random hint (rows, 3, H, W) in [0, 1]."""
    return torch.rand(rows, 3, *size, generator=torch.Generator().manual_seed(seed))
