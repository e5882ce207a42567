"""Reference: the U-Net sees a picture in its own features, without a model's file.

In each step the picture, noised to the same timestep, goes through the U-Net. What its
self-attention makes keys and values of is appended to those of the real call (`reference_only`),
or the features of the real call get the picture's mean and spread in each channel
(`reference_adain`, Huang & Belongie, arXiv:1703.06868, eq. 8), or both. Uncond rows can take a
share of that only (style fidelity), so that guidance pushes towards the picture.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib_controlnet.engine.effects.x0 import alpha_bar_at
from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Guide, GuideKind
from lib_controlnet.engine.unet import widths_of
from lib_controlnet.enums import BaseModel, ControlMode
from lib_controlnet.errors import HostError, is_out_of_memory
from lib_controlnet.families.base import ControlFamily

if TYPE_CHECKING:
    from lib_controlnet.engine.injection import RegionMask, Rows
    from lib_controlnet.engine.network import Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Call, Memory, Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet

log = logging.getLogger(__name__)

VARIANTS: Final = {
    "reference_only": (True, False),
    "reference_adain": (False, True),
    "reference_adain+attn": (True, True),
}
"""Preprocessor -> whether the attention sees the picture, and whether features get its moments."""

FIDELITY: Final = 0.5
"""Default of the slider."""

EPSILON: Final = 1e-6
"""Least variance of a channel."""

INPAINTING_CHANNELS: Final = 9
"""Input channels of an inpainting checkpoint: latent, mask and latent of the masked picture."""

TIMESTEPS: Final = 1000
LEAVES: Final = ("to_k", "to_v")

Moments = tuple[Tensor, Tensor]
"""Mean and biased variance of each channel, at least float32, (n, c, 1, 1)."""


class ReferenceNetwork(ControlNetwork):
    """Nothing but the base's own layers.

    Args:
        base: the U-Net.
        name: of the preprocessor, which tells what it does with the picture.

    Attributes:
        attends: the U-Net's self-attention sees the picture.
        matches: its features get the picture's mean and spread.
    """

    family = "Reference"
    layers = 1
    wants = Guide(GuideKind.LATENT)
    is_additive = False

    def __init__(self, base: BaseUNet, name: str) -> None:
        self.name = name
        self.attends, self.matches = VARIANTS[name]
        self.base = base.shape.kind
        self.module = nn.Module()

    def curve(self, strength: float, mode: ControlMode) -> tuple[float, ...]:
        """The share of layers that see the picture, see `ControlNetwork.curve`."""
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
        features: paths of the blocks whose output gets the picture's moments.
        fidelity: share of uncond rows that does not see the picture.
        tokens: output of the layers `to_k` and `to_v` for the picture, by path, while a call
            lasts: (rows, tokens, c).
        moments: of the picture's features, in the same way.
    """

    network: ReferenceNetwork
    order = 1  # its keys and values go behind whatever others make of a layer's output

    def __init__(
        self, network: ReferenceNetwork, terms: Terms, latent: Tensor, info: PassInfo
    ) -> None:
        super().__init__(network, terms)
        if info.alphas is None:
            msg = (
                f"{terms.name}: {network.name} needs the noise schedule of the checkpoint, got none"
            )
            raise HostError(msg)
        self._alphas = info.alphas.float().cpu()
        self._latent = latent
        self._seeds = info.seeds
        unet = info.base.module
        self._ordered = attention_blocks(unet) if network.attends else []
        self._least = feature_blocks(unet) if network.matches else {}
        self.choose(terms.strengths[0] * terms.window.most)
        self.fidelity = _fidelity(terms, info)
        self.tokens: dict[str, Tensor] = {}
        self.moments: dict[str, Moments] = {}

    def choose(self, weight: float) -> None:
        """Act in as many blocks as a weight asks for."""
        count = len(self._ordered)
        self.blocks = tuple(b for i, b in enumerate(self._ordered) if weight > i / count)
        self.features = tuple(block for block, least in self._least.items() if weight > least)

    def attach(self, places: Places) -> None:
        """Ask for the whole call, for self-attention layers and for blocks."""
        self.attach_all([self], places)

    @classmethod
    def attach_all(cls, controls: Sequence[ActiveControl], places: Places) -> None:
        """Ask for them once for all units: they share the layers, and a call of the U-Net."""
        _Pictures([c for c in controls if isinstance(c, cls)], places.memory).attach(places)

    def rows_with_picture(self, step: StepContext) -> Rows:
        """Rows of a call that see the picture."""
        rows = self.rows_in(step)
        return tuple(row for row in rows if step.rows[row].is_cond or self.fidelity < 1.0)

    def keep_tokens(self, path: str, index: Tensor | None, count: int, output: Tensor) -> None:
        """Keep what a layer gave, (count * tiles, tokens, c): all tokens of the picture.

        Hosts that tile the attention (hypertile) make several rows of one, in an order and number
        of their own; keys and values need neither.
        """
        tokens = output.reshape(count, -1, output.shape[-1])
        self.tokens[path] = tokens if index is None else tokens[index]

    def keep_moments(self, path: str, index: Tensor | None, output: Tensor) -> None:
        """Keep the moments of what a block gave, (count, c, h, w)."""
        mean, variance = moments_of(output)
        self.moments[path] = (mean, variance) if index is None else (mean[index], variance[index])

    def noise_picture(self, step: StepContext, rows: Rows) -> Tensor:
        """The picture with the noise of each row's timestep: (len(rows), channels, h, w).

        A row's noise depends on its picture's seed and the timestep alone, so cond and uncond rows
        share it, in one call or in two, and no random number of the user is taken.
        """
        latent = self._latent.float()
        if latent.shape[-2:] != step.x.shape[-2:]:
            latent = F.interpolate(latent, step.x.shape[-2:], mode="bilinear")
        timesteps = step.timesteps.tolist()
        made: dict[tuple[int, float], Tensor] = {}
        for row in rows:
            image, timestep = step.rows[row].image, timesteps[row]
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
        chosen = [made[step.rows[row].image, timesteps[row]] for row in rows]
        pictures = torch.stack(chosen).to(step.x)
        own = step.x[list(rows), pictures.shape[1] :]  # of checkpoints that edit pictures
        return torch.cat([pictures, own], dim=1)

    def release(self) -> None:
        """Let go of what the last call has left."""
        self.tokens.clear()
        self.moments.clear()


@dataclass(eq=False)
class _Group:
    """Units that act on the same rows and region in one call: their pictures are seen together.

    Attributes:
        rows: rows of the call.
        region: where they act; None means everywhere.
        step: the call.
    """

    rows: Rows
    region: RegionMask | None
    step: StepContext
    controls: list[ReferenceControl] = field(default_factory=list)

    @property
    def index(self) -> Tensor | slice:
        """Its rows, for tensors of all rows."""
        is_all = len(self.rows) == len(self.step.rows)
        return slice(None) if is_all else torch.tensor(self.rows, device=self.step.x.device)

    def at_attention(self, block: str) -> list[ReferenceControl]:
        """Its units that act in a transformer block."""
        return [control for control in self.controls if block in control.blocks]

    def at_features(self, block: str) -> list[ReferenceControl]:
        """Its units that act on a block's output, and have not yet done so."""
        return [control for control in self.controls if block in control.moments]

    def shares(self, controls: Sequence[ReferenceControl]) -> list[float]:
        """Share of each row of the call that sees the pictures of some of its units."""
        fidelity = sum(control.fidelity for control in controls) / len(controls)
        shares = [0.0] * len(self.step.rows)
        for row in self.rows:
            shares[row] = 1.0 if self.step.rows[row].is_cond else 1.0 - fidelity
        return shares

    def is_all(self, controls: Sequence[ReferenceControl]) -> bool:
        """Whether everything sees the pictures of some of its units."""
        return self.region is None and set(self.shares(controls)) == {1.0}

    def share(self, controls: Sequence[ReferenceControl], like: Tensor) -> Tensor:
        """The same and where, for tokens (n, tokens, c) or features (n, c, h, w)."""
        is_tokens = like.dim() == 3
        share = like.new_tensor(self.shares(controls)).reshape(-1, *(1,) * (like.dim() - 1))
        if self.region is None:
            return share
        size = _token_size(self.step.x, like.shape[1]) if is_tokens else like.shape[-2:]
        mask = self.region.at(size, like)
        return share * (mask.reshape(1, -1, 1) if is_tokens else mask)


class _Pictures:
    """The pictures of all units of a pass, and what the U-Net takes of them in a call."""

    def __init__(self, controls: Sequence[ReferenceControl], memory: Memory) -> None:
        self._controls = controls
        self._memory = memory
        self._groups: list[_Group] = []
        self._seen: _Group | None = None
        self._is_inside = False
        self._one_by_one = False

    def attach(self, places: Places) -> None:
        """Ask for the places."""
        places.call(self._write)
        for block in dict.fromkeys(b for control in self._controls for b in control.blocks):
            for leaf in LEAVES:
                path = f"{block}.attn1.{leaf}"
                places.module(path, after=partial(self._append, block, path))
            places.module(f"{block}.attn1", after=partial(self._mix, block))
        for block in dict.fromkeys(b for control in self._controls for b in control.features):
            places.module(block, after=partial(self._match, block))

    def _write(self, step: StepContext, call: Call) -> None:
        """Before a call: show the pictures to the U-Net, all at once if memory allows it."""
        groups: dict[tuple[object, ...], _Group] = {}
        acting: list[tuple[ReferenceControl, Rows]] = []
        for control in self._controls:
            control.release()
            rows = control.rows_with_picture(step)
            if rows:
                control.choose(control.strengths_in(step)[0])
                region = control.terms.region
                key = (rows, None if region is None else region.digest)
                groups.setdefault(key, _Group(rows, region, step)).controls.append(control)
                acting.append((control, rows))
        self._groups = list(groups.values())
        if not acting:
            return
        if not self._one_by_one:
            try:
                _look(acting, step, call)
            except Exception as error:  # each device has its own for this
                if not is_out_of_memory(error):
                    raise
                self._one_by_one = True
            else:
                return
            # Outside of `except`: there the failed call would still be held by its traceback.
            self._memory.relieve()
            log.warning("not enough memory to look at %d pictures at once", len(acting))
        for one in acting:
            _look([one], step, call)

    def _append(
        self, block: str, path: str, output: Tensor, step: StepContext, again: object
    ) -> Tensor | None:
        """Keys or values (n, tokens, c) of the call, and behind them those of the pictures.

        Rows that see none get zeros: `_mix` leaves them what they are without.
        """
        del again
        groups = (group for group in self._groups if group.at_attention(block))
        group = self._seen if self._is_inside else next(groups, None)
        if group is None:
            return None
        banks = [control.tokens[path] for control in group.controls if path in control.tokens]
        if not banks:
            return None
        seen = torch.cat(banks, dim=1).to(output)
        if len(seen) != len(step.rows):
            spread = seen.new_zeros(len(step.rows), *seen.shape[1:])
            spread[group.index] = seen
            seen = spread
        tiles = output.shape[0] // len(step.rows)
        if tiles > 1:
            seen = seen.repeat_interleave(tiles, dim=0)
        return torch.cat([output, seen], dim=1)

    def _mix(
        self, block: str, output: Tensor, step: StepContext, again: Callable[[], Tensor]
    ) -> Tensor | None:
        """Attention (n, tokens, c) in the shares that rows and regions take.

        `output` is that of the first group's pictures.
        """
        del step
        found = [(group, group.at_attention(block)) for group in self._groups]
        found = [(group, controls) for group, controls in found if controls]
        if self._is_inside or not found:
            return None
        mixed = output
        if len(found) > 1 or not found[0][0].is_all(found[0][1]):
            seen = [output, *(self._attend(group, again) for group, _controls in found[1:])]
            shares = [group.share(controls, output) for group, controls in found]
            mixed = _blend(self._attend(None, again), shares, seen)
        for control in (control for _group, controls in found for control in controls):
            control.acted = True
            for leaf in LEAVES:
                control.tokens.pop(f"{block}.attn1.{leaf}", None)
        return mixed

    def _attend(self, group: _Group | None, again: Callable[[], Tensor]) -> Tensor:
        """The attention once more, seeing one group's pictures, or none."""
        self._seen, self._is_inside = group, True
        try:
            return again()
        finally:
            self._seen, self._is_inside = None, False

    def _match(self, block: str, output: Tensor, step: StepContext, again: object) -> Tensor | None:
        """Features (n, c, h, w) with the pictures' moments, in the shares of rows and regions."""
        del step, again
        shares, seen = [], []
        for group in self._groups:
            controls = group.at_features(block)
            if not controls:
                continue
            banks = [control.moments.pop(block) for control in controls]
            mean, variance = (sum(parts) / len(banks) for parts in zip(*banks, strict=True))
            matched = output.clone()
            matched[group.index] = match_moments(output[group.index], mean, variance)
            shares.append(group.share(controls, output))
            seen.append(matched)
            for control in controls:
                control.acted = True
        return _blend(output, shares, seen) if seen else None


def _look(acting: Sequence[tuple[ReferenceControl, Rows]], step: StepContext, call: Call) -> None:
    """Send noised pictures through the U-Net in one call, and let their units keep what they see.

    Units with the same picture look at the same rows of it.
    """
    places: dict[tuple[str, int], int] = {}
    inputs, wanted = [], []
    for control, rows in acting:
        keys = [(control.terms.guide_key, row) for row in rows]
        fresh = tuple(row for key, row in zip(keys, rows, strict=True) if key not in places)
        if fresh:
            inputs.append(control.noise_picture(step, fresh))
        for key in keys:
            places.setdefault(key, len(places))
        wanted.append([places[key] for key in keys])
    device = step.x.device
    watch: dict[str, list[Callable[[Tensor], None]]] = {}
    for (control, _rows), chosen in zip(acting, wanted, strict=True):
        is_all = chosen == list(range(len(places)))
        index = None if is_all else torch.tensor(chosen, device=device)
        for path in (f"{b}.attn1.{leaf}" for b in control.blocks for leaf in LEAVES):
            keep = partial(control.keep_tokens, path, index, len(places))
            watch.setdefault(path, []).append(keep)
        for path in control.features:
            watch.setdefault(path, []).append(partial(control.keep_moments, path, index))
    index = torch.tensor([row for _key, row in places], device=device)
    call.inner(
        torch.cat(inputs),
        step.timesteps[index],
        None if call.context is None else call.context[index],
        None if call.y is None else call.y[index],
        {path: partial(_tell, keepers) for path, keepers in watch.items()},
    )


def _tell(keepers: Sequence[Callable[[Tensor], None]], output: Tensor) -> None:
    for keep in keepers:
        keep(output)


def _blend(plain: Tensor, shares: Sequence[Tensor], seen: Sequence[Tensor]) -> Tensor:
    """`plain` where nothing is seen, and in its place what is seen, in shares that add up."""
    if len(seen) == 1:
        return torch.lerp(plain, seen[0], shares[0])
    blended = plain
    for share, one in zip(shares, seen, strict=True):
        blended = blended + share * (one - plain)
    return blended


def moments_of(features: Tensor) -> Moments:
    """Moments of each channel of each row, of features (n, c, h, w) in any precision."""
    variance, mean = torch.var_mean(_precise(features), (2, 3), correction=0, keepdim=True)
    return mean, variance


def match_moments(features: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Features (n, c, h, w) brought to a mean and a variance in each channel."""
    own_mean, own_variance = moments_of(features)
    scale = (variance.clamp(min=EPSILON) / own_variance.clamp(min=EPSILON)).sqrt()
    return ((_precise(features) - own_mean) * scale + mean).to(features)


def _precise(features: Tensor) -> Tensor:
    """At least float32: half precision loses what is left of two large numbers."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _token_size(x: Tensor, tokens: int) -> tuple[int, int]:
    """Height and width of the tokens of a level of the U-Net, for a latent (n, c, h, w)."""
    h, w = x.shape[-2:]
    while h * w > tokens and (h, w) != (1, 1):
        h, w = -(-h // 2), -(-w // 2)
    if h * w != tokens:
        msg = (
            f"a reference unit cannot place its region on {tokens} tokens; switch off what merges "
            "the tokens of the U-Net (token merging), or leave out the region"
        )
        raise HostError(msg)
    return h, w


def _fidelity(terms: Terms, info: PassInfo) -> float:
    """Share of uncond rows that does not see the picture.

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
        path.removesuffix(".attn1"): widths_of(module.to_k)[0]
        for path, module in unet.named_modules()
        if path.endswith(".attn1")
    }
    return sorted(widths, key=lambda block: -widths[block])


def feature_blocks(unet: nn.Module) -> dict[str, float]:
    """Paths of the blocks whose output can be matched, each with the weight that it needs.

    The middle needs least, then its neighbours. Of the encoder these are the blocks below the
    latent's own size that do not stride, of the decoder two thirds.
    """
    strided = [
        int(path.split(".")[1])
        for path, _module in unet.named_modules()
        if path.startswith("input_blocks.") and path.endswith(".op")
    ]
    count = len(list(unet.get_submodule("input_blocks").children()))
    inputs = [n for n in range(min(strided, default=count), count) if n not in strided]
    outputs = range(len(list(unet.get_submodule("output_blocks").children())) * 2 // 3)
    least = {"middle_block": 0.0}
    least |= {f"input_blocks.{n}": 2.0 - 2.0 * j / len(inputs) for j, n in enumerate(inputs)}
    return least | {f"output_blocks.{n}": 2.0 * n / len(outputs) for n in outputs}


class ReferenceFamily(ControlFamily):
    """Steers by a picture through the U-Net's own layers."""

    name = "Reference"
    preprocessors = tuple(VARIANTS)
    networks = ReferenceNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> ReferenceNetwork:
        """See `ControlFamily.tiny`."""
        del seed
        return self.make(base, self.preprocessors[0])

    def make(self, base: BaseUNet, preprocessor: str) -> ReferenceNetwork:
        """See `ControlFamily.make`."""
        return ReferenceNetwork(base, preprocessor)
