"""The base U-Net of a checkpoint, seen from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from lib_controlnet.enums import BaseModel
from lib_controlnet.errors import HostError
from lib_controlnet.files.bases import CONTEXT_TO_BASE

if TYPE_CHECKING:
    from torch import Tensor, nn

MOTION: Final = "temporal_transformer"
"""What a motion module of AnimateDiff consists of."""

SAMPLED: Final = 32
"""Tensors of a U-Net by whose first numbers its weights are told from others."""

FIRST: Final = 4
"""Numbers of each."""

DIMENSIONS: Final = (2, 4)
"""Of the weights of linear layers and of convolutions."""


@dataclass(frozen=True)
class UNetShape:
    """Everything a control network must agree on with the U-Net it steers.

    Attributes:
        model_channels: width of the first block (320 in SD1, SD2 and SDXL).
        in_channels: latent channels read (4; 9 for inpainting checkpoints).
        skips: channels of every input block's output, shallowest first.
        middle: channels of the middle block.
        context_dim: width of the text tokens; 0 where nothing attends to text.
        adm_channels: width of the vector condition `y`, None without one.
        heads: attention heads by block name, such as `input_blocks.1.1`.
        depths: transformer blocks by the same names, which distilled checkpoints have fewer of;
            known of a U-Net, not of a file.
        linear_projection: transformers enter through linear layers (SD2, SDXL), not 1x1 convs.
    """

    model_channels: int
    in_channels: int
    skips: tuple[int, ...]
    middle: int
    context_dim: int
    adm_channels: int | None
    heads: Mapping[str, int] = field(default_factory=dict, hash=False)
    linear_projection: bool = False
    depths: Mapping[str, int] = field(default_factory=dict, hash=False, compare=False)

    @property
    def kind(self) -> BaseModel:
        """The base family: by text width where it is a published one, else by structure."""
        known = CONTEXT_TO_BASE.get(self.context_dim)
        if known is not None:
            return known
        if self.adm_channels is not None:
            return BaseModel.SDXL
        return BaseModel.SD2 if self.linear_projection else BaseModel.SD1

    @property
    def layers(self) -> int:
        """Residuals that a ControlNet for it returns: one for each skip, and the middle."""
        return len(self.skips) + 1

    def __str__(self) -> str:
        """Name and the number that tells it apart, such as `SDXL (context 2048)`."""
        if self.context_dim:
            return f"{self.kind} (context {self.context_dim})"
        return f"{self.kind} (vector {self.adm_channels})"

    @property
    def signature(self) -> tuple[object, ...]:
        """Hashable summary: equal for bases that can share a loaded network."""
        heads = tuple(sorted(self.heads.items()))
        depths = tuple(sorted(self.depths.items()))
        return (self.skips, self.middle, self.context_dim, self.adm_channels, heads, depths)


class Originals:
    """A U-Net's parameters as its checkpoint has them, where the host keeps them elsewhere.

    Hosts add LoRA to weights in place, and store them in 8 bits. This one does neither.
    """

    def find(self, name: str) -> Tensor | None:
        """The parameter of an LDM name; None where the one in the module is the original."""
        del name
        return None

    def locate(self, name: str) -> Tensor | None:
        """What `find` reads, as it is stored."""
        return self.find(name)

    def is_added(self, name: str) -> bool:
        """Whether the checkpoint has no such parameter."""
        del name
        return False


def refuse_stored(name: str, stored: Tensor) -> HostError:
    """What is said where a parameter's numbers are needed and cannot be told."""
    return HostError(
        f"ControlNet cannot read {name} of the loaded checkpoint, which the WebUI stores as "
        f"{type(stored).__name__} of {stored.dtype}; load the checkpoint in 16 or 8 bits, or "
        "choose a control model that is no change to the checkpoint's own weights"
    )


@dataclass(frozen=True)
class BaseUNet:
    """The U-Net of the loaded checkpoint.

    Attributes:
        module: the host's U-Net, in LDM layout; never modified by a family.
        shape: its structure, from `describe_unet`.
        name: the checkpoint's title, for messages.
        origin: where its weights are from.
        described: what its file says of itself, such as a title.
        originals: its parameters without what the host does to them.
        sample: names of weights that tell whether others were written into it, from
            `choose_sample`; none: nobody writes into it.
    """

    module: nn.Module
    shape: UNetShape
    name: str
    origin: str
    described: str = ""
    originals: Originals = field(default_factory=Originals, compare=False)
    sample: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def identity(self) -> str:
        """Changes whenever the weights do; part of cache keys.

        Weights are looked at when it is first asked for, which waits for their device: a panel
        that only asks what fits never does.
        """
        if not self.sample:
            return self.origin
        return f"{self.origin}|{sample_weights(self.module, self.originals, self.sample)}"


def read_shape(
    shapes: Mapping[str, Sequence[int]], heads: Mapping[str, int] | None = None
) -> UNetShape:
    """Read the structure of a U-Net, or of the encoder copy in a ControlNet file.

    Args:
        shapes: tensor shapes by LDM name (`input_blocks.0.0.weight`, ...).
        heads: attention heads by block name, which shapes do not tell.

    Raises:
        KeyError: `input_blocks.0.0.weight` is not there, so this is no such encoder.
    """
    model_channels, in_channels = shapes["input_blocks.0.0.weight"][:2]
    skips: list[int] = []
    while (width := _block_width(shapes, f"input_blocks.{len(skips)}")) is not None:
        skips.append(width)
    text = [shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")]
    label = shapes.get("label_emb.0.0.weight")
    return UNetShape(
        model_channels=model_channels,
        in_channels=in_channels,
        skips=tuple(skips),
        middle=_block_width(shapes, "middle_block") or skips[-1],
        context_dim=text[0] if text else 0,
        adm_channels=None if label is None else label[1],
        heads=dict(heads or {}),
        linear_projection=any(
            name.startswith(("input_blocks.", "middle_block."))
            and name.endswith(".proj_in.weight")
            and len(shape) == 2
            for name, shape in shapes.items()
        ),
    )


def _block_width(shapes: Mapping[str, Sequence[int]], block: str) -> int | None:
    """Output channels of a block: first convolution, res block or strided convolution."""
    for suffix in ("0.weight", "0.out_layers.3.weight", "0.op.weight"):
        shape = shapes.get(f"{block}.{suffix}")
        if shape is not None:
            return shape[0]
    return None


def own_modules(unet: nn.Module) -> dict[str, nn.Module]:
    """The U-Net's modules by the names that its checkpoint has for them.

    AnimateDiff puts motion modules between the others of a block, which moves the numbers of those
    behind them; neither they nor the move are in here.
    """
    found: dict[str, nn.Module] = {}
    _collect(unet, "", found)
    return found


def _collect(module: nn.Module, name: str, found: dict[str, nn.Module]) -> None:
    """A U-Net has a thousand modules, and each pass asks for them: nothing slow for each."""
    found[name] = module
    if not module._modules:
        return
    children = list(module.named_children())
    own = [(key, child) for key, child in children if MOTION not in child._modules]
    for number, (key, child) in enumerate(own):
        leaf = key if len(own) == len(children) else str(number)
        _collect(child, f"{name}.{leaf}" if name else leaf, found)


def ends_of(block: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Where a block of the U-Net is entered and left: its first and its last layer.

    Some hosts call a block, others walk through its layers themselves; the layers are called by
    both, with what the block reads and for what it gives.
    """
    layers = list(block.children()) if hasattr(block, "__getitem__") else []
    return (layers[0], layers[-1]) if layers else (block, block)


def own_parameters(unet: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Its parameters by such names."""
    for name, module in own_modules(unet).items():
        yield from module.named_parameters(name, recurse=False)


def choose_sample(unet: nn.Module) -> tuple[str, ...]:
    """Names of a few weights from all over a U-Net, see `sample_weights`."""
    names = [name for name, one in own_parameters(unet) if len(shape_of(one)) in DIMENSIONS]
    return tuple(names[:: max(len(names) // SAMPLED, 1)])


def sample_weights(unet: nn.Module, originals: Originals, names: Iterable[str]) -> int:
    """A number that changes when other weights are written into the same U-Net.

    Hosts and extensions do that: for a refiner, and to merge checkpoints. What a LoRA does to
    weights does not count.

    Args:
        unet: the U-Net.
        originals: its parameters without what the host does to them.
        names: from `choose_sample`.
    """
    from torch import Tensor, nn

    own, seen = own_modules(unet), []
    for name in names:
        path, _, leaf = name.rpartition(".")
        present = getattr(own.get(path), leaf, None)
        found = None if present is None else originals.locate(name)
        found = present if found is None else found
        if not isinstance(found, Tensor) or type(found) not in (Tensor, nn.Parameter):
            continue
        if found.dim() and not found.is_meta:
            seen += [name, *found.detach()[0].reshape(-1)[:FIRST].float().tolist()]
    return hash(repr(seen))


def shape_of(parameter: Tensor) -> tuple[int, ...]:
    """The shape of what a parameter stands for; bitsandbytes keeps 4 bits as a column of bytes."""
    packed = getattr(parameter, "quant_state", None)
    return tuple(parameter.shape if packed is None else packed.shape)


def widths_of(layer: nn.Module) -> tuple[int, int]:
    """Channels that a linear layer or a convolution reads and gives; (0, 0) for anything else.

    Its weight tells: hosts have linear layers of classes of their own.
    """
    weight = getattr(layer, "weight", None)
    shape = () if weight is None else shape_of(weight)
    return (shape[1], shape[0]) if len(shape) in DIMENSIONS else (0, 0)


def is_placed(path: str) -> bool:
    """Whether a layer of a U-Net reads something of the picture; else of the text or the time."""
    return "emb" not in path and not path.endswith(("attn2.to_k", "attn2.to_v"))


def describe_unet(unet: nn.Module) -> UNetShape:
    """Read the structure of any U-Net in LDM layout (`ldm`, `sgm`, or a look-alike).

    Only parameter shapes and the attention layers' head counts are looked at, so weights may be
    in any precision, on any device.

    Raises:
        HostError: the module is not such a U-Net (SD3 and other transformers), or a compiled one.
    """
    if hasattr(unet, "_orig_mod"):
        msg = (
            "the loaded checkpoint's network is compiled (torch.compile), and a compiled network "
            "calls none of the layers in which controls act: switch that off in the WebUI"
        )
        raise HostError(msg)
    shapes = {name: shape_of(parameter) for name, parameter in own_parameters(unet)}
    heads, depths = {}, {}
    for name, module in own_modules(unet).items():
        blocks = getattr(module, "transformer_blocks", None)
        if blocks is not None and len(blocks):
            heads[name] = int(blocks[0].attn1.heads)
            depths[name] = len(blocks)
    try:
        return replace(read_shape(shapes, heads), depths=depths)
    except KeyError:
        msg = (
            f"the loaded checkpoint's network ({type(unet).__name__}) has no input_blocks; "
            "control models need an SD1, SD2 or SDXL checkpoint"
        )
        raise HostError(msg) from None
