"""IP-Adapter-FaceID: a face as a prompt (tencent-ailab, 2023).

Plain, portrait, plus and plus v2. Some files bring layers of low rank for the U-Net's attention
along, which act as long as the unit does. Plus and plus v2 hold the same tensors: the name tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.engine.network import Guide, GuideKind
from lib_controlnet.errors import WrongBaseModelError
from lib_controlnet.families.attention import (
    AttentionControl,
    PromptNetwork,
    cross_attentions,
)
from lib_controlnet.families.base import ControlFamily, randomize
from lib_controlnet.families.filling import fill, read_structure
from lib_controlnet.families.ip_adapter import check_attentions, file_number
from lib_controlnet.families.low_rank import Beside, LowRankLayers
from lib_controlnet.gate import own_module
from lib_controlnet.nets.face_id import (
    KINDS,
    FaceAdapter,
    FaceAdapterParams,
    FaceParams,
    read_face_adapter,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from lib_controlnet.engine.network import ActiveControl, Embeddings, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Places
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.families.attention import CrossAttention
    from lib_controlnet.files.checkpoint import Checkpoint

embedding: Final = own_module("embedding")

PLAIN: Final = "ip-adapter_face_id"
PLUS: Final = "ip-adapter_face_id_plus"

VERSION_2: Final = "faceid_plus_v2"
"""What metadata or a YAML beside a file may say."""

PORTRAIT: Final = 16
"""Tokens of a portrait model, which reads several faces of one person side by side."""

TEXT: Final = ("to_k", "to_v")
"""Layers of a cross attention that read the text."""

PATHS: Final = {"to_out": "to_out.0"}
"""Layers of an attention whose path is not their name in files."""


class FaceIdNetwork(PromptNetwork):
    """A loaded FaceID; the control mode means nothing to it.

    Args:
        name: file stem.
        module: its weights.
        base: the U-Net that it is loaded for.
        keeps: tokens of the embedding stay beside those of the picture (plus v2).
        is_raw: the embedding is read as the recogniser gives it.
    """

    family = "IP-Adapter-FaceID"
    module: FaceAdapter

    def __init__(
        self,
        name: str,
        module: FaceAdapter,
        base: BaseUNet,
        *,
        keeps: bool = False,
        is_raw: bool = False,
    ) -> None:
        super().__init__(name, module, base)
        self.keeps = keeps
        self.params = module.image_proj.params
        self.reads = embedding.RAW_FACE if is_raw else embedding.FACE
        tensors = [(self.reads, self.params.embedding)]
        if self.params.resampler is not None:
            width = self.params.resampler.features
            tensors += [(embedding.HIDDEN, width), (embedding.UNCOND_HIDDEN, width)]
        preprocessor = PLAIN if self.params.resampler is None else PLUS
        self.wants = Guide(GuideKind.EMBEDDING, tensors=tuple(tensors), preprocessor=preprocessor)

    def bind(self, terms: Terms, guide: Embeddings, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`."""
        return FaceIdControl(self, terms, guide, info)


class FaceIdControl(AttentionControl):
    """One unit in one pass.

    Parity: the tokens of several pictures are averaged, those of a portrait model stand side by
    side.
    """

    network: FaceIdNetwork

    def __init__(
        self, network: FaceIdNetwork, terms: Terms, embeddings: Embeddings, info: PassInfo
    ) -> None:
        super().__init__(network, terms, embeddings, info)
        self._low_rank = LowRankLayers(self, find_layers(network, terms, info.base))

    def meet(self, controls: Sequence[ActiveControl], say: Callable[[str], None]) -> None:
        """Say what a region leaves out."""
        super().meet(controls, say)
        self._low_rank.tell(say)

    def attach(self, places: Places) -> None:
        """Ask for the cross attentions, and for the layers that have one of low rank beside."""
        super().attach(places)
        if self.network.module.beside():
            places.hold(self.network, lambda step: bool(self.rows_in(step)))
            self._low_rank.attach(places)

    def make_tokens(self) -> tuple[Tensor, Tensor]:
        """Tokens of the faces, and of nobody; see `AttentionControl.make_tokens`."""
        network, first = self.network, self._embeddings[0]
        nobody = torch.zeros_like(first[0].tensors[network.reads])
        seen = first[0].tensors.get(embedding.UNCOND_HIDDEN)
        uncond = self._project(nobody, seen)
        is_beside = network.params.tokens >= PORTRAIT and len(self._embeddings) == 1
        frames = []
        for frame in self._embeddings:
            faces = [
                self._project(one.tensors[network.reads], one.tensors.get(embedding.HIDDEN))
                for one in frame
            ]
            frames.append(torch.cat(faces, dim=1) if is_beside else torch.stack(faces).mean(dim=0))
        cond = torch.cat(frames)
        return cond, uncond.repeat(1, cond.shape[1] // uncond.shape[1], 1)

    def _project(self, faces: Tensor, pictures: Tensor | None) -> Tensor:
        network = self.network
        if network.params.resampler is None or pictures is None:
            return network.module.image_proj(self._here(faces[:1]))
        here = self._here(faces[:1]), self._here(pictures[:1])
        return network.module.image_proj(*here, network.keeps)

    def _here(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.network.device, self.network.dtype)

    def make_keys_values(self, layer: CrossAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """See `AttentionControl.make_keys_values`."""
        return self.network.module.ip_adapter[file_number(layer)](tokens)


def find_layers(network: FaceIdNetwork, terms: Terms, base: BaseUNet) -> dict[str, Beside]:
    """The layers of low rank by the path of that in the U-Net which they stand beside."""
    beside = network.module.beside()
    places = _places(base) if beside else {}
    found = {}
    for (number, kind), module in beside.items():
        path, layer = places[number]
        reads_text = path == layer.path and kind in TEXT
        strength = terms.strengths[layer.transformer]
        found[f"{path}.{PATHS.get(kind, kind)}"] = Beside(module, strength, not reads_text)
    return found


def _places(base: BaseUNet) -> dict[str, tuple[str, CrossAttention]]:
    """Path of every attention by its number in files, and the cross attention of its block."""
    places = {}
    for layer in cross_attentions(base):
        block = layer.path.rpartition(".")[0]
        places[str(2 * layer.number)] = (f"{block}.attn1", layer)
        places[file_number(layer)] = (layer.path, layer)
    return places


class FaceIdFamily(ControlFamily):
    """Loads FaceID."""

    name = "IP-Adapter-FaceID"
    kinds = ("face_id",)
    networks = FaceIdNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> FaceIdNetwork:
        """See `ControlFamily.tiny`."""
        layers = cross_attentions(base)
        low_rank = {
            (number, kind): (
                layer.context if reads_text and kind in TEXT else layer.width,
                2,
                layer.width,
            )
            for layer in layers
            for number, reads_text in ((str(2 * layer.number), False), (file_number(layer), True))
            for kind in KINDS
        }
        face = FaceParams(12, 16, 4, base.shape.context_dim)
        widths = {file_number(layer): layer.width for layer in layers}
        module = FaceAdapter(FaceAdapterParams(face, widths, low_rank))
        randomize(module, seed)
        torch.nn.init.ones_(module.image_proj.norm.weight)
        return FaceIdNetwork("tiny", module, base)

    def preprocessor_for(self, ckpt: Checkpoint) -> str:
        """See `ControlFamily.preprocessor_for`."""
        return PLAIN if _read(ckpt).face.resampler is None else PLUS

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Compare its attentions with the base's, see `ControlFamily.check`."""
        params = _read(ckpt)
        check_attentions(ckpt, params.face.output, params.widths, base)
        _check_low_rank(ckpt, params, base)

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> FaceIdNetwork:
        """Build the network and fill it, see `ControlFamily.load`."""
        self.check(ckpt, base)
        params = _read(ckpt)
        with torch.device("meta"):
            module = FaceAdapter(params)
        fill(ckpt, module, dtype, device)
        words = frozenset().union(*ckpt.given_names)
        network = FaceIdNetwork(
            ckpt.name,
            module,
            base,
            keeps=params.face.resampler is not None and _is_version_2(ckpt),
            is_raw="unnorm" in words,
        )
        network.notes = tuple(ckpt.notes)
        return network


def _read(ckpt: Checkpoint) -> FaceAdapterParams:
    return read_structure(ckpt, lambda: read_face_adapter(ckpt.shapes))


def _check_low_rank(ckpt: Checkpoint, params: FaceAdapterParams, base: BaseUNet) -> None:
    """Require layers of low rank to fit those that they stand beside.

    Raises:
        WrongBaseModelError: the base has no such layer, or one of another width.
    """
    places = _places(base)
    for (number, kind), (reads, _rank, gives) in params.low_rank.items():
        path, layer = places.get(number, ("", None))
        if layer is None:
            has = "has no such attention"
        else:
            is_text = path == layer.path and kind in TEXT
            wanted = (layer.context if is_text else layer.width, layer.width)
            if (reads, gives) == wanted:
                continue
            has = f"reads {wanted[0]} channels there and gives {wanted[1]}"
        msg = (
            f"control model {ckpt.name} has a layer beside {kind} of attention {number} from "
            f"{reads} to {gives} channels; the loaded checkpoint {base.name} ({base.shape}) {has}; "
            "choose a control model made for it"
        )
        raise WrongBaseModelError(msg)


def _is_version_2(ckpt: Checkpoint) -> bool:
    """Whether a plus file is of version 2, which no tensor tells.

    Asked in this order: the file's metadata, the YAML beside it, its name.
    """
    said = ckpt.flag(VERSION_2)
    if said is not None:
        return said
    words = frozenset().union(*ckpt.given_names)
    if "v2" in words or any("plusv2" in word for word in words):
        return True
    if not any("plus" in word for word in words):
        ckpt.notes.append(
            f"{ckpt.path.name}: its name does not tell whether it is FaceID plus or plus v2, so it "
            f"is taken for plus; put a YAML with {VERSION_2}: true beside it for plus v2"
        )
    return False
