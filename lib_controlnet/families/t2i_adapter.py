"""T2I-Adapter, full for SD1, SD2 and SDXL, light for SD1 (Mou et al., arXiv:2302.08453).

Its features are added to the stream of the U-Net's encoder behind the last block of each level,
and so to the skip that begins there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.engine.injection import Residuals, with_rows
from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Guide
from lib_controlnet.enums import BaseModel, ControlMode
from lib_controlnet.errors import BrokenCheckpointError, WrongBaseModelError
from lib_controlnet.families.base import ControlFamily, randomize
from lib_controlnet.families.controlnet import own_precision
from lib_controlnet.families.filling import fill, read_structure, title
from lib_controlnet.families.hints import HintControl
from lib_controlnet.nets.t2i_adapter import (
    BLOCKS_PER_LEVEL,
    SD_PATCH,
    SDXL_HALVED_LEVEL,
    SDXL_PATCH,
    AdapterBlockParams,
    AdapterParams,
    LightAdapter,
    LightParams,
    T2IAdapter,
    read_adapter_params,
    read_light_params,
)
from lib_controlnet.units.weight_types import ALONG, Parts, WeightType

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.network import Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Memory, Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.files.checkpoint import Checkpoint

MIDDLE: Final = -1
"""Stands for the middle block among the places of features."""

LIGHT: Final = "t2i_light"
"""Key of the signature of light adapters."""

HINT_CHANNELS: Final = (1, 3)

FALL_OFF: Final = (0.25, 0.62, 0.825, 1.0)
"""Factors of the levels, shallowest first, where prompt or control is more important."""


class T2IAdapterNetwork(ControlNetwork):
    """A loaded T2I-Adapter: sees the hint alone, so it is evaluated once in a pass."""

    family = "T2I-Adapter"
    wants = Guide(masked=0.0)
    weight_types = (*ALONG, WeightType.SOFT)
    module: T2IAdapter | LightAdapter

    def __init__(self, name: str, module: T2IAdapter | LightAdapter, base: BaseModel) -> None:
        self.name = name
        self.module = module
        self.base = base
        self.layers = len(module.params.widths)

    def curve(self, strength: float, mode: ControlMode) -> tuple[float, ...]:
        """Strength per level, see `ControlNetwork.curve`."""
        if mode is ControlMode.BALANCED:
            return (strength,) * self.layers
        return tuple(strength * factor for factor in self.soften(self.layers))

    @classmethod
    def parts_of(cls, base: BaseUNet) -> Parts:
        """One for each level, see `ControlNetwork.parts_of`."""
        is_sdxl = base.shape.kind is BaseModel.SDXL
        blocks = feature_blocks(base, SDXL_PATCH if is_sdxl else SD_PATCH)
        middle = blocks.count(MIDDLE)
        return (len(blocks) - middle, middle, 0)

    @classmethod
    def soften(cls, layers: int) -> tuple[float, ...]:
        """See `ControlNetwork.soften`."""
        return FALL_OFF[-layers:]

    @torch.no_grad()
    def encode(self, hint: Tensor) -> list[Tensor]:
        """Features (b, c, h, w) of a hint (b, 3, H, W), one for each level, shallowest first."""
        if self.module.params.hint_channels == 1:
            hint = hint.mean(dim=1, keepdim=True)
        with own_precision(self.device):
            return self.module(hint.to(self.device, self.dtype))

    def bind(self, terms: Terms, guide: Tensor | None, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`; the guide is its hint."""
        assert guide is not None
        return T2IAdapterControl(self, terms, guide, info)


class T2IAdapterControl(HintControl):
    """One unit in one pass; its features stay the same over the steps."""

    network: T2IAdapterNetwork

    def __init__(
        self, network: T2IAdapterNetwork, terms: Terms, hint: Tensor, info: PassInfo
    ) -> None:
        super().__init__(network, terms, hint)
        self._blocks = feature_blocks(info.base, network.module.params.patch)
        self._skips = len(info.base.shape.skips)
        self._memory: Memory | None = None
        self._encoded: list[Tensor] | None = None
        self._made: tuple[Tensor | None, ...] = ()
        self._made_at: tuple[float, ...] = ()
        self._is_offered = False

    def attach(self, places: Places) -> None:
        """Ask for the last input block of each level, and for the middle block."""
        self.keep_in(places.kept)
        self._memory = places.memory
        for level, block in enumerate(self._blocks):
            if not self.terms.strengths[level]:
                continue
            if block == MIDDLE:
                places.skips(partial(self._add_to_middle, level), self._take)
            else:
                places.after_input(block, partial(self._add_to_stream, level))

    def _features(self, step: StepContext) -> tuple[Tensor | None, ...]:
        """What is added at each level in a call: strength and region are in it."""
        if self._encoded is None:
            self._encoded = self.make_once(self._encode)
        strengths = self.strengths_in(step)
        if self._made_at != strengths:
            added = Residuals((), tuple(self._encoded)).scale(strengths)
            if self.terms.region is not None:
                added = added.mask(self.terms.region, [f.shape[-2:] for f in self._encoded])
            self._made, self._made_at = added.layers, strengths
        return self._made

    def _encode(self) -> list[Tensor]:
        assert self._memory is not None
        with self._memory.on_device(self.network):
            return self.network.encode(self.hint)

    def _add_to_stream(self, level: int, h: Tensor, step: StepContext) -> Tensor | None:
        rows = self.rows_in(step)
        if not rows:
            return None
        feature = self._features(step)[level]
        if feature is None:  # of a strength that is too small to be one
            return None
        self.acted = True
        return with_rows(h, self.rows_of(feature, step, rows), rows)

    def _add_to_middle(self, level: int, step: StepContext) -> list[Residuals]:
        rows = self.rows_in(step)
        if not rows:
            return []
        feature = self._features(step)[level]
        if feature is None:
            return []
        added = self.rows_of(feature, step, rows).expand(len(rows), -1, -1, -1)
        self._is_offered = True
        return [Residuals(rows, (*(None,) * self._skips, added))]

    def _take(self) -> None:
        """The U-Net's blocks took what was offered to the middle one, if anything."""
        self.acted = self.acted or self._is_offered
        self._is_offered = False

    def release(self) -> None:
        """Forget what was made of the hint."""
        self._encoded, self._made, self._made_at = None, (), ()


class T2IAdapterFamily(ControlFamily):
    """Loads full and light T2I-Adapters, in the original and in diffusers' layout."""

    name = "T2I-Adapter"
    kinds = ("t2i", LIGHT)
    networks = T2IAdapterNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> T2IAdapterNetwork:
        """See `ControlFamily.tiny`."""
        is_sdxl = base.shape.kind is BaseModel.SDXL
        patch = SDXL_PATCH if is_sdxl else SD_PATCH
        blocks: list[AdapterBlockParams] = []
        width = 0
        for level, wanted in enumerate(_widths(base, patch)):
            halves = level == SDXL_HALVED_LEVEL if is_sdxl else level > 0
            blocks.append(AdapterBlockParams(width or wanted, wanted, 1, "mean" if halves else ""))
            blocks += [AdapterBlockParams(wanted, wanted, 1, "")] * (BLOCKS_PER_LEVEL - 1)
            width = wanted
        module = T2IAdapter(AdapterParams(3, patch, tuple(blocks)))
        return T2IAdapterNetwork("tiny", randomize(module, seed), base.shape.kind)

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Compare widths with the base, see `ControlFamily.check`."""
        _check_base(ckpt, _read(ckpt), base)

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> T2IAdapterNetwork:
        """Build the network and fill it, see `ControlFamily.load`."""
        params = _read(ckpt)
        _check_base(ckpt, params, base)
        with torch.device("meta"):
            module: T2IAdapter | LightAdapter = (
                LightAdapter(params) if isinstance(params, LightParams) else T2IAdapter(params)
            )
        fill(ckpt, module, dtype, device)
        return T2IAdapterNetwork(ckpt.name, module, base.shape.kind)


def feature_blocks(base: BaseUNet, patch: int) -> tuple[int, ...]:
    """Where features are added: numbers of input blocks, or MIDDLE, shallowest first.

    Args:
        base: the U-Net.
        patch: the adapter's cells, which tell SDXL's from the others.
    """
    strided = sorted(
        int(name.split(".")[1])
        for name, _parameter in base.module.named_parameters()
        if name.startswith("input_blocks.") and name.endswith(".op.weight")
    )
    ends = (*(block - 1 for block in strided), len(base.shape.skips) - 1)
    # SDXL's adapter begins at half the latent's size: behind the first strided block.
    return (ends[0] + 1, *ends[1:], MIDDLE) if patch == SDXL_PATCH else ends


def _widths(base: BaseUNet, patch: int) -> tuple[int, ...]:
    """Channels of the U-Net where features are added."""
    channels = (*base.shape.skips, base.shape.middle)  # MIDDLE is the last
    return tuple(channels[block] for block in feature_blocks(base, patch))


def _read(ckpt: Checkpoint) -> AdapterParams | LightParams:
    kind = ckpt.kind
    reader = read_light_params if kind is not None and kind.key == LIGHT else read_adapter_params
    params: AdapterParams | LightParams = read_structure(ckpt, lambda: reader(ckpt.shapes))
    if params.hint_channels not in HINT_CHANNELS:
        msg = (
            f"{title(ckpt)}, but of an unknown variant: it reads hints of "
            f"{params.hint_channels} channels"
        )
        raise BrokenCheckpointError(msg)
    return params


def _check_base(ckpt: Checkpoint, params: AdapterParams | LightParams, base: BaseUNet) -> None:
    is_sdxl = params.patch == SDXL_PATCH
    if is_sdxl != (base.shape.kind is BaseModel.SDXL):
        made_for = "SDXL" if is_sdxl else "SD1 or SD2"
        msg = (
            f"control model {ckpt.name} is made for {made_for}, the loaded checkpoint {base.name} "
            f"is {base.shape}; choose a control model made for {base.shape.kind}"
        )
        raise WrongBaseModelError(msg)
    taken = _widths(base, params.patch)
    if taken != params.widths:
        given, wanted = (", ".join(str(width) for width in each) for each in (params.widths, taken))
        msg = (
            f"control model {ckpt.name} gives features of {given} channels, the loaded checkpoint "
            f"{base.name} ({base.shape}) takes {wanted}; choose a control model made for it"
        )
        raise WrongBaseModelError(msg)
