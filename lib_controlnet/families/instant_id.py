"""InstantID's adapter: a face as a prompt for SDXL (Wang et al. 2024, arXiv:2401.07519).

It is an IP-Adapter that reads a recogniser's embedding. The network that follows the points of the
face reads its tokens in the place of the text, see `families/residual.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.engine.network import Guide, GuideKind
from lib_controlnet.families.attention import cross_attentions
from lib_controlnet.families.base import randomize
from lib_controlnet.families.controlnet import INSTANT_ID
from lib_controlnet.families.filling import read_structure
from lib_controlnet.families.ip_adapter import (
    IPAdapterControl,
    IPAdapterFamily,
    IPAdapterNetwork,
    file_number,
)
from lib_controlnet.gate import own_module
from lib_controlnet.nets.ip_adapter import (
    AdapterParams,
    IPAdapter,
    Projection,
    make_resampler,
    read_params,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from lib_controlnet.engine.injection import Rows
    from lib_controlnet.engine.network import ActiveControl, Embeddings, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.files.checkpoint import Checkpoint

embedding: Final = own_module("embedding")

PREPROCESSOR: Final = "instant_id_face_embedding"
KEYPOINTS: Final = "instant_id_face_keypoints"


class InstantIdNetwork(IPAdapterNetwork):
    """A loaded adapter of InstantID, see `IPAdapterNetwork`."""

    family = INSTANT_ID

    def __init__(self, name: str, module: IPAdapter, params: AdapterParams, base: BaseUNet) -> None:
        super().__init__(name, module, params, base)
        tensors = ((embedding.ANTELOPE, params.read),)
        self.wants = Guide(GuideKind.EMBEDDING, tensors=tensors, preprocessor=PREPROCESSOR)

    def bind(self, terms: Terms, guide: Embeddings, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`."""
        return InstantIdControl(self, terms, guide, info)


class InstantIdControl(IPAdapterControl):
    """One unit in one pass; the tokens of several faces are averaged."""

    lends = True

    def meet(self, controls: Sequence[ActiveControl], say: Callable[[str], None]) -> None:
        """Say that no network reads the tokens, where one of the others may be meant to."""
        super().meet(controls, say)
        if any(control.partner == self.network.family for control in controls):
            return
        found = [c for c in controls if c.terms.is_given and c.network.reads_tokens]
        if found:
            others = " and ".join(f"{c.network.name} ({c.terms.name})" for c in found)
            say(
                f"ControlNet {self.terms.name}: no control model reads its face in the place of "
                f"the prompt; if {others} is the network of {self.network.family}, have the "
                f"preprocessor {KEYPOINTS} make its picture, or put instant_id into its file's name"
            )

    def lend_tokens(self, step: StepContext, rows: Rows) -> Tensor:
        """See `ActiveControl.lend_tokens`."""
        return self.tokens(step, rows)

    def make_tokens(self) -> tuple[Tensor, Tensor]:
        """Tokens of the faces, and of nobody; see `AttentionControl.make_tokens`."""
        faces = [
            self._tokens_of(torch.cat([one.tensors[embedding.ANTELOPE] for one in frame]))
            for frame in self._embeddings
        ]
        nobody = torch.zeros_like(self._embeddings[0][0].tensors[embedding.ANTELOPE][:1])
        cond = torch.cat([frame.mean(dim=0, keepdim=True) for frame in faces])
        return cond, self._tokens_of(nobody)

    def _tokens_of(self, faces: Tensor) -> Tensor:
        """Tokens (n, t, c) of embeddings (n, width)."""
        return self.network.module.image_proj(self._here(faces)[:, None])


class InstantIdFamily(IPAdapterFamily):
    """Loads adapters of InstantID."""

    name = INSTANT_ID
    kinds = ("instant_id",)
    networks = InstantIdNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> InstantIdNetwork:
        """See `ControlFamily.tiny`."""
        widths = {file_number(layer): layer.width for layer in cross_attentions(base)}
        sizes = {"inner": 64, "attended": 64, "depth": 1, "hidden": 32}
        context = base.shape.context_dim
        params = AdapterParams(Projection.RESAMPLER, 12, context, 4, widths, **sizes)
        image_proj = make_resampler(params)
        module = randomize(IPAdapter(params, image_proj), seed)
        torch.nn.init.ones_(image_proj.norm_out.weight)
        return InstantIdNetwork("tiny", module, params, base)

    def preprocessor_for(self, ckpt: Checkpoint) -> str:
        """See `ControlFamily.preprocessor_for`."""
        del ckpt
        return PREPROCESSOR

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> InstantIdNetwork:
        """Build the network and fill it, see `ControlFamily.load`."""
        loaded = super().load(ckpt, base, dtype, device)
        params = read_structure(ckpt, lambda: read_params(ckpt.shapes))
        return InstantIdNetwork(loaded.name, loaded.module, params, base)
