"""PuLID 1.0 and 1.1 for SDXL: a face as a prompt that leaves the text its say.

Guo et al. (2024), arXiv:2404.16022. What the attention to the face adds is freed of what lies along
the attention to the text: of all of it ("Extremely style"), or of as much as the face is not looked
at ("Fidelity"). Version 1.0 is also published under the names of an IP-Adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from einops import rearrange

from lib_controlnet.engine.network import Guide, GuideKind
from lib_controlnet.enums import PuLIDMode
from lib_controlnet.families.attention import (
    AttentionControl,
    PromptNetwork,
    cross_attentions,
)
from lib_controlnet.families.base import ControlFamily, randomize
from lib_controlnet.families.filling import fill, read_structure
from lib_controlnet.families.ip_adapter import check_attentions, file_number
from lib_controlnet.gate import own_module
from lib_controlnet.nets.ip_adapter import (
    ATTENTION,
    IMAGE,
    AdapterParams,
    IPAdapter,
    Projection,
)
from lib_controlnet.nets.pulid import (
    IdEncoder,
    IdFormer,
    IdParams,
    attend_share,
    read_id_params,
    turn_from_text,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from torch import Tensor

    from lib_controlnet.engine.network import ActiveControl, Embeddings, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.families.attention import CrossAttention
    from lib_controlnet.files.checkpoint import Checkpoint

embedding: Final = own_module("embedding")

PREPROCESSOR: Final = "ip-adapter_pulid"
FACE_NUMBERS: Final = 512
"""Of the recogniser's embedding; the rest of what an encoder reads is the picture's."""

OWN: Final = 5
"""First tokens of the face, by which it is told how much it is looked at."""

EMPTY: Final = {PuLIDMode.FIDELITY: 8, PuLIDMode.STYLE: 16}
"""Tokens of nothing beside those of the face, which take their share of the attention."""


class PuLidNetwork(PromptNetwork):
    """A loaded PuLID; the control mode means nothing to it.

    Args:
        name: file stem.
        module: its weights.
        params: sizes of what makes its tokens.
        base: the U-Net that it is loaded for.
    """

    family = "PuLID"
    heeds = frozenset({"pulid_mode"})
    module: IPAdapter

    def __init__(self, name: str, module: IPAdapter, params: IdParams, base: BaseUNet) -> None:
        super().__init__(name, module, base)
        self.params = params
        widths = [(embedding.ANTELOPE, FACE_NUMBERS)]
        widths += [(embedding.ID_PICTURE, params.embedding - FACE_NUMBERS)]
        widths += [(name, params.level) for name in embedding.ID_LEVELS]
        self.wants = Guide(GuideKind.EMBEDDING, tensors=tuple(widths), preprocessor=PREPROCESSOR)

    def bind(self, terms: Terms, guide: Embeddings, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`."""
        return PuLidControl(self, terms, guide, info)


class PuLidControl(AttentionControl):
    """One unit in one pass.

    Several pictures: version 1.1 makes its tokens of all, those of version 1.0 stand side by side;
    in an animation only the first of a frame counts.
    """

    network: PuLidNetwork

    def __init__(
        self, network: PuLidNetwork, terms: Terms, embeddings: Embeddings, info: PassInfo
    ) -> None:
        super().__init__(network, terms, embeddings, info)

    @property
    def sort_key(self) -> tuple[object, ...]:
        """See `ActiveControl.sort_key`."""
        return (*super().sort_key, self.terms.likeness.value)

    @property
    def made_of(self) -> tuple[Hashable, ...]:
        """Tokens of nothing, see `AttentionControl.made_of`."""
        return (self.terms.likeness,)

    def make_tokens(self) -> tuple[Tensor, Tensor]:
        """Tokens of the faces, and of nobody; see `AttentionControl.make_tokens`."""
        frames = self._embeddings
        if len(frames) > 1:
            frames = tuple(frame[:1] for frame in frames)
        cond = torch.cat([self._project([one.tensors for one in frame]) for frame in frames])
        first = frames[0][0].tensors
        uncond = self._project([{name: torch.zeros_like(first[name]) for name in first}])
        return cond, uncond.repeat(1, cond.shape[1] // uncond.shape[1], 1)

    def _project(self, pictures: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Tokens (1, t, c) of some pictures of one person."""
        encode = self.network.module.image_proj
        faces = [self._face(one) for one in pictures]
        levels = [[self._here(one[name]) for name in embedding.ID_LEVELS] for one in pictures]
        if isinstance(encode, IdFormer):
            together = [torch.cat(level, dim=1) for level in zip(*levels, strict=True)]
            return encode(torch.stack(faces, dim=1), together)
        return torch.cat(
            [encode(face, level) for face, level in zip(faces, levels, strict=True)], dim=1
        )

    def _face(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What an encoder reads of a face, (1, embedding): the picture's vector of length one."""
        picture = F.normalize(tensors[embedding.ID_PICTURE][:1], dim=-1)
        return self._here(torch.cat([tensors[embedding.ANTELOPE][:1], picture], dim=-1))

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.network.device, self.network.dtype)

    def make_keys_values(self, layer: CrossAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `AttentionControl.make_keys_values`; keys and values of nothing are zeros."""
        empty = (0, 0, 0, EMPTY[self.terms.likeness])
        keys, values = self.network.module.ip_adapter[file_number(layer)](tokens)
        return F.pad(keys, empty), F.pad(values, empty)

    def attend(
        self, layer: CrossAttention, query: Tensor, text: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """See `AttentionControl.attend`."""
        face = super().attend(layer, query, text, keys, values)
        if self.terms.likeness is PuLIDMode.STYLE:
            return turn_from_text(face, text)
        q, k = (rearrange(x, "n t (h d) -> n h t d", h=layer.heads) for x in (query, keys))
        return turn_from_text(face, text, attend_share(q, k, OWN))


class PuLidFamily(ControlFamily):
    """Loads PuLID."""

    name = "PuLID"
    kinds = ("pulid",)
    networks = PuLidNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> PuLidNetwork:
        """See `ControlFamily.tiny`."""
        widths = {file_number(layer): layer.width for layer in cross_attentions(base)}
        params = IdParams(FACE_NUMBERS + 4, 8, 16, OWN, base.shape.context_dim)
        module = randomize(_build(params, widths), seed)
        return PuLidNetwork("tiny", module, params, base)

    def preprocessor_for(self, ckpt: Checkpoint) -> str:
        """See `ControlFamily.preprocessor_for`."""
        del ckpt
        return PREPROCESSOR

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Compare its attentions with the base's, see `ControlFamily.check`."""
        params, widths = _read(ckpt)
        check_attentions(ckpt, params.output, widths, base)

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> PuLidNetwork:
        """Build the network and fill it, see `ControlFamily.load`."""
        self.check(ckpt, base)
        params, widths = _read(ckpt)
        with torch.device("meta"):
            module = _build(params, widths)
        fill(ckpt, module, dtype, device)
        return PuLidNetwork(ckpt.name, module, params, base)


def _read(ckpt: Checkpoint) -> tuple[IdParams, dict[str, int]]:
    """Sizes of the encoder, and widths of the keys and values by number."""
    inside = {
        key.removeprefix(IMAGE): shape
        for key, shape in ckpt.shapes.items()
        if key.startswith(IMAGE)
    }
    widths = {
        key.removeprefix(ATTENTION).partition(".")[0]: shape[0]
        for key, shape in ckpt.shapes.items()
        if key.startswith(ATTENTION) and key.endswith(".to_k_ip.weight")
    }
    return read_structure(ckpt, lambda: read_id_params(inside)), widths


def _build(params: IdParams, widths: dict[str, int]) -> IPAdapter:
    encoder = IdFormer(params) if params.depth else IdEncoder(params)
    sizes = AdapterParams(Projection.LINEAR, params.embedding, params.output, params.own, widths)
    return IPAdapter(sizes, encoder)
