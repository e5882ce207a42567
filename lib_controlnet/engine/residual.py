"""One unit in one pass: its network, its hint, and what of them stays constant over the steps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from lib_controlnet.engine.injection import RegionMask, Residuals, Rows
from lib_controlnet.engine.step import StepContext
from lib_controlnet.errors import HostError

if TYPE_CHECKING:
    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.window import Window

LATENT_CHANNELS: Final = 4
"""Channels of the noisy latent; inpainting and edit U-Nets append their own conditioning."""


@dataclass(eq=False)
class ActiveControl:
    """A control network bound to one unit and one pass.

    Attributes:
        network: loaded weights, shared with other units.
        hint: float32 (1, 3, H, W), or (n, 3, H, W) with one for each picture of the batch; another
            extension may put (n, 3, H, W) of its own in its place.
        strengths: per layer, shallowest skip first, middle block last.
        window: when the unit acts.
        cond_only: whether it acts on cond rows only.
        region: where it acts; None means everywhere.
        images: pictures of the batch it acts on; None means all.
        due: number of the first evaluation that lies in its window, from 1; 0 before that.
        acted: the U-Net has taken its residuals.
    """

    network: ControlNetwork
    hint: Tensor
    strengths: tuple[float, ...]
    window: Window
    cond_only: bool = False
    region: RegionMask | None = None
    images: frozenset[int] | None = None
    due: int = 0
    acted: bool = False
    hint_key: str = field(default="", repr=False)
    is_replaced: bool = field(default=False, repr=False)
    _guided_hint: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        pixels = self.hint.contiguous().numpy()
        self.hint_key = f"{tuple(pixels.shape)} {hashlib.sha1(pixels).hexdigest()}"

    @property
    def sort_key(self) -> tuple[object, ...]:
        """Orders units by what they do, whatever their order in the panel."""
        region = "" if self.region is None else self.region.digest
        images = () if self.images is None else tuple(sorted(self.images))
        window = (self.window.start, self.window.end)
        return (
            *(self.network.name, self.hint_key, self.strengths, window, region, images),
            self.cond_only,
        )

    @property
    def wanted(self) -> tuple[bool, ...]:
        """Layers whose residual is used at all."""
        return tuple(strength != 0.0 for strength in self.strengths)

    def replace_hint(self, hint: Tensor) -> None:
        """Act by another hint from the next U-Net call on.

        Args:
            hint: (3, H, W) or (1, 3, H, W) for all rows, or (n, 3, H, W) with one for each row of
                the U-Net's calls, or one for each picture of the batch.
        """
        self.hint = hint[None] if hint.dim() == 3 else hint  # no batch axis
        self.hint_key = f"given to {id(self)}"  # never taken for a copy of another unit's
        self.is_replaced = True
        self._guided_hint = None

    def guided_hint(self) -> Tensor:
        """Output of the network's hint encoder, (1 or n, c, h, w), computed once per hint."""
        if self._guided_hint is None:
            self._guided_hint = self.network.encode_hint(self.hint)
        return self._guided_hint

    def finish(self, layers: tuple[Tensor | None, ...], rows: Rows) -> Residuals:
        """Apply strength, region and pooling to the network's raw output."""
        residuals = Residuals(rows, layers).scaled(self.strengths)
        sizes = [None if layer is None else layer.shape[-2:] for layer in layers]
        if self.network.global_average_pooling:
            residuals = residuals.pooled()
        if self.region is not None:
            residuals = residuals.masked(self.region, sizes)
        return residuals

    def release(self) -> None:
        """Forget what was cached for the pass."""
        self._guided_hint = None


def evaluate_group(
    controls: Sequence[ActiveControl], step: StepContext, rows: Rows
) -> list[Residuals]:
    """Run units that share a network and rows as one batch.

    Units with the same hint are evaluated once: what differs between them (strength, region) is
    applied to the result.

    Args:
        controls: units with one and the same network.
        step: the U-Net call.
        rows: rows of the call to evaluate; the others cost nothing.

    Returns:
        One `Residuals` per unit, in the order of `controls`.
    """
    network = controls[0].network
    everything = len(rows) == step.x.shape[0]
    index = None if everything else torch.tensor(rows, device=step.x.device)
    distinct = {control.hint_key: control for control in controls}
    copies = len(distinct)

    def pick(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        chosen = tensor if index is None else tensor[index]
        return chosen if copies == 1 else torch.cat([chosen] * copies)

    hints = [
        _rows_of(control.guided_hint(), step, rows, control.is_replaced)
        for control in distinct.values()
    ]
    if copies > 1:
        hints = [torch.cat([hint.expand(len(rows), -1, -1, -1) for hint in hints])]
    wanted = tuple(any(layer) for layer in zip(*(c.wanted for c in controls), strict=True))
    layers = network.evaluate(
        pick(step.x[:, :LATENT_CHANNELS]),
        pick(step.timesteps),
        pick(step.context),
        pick(step.y),
        hints[0],
        wanted,
    )
    chunks = [(None,) * copies if layer is None else layer.chunk(copies) for layer in layers]
    place = {key: position for position, key in enumerate(distinct)}
    return [
        control.finish(tuple(chunk[place[control.hint_key]] for chunk in chunks), rows)
        for control in controls
    ]


def _rows_of(guided: Tensor, step: StepContext, rows: Rows, is_replaced: bool) -> Tensor:
    """The guided hint for some rows of a call: (1 or len(rows), c, h, w).

    Args:
        guided: one hint for all; or one for each row of the call, for each picture of the batch,
            or for each of several equal parts of the call (animations repeat their frames for
            cond and uncond).
        step: the U-Net call.
        rows: the wanted rows.
        is_replaced: another extension gave the hint, and its order may be any of these.

    Raises:
        HostError: the number of hints fits none of these.
    """
    count, total = guided.shape[0], len(step.rows)
    if count == 1:
        return guided
    pictures = 1 + max(row.image for row in step.rows)
    if count == total and is_replaced:
        owners = list(rows)
    elif count == pictures or (count > pictures and not is_replaced):  # a call may have a part
        owners = [step.rows[row].image for row in rows]
    elif total % count == 0:
        owners = [row % count for row in rows]
    else:
        msg = (
            f"another extension replaced a hint by {count} of them, but the U-Net was called with "
            f"{total} rows; there must be 1, {total}, or one for each picture"
        )
        raise HostError(msg)
    if owners == list(range(count)):
        return guided
    return guided[torch.tensor(owners, device=guided.device)]
