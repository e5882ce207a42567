"""ControlNet Union and Union ProMax (xinsir6, ControlNetPlus).

One network for many types of hints: SDXL as published, with 6, 8 or more types, in diffusers' and
the original layout. The type is the unit's, or that of its preprocessor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from lib_controlnet.engine.network import Guide
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.errors import UnitError
from lib_controlnet.families.base import FileFacts, randomize
from lib_controlnet.families.controlnet import (
    ControlNetFamily,
    ControlNetNetwork,
    own_precision,
    tiny_params,
)
from lib_controlnet.families.residual import ResidualControl
from lib_controlnet.nets.cldm import ControlNet, read_params
from lib_controlnet.nets.union import ControlNetUnion, UnionParams, read_union
from lib_controlnet.pictures.placement import BLACK

if TYPE_CHECKING:
    from lib_controlnet.engine.network import ActiveControl, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.unet import BaseUNet, UNetShape
    from lib_controlnet.files.checkpoint import Checkpoint

TYPES: Final = tuple(ControlNetUnionControlType.in_order())
"""Types in the order of their numbers; a file has the first 6, 8, 9 or any number of them."""
TINY_TYPES: Final = 8


class UnionNetwork(ControlNetNetwork):
    """A loaded Union: a ControlNet for each type of hint."""

    family = "ControlNet Union"
    module: ControlNetUnion
    wants = Guide(masked=BLACK)  # as in the published example; other ControlNets read -1

    def bind(self, terms: Terms, guide: Tensor | None, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`.

        Raises:
            UnitError: nobody said what the hint shows, or the file has no such type.
        """
        del info
        assert guide is not None
        return UnionControl(self, terms, guide, self._number(terms))

    def _number(self, terms: Terms) -> int:
        known, asked = TYPES[: self.module.types], terms.control_type
        if asked in known:
            return known.index(asked)
        if asked is ControlNetUnionControlType.UNKNOWN:
            what = "needs to be told what the picture shows, and the preprocessor does not tell"
        else:
            number = TYPES.index(asked)
            named = f"{asked} ({number})" if str(number) != asked.value else asked.value
            what = f"has {self.module.types} types of pictures, and {named} is none of them"
        msg = (
            f"{terms.name}: control model {self.name} {what}; set union_control_type to one of "
            f"{', '.join(known)}"
        )
        raise UnitError(msg)

    def encode_typed(self, hint: Tensor, kind: int) -> Tensor:
        """Run the part that depends on the hint and its type alone, see `encode_hint`."""
        guided = self.encode_hint(hint)
        with torch.no_grad(), own_precision(self.device):
            return self.module.shift(guided, kind)

    def embed_type(self, kind: int) -> Tensor:
        """What a type adds to the embedding of the timesteps, see `evaluate`."""
        with torch.no_grad(), own_precision(self.device):
            return self.module.embed_type(kind)


class UnionControl(ResidualControl):
    """One unit in one pass, by the number of its type.

    Units of different types are evaluated apart: the network sees one type at a time.
    """

    network: UnionNetwork

    def __init__(self, network: UnionNetwork, terms: Terms, hint: Tensor, kind: int) -> None:
        super().__init__(network, terms, hint)
        self.kind = kind
        self._embedded: Tensor | None = None

    @property
    def batch_key(self) -> tuple[object, ...]:
        """Units of one type, see `ResidualControl.batch_key`."""
        return (*super().batch_key, self.kind)

    def encode(self) -> Tensor:
        """Encode the hint as one of its type, see `ResidualControl.encode`."""
        return self.network.encode_typed(self.hint, self.kind)

    @property
    def evaluate(self) -> Callable[..., list[Tensor | None]]:
        """The network for the type, see `ResidualControl.evaluate`; embedded once in a pass."""
        if self._embedded is None:
            self._embedded = self.network.embed_type(self.kind)
        return partial(self.network.evaluate, extra=self._embedded)

    def release(self) -> None:
        """Forget what was cached for the pass."""
        super().release()
        self._embedded = None


class UnionFamily(ControlNetFamily):
    """Loads Unions: ControlNets with an embedding of types and a shift of the hint's channels."""

    name = "ControlNet Union"
    kind = "union"

    def tiny(self, base: BaseUNet, seed: int = 0) -> UnionNetwork:
        """See `ControlFamily.tiny`."""
        params = tiny_params(base)
        module = ControlNetUnion(params, UnionParams(types=TINY_TYPES, layers=1, sinusoids=8))
        return UnionNetwork("tiny", randomize(module, seed), base.shape)

    def describe(self, ckpt: Checkpoint) -> FileFacts:
        """The types that the file knows, see `ControlFamily.describe`."""
        types = TYPES[: ckpt.shape("task_embedding")[0]]
        return FileFacts(types, UnionNetwork.wants.masked)

    def build(
        self, shapes: Mapping[str, Sequence[int]], heads: Callable[[str, int], int]
    ) -> ControlNetUnion:
        """The module for some shapes, see `ControlNetFamily.build`."""
        return ControlNetUnion(read_params(shapes, heads), read_union(shapes))

    def wrap(self, name: str, module: ControlNet, shape: UNetShape) -> UnionNetwork:
        """The network of a filled module."""
        return UnionNetwork(name, module, shape)
