"""A unit that is ready to be bound to passes, and its maps at the sizes of passes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import torch

from lib_controlnet.engine.injection import RegionMask
from lib_controlnet.enums import LATENT_SCALE, ControlNetUnionControlType
from lib_controlnet.pictures.placement import PassGeometry, place_map, to_hint, to_pixels
from lib_controlnet.pictures.region import Region, place_region

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.network import ControlNetwork, Embeddings
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.enums import ResizeMode
    from lib_controlnet.units.unit import ControlUnit


RGB_AND_MASK: Final = 4
"""Channels of a map with a mask."""


class ModelReference(Protocol):
    """A control model that a unit has chosen, loaded when a pass needs it."""

    def network(self, base: BaseUNet) -> ControlNetwork:
        """The network for a base.

        Raises:
            ControlNetError: it cannot control that base.
        """
        ...


class Placed:
    """The maps of a unit at the size of a pass; whatever is made of them is made once.

    Args:
        detected: uint8 (H, W, 3 or 4): the map, and those of an animation's further frames.
        geometry: the pass.
        mode: the unit's resize mode.

    Attributes:
        base: identity of the checkpoint whose VAE has encoded them.
    """

    def __init__(
        self, detected: Sequence[np.ndarray], geometry: PassGeometry, mode: ResizeMode
    ) -> None:
        self.geometry = geometry
        self.maps = tuple(place_map(shown, geometry, mode) for shown in detected)
        self._hints: dict[float, tuple[Tensor, str]] = {}
        self._latents: dict[Hashable, Tensor] = {}
        self.base = ""

    def hint(self, masked: float) -> tuple[Tensor, str]:
        """Hint, float32 (1, 3, H, W), or one for each frame (n, 3, H, W), and its digest.

        Args:
            masked: value of masked pixels.
        """
        if masked not in self._hints:
            placed = [to_hint(shown, masked) for shown in self.maps]
            hint = placed[0] if len(placed) == 1 else torch.cat(placed)
            self._hints[masked] = hint, f"{tuple(hint.shape)} {_digest(hint.numpy())}"
        return self._hints[masked]

    @cached_property
    def mask_digest(self) -> str:
        """Equal for equal masks, which hints with black ones do not tell."""
        masks = [shown[:, :, 3:] for shown in self.maps]
        return " ".join(map(_digest, masks))

    def use_base(self, identity: str) -> None:
        """Encode with this checkpoint's VAE from now on."""
        if self.base != identity:
            self.base, self._latents = identity, {}

    def pixels(self, number: int = 0) -> Tensor:
        """float32 (1, 3 or 4, H, W) in [0, 1] of one of the maps."""
        return to_pixels(self.maps[number])

    def latent(self, host: Host, number: int = 0, masked: float | None = None) -> Tensor:
        """Scaled latent (1, 4, H / 8, W / 8) of one of the maps.

        Args:
            host: encodes it.
            number: of the map.
            masked: value of masked pixels; None keeps what is there.
        """

        def picture() -> Tensor:
            if masked is None:
                return self.pixels(number)[:, :3]
            return to_hint(self.maps[number], masked)

        return self.encode((number, masked), picture, host)

    def encode(self, key: Hashable, picture: Callable[[], Tensor], host: Host) -> Tensor:
        """Scaled latent (1, 4, H / 8, W / 8) of something that is made of the maps, encoded once.

        Args:
            key: what it is.
            picture: gives it, (1, 3, H, W) in [0, 1].
            host: encodes it.
        """
        if key not in self._latents:
            self._latents[key] = host.vae_encode(picture())
        return self._latents[key]

    def find_masked(self, number: int = 0) -> Tensor | None:
        """(1, 1, H / 8, W / 8): 1 where a cell of a map has masked pixels; None without a mask."""
        pixels = self.pixels(number)
        if pixels.shape[1] != RGB_AND_MASK:
            return None
        return torch.nn.functional.max_pool2d((pixels[:, 3:] > 0.5).float(), LATENT_SCALE)


def _digest(numbers: np.ndarray) -> str:
    return hashlib.sha1(np.ascontiguousarray(numbers).data, usedforsecurity=False).hexdigest()


@dataclass(eq=False)
class _Sizes:
    """Maps at the sizes of the passes so far, newest first; units with equal maps have the same."""

    placed: list[Placed] = field(default_factory=list)


@dataclass(eq=False)
class PreparedUnit:
    """What a unit is, for the whole generation.

    Attributes:
        unit: what was asked.
        resize_mode: the mode that applies (an img2img picture brings its own).
        detected: uint8 (H, W, 3 or 4), the preprocessor's map.
        model: its control model; None where it steers without one.
        region: where the unit acts; None for the whole picture.
        turn: (i, n): of every n pictures of a batch the unit controls the one numbered i; None
            means all.
        control_type: what the map shows, as far as the preprocessor tells.
        soft_in_hires: the preprocessor asks for fall-off strengths in a hires pass.
        effect: name of an effect on sampling or on the finished picture that the preprocessor
            declares, or None.
        values: numbers of the preprocessor's sliders.
        fills: sampling of a first pass starts from the map, which the preprocessor has painted.
        frames: maps for the further frames of an animation; then `detected` controls the first
            picture of a batch, and these the following ones.
        keyframes: numbers of the frames of an animation that its maps are for, ascending; () where
            one is for all of them; None outside an animation.
        masks: its mask is for an inpainting checkpoint too; the host has none.
        masked: value of masked pixels in the hint, if the preprocessor decides it.
        embeddings: what the preprocessor gives in the place of maps, if it does; the maps then
            show what it looked at.
        pictures: with embeddings, all pictures that it looked at, uint8 (H, W, 3).
        partner: family whose tokens its network reads in the place of the text, as far as the
            preprocessor tells, or a picture that came ready-made.
        is_given: its picture came ready-made.
        position: its place among the enabled units, by which the parameters call it.
    """

    unit: ControlUnit
    resize_mode: ResizeMode
    detected: np.ndarray
    model: ModelReference | None
    region: Region | None = None
    turn: tuple[int, int] | None = None
    control_type: ControlNetUnionControlType = ControlNetUnionControlType.UNKNOWN
    soft_in_hires: bool = False
    effect: str | None = None
    values: tuple[float, ...] = ()
    fills: bool = False
    frames: tuple[np.ndarray, ...] = ()
    keyframes: tuple[int, ...] | None = None
    masks: bool = False
    masked: float | None = None
    embeddings: Embeddings = ()
    pictures: tuple[np.ndarray, ...] = ()
    partner: str = ""
    is_given: bool = False
    position: int = 0
    _sizes: _Sizes = field(default_factory=_Sizes, init=False, repr=False)
    _regions: dict[tuple[PassGeometry, float], RegionMask] = field(
        default_factory=dict, init=False, repr=False
    )

    def look_at(self, geometry: PassGeometry) -> Placed:
        """Its maps at the size of a pass, which may never come."""
        for placed in self._sizes.placed:
            if placed.geometry == geometry:
                return placed
        return Placed((self.detected, *self.frames), geometry, self.resize_mode)

    def has_maps_of(self, other: PreparedUnit) -> bool:
        """Whether another unit's maps are equal, and brought to a pass in the same way."""
        maps, others = (self.detected, *self.frames), (other.detected, *other.frames)
        return (
            (self.resize_mode, len(maps)) == (other.resize_mode, len(others))
            and all(one.shape == another.shape for one, another in zip(maps, others, strict=True))
            and all(
                one is another or np.array_equal(one, another)
                for one, another in zip(maps, others, strict=True)
            )
        )

    def place(self, geometry: PassGeometry, base: str = "") -> Placed:
        """Its maps at the size of a pass that begins, made once for each geometry.

        Args:
            geometry: of the pass.
            base: identity of its checkpoint; what another one's VAE encoded does not count.
        """
        found = self.look_at(geometry)
        found.use_base(base)
        shape = found.maps[0].shape
        others = (one for one in self._sizes.placed if one.maps[0].shape != shape)
        self._sizes.placed = [found, *others]
        return found

    @property
    def maps(self) -> list[np.ndarray]:
        """Its map at the sizes of the passes so far, one per size, newest first."""
        return [placed.maps[0] for placed in self._sizes.placed]

    def region_at(self, info: PassInfo) -> RegionMask | None:
        """Its region in a pass, made once for each geometry; None for the whole picture."""
        if self.region is None:
            return None
        key = (info.geometry, info.scale)
        if key not in self._regions:
            last = list(self._regions.items())[-1:]  # a first pass and a hires pass take turns
            self._regions = dict([*last, (key, RegionMask(place_region(self.region, *key)))])
        return self._regions[key]

    def images(self, count: int) -> frozenset[int] | None:
        """Which of the `count` pictures of a batch the unit controls; None means all."""
        if self.turn is None:
            return None
        return frozenset(range(self.turn[0], count, self.turn[1]))


def share_maps(units: Iterable[PreparedUnit], earlier: Iterable[PreparedUnit] = ()) -> None:
    """Have equal maps placed, hashed and encoded once for all units that show them.

    Args:
        units: that are about to be bound.
        earlier: of the turn before, whose maps at the sizes of passes they take over.
    """
    known = list(earlier)
    for unit in units:
        found = next((other for other in known if unit.has_maps_of(other)), None)
        if found is None:
            known.append(unit)
        else:
            unit._sizes = found._sizes
