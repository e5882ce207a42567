"""IP-Adapter: a picture as a prompt, by a second attention beside that of the text.

Base and light files, plus, plus-face, composition and full-face, for the vision networks ViT-H and
ViT-bigG: all that tells them apart stands in the tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.engine.network import Guide, GuideKind
from lib_controlnet.errors import BrokenCheckpointError, WrongBaseModelError
from lib_controlnet.families.attention import (
    AttentionControl,
    PromptNetwork,
    cross_attentions,
)
from lib_controlnet.families.base import ControlFamily, randomize
from lib_controlnet.families.filling import fill, read_structure
from lib_controlnet.gate import own_module
from lib_controlnet.nets.ip_adapter import (
    AdapterParams,
    IPAdapter,
    LinearProjection,
    Projection,
    read_params,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from lib_controlnet.engine.network import ActiveControl, Embeddings, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.families.attention import CrossAttention
    from lib_controlnet.files.checkpoint import Checkpoint

embedding: Final = own_module("embedding")
POOLED: Final = (embedding.IMAGE_EMBEDS,)
TOKENS: Final = (embedding.HIDDEN, embedding.UNCOND_HIDDEN)
"""What is read of an embedding."""

CLIP_H: Final = "ip-adapter_clip_sd15"
CLIP_BIGG: Final = "ip-adapter_clip_sdxl"
ENCODERS: Final = {
    (Projection.LINEAR, 1024): CLIP_H,
    (Projection.LINEAR, 1280): CLIP_BIGG,
    (Projection.PERCEPTRON, 1280): CLIP_H,
    (Projection.PERCEPTRON, 1664): CLIP_BIGG,
    (Projection.RESAMPLER, 1280): CLIP_H,
    (Projection.RESAMPLER, 1664): CLIP_BIGG,
}
"""The preprocessor for an embedding's width; pooled embeddings are projected, hidden ones not."""


class IPAdapterNetwork(PromptNetwork):
    """A loaded IP-Adapter; the control mode means nothing to it.

    Args:
        name: file stem.
        module: its weights.
        params: its sizes.
        base: the U-Net that it is loaded for.
    """

    family = "IP-Adapter"
    module: IPAdapter

    def __init__(self, name: str, module: IPAdapter, params: AdapterParams, base: BaseUNet) -> None:
        super().__init__(name, module, base)
        self.is_pooled = params.projection is Projection.LINEAR
        names = POOLED if self.is_pooled else TOKENS
        self.wants = Guide(
            GuideKind.EMBEDDING,
            tensors=tuple((name, params.read) for name in names),
            preprocessor=ENCODERS.get((params.projection, params.read), ""),
        )

    def bind(self, terms: Terms, guide: Embeddings, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`."""
        return IPAdapterControl(self, terms, guide, info)


class IPAdapterControl(AttentionControl):
    """One unit in one pass.

    Parity: the tokens of several pictures are averaged.
    """

    network: IPAdapterNetwork

    def __init__(
        self, network: IPAdapterNetwork, terms: Terms, embeddings: Embeddings, info: PassInfo
    ) -> None:
        super().__init__(network, terms, embeddings, info)

    def make_tokens(self) -> tuple[Tensor, Tensor]:
        """Tokens of the pictures, and of nothing; see `AttentionControl.make_tokens`."""
        name = embedding.IMAGE_EMBEDS if self.network.is_pooled else embedding.HIDDEN
        frames = [self._project(frame, name).mean(0, keepdim=True) for frame in self._embeddings]
        first = self._embeddings[0]
        if self.network.is_pooled:
            nothing = torch.zeros_like(first[0].tensors[embedding.IMAGE_EMBEDS])
            uncond = self.network.module.image_proj(self._here(nothing))
        else:
            uncond = self._project(first[:1], embedding.UNCOND_HIDDEN)
        return torch.cat(frames), uncond[:1]

    def _project(self, frame: tuple, name: str) -> Tensor:
        given = torch.cat([one.tensors[name] for one in frame])
        return self.network.module.image_proj(self._here(given))

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.network.device, self.network.dtype)

    def make_keys_values(self, layer: CrossAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `AttentionControl.make_keys_values`."""
        return self.network.module.ip_adapter[file_number(layer)](tokens)


def file_number(layer: CrossAttention) -> str:
    """The number by which files call a cross attention: self-attentions are counted, too."""
    return str(2 * layer.number + 1)


class IPAdapterFamily(ControlFamily):
    """Loads IP-Adapters."""

    name = "IP-Adapter"
    kinds = ("ip_adapter",)
    networks = IPAdapterNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> IPAdapterNetwork:
        """See `ControlFamily.tiny`."""
        widths = {file_number(layer): layer.width for layer in cross_attentions(base)}
        params = AdapterParams(Projection.LINEAR, 12, base.shape.context_dim, 4, widths)
        image_proj = LinearProjection(params.read, params.context, params.tokens)
        module = randomize(IPAdapter(params, image_proj), seed)
        torch.nn.init.ones_(image_proj.norm.weight)
        return IPAdapterNetwork("tiny", module, params, base)

    def preprocessor_for(self, ckpt: Checkpoint) -> str:
        """See `ControlFamily.preprocessor_for`."""
        params = _read(ckpt)
        return ENCODERS.get((params.projection, params.read), "")

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Compare its attentions with the base's, see `ControlFamily.check`."""
        params = _read(ckpt)
        check_attentions(ckpt, params.context, params.widths, base)

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> IPAdapterNetwork:
        """Build the network and fill it, see `ControlFamily.load`."""
        params = _read(ckpt)
        check_attentions(ckpt, params.context, params.widths, base)
        with torch.device("meta"):
            module = IPAdapter(params)
        fill(ckpt, module, dtype, device)
        return IPAdapterNetwork(ckpt.name, module, params, base)


def _read(ckpt: Checkpoint) -> AdapterParams:
    return read_structure(ckpt, lambda: read_params(ckpt.shapes))


def check_attentions(
    ckpt: Checkpoint, context: int, widths: Mapping[str, int], base: BaseUNet
) -> None:
    """Require a part for each cross attention of the base, of its width.

    Args:
        ckpt: the file.
        context: width of its tokens.
        widths: of its keys and values, by the number that files give a cross attention.
        base: the U-Net.

    Raises:
        WrongBaseModelError: the file is for another base model.
        BrokenCheckpointError: parts are missing.
    """
    layers = cross_attentions(base)
    expected = {file_number(layer): layer.width for layer in layers}
    if context == base.shape.context_dim and widths == expected:
        return
    if context == base.shape.context_dim and not set(widths) - set(expected):
        absent = sorted(set(expected) - set(widths), key=int)
        if absent and all(expected[one] == width for one, width in widths.items()):
            msg = f"{ckpt.path.name} is incomplete: it has no ip_adapter.{absent[0]}; get it again"
            raise BrokenCheckpointError(msg)
    msg = (
        f"control model {ckpt.name} is an IP-Adapter for {len(widths)} attentions to tokens "
        f"of {context} channels; the loaded checkpoint {base.name} ({base.shape}) has "
        f"{len(layers)}, to tokens of {base.shape.context_dim}; choose one made for it"
    )
    raise WrongBaseModelError(msg)
