"""Fooocus' inpaint model for SDXL: a patch of the U-Net's weights, and a head that sees the mask.

Two files (lllyasviel/fooocus_inpaint), of which either picks the other. The patch is in the weights
of the U-Net for the time of a call, which costs nothing in a step; on a part of the rows or of the
picture, and where memory is short, it acts beside the layers. No weight of the host is written to:
its LoRAs, a refiner and `--medvram` find what they know.
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Final, cast

import torch

from lib_controlnet.engine.injection import with_rows
from lib_controlnet.engine.network import ControlNetwork, Guide, GuideKind
from lib_controlnet.engine.unet import is_placed, own_modules, own_parameters, shape_of
from lib_controlnet.enums import LATENT_CHANNELS, LATENT_SCALE, BaseModel, ControlMode
from lib_controlnet.errors import (
    BrokenCheckpointError,
    ControlNetError,
    HostError,
    WrongBaseModelError,
)
from lib_controlnet.families.base import ControlFamily, randomize
from lib_controlnet.families.controlnet import own_precision
from lib_controlnet.families.filling import first_names, title, without_1x1
from lib_controlnet.families.hints import HintControl
from lib_controlnet.families.low_rank import Beside, LowRankLayers
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.files.published import find_kind
from lib_controlnet.nets.fooocus import (
    HEAD_CHANNELS,
    PARTS,
    ChangedLayer,
    FooocusInpaint,
    Quantised,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from lib_controlnet.engine.network import ActiveControl, Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.files.checkpoint import Checkpoint

log = logging.getLogger(__name__)

HEAD, PATCH = "fooocus_head", "fooocus_patch"
"""Keys of the files' signatures."""

OTHER: Final = {HEAD: PATCH, PATCH: HEAD}

GREY: Final = 0.5
"""What stands in the picture where it is to be repainted."""

FIRST_BLOCK: Final = 0

TRIPLE: Final = 3
"""Tensors that a changed one is kept as: whole numbers, their least and their greatest value."""

DISTILLED: Final = frozenset({"turbo", "lightning", "hyper", "hypersd", "lcm", "dmd"})
"""Words in the names of checkpoints that need few steps; the patch gives noise on them."""

NO_HYPER: Final = re.compile(r"hyper[ _-]?real", re.IGNORECASE)


class FooocusNetwork(ControlNetwork):
    """Loaded head and patch.

    The unit's weight scales both; 1 is what they are made for. The control mode chooses rows.
    """

    family = "Fooocus inpaint"
    base = BaseModel.SDXL
    layers = 1
    wants = Guide(GuideKind.LATENT, masked=GREY, has_mask=True)
    module: FooocusInpaint

    def __init__(self, name: str, module: FooocusInpaint) -> None:
        self.name = name
        self.module = module

    def curve(self, strength: float, mode: ControlMode) -> tuple[float, ...]:
        """One strength for all, see `ControlNetwork.curve`."""
        del mode
        return (strength,)

    def bind(self, terms: Terms, guide: Tensor | None, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`; the guide is (n, 5, h, w).

        Raises:
            WrongBaseModelError: the base is not the one that it was loaded for, and does not do.
        """
        assert guide is not None
        _check_base(self.name, info.base)
        hint = guide.repeat_interleave(LATENT_SCALE, 2).repeat_interleave(LATENT_SCALE, 3)
        return FooocusControl(self, terms, hint)


class FooocusControl(HintControl):
    """One unit in one pass; what the head makes of mask and picture stays over the steps.

    Its hint is (n, 5, H, W): latent and mask, each number of them 8 x 8 times, for others that cut
    tiles out of a hint.
    """

    network: FooocusNetwork

    def __init__(self, network: FooocusNetwork, terms: Terms, hint: Tensor) -> None:
        super().__init__(network, terms, hint)
        self._feature: Tensor | None = None
        self._say: Callable[[str], None] = log.warning
        strength = terms.strengths[0]
        self._patch = LowRankLayers(
            self,
            {
                path: Beside(layer, strength, is_placed(path), layer.readers())
                for path, layer in network.module.by_path().items()
            },
        )

    def meet(self, controls: Sequence[ActiveControl], say: Callable[[str], None]) -> None:
        """Say what a region leaves out."""
        super().meet(controls, say)
        self._patch.tell(say)
        self._say = say

    def attach(self, places: Places) -> None:
        """Ask for the first block's output, and for all layers that the patch changes."""
        self.keep_in(places.kept)
        places.hold(self.network, self._needs_network)
        places.after_input(FIRST_BLOCK, self._add_to_stream)
        self._patch.attach(places, self._say)

    def _needs_network(self, step: StepContext) -> bool:
        """Whether a call needs more of it than the weights do, who ask for it themselves."""
        is_idle = self._feature is not None and self.terms.region is None
        return not is_idle and bool(self.rows_in(step))

    @torch.no_grad()
    def _add_to_stream(self, h: Tensor, step: StepContext) -> Tensor | None:
        rows = self.rows_in(step)
        if not rows:
            return None
        added = self.rows_of(self._encode(), step, rows) * self.strengths_in(step)[0]
        if self.terms.region is not None:
            added = added * self.terms.region.at(added.shape[-2:], added)
        self.acted = True
        return with_rows(h, added, rows)

    def _encode(self) -> Tensor:
        """Output of the head, (1 or n, width, h, w)."""
        if self._feature is None:
            self._feature = self.make_once(self._run_head)
        return self._feature

    def _run_head(self) -> Tensor:
        network = self.network
        if self.hint.shape[1] != HEAD_CHANNELS:
            msg = (
                f"{self.terms.name}: another extension replaced the hint of {network.name} by "
                f"one of {self.hint.shape[1]} channels, must be a latent and a mask"
            )
            raise HostError(msg)
        small = self.hint[:, :, ::LATENT_SCALE, ::LATENT_SCALE]
        with own_precision(network.device):
            given = small.to(network.device, network.dtype)
            return network.module.encode(given[:, -1:], given[:, :-1])

    def release(self) -> None:
        """Forget what was made of the hint."""
        self._feature = None


class FooocusFamily(ControlFamily):
    """Loads the patch together with the head."""

    name = "Fooocus inpaint"
    kinds = tuple(OTHER)
    bases = (BaseModel.SDXL,)
    networks = FooocusNetwork

    @torch.no_grad()
    def tiny(self, base: BaseUNet, seed: int = 0) -> FooocusNetwork:
        """See `ControlFamily.tiny`; every third layer of the base is changed."""
        generator = torch.Generator().manual_seed(seed)
        layers = {}
        holders = [(path, m) for path, m in base.module.named_modules() if hasattr(m, "weight")]
        for path, layer in holders[::3]:
            changes = {}
            for part in PARTS:
                if (tensor := getattr(layer, part, None)) is None:
                    continue
                shape = shape_of(tensor)
                levels = torch.randint(0, 256, shape, generator=generator)
                bound = torch.tensor(0.4 / max(math.prod(shape[1:]), 16) ** 0.5)
                changes[part] = Quantised(levels.to(torch.uint8), -bound, bound)
            layers[path] = ChangedLayer(layer, shape_of(layer.weight), changes)
        width = base.shape.model_channels
        head = torch.empty(width, HEAD_CHANNELS, 3, 3)
        module = FooocusInpaint(head, layers)
        return FooocusNetwork("tiny", randomize(module, seed))

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Compare the patch with the base, see `ControlFamily.check`."""
        _check_base(ckpt.name, base)
        _, patch = find_both(ckpt)
        _find_layers(patch, base)

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> FooocusNetwork:
        """Read head and patch, see `ControlFamily.load`; the patch stays in 8 bits."""
        _check_base(ckpt.name, base)
        head, patch = find_both(ckpt)
        layers, own = _find_layers(patch, base), own_modules(base.module)
        read = {
            path: ChangedLayer(
                own[path],
                shape_of(cast("Tensor", own[path].weight)),
                {part: _read_change(patch, *where, device) for part, where in parts.items()},
            )
            for path, parts in layers.items()
        }
        module = FooocusInpaint(_read_head(head, base, dtype, device), read)
        log.info("%s and %s act together", head.path.name, patch.path.name)
        return FooocusNetwork(ckpt.name, module.eval().requires_grad_(False))


def find_both(ckpt: Checkpoint) -> tuple[Checkpoint, Checkpoint]:
    """Head and patch: the file itself, and the other one beside it.

    Of several patches the last one by name is taken, which is the newest published one.

    Raises:
        BrokenCheckpointError: there is no such file in the same folder.
    """
    kind = ckpt.kind
    assert kind is not None
    wanted = OTHER[kind.key]
    for path in _files_beside(ckpt.path):
        try:
            other = open_checkpoint(path)
        except ControlNetError:
            continue
        found = other.kind
        if found is not None and found.key == wanted:
            return (ckpt, other) if kind.key == HEAD else (other, ckpt)
    what, known = "patch" if wanted == PATCH else "head", find_kind(wanted)
    msg = (
        f"{title(ckpt)}, which needs the {what} beside it: put {known.name} into the same "
        f"folder (from {known.url})"
    )
    raise BrokenCheckpointError(msg)


def _files_beside(path: Path) -> list[Path]:
    """Files in the same folder that may belong to Fooocus by their name."""
    try:
        beside = [one for one in path.parent.iterdir() if "fooocus" in one.name.lower()]
    except OSError:
        return []
    return sorted((one for one in beside if one.name != path.name), reverse=True)


def _check_base(name: str, base: BaseUNet) -> None:
    """Refuse what the patch is not made for.

    Raises:
        WrongBaseModelError: the base is no SDXL, reads a mask itself, or is a distilled one by its
            name.
    """
    problem = ""
    if base.shape.kind is not BaseModel.SDXL:
        problem = f"the loaded checkpoint {base.name} is {base.shape}; choose an SDXL checkpoint"
    elif base.shape.in_channels > LATENT_CHANNELS:
        problem = (
            f"the loaded checkpoint {base.name} is made for inpainting itself; choose another one, "
            "or switch the unit off"
        )
    elif word := find_distilled(f"{base.name} {base.described}"):
        problem = (
            f"the loaded checkpoint {base.name} is a distilled one by its name ({word}), on which "
            "the patch gives noise; choose one that is made for 20 steps or more, or rename it if "
            "it is one"
        )
    if problem:
        msg = f"control model {name} is Fooocus' inpaint model for SDXL, {problem}"
        raise WrongBaseModelError(msg)


def find_distilled(name: str) -> str:
    """The word in a checkpoint's name, or in what its file says of it, that tells; else ''."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    found = {word.lower() for word in words} & DISTILLED
    if NO_HYPER.search(name):
        found.discard("hyper")
    return min(found, default="")


Place = tuple[str, tuple[int, ...]]
"""Start of a changed tensor's three names in the file, and its shape."""


def _find_layers(patch: Checkpoint, base: BaseUNet) -> dict[str, dict[str, Place]]:
    """The changed layers of a U-Net by path, and where their changes are in the file.

    Raises:
        BrokenCheckpointError: a change is incomplete, or its layer of an unknown kind.
        WrongBaseModelError: the base lacks a layer, or it has another shape.
    """
    layers: dict[str, dict[str, Place]] = {}
    theirs = {name: shape_of(value) for name, value in own_parameters(base.module)}
    foreign, broken = [], []
    for name in sorted({key.rpartition(".")[0] for key in patch.keys}):
        key = f"{name}.0"
        own = name.removeprefix("model.").removeprefix("diffusion_model.")
        path, _, part = own.rpartition(".")
        parts = [f"{name}.{number}" in patch for number in range(TRIPLE + 1)]
        is_whole = parts == [True] * TRIPLE + [False] and part in PARTS
        if not is_whole or patch.dtype(key) is not torch.uint8:
            broken.append(name)
        elif without_1x1(theirs.get(own, ())) != without_1x1(patch.shape(key)):
            foreign.append(own)
        else:
            layers.setdefault(path, {})[part] = (name, theirs[own])
    if broken or not (layers or foreign):
        msg = f"{title(patch)}, but damaged: {len(broken)} changes ({first_names(broken)})"
        raise BrokenCheckpointError(msg)
    if foreign:
        msg = (
            f"control model {patch.name} changes {len(foreign)} tensors that the loaded checkpoint "
            f"{base.name} does not have in this shape ({first_names(foreign)}); choose a full SDXL "
            "checkpoint"
        )
        raise WrongBaseModelError(msg)
    return layers


def _read_change(
    patch: Checkpoint, name: str, shape: tuple[int, ...], device: torch.device | str
) -> Quantised:
    names = [f"{name}.{i}" for i in range(TRIPLE)]
    levels, low, high = (patch.tensor(one, None, device) for one in names)
    return Quantised(levels.reshape(shape), low.reshape(()), high.reshape(()))


def _read_head(
    head: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """The head's weights.

    Raises:
        BrokenCheckpointError: they are not of the published shape.
    """
    wanted = (base.shape.model_channels, HEAD_CHANNELS, 3, 3)
    if head.shape("head") != wanted:
        msg = f"{title(head)}, but of shape {head.shape('head')} instead of {wanted}"
        raise BrokenCheckpointError(msg)
    return head.tensor("head", dtype, device)
