"""Control-LoRA for SD1, SD2 and SDXL (Stability AI, control-lora).

A ControlNet whose encoder is the loaded checkpoint's plus a low-rank change: files of any rank;
the sum is made once for each checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.families.base_weights import SHARED_WITH_BASE, BaseWeights
from lib_controlnet.families.controlnet import ControlNetFamily, ControlNetNetwork

if TYPE_CHECKING:
    from torch import Tensor

    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.files.checkpoint import Checkpoint

MARK: Final = "lora_controlnet"
"""An empty tensor of this name marks a Control-LoRA."""

PARTNER: Final = {"up": "down", "down": "up"}


def find_pairs(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Full shapes of the weights that a file holds as `up` and `down`, by the layers' names.

    `up` is (out, rank) or (out, rank, 1, 1), `down` (rank, in) or (rank, in, height, width).
    Halves without the other one, of another rank than it, or beside a whole weight are no pair.
    """
    full = {}
    for name, up in shapes.items():
        layer, _, leaf = name.rpartition(".")
        down = shapes.get(f"{layer}.down", ()) if leaf == "up" else ()
        is_pair = min(len(up), len(down)) > 1 and up[1] == down[0]
        if is_pair and f"{layer}.weight" not in shapes:
            full[layer] = (up[0], *down[1:])
    return full


def full_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of the ControlNet that a Control-LoRA stands for."""
    layers = find_pairs(shapes)
    halves = {f"{layer}.{half}" for layer in layers for half in PARTNER}
    kept = {name: tuple(shape) for name, shape in shapes.items() if name not in halves}
    kept.pop(MARK, None)
    return kept | {f"{layer}.weight": shape for layer, shape in layers.items()}


class ControlLoraFamily(ControlNetFamily):
    """Loads Control-LoRAs as the ControlNets that they are on the loaded checkpoint."""

    name = "Control-LoRA"
    kinds = ("control_lora",)

    @torch.no_grad()
    def tiny(self, base: BaseUNet, seed: int = 0) -> ControlNetNetwork:
        """See `ControlFamily.tiny`; the change to the base is one of rank 4."""
        network, weights = super().tiny(base, seed), BaseWeights(base)
        for name, tensor in network.module.named_parameters():
            if name.startswith(SHARED_WITH_BASE) and tensor.dim() > 1:
                flat = tensor.flatten(1)
                change = (flat[:, :4] @ flat[:4]).reshape(tensor.shape)
                tensor.copy_(weights.get(name, tensor.shape, tensor.device) + change)
        network.family, network.depends_on_base = self.name, True
        return network

    def needs_base(self, ckpt: Checkpoint) -> bool:
        """Always, see `ControlNetFamily.needs_base`."""
        return True

    def file_shapes(self, ckpt: Checkpoint) -> dict[str, tuple[int, ...]]:
        """Shapes of the changes in full, see `ControlNetFamily.file_shapes`."""
        return full_shapes(ckpt.shapes)

    def find_changes(self, ckpt: Checkpoint) -> list[str]:
        """The layers with factors, see `ControlNetFamily.find_changes`."""
        return [f"{layer}.weight" for layer in find_pairs(ckpt.shapes)]

    def read_stored(
        self, ckpt: Checkpoint, device: torch.device | str
    ) -> Iterator[tuple[str, Tensor]]:
        """Factors multiplied in float32, see `ControlNetFamily.read_stored`.

        A host that lets CUDA multiply in TF32 loses nothing of half precision factors.
        """
        layers = find_pairs(ckpt.shapes)
        waiting: dict[str, Tensor] = {}
        names = (name for name in ckpt.keys if name != MARK)
        for name, tensor in ckpt.tensors(names, None, device):
            layer, _, leaf = name.rpartition(".")
            if layer not in layers or leaf not in PARTNER:
                yield name, tensor
                continue
            half = tensor.float().flatten(1)
            other = waiting.pop(f"{layer}.{PARTNER[leaf]}", None)
            if other is None:
                waiting[name] = half
                continue
            up, down = (half, other) if leaf == "up" else (other, half)
            yield f"{layer}.weight", (up @ down).reshape(layers[layer])
