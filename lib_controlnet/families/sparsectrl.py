"""SparseCtrl for SD1, rgb and scribble (Guo et al., arXiv:2311.16933).

A ControlNet for the frames of an animation of which some, the keyframes, have a hint. It sees no
latent, only the frames' hints, the text and the time. Where the pictures of a batch are no frames,
each is a clip of its own that has one frame.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from lib_controlnet.engine.key_steps import KeySteps
from lib_controlnet.engine.network import Guide, GuideKind
from lib_controlnet.enums import LATENT_SCALE, BaseModel
from lib_controlnet.errors import HostError
from lib_controlnet.families.base import randomize
from lib_controlnet.families.controlnet import (
    ControlNetFamily,
    ControlNetNetwork,
    own_precision,
    tiny_params,
)
from lib_controlnet.families.residual import Group, ResidualControl, evaluate_in_pieces
from lib_controlnet.nets.cldm import ControlNet, ControlNetParams, read_params
from lib_controlnet.nets.layout import lay_out
from lib_controlnet.nets.sparsectrl import MotionParams, SparseControlNet, read_motion

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from lib_controlnet.engine.injection import Residuals, Rows
    from lib_controlnet.engine.network import ActiveControl, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Memory, Places
    from lib_controlnet.engine.step import Row, StepContext
    from lib_controlnet.engine.unet import BaseUNet, UNetShape
    from lib_controlnet.nets.read_text import ReadText

FIRST_FRAME: Final = (0,)
"""The keyframe of a unit that has one picture and names no frames."""


class SparseCtrlNetwork(ControlNetNetwork):
    """A loaded SparseCtrl."""

    family = "SparseCtrl"
    module: SparseControlNet
    takes_keyframes = True
    rows_are_apart = False
    reads_tokens = False

    def __init__(self, name: str, module: SparseControlNet, shape: UNetShape) -> None:
        super().__init__(name, module, shape)
        kind = GuideKind.LATENT if module.reads_latents else GuideKind.MAP
        self.wants = Guide(kind, masked=0.0)

    def bind(self, terms: Terms, guide: Tensor | None, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`; the guide is of its keyframes."""
        assert guide is not None
        hint = lay_out_frames(guide, terms.keyframes, info.images)
        if self.module.reads_latents:
            # Others cut pictures and frames out of a hint: it has the size of a picture for them.
            hint = hint.repeat_interleave(LATENT_SCALE, 2).repeat_interleave(LATENT_SCALE, 3)
        return SparseControl(self, terms, hint)

    def encode_hint(self, hint: Tensor, strips: int = 1) -> Tensor:
        """Run the hint block, see `ResidualNetwork.encode_hint`.

        Args:
            hint: (b, 4, H, W): a picture and its frame's flag; or (b, 5, H, W): a latent, each
                number of it 8 x 8 times, and the flag.
        """
        if self.module.reads_latents:
            hint = hint[:, :, ::LATENT_SCALE, ::LATENT_SCALE]
        return super().encode_hint(hint, strips)

    @torch.no_grad()
    def evaluate(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor | ReadText,
        y: Tensor | None,
        guided_hint: Tensor,
        wanted: Sequence[bool],
        extra: Tensor | None = None,
        frames: int = 1,
    ) -> list[Tensor | None]:
        """Compute the wanted residuals of clips of `frames` rows, see `ControlNetNetwork`.

        Neither the vector condition nor anything extra has a place in it.
        """
        del y, extra
        if guided_hint.shape[-2:] != x.shape[-2:]:
            guided_hint = F.interpolate(guided_hint.float(), x.shape[-2:], mode="bilinear")
        device, dtype = self.device, self.dtype
        with own_precision(device):
            outs = self.module.evaluate_clips(
                x[:, : self.module.params.in_channels].to(device, dtype),
                timesteps.to(device),
                context.to(device, dtype),
                guided_hint.to(device, dtype),
                wanted,
                frames,
            )
        return [None if out is None else out.to(x.device, x.dtype) for out in outs]


def lay_out_frames(guide: Tensor, keyframes: Sequence[int] | None, count: int) -> Tensor:
    """The guides of all frames, and a last channel that is 1 where a frame has one.

    Args:
        guide: (n, c, h, w), one for each keyframe.
        keyframes: their numbers, () for the first frame; None where pictures are no frames, and
            each has its guide or all have the same.
        count: frames.

    Returns:
        (n, c + 1, h, w) without frames, else (count, c + 1, h, w), 0 where a frame has no guide.
    """
    flagged = torch.cat([guide, torch.ones_like(guide[:, :1])], dim=1)
    if keyframes is None:
        return flagged
    hint = flagged.new_zeros((count, *flagged.shape[1:]))
    for number, frame in enumerate(keyframes or FIRST_FRAME):
        hint[frame] = flagged[number]
    return hint


class SparseControl(ResidualControl):
    """One unit in one pass; its hint is (n, 4 or 5, H, W), see `SparseCtrlNetwork.encode_hint`."""

    network: SparseCtrlNetwork

    def __init__(self, network: SparseCtrlNetwork, terms: Terms, hint: Tensor) -> None:
        super().__init__(network, terms, hint)
        self._memory: Memory | None = None
        self._frames = 1
        self._is_offered = False
        self._key_steps: KeySteps | None = None

    @property
    def batch_key(self) -> tuple[object, ...]:
        """See `ResidualControl.batch_key`; clips of another length are another evaluation."""
        return (*super().batch_key, self._frames)

    @property
    def encodes(self) -> tuple[Hashable, ...]:
        """The frames that have a hint, see `ResidualControl.encodes`."""
        return (self.terms.keyframes,)

    @property
    def sort_key(self) -> tuple[object, ...]:
        """What it does, see `ActiveControl.sort_key`."""
        return (*super().sort_key, self.terms.keyframes or ())

    @classmethod
    def attach_all(cls, controls: Sequence[ActiveControl], places: Places) -> None:
        """Ask for the skips, each for itself: clips of several units are not mixed."""
        for control in controls:
            with places.clock([control.meter]):
                control.attach(places)

    def attach(self, places: Places) -> None:
        """Ask for the skips."""
        self.keep_in(places.kept)
        self._memory = places.memory
        self._key_steps = KeySteps(places.memory)
        places.skips(self._add, self._take)

    def replace_hint(self, hint: Tensor) -> None:
        """Act by another hint, see `HintControl.replace_hint`; a picture alone is a keyframe."""
        hint = hint[None] if hint.dim() == 3 else hint
        if hint.shape[1] == self.network.module.params.hint_widths[0] - 1:
            hint = torch.cat([hint, torch.ones_like(hint[:, :1])], dim=1)
        super().replace_hint(hint)

    @property
    def evaluate(self) -> Callable[..., list[Tensor | None]]:
        """The network for clips of the present length, see `ResidualControl.evaluate`."""
        return partial(self.network.evaluate, frames=self._frames)

    def _add(self, step: StepContext) -> list[Residuals]:
        rows = self.rows_in(step)
        self._is_offered = bool(rows)
        assert self._key_steps is not None
        self._key_steps.begin(step)
        if not rows:
            return []
        lengths: dict[int, list[int]] = {}
        for clip in self._find_clips(step.rows, rows):
            lengths.setdefault(len(clip), []).extend(clip)
        parts: list[Residuals] = []
        for self._frames, some in lengths.items():
            parts += self._evaluate_clips(Group([self], step, tuple(some)))
        return parts

    def _evaluate_clips(self, group: Group) -> list[Residuals]:
        """Clips of the present length."""
        self._check_length(self._frames)
        assert self._memory is not None
        assert self._key_steps is not None
        reused = group.reuse(self._key_steps)
        if reused is not None:
            return group.finish(reused)
        return group.finish(evaluate_in_pieces(group, self._memory, self._key_steps))

    def _find_clips(self, all_rows: Sequence[Row], rows: Rows) -> list[list[int]]:
        """The acting rows, by the clip that they are frames of."""
        if self.terms.keyframes is None:
            return [[row] for row in rows]
        given = self.hint.shape[0]
        if self.is_replaced and 1 < given < len(all_rows) and len(all_rows) % given == 0:
            # Another extension has chosen the frames; it calls with them once or several times.
            starts = range(0, len(all_rows), given)
            parts = ([row for row in rows if start <= row < start + given] for start in starts)
            return [part for part in parts if part]
        clips: list[list[int]] = []
        seen: set[Row] = set()  # in whatever order: a window may go round the end
        for row in rows:
            same_text = clips and all_rows[clips[-1][-1]].is_cond == all_rows[row].is_cond
            if not same_text or all_rows[row] in seen:
                clips.append([])
                seen.clear()
            clips[-1].append(row)
            seen.add(all_rows[row])
        return clips

    def _check_length(self, frames: int) -> None:
        if frames > self.network.module.frames:
            msg = (
                f"{self.terms.name}: control model {self.network.name} knows clips of at most "
                f"{self.network.module.frames} frames, the U-Net was called with {frames}; lower "
                "the context batch size of AnimateDiff, or the number of frames"
            )
            raise HostError(msg)

    def release(self) -> None:
        """Forget what was cached for the pass."""
        super().release()
        if self._key_steps is not None:
            self._key_steps.drop()

    def _take(self) -> None:
        self.acted = self.acted or self._is_offered
        self._is_offered = False


class SparseCtrlFamily(ControlNetFamily):
    """Loads SparseCtrls in their authors' layout, in diffusers', and with LDM names."""

    name = "SparseCtrl"
    kinds = ("sparsectrl",)
    bases = (BaseModel.SD1,)
    networks = SparseCtrlNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> SparseCtrlNetwork:
        """See `ControlFamily.tiny`; rgb for odd seeds, else scribble."""
        made = tiny_params(base)
        widths = (5, made.hint_widths[-1]) if seed % 2 else (4, *made.hint_widths[1:])
        module = SparseControlNet(dataclasses.replace(made, hint_widths=widths), _motion(made))
        return SparseCtrlNetwork("tiny", lay_out(randomize(module, seed)), base.shape)

    def build(
        self, shapes: Mapping[str, Sequence[int]], heads: Callable[[str, int], int]
    ) -> ControlNet:
        """The module for some shapes, see `ControlNetFamily.build`."""
        return SparseControlNet(read_params(shapes, heads), read_motion(shapes))

    def wrap(self, name: str, module: ControlNet, shape: UNetShape) -> SparseCtrlNetwork:
        """The network of a filled module."""
        assert isinstance(module, SparseControlNet)
        return SparseCtrlNetwork(name, module, shape)


def _motion(params: ControlNetParams) -> dict[int, MotionParams]:
    """A motion module behind each res block."""
    return {
        number: MotionParams(block.width_out, blocks=1, attentions=1, frames=32)
        for number, block in enumerate(params.blocks)
        if block.kind == "res"
    }
