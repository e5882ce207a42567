"""ControlNet for SD1, SD2 and SDXL (Zhang, Rao, Agrawala, arXiv:2302.05543).

Covers original and diffusers files, SDXL's reduced variants, and difference files: those hold
"control minus base" and are added to the loaded checkpoint's encoder.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Final

import torch
import torch.nn.functional as F

from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.rehearsal import META, Footprint, rehearse, shadow
from lib_controlnet.engine.unet import UNetShape, read_shape
from lib_controlnet.enums import LATENT_SCALE, BaseModel
from lib_controlnet.errors import BrokenCheckpointError, HostError, WrongBaseModelError
from lib_controlnet.families.base import ControlFamily, FileFacts, randomize
from lib_controlnet.families.base_weights import (
    SHARED_WITH_BASE,
    BaseWeights,
    encoder_shapes,
    find_foreign,
)
from lib_controlnet.families.filling import check_tensors, first_names, read_structure, title
from lib_controlnet.families.residual import ResidualNetwork
from lib_controlnet.files.claims import claim_of, contradiction
from lib_controlnet.files.layouts import MARKERS
from lib_controlnet.nets.cldm import ControlNet, ControlNetParams, read_params
from lib_controlnet.nets.layout import lay_out
from lib_controlnet.pictures.placement import BLACK, MASKED

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.rehearsal import Asked
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.files.checkpoint import Checkpoint
    from lib_controlnet.nets.read_text import ReadText

AUTOCAST_DEVICES: Final = ("cuda", "cpu", "xpu")

HINT_WEIGHTS: Final = 2**26
"""More than any hint block has; the published one has a million weights."""

TOKENS: Final = 154
"""Of a long prompt; what they take is little beside the rest."""

INSTANT_ID: Final = "InstantID"
"""Family of the models that a face steers beside such a network."""

SD1_HEADS: Final = 8
HEAD_WIDTH: Final = 64


class ControlNetNetwork(ResidualNetwork):
    """A loaded ControlNet."""

    family = "ControlNet"
    keeps_text = True

    def __init__(self, name: str, module: ControlNet, shape: UNetShape) -> None:
        self.name = name
        self.module: ControlNet = module
        self.base = shape.kind
        self.layers = shape.layers
        self.flip_channels = False

    def rehearse(self, asked: Asked) -> Footprint:
        """What it will hold, counted on its own layers, see `ControlNetwork.rehearse`."""
        bare, params = shadow(self), self.module.params
        height, width = asked.size.height, asked.size.width

        def empty(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=META)

        pixels = (height * LATENT_SCALE, width * LATENT_SCALE)
        hint = empty(1, params.hint_widths[0], *pixels, dtype=torch.float32)
        encoding, guided = rehearse(lambda: bare.encode_hint(hint, asked.strips), asked.device)
        vector = () if params.adm_channels is None else (empty(1, params.adm_channels),)
        given = (
            *(empty(1, params.in_channels, height, width), empty(1)),
            *(empty(1, TOKENS, params.context_dim), next(iter(vector), None)),
            *(empty(1, params.model_channels, height, width), (True,) * self.layers),
        )
        evaluation, residuals = rehearse(lambda: bare.evaluate(*given), asked.device)
        return Footprint(encoding + hint.nbytes, guided, evaluation, residuals)

    @torch.no_grad()
    def encode_hint(self, hint: Tensor, strips: int = 1) -> Tensor:
        """Run the hint block, see `ResidualNetwork.encode_hint`."""
        if hint.dim() != 4 or hint.shape[1] != self.module.params.hint_widths[0]:
            msg = (
                f"control model {self.name} reads hints with "
                f"{self.module.params.hint_widths[0]} channels, got shape {tuple(hint.shape)}"
            )
            raise HostError(msg)
        hint = hint.flip(1) if self.flip_channels else hint
        with own_precision(self.device):
            return self.module.encode_hint(hint.to(self.device), strips)

    @torch.no_grad()
    def evaluate(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | ReadText,
        y: Tensor | None,
        guided_hint: Tensor,
        wanted: Sequence[bool],
        extra: Tensor | None = None,
    ) -> list[Tensor | None]:
        """Compute the wanted residuals, see `ResidualNetwork.evaluate`.

        A guided hint of another size than the latent (hint not 8 times the latent, odd sizes) is
        brought to it bilinearly. Autocast is off: the network computes in its own precision,
        sinusoids in float32, whatever the host chose for the U-Net. What a family adds to the
        embedding of the timesteps is `extra` (1 or n, width of the embedding).
        """
        params, dtype, device = self.module.params, self.dtype, self.device
        if params.adm_channels is not None and y is None:
            msg = (
                f"control model {self.name} is made for {self.base} and needs the vector "
                "condition y, which the U-Net was called without"
            )
            raise HostError(msg)
        guided_hint = fit_to(guided_hint, x)
        with own_precision(device):
            outs = self.module(
                x[:, : params.in_channels].to(device, dtype),
                timesteps.to(device),
                context.to(device, dtype),
                None if params.adm_channels is None or y is None else y.to(device, dtype),
                guided_hint.to(device, dtype),
                wanted,
                extra,
            )
        return [None if out is None else out.to(x.device, x.dtype) for out in outs]


class ControlNetFamily(ControlFamily):
    """Loads ControlNets, from whatever layout.

    Subclasses load what is a ControlNet once it is put together: they say what a file keeps whole
    and what as a change to the base, and how the network is built.
    """

    name = "ControlNet"
    kinds = ("controlnet",)
    networks: ClassVar[type[ControlNetwork]] = ControlNetNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> ControlNetNetwork:
        """See `ControlFamily.tiny`."""
        module = lay_out(randomize(ControlNet(tiny_params(base)), seed))
        return ControlNetNetwork("tiny", module, base.shape)

    def needs_base(self, ckpt: Checkpoint) -> bool:
        """Whether the network is a sum with the base; what a file leaves out is the base's then."""
        return "difference" in ckpt

    def file_shapes(self, ckpt: Checkpoint) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that `read_stored` will give, without reading them."""
        return {key: shape for key, shape in ckpt.shapes.items() if key not in MARKERS}

    def find_changes(self, ckpt: Checkpoint) -> list[str]:
        """Those of the stored tensors that are a change to the base's."""
        return [key for key in ckpt.keys if key.startswith(SHARED_WITH_BASE)]

    def read_stored(
        self, ckpt: Checkpoint, device: torch.device | str
    ) -> Iterable[tuple[str, Tensor]]:
        """The tensors of a file that needs the base, in their own precision or in float32."""
        return ckpt.tensors(self.file_shapes(ckpt), None, device)

    def build(
        self, shapes: Mapping[str, Sequence[int]], heads: Callable[[str, int], int]
    ) -> ControlNet:
        """The module for some shapes; called where nothing is allocated.

        Raises:
            KeyError, IndexError: a tensor that decides the structure is missing.
        """
        return ControlNet(read_params(shapes, heads))

    def wrap(self, name: str, module: ControlNet, shape: UNetShape) -> ControlNetNetwork:
        """The network of a filled module."""
        return ControlNetNetwork(name, module, shape)

    def describe(self, ckpt: Checkpoint) -> FileFacts:
        """What the name tells of its hints, see `ControlFamily.describe`."""
        made_on = claim_of(ckpt) if self.needs_base(ckpt) else ""
        return FileFacts(masked=BLACK if _reads_black(ckpt) else MASKED, made_on=made_on)

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Compare shapes with the base, see `ControlFamily.check`."""
        self._check_fit(ckpt, base)

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> ControlNetwork:
        """Build the network and fill it, see `ControlFamily.load`."""
        shapes, shape = self._check_fit(ckpt, base)
        with torch.device("meta"):
            module = read_structure(ckpt, lambda: self.build(shapes, _head_rule(shape, base)))
        expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        check_tensors(ckpt, expected, shapes)
        _check_count(ckpt, expected, base)
        tensors = {
            key: tensor.reshape(expected[key])
            for key, tensor in (
                self._sum(ckpt, base, expected, dtype, device)
                if self.needs_base(ckpt)
                else ckpt.tensors(expected, dtype, device)
            )
        }
        module.load_state_dict(tensors, strict=True, assign=True)
        module = lay_out(module.eval().requires_grad_(False))
        network = self.wrap(ckpt.name, module, shape)
        network.family = self.name
        network.depends_on_base = self.needs_base(ckpt)
        network.global_average_pooling = (
            shape.kind is not BaseModel.SDXL and ckpt.global_average_pooling
        )
        said = contradiction(ckpt.name, self.describe(ckpt).made_on, base.name)
        network.notes = (*ckpt.notes, *((said,) if said else ()))
        network.partner = _partner(ckpt, shape)
        masked = self.describe(ckpt).masked
        network.wants = dataclasses.replace(network.wants, masked=masked)
        network.flip_channels = ckpt.config.get("controlnet_conditioning_channel_order") == "bgr"
        return network

    def _check_fit(
        self, ckpt: Checkpoint, base: BaseUNet
    ) -> tuple[dict[str, tuple[int, ...]], UNetShape]:
        """Shapes of a network's tensors, those it takes from the base included, and its structure.

        Raises:
            WrongBaseModelError: they are not those of the base.
            BrokenCheckpointError: they are incomplete.
        """
        shapes = self.file_shapes(ckpt)
        if self.needs_base(ckpt):
            shapes |= {k: v for k, v in encoder_shapes(base).items() if k not in shapes}
        shape = read_structure(ckpt, lambda: read_shape(shapes))
        check_base(ckpt, shape, base)
        changes = self.find_changes(ckpt) if self.needs_base(ckpt) else []
        if foreign := find_foreign(base, changes, shapes):
            msg = (
                f"control model {ckpt.name} changes {len(foreign)} tensors that the loaded "
                f"checkpoint {base.name} does not have ({first_names(foreign)}); choose a control "
                "model made for it"
            )
            raise WrongBaseModelError(msg)
        return shapes, shape

    def _sum(
        self,
        ckpt: Checkpoint,
        base: BaseUNet,
        expected: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> Iterable[tuple[str, Tensor]]:
        """Yield the network's tensors: what is stored, and the base's encoder, in float32 sums."""
        weights, changes = BaseWeights(base), frozenset(self.find_changes(ckpt))
        for name, tensor in self.read_stored(ckpt, device):
            if name in changes:
                tensor = weights.get(name, tensor.shape, device) + tensor.float()
            yield name, tensor.to(dtype)
        for name in expected.keys() - self.file_shapes(ckpt).keys():
            yield name, weights.get(name, expected[name], device).to(dtype)


TINY_HINT_WIDTHS: Final = (3, 4, 4, 8, 8, 12, 12, 16)


def tiny_params(base: BaseUNet) -> ControlNetParams:
    """Hyper-parameters of a ControlNet for a base, with a narrow hint block."""
    shapes = encoder_shapes(base)
    widths = (*TINY_HINT_WIDTHS, base.shape.model_channels)
    for number, (before, after) in enumerate(pairwise(widths)):
        shapes[f"input_hint_block.{2 * number}.weight"] = (after, before, 3, 3)
    return read_params(shapes, _head_rule(base.shape, base))


def _partner(ckpt: Checkpoint, shape: UNetShape) -> str:
    """The family whose tokens a network reads in the place of the text, by the file's name.

    No tensor tells.
    """
    words = frozenset().union(*ckpt.given_names)
    is_named = {"instant", "id"} <= words or any("instantid" in word for word in words)
    return INSTANT_ID if is_named and shape.kind is BaseModel.SDXL else ""


def _reads_black(ckpt: Checkpoint) -> bool:
    """Whether masked pixels are black in the hints of NoobAI's inpainting model; its name tells.

    Nothing else does: its tensors are those of any ControlNet for SDXL.
    """
    return any(
        all(any(part in word for word in words) for part in ("noob", "inpaint"))
        for words in ckpt.given_names
    )


def fit_to(guided_hint: Tensor, x: Tensor) -> Tensor:
    """An encoded hint at a latent's size, bilinearly."""
    if guided_hint.shape[-2:] == x.shape[-2:]:
        return guided_hint
    return F.interpolate(guided_hint.float(), x.shape[-2:], mode="bilinear")


def own_precision(device: torch.device) -> AbstractContextManager[None]:
    """Switch the host's autocast off, on devices that have one (others refuse to be asked)."""
    if device.type in AUTOCAST_DEVICES:
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def check_base(ckpt: Checkpoint, shape: UNetShape, base: BaseUNet) -> None:
    """Compare what a file was made for with the loaded checkpoint.

    Raises:
        WrongBaseModelError: text width, vector condition or block widths differ.
    """
    fits_text = shape.context_dim in (0, base.shape.context_dim)
    fits_vector = shape.adm_channels in (None, base.shape.adm_channels)
    if not (fits_text and fits_vector):
        other = "it" if shape.kind is base.shape.kind else base.shape.kind
        msg = (
            f"control model {ckpt.name} is made for {shape}, the loaded checkpoint {base.name} is "
            f"{base.shape}; choose a control model made for {other}"
        )
        raise WrongBaseModelError(msg)
    if (shape.skips, shape.middle) != (base.shape.skips, base.shape.middle):
        msg = (
            f"control model {ckpt.name} is made for a U-Net with {_widths(shape)}, the loaded "
            f"checkpoint {base.name} ({base.shape}) has {_widths(base.shape)}; choose a control "
            "model made for it"
        )
        raise WrongBaseModelError(msg)


def _widths(shape: UNetShape) -> str:
    widths = ", ".join(str(width) for width in sorted({*shape.skips, shape.middle}))
    return f"{len(shape.skips)} input blocks of {widths} channels"


def _head_rule(shape: UNetShape, base: BaseUNet) -> Callable[[str, int], int]:
    """Attention heads: those of the base's block; where it has none, the published models' rule."""

    def heads(block: str, width: int) -> int:
        rule = SD1_HEADS if shape.kind is BaseModel.SD1 else max(1, width // HEAD_WIDTH)
        return base.shape.heads.get(block, rule)

    return heads


def _check_count(ckpt: Checkpoint, expected: Mapping[str, Sequence[int]], base: BaseUNet) -> None:
    """Require no more weights than the base has.

    A ControlNet copies half of the base; what its hint block adds depends on the file alone.
    """
    count = sum(math.prod(shape) for shape in expected.values())
    most = sum(parameter.numel() for parameter in base.module.parameters()) + HINT_WEIGHTS
    if count > most:
        msg = (
            f"{title(ckpt)}, but of an unknown variant: it has {count / 1e6:.0f} million "
            f"weights, and one for {base.name} has at most {most / 1e6:.0f} million"
        )
        raise BrokenCheckpointError(msg)
