"""reference_only: the U-Net's self-attention also sees a picture (no model's file).

In each step the picture, noised to the same timestep, goes through the U-Net; what its
self-attention makes keys and values of is kept, and appended to the keys and values of the real
call. Uncond rows can take a share of that only (style fidelity), so that guidance pushes towards
the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lib_controlnet.engine.effects.x0 import alpha_bar_at
from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Guide, GuideKind
from lib_controlnet.enums import BaseModel, ControlMode
from lib_controlnet.errors import HostError
from lib_controlnet.families.base import ControlFamily

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import RegionMask, Rows
    from lib_controlnet.engine.network import Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Call, Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet

MODULE: Final = "reference_only"
FIDELITY: Final = 0.5
"""Default of the slider."""

INPAINTING_CHANNELS: Final = 9
"""Input channels of an inpainting checkpoint: latent, mask and latent of the masked picture."""

TIMESTEPS: Final = 1000


class ReferenceNetwork(ControlNetwork):
    """Nothing but the base's own attention."""

    name = MODULE
    family = "Reference"
    layers = 1
    wants = Guide(GuideKind.LATENT)
    is_additive = False

    def __init__(self, base: BaseUNet) -> None:
        self.base = base.shape.kind
        self.module = nn.Module()

    def curve(self, strength: float, mode: ControlMode) -> tuple[float, ...]:
        """The share of attention layers that see the picture, see `ControlNetwork.curve`."""
        del mode
        return (strength,)

    def bind(self, terms: Terms, guide: Tensor | None, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`; the guide is a latent."""
        assert guide is not None
        return ReferenceControl(self, terms, guide, info)


class ReferenceControl(ActiveControl):
    """One unit in one pass.

    Attributes:
        blocks: paths of the transformer blocks whose self-attention sees the picture.
        fidelity: share of uncond rows' attention that does not.
        bank: output of the layers `to_k` and `to_v` for the picture, by path, while a call lasts.
    """

    order = 1  # its keys and values go behind whatever others make of a layer's output

    def __init__(
        self, network: ReferenceNetwork, terms: Terms, latent: Tensor, info: PassInfo
    ) -> None:
        super().__init__(network, terms)
        if info.alphas is None:
            msg = f"{terms.name}: {MODULE} needs the noise schedule of the checkpoint, got none"
            raise HostError(msg)
        self._alphas = info.alphas.float().cpu()
        self._latent = latent
        ordered = attention_blocks(info.base.module)
        weight = terms.strengths[0]
        self.blocks = tuple(b for i, b in enumerate(ordered) if weight > i / len(ordered))
        self.fidelity = _fidelity(terms, info)
        self._seeds = info.seeds
        self.bank: dict[str, Tensor] = {}

    def attach(self, places: Places) -> None:
        """Ask for the whole call and for the self-attention layers."""
        self.attach_all([self], places)

    @classmethod
    def attach_all(cls, controls: Sequence[ActiveControl], places: Places) -> None:
        """Ask for them once for all units: they share the attention."""
        _Attention([c for c in controls if isinstance(c, cls)]).attach(places)

    def rows_with_picture(self, step: StepContext) -> Rows:
        """Rows of a call that see the picture."""
        rows = self.rows_in(step)
        return tuple(row for row in rows if step.rows[row].is_cond or self.fidelity < 1.0)

    def write(self, step: StepContext, call: Call, rows: Rows) -> None:
        """Send the noised picture through the U-Net, for some rows, and keep the bank."""
        index = torch.tensor(rows, device=step.x.device)
        paths = (f"{block}.attn1.{leaf}" for block in self.blocks for leaf in ("to_k", "to_v"))
        call.inner(
            self.noise_picture(step, rows),
            step.timesteps[index],
            None if call.context is None else call.context[index],
            None if call.y is None else call.y[index],
            {path: partial(self.bank.__setitem__, path) for path in paths},
        )

    def noise_picture(self, step: StepContext, rows: Rows) -> Tensor:
        """The picture with the noise of each row's timestep: (len(rows), channels, h, w).

        A row's noise depends on its picture's seed and the timestep alone, so cond and uncond rows
        share it, in one call or in two, and no random number of the user is taken.
        """
        latent = self._latent.float()
        if latent.shape[-2:] != step.x.shape[-2:]:
            latent = F.interpolate(latent, step.x.shape[-2:], mode="bilinear")
        made: dict[tuple[int, float], Tensor] = {}
        for row in rows:
            image, timestep = step.rows[row].image, float(step.timesteps[row])
            if (image, timestep) not in made:
                clean = latent[min(image, len(latent) - 1)].to(step.x.device)
                seed = self._seeds[image % len(self._seeds)] * TIMESTEPS + round(timestep)
                generator = torch.Generator().manual_seed(seed % 2**63)
                noise = torch.randn(clean.shape, generator=generator).to(clean)
                alpha_bar = float(alpha_bar_at(self._alphas, torch.tensor([timestep])))
                noisy = alpha_bar**0.5 * clean + (1.0 - alpha_bar) ** 0.5 * noise
                parts = [noisy]
                if step.x.shape[1] == INPAINTING_CHANNELS:
                    parts = [noisy, torch.zeros_like(clean[:1]), clean]  # nothing is masked
                made[image, timestep] = torch.cat(parts)
        chosen = [made[step.rows[row].image, float(step.timesteps[row])] for row in rows]
        pictures = torch.stack(chosen).to(step.x)
        own = step.x[list(rows), pictures.shape[1] :]  # of checkpoints that edit pictures
        return torch.cat([pictures, own], dim=1)

    def release(self) -> None:
        """Let go of what the last call has left."""
        self.bank.clear()


@dataclass(eq=False)
class _Group:
    """Units that act on the same rows and region in one call: their pictures are seen together.

    Attributes:
        rows: rows of the call.
        region: where they act; None means everywhere.
    """

    rows: Rows
    region: RegionMask | None
    controls: list[ReferenceControl] = field(default_factory=list)

    def acts_in(self, block: str) -> bool:
        """Whether one of its units acts in a transformer block."""
        return any(block in control.blocks for control in self.controls)

    def share(self, block: str, step: StepContext, like: Tensor) -> Tensor:
        """Share of the attention that sees the pictures, (n, 1 or tokens, 1), of tokens `like`."""
        fidelities = [control.fidelity for control in self.controls if block in control.blocks]
        fidelity = sum(fidelities) / len(fidelities)
        share = like.new_zeros(len(step.rows), 1, 1)
        for row in self.rows:
            share[row] = 1.0 if step.rows[row].is_cond else 1.0 - fidelity
        if self.region is None:
            return share
        mask = self.region.at(_token_size(step.x, like.shape[1]), like)
        return share * rearrange(mask, "b c h w -> b (h w) c")


class _Attention:
    """The self-attention of the U-Net, for all units of a pass."""

    def __init__(self, controls: Sequence[ReferenceControl]) -> None:
        self._controls = controls
        self._groups: list[_Group] = []
        self._seen: _Group | None = None
        self._is_inside = False

    def attach(self, places: Places) -> None:
        """Ask for the places."""
        places.call(self._write)
        for block in dict.fromkeys(b for control in self._controls for b in control.blocks):
            for leaf in ("to_k", "to_v"):
                path = f"{block}.attn1.{leaf}"
                places.module(path, after=partial(self._append, block, path))
            places.module(f"{block}.attn1", after=partial(self._mix, block))

    def _write(self, step: StepContext, call: Call) -> None:
        groups: dict[tuple[object, ...], _Group] = {}
        for control in self._controls:
            control.bank.clear()
            rows = control.rows_with_picture(step)
            if rows:
                region = control.terms.region
                key = (rows, None if region is None else region.digest)
                groups.setdefault(key, _Group(rows, region)).controls.append(control)
                control.write(step, call, rows)
        self._groups = list(groups.values())

    def _groups_in(self, block: str) -> list[_Group]:
        return [group for group in self._groups if group.acts_in(block)]

    def _append(
        self, block: str, path: str, output: Tensor, step: StepContext, again: object
    ) -> Tensor | None:
        """Keys or values (n, tokens, c) of the call, and behind them those of the pictures."""
        del again
        group = self._seen if self._is_inside else next(iter(self._groups_in(block)), None)
        if group is None:
            return None
        banks = [control.bank[path] for control in group.controls if path in control.bank]
        seen = [_spread(bank, output, group.rows, len(step.rows)) for bank in banks]
        return torch.cat([output, *seen], dim=1) if seen else None

    def _mix(
        self, block: str, output: Tensor, step: StepContext, again: Callable[[], Tensor]
    ) -> Tensor | None:
        """Attention (n, tokens, c) in the shares that rows and regions take.

        `output` is that of the first group's pictures.
        """
        groups = self._groups_in(block)
        if self._is_inside or not groups:
            return None
        shares = [group.share(block, step, output) for group in groups]
        mixed = output
        if len(groups) > 1 or not bool((shares[0] == 1.0).all()):
            mixed = self._attend(None, again)
            if len(groups) == 1:
                mixed = torch.lerp(mixed, output, shares[0])
            else:
                seen = [output, *(self._attend(group, again) for group in groups[1:])]
                plain = mixed
                for share, one in zip(shares, seen, strict=True):
                    mixed = mixed + share * (one - plain)
        for control in (control for group in groups for control in group.controls):
            control.acted = True
            for leaf in ("to_k", "to_v"):
                control.bank.pop(f"{block}.attn1.{leaf}", None)
        return mixed

    def _attend(self, group: _Group | None, again: Callable[[], Tensor]) -> Tensor:
        """The attention once more, seeing one group's pictures, or none."""
        self._seen, self._is_inside = group, True
        try:
            return again()
        finally:
            self._seen, self._is_inside = None, False


def _spread(bank: Tensor, output: Tensor, rows: Rows, count: int) -> Tensor:
    """The bank of some rows for all rows of a call; the others get what they have already.

    Args:
        bank: (len(rows) * tiles, tokens, c); hosts that tile the attention make several of a row.
        output: (count * tiles, tokens, c), of the same layer in the call.
        rows: of the call.
        count: rows of the call.
    """
    if len(rows) == count:
        return bank
    tiles = output.shape[0] // count
    index = [row * tiles + tile for row in rows for tile in range(tiles)]
    if bank.shape[1:] != output.shape[1:] or len(index) != len(bank):
        msg = (
            f"{MODULE} met {tuple(bank.shape)} tokens for its picture and {tuple(output.shape)} "
            "for the call; switch off what merges the tokens of the U-Net (token merging)"
        )
        raise HostError(msg)
    spread = output.clone()
    spread[torch.tensor(index, device=output.device)] = bank
    return spread


def _token_size(x: Tensor, tokens: int) -> tuple[int, int]:
    """Height and width of the tokens of a level of the U-Net, for a latent (n, c, h, w)."""
    h, w = x.shape[-2:]
    while h * w > tokens and (h, w) != (1, 1):
        h, w = -(-h // 2), -(-w // 2)
    if h * w != tokens:
        msg = (
            f"{MODULE} cannot place its region on {tokens} tokens; switch off what merges the "
            "tokens of the U-Net (token merging), or leave out the region"
        )
        raise HostError(msg)
    return h, w


def _fidelity(terms: Terms, info: PassInfo) -> float:
    """Share of uncond rows' attention that does not see the picture.

    Parity: all of it sees the picture where the prompt is more important and in hires passes; the
    slider is cubed on SDXL.
    """
    if terms.mode is ControlMode.PROMPT or info.is_hires:
        return 0.0
    fidelity = min(max(terms.values[0] if terms.values else FIDELITY, 0.0), 1.0)
    return fidelity**3 if info.base.shape.kind is BaseModel.SDXL else fidelity


def attention_blocks(unet: nn.Module) -> list[str]:
    """Paths of the transformer blocks, the widest first, then in the order of the U-Net."""
    widths = {
        path.removesuffix(".attn1"): module.to_k.in_features
        for path, module in unet.named_modules()
        if path.endswith(".attn1")
    }
    return sorted(widths, key=lambda block: -widths[block])


class ReferenceFamily(ControlFamily):
    """Steers by a picture through the U-Net's own self-attention."""

    name = "Reference"
    preprocessors = (MODULE,)

    def tiny(self, base: BaseUNet, seed: int = 0) -> ReferenceNetwork:
        """See `ControlFamily.tiny`."""
        del seed
        return self.make(base)

    def make(self, base: BaseUNet) -> ReferenceNetwork:
        """See `ControlFamily.make`."""
        return ReferenceNetwork(base)
