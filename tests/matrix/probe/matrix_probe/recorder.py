"""Stands beside the controls and notes what arrives at the U-Net's blocks.

What a block gave out is taken at its last layer, before any hook of the block; what the decoder
gets is taken in the last pre-hook of each output block. The difference is what was added.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from matrix_probe import host
from matrix_probe.fitting import NOTHING, Output, explain
from matrix_probe.records import Evaluation, Generation, Pass, levels

NETWORKS = "lib_controlnet.nets.cldm"
OWN_PACKAGE = "lib_controlnet"
NUMBERS = ("paste_to", "hr_upscale_to_x", "hr_upscale_to_y", "truncate_x", "truncate_y")


class Recorder:
    """Notes of all generations since they were last taken."""

    def __init__(self) -> None:
        self.generations: list[Generation] = []
        self.forced: dict[str, Any] = {}
        self._p: Any = None
        self._preparing = False
        self._handles: list[Any] = []
        self._structures: list[str] = []
        self._guided: list[Tensor] = []
        self._outputs: list[Output] = []
        self._skips: dict[int, Tensor] = {}
        self._added: dict[int, Tensor] = {}
        self._undo: list[Callable[[], None]] = []

    @property
    def current(self) -> Generation:
        return self.generations[-1]

    # ---- a generation ----

    def begin(self, p: Any) -> None:
        """Start the notes of a generation."""
        self.finish()
        self._p = p
        self.generations.append(Generation())
        self._structures, self._guided = [], []
        for name, value in self.forced.items():
            if isinstance(value, dict):
                getattr(p, name).update(value)
            else:
                setattr(p, name, value)
        _spy_on_networks(self)

    def prepare(self, p: Any) -> None:
        """Watch the host while it prepares pictures and masks."""
        self._preparing = True
        self._replace(p.sd_model, "encode_first_stage", self._encoding)
        if getattr(p, "init_images", None):
            self.current.given = np.array(p.init_images[0].convert("RGB"))
            if p.image_mask is not None:
                self.current.given_mask = np.array(p.image_mask.convert("L"))
            self._replace(p, "img2img_image_conditioning", self._conditioning)

    def _replace(self, owner: Any, name: str, make: Callable[[Callable], Callable]) -> None:
        before = vars(owner).get(name)
        object.__setattr__(owner, name, make(getattr(owner, name)))

        def undo() -> None:
            if before is not None:
                object.__setattr__(owner, name, before)
            elif name in vars(owner):
                object.__delattr__(owner, name)

        self._undo.append(undo)

    def _encoding(self, original: Callable) -> Callable:
        def encode_first_stage(x: Tensor, *rest: Any, **named: Any) -> Any:
            if self._preparing:
                self.current.encoded += [levels((picture + 1.0) / 2.0) for picture in x]
            return original(x, *rest, **named)

        return encode_first_stage

    def _conditioning(self, original: Callable) -> Callable:
        def img2img_image_conditioning(
            image: Any, latent: Any, mask: Any = None, *rest: Any, **named: Any
        ) -> Any:
            if mask is not None:
                self.current.mask = np.array(mask.convert("L"))
            return original(image, latent, mask, *rest, **named)

        return img2img_image_conditioning

    def sampling_begins(self, p: Any, x: Tensor) -> None:
        """A pass is about to be sampled."""
        self._preparing = False
        size = (int(x.shape[-1]), int(x.shape[-2]))
        structure = self._structure_of(host.loaded_unet())
        sampler = str(p.sampler.config.name)
        if self.current.passes and not self.current.passes[-1].evaluations:
            self.current.passes.pop()  # some hosts announce a pass twice
        self.current.passes.append(Pass(bool(p.is_hr_pass), sampler, size, structure))
        self.current.numbers |= {
            name: getattr(p, name) for name in NUMBERS if getattr(p, name, None) is not None
        }

    def finish(self) -> None:
        """Take everything off again."""
        self._preparing = False
        for undo in reversed(self._undo):
            undo()
        self._undo = []
        self._release()
        self._p = None

    def end(self, p: Any) -> None:
        """A generation ended well."""
        self.current.comments = list(p.comments)
        self.current.is_finished = True
        self.finish()

    # ---- an evaluation ----

    def evaluation(self, params: Any) -> None:
        """The host announces an evaluation: be the last hook on every block."""
        if self._p is None or params.denoiser.p is not self._p:
            return
        unet = host.sampled_unet(params.denoiser)
        counts = host.count_rows(params)
        self.current.passes[-1].evaluations.append(Evaluation(self._structure_of(unet), *counts))
        self._outputs = []
        self._release()
        self._watch(unet, len(params.x))

    def _structure_of(self, unet: nn.Module) -> int:
        """The same number for U-Nets with the same tensors, whatever object they are."""
        text = repr([(name, tuple(tensor.shape)) for name, tensor in unet.named_parameters()])
        if text not in self._structures:
            self._structures.append(text)
        return self._structures.index(text)

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _watch(self, unet: nn.Module, images: int) -> None:
        depth = len(unet.input_blocks)
        keep = self._handles.append
        for i, block in enumerate(unet.input_blocks):
            keep(block[-1].register_forward_hook(functools.partial(self._note_output, i)))
        middle = unet.middle_block[-1]
        note = functools.partial(self._note_output, depth)
        keep(middle.register_forward_hook(note, prepend=True))  # before anything is added
        for k, block in enumerate(unet.output_blocks):
            note = functools.partial(self._note_input, depth - 1 - k, depth if k == 0 else None)
            keep(block[0].register_forward_pre_hook(note))
        end = functools.partial(self._end_call, images)
        keep(unet.register_forward_hook(end, with_kwargs=True))

    def _note_output(self, layer: int, _module: nn.Module, _args: tuple, output: Tensor) -> None:
        self._skips[layer] = output.detach().clone()

    def _note_input(self, layer: int, middle: int | None, _module: nn.Module, args: tuple) -> None:
        skip = self._skips[layer]
        split = args[0].shape[1] - skip.shape[1]
        self._added[layer] = args[0][:, split:].float() - skip.float()
        if middle is not None:
            self._added[middle] = args[0][:, :split].float() - self._skips[middle].float()

    def _end_call(
        self,
        images: int,
        _unet: nn.Module,
        _args: tuple,
        arguments: Mapping[str, Any],
        _output: Tensor,
    ) -> None:
        evaluation = self.current.passes[-1].evaluations[-1]
        added = [self._added[i].cpu() for i in range(len(self._added))]
        evaluation.calls.append(added[0].shape[0])
        evaluation.rows += explain(added, self._outputs)
        evaluation.places += host.places_of(arguments, added[0].shape[0], images)
        self._skips, self._added, self._outputs = {}, {}, []

    # ---- control networks ----

    def network_was_given(self, hint: Tensor, guided: Tensor) -> None:
        """A control network encoded a hint (1, 3, H, W)."""
        if self._p is not None:
            self.current.hints += [levels(picture) for picture in hint]
            self._guided += list(guided.detach().float().cpu())

    def network_gave(self, rows: int, guided: Tensor, layers: list[Tensor | None]) -> None:
        """A control network was evaluated for some rows."""
        if self._p is not None:
            per_row = guided.detach().float().cpu().expand(rows, -1, -1, -1)
            hints = [self._hint_of(row) for row in per_row]
            outs = [None if a is None else a.detach().float().cpu() for a in layers]
            self._outputs.append(Output(hints, outs))

    def _hint_of(self, guided: Tensor) -> int:
        same = (i for i, known in enumerate(self._guided) if torch.equal(known, guided))
        return next(same, NOTHING - 1)


def _spy_on_networks(recorder: Recorder) -> None:
    """Let the recorder see what control networks read and give out."""
    kind = importlib.import_module(NETWORKS).ControlNet
    plain = getattr(kind, "matrix_probe_plain", None) or (kind.encode_hint, kind.forward)
    kind.matrix_probe_plain = plain
    encode, forward = plain

    def encode_hint(self: Any, hint: Tensor, *more: Any) -> Tensor:
        guided = encode(self, hint, *more)
        recorder.network_was_given(hint, guided)
        return guided

    def spied_forward(self: Any, x: Tensor, *rest: Any) -> list[Tensor | None]:
        layers = forward(self, x, *rest)
        recorder.network_gave(x.shape[0], rest[3], layers)
        return layers

    kind.encode_hint, kind.forward = encode_hint, spied_forward


def hooks_left() -> list[str]:
    """Hooks of the controls that are on the loaded U-Net now; none should be after a generation."""
    unet = host.loaded_unet()
    if unet is None:
        return []
    tables = ("_forward_hooks", "_forward_pre_hooks")
    found = []
    for name, module in unet.named_modules():
        for table in tables:
            for hook in getattr(module, table).values():
                plain = getattr(hook, "func", hook)
                if str(getattr(plain, "__module__", "")).startswith(OWN_PACKAGE):
                    found.append(f"{name or 'unet'}: {plain.__qualname__}")
        if "forward" in vars(module):
            found.append(f"{name or 'unet'}: forward was replaced")
    return found
