"""ControlNet-LLLite for SDXL (kohya-ss, 2023): small modules on the attention's linear layers.

Published files act there; modules may stand on any linear layer or convolution that reads a part of
the picture, of any base that has it.

What a module adds to its layer's input is computed from what the U-Net put in, so units on the
same layers sum.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from einops import rearrange

from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Guide
from lib_controlnet.engine.tokens import find_attention
from lib_controlnet.engine.unet import is_placed, own_modules, widths_of
from lib_controlnet.enums import LATENT_SCALE, BaseModel, ControlMode
from lib_controlnet.errors import BrokenCheckpointError, HostError, WrongBaseModelError
from lib_controlnet.families.base import ControlFamily, randomize
from lib_controlnet.families.controlnet import own_precision
from lib_controlnet.families.filling import fill, read_structure, title
from lib_controlnet.families.hints import HintControl
from lib_controlnet.files.bases import is_lllite_of_sdxl
from lib_controlnet.nets.lllite import LLLite, LLLiteParams, read_lllite_params

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from lib_controlnet.engine.injection import Rows
    from lib_controlnet.engine.network import Terms
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.places import Call, Memory, Places
    from lib_controlnet.engine.step import StepContext
    from lib_controlnet.engine.tokens import Carried
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.files.checkpoint import Checkpoint

PREFIX: Final = "lllite_unet_"

LAYERS: Final = ("attn1_to_q", "attn1_to_k", "attn1_to_v", "attn2_to_q")
"""Layers of a transformer block that published files have modules for."""

DEPTHS: Final = {"input_blocks.4": 2, "input_blocks.5": 2}
"""Of a tiny network's embeddings in SDXL's blocks; 3 elsewhere."""

LAST: Final = "out"
"""The last module that a call of the U-Net passes through."""


class LLLiteNetwork(ControlNetwork):
    """A loaded ControlNet-LLLite.

    It acts on all rows in every mode, as everywhere: its author found that on cond rows alone it
    changes the picture's colours.

    Args:
        name: file stem.
        module: its modules, by their names in the file.
        paths: the layer of each in the U-Net.
    """

    family = "ControlNet-LLLite"
    base = BaseModel.SDXL
    layers = 1
    wants = Guide(masked=0.0)
    has_modes = False
    module: LLLite

    def __init__(self, name: str, module: LLLite, paths: Mapping[str, str]) -> None:
        self.name = name
        self.module = module
        self.paths = paths

    def curve(self, strength: float, mode: ControlMode) -> tuple[float, ...]:
        """One strength for all modules, see `ControlNetwork.curve`."""
        del mode
        return (strength,)

    def bind(self, terms: Terms, guide: Tensor | None, info: PassInfo) -> ActiveControl:
        """Bind a unit to one pass, see `ControlNetwork.bind`; the guide is its hint."""
        del info
        assert guide is not None
        return LLLiteControl(self, terms, guide)


class LLLiteControl(HintControl):
    """One unit in one pass; what its modules make of the hint stays the same over the steps."""

    network: LLLiteNetwork

    def __init__(self, network: LLLiteNetwork, terms: Terms, hint: Tensor) -> None:
        super().__init__(network, terms, hint)
        self._embeddings: dict[str, Tensor] | None = None
        self._carried: dict[str, Carried] = {}
        self._memory: Memory | None = None
        self._stay = ExitStack()
        self._rows: Rows = ()
        self._index: Tensor | None = None

    def attach(self, places: Places) -> None:
        """Ask for the layers of all modules."""
        self.keep_in(places.kept)
        self._memory = places.memory
        places.call(self._begin)
        for name, path in self.network.paths.items():
            if attention := find_attention(path):
                self._carried[name] = places.carry(attention, partial(self._give, name))
            places.module(path, before=partial(self._addition, name))
        places.module(LAST, after=self._end)

    def _begin(self, step: StepContext, call: Call) -> None:
        """The network is on the device from here to the end of the call."""
        del call
        self._stay.close()
        self._rows, self._index = self.rows_in(step), None
        if len(self._rows) not in (0, len(step.rows)):
            self._index = torch.tensor(self._rows, device=step.x.device)
        if self._rows:
            assert self._memory is not None
            self._stay.enter_context(self._memory.on_device(self.network))

    def _end(self, output: Tensor, step: StepContext, again: Callable[[], Tensor]) -> None:
        del output, step, again
        self._stay.close()

    @torch.no_grad()
    def _give(self, name: str, step: StepContext, tokens: int) -> Tensor | None:
        """What goes with a layer's tokens, (rows, tokens, c); None where the unit does not act."""
        del tokens
        if not self._rows:
            return None
        return self._conditions(name, step).expand(len(step.rows), -1, -1)

    def _conditions(
        self, name: str, step: StepContext, size: Sequence[int] | None = None
    ) -> Tensor:
        """Embedding of the hint, and share of a region if there is one: (1 or rows, tokens, c).

        Args:
            size: rows and columns of the tokens; None for as many as the latent has there.
        """
        module = self.network.module.at(name)
        if self._embeddings is None:
            self._embeddings = self.make_once(dict)
        if name not in self._embeddings:
            hint = self.hint.to(self.network.device, self.network.dtype)
            with own_precision(self.network.device):
                self._embeddings[name] = module.embed(hint)
        if size is None:
            size = [-(-side * LATENT_SCALE // module.cell) for side in step.x.shape[-2:]]
        embedding = _fit(self._embeddings[name], size)
        made = self.rows_of(embedding, step, tuple(range(len(step.rows))))
        if self.terms.region is not None:
            share = self.terms.region.at(made.shape[-2:], made)
            made = torch.cat([made, share.expand(len(made), -1, -1, -1)], dim=1)
        return rearrange(made, "b c h w -> b (h w) c")

    @torch.no_grad()
    def _addition(self, name: str, given: Tensor, step: StepContext) -> Tensor | None:
        """What a module adds to its layer's input, (k, l, width) or for a convolution a map."""
        if not self._rows:
            return None
        if given.ndim == 3:
            return self._add(name, given, self._follow(name, given, step), step)
        cells, size = rearrange(given, "b c h w -> b (h w) c"), given.shape[-2:]
        added = self._add(name, cells, self._conditions(name, step, size), step)
        return rearrange(added, "b (h w) c -> b c h w", h=size[0])

    def _add(self, name: str, tokens: Tensor, found: Tensor, step: StepContext) -> Tensor:
        """What a module adds to tokens (k, l, width), given what it knows of them."""
        index, module = self._index, self.network.module.at(name)
        device, dtype = self.network.device, self.network.dtype
        found = found.expand(len(step.rows), -1, -1)
        read = tokens.reshape(*found.shape[:2], tokens.shape[-1])
        given, found = (read, found) if index is None else (read[index], found[index])
        cond, share = found.to(device, dtype).split_with_sizes(
            [module.cond_width, found.shape[-1] - module.cond_width], dim=-1
        )
        with own_precision(device):
            added = module(given.to(device, dtype), cond) * self.strengths_in(step)[0]
        added = (added * share if share.shape[-1] else added).to(tokens)
        self.acted = True
        if index is not None:
            added = torch.zeros_like(read).index_copy(0, index, added)
        return added.reshape(tokens.shape)

    def _follow(self, name: str, tokens: Tensor, step: StepContext) -> Tensor:
        """`_conditions` for tokens (k, l, width) that neighbours may have merged or cut.

        Raises:
            HostError: it cannot be told what became of the picture's tokens.
        """
        own, carried = self._conditions(name, step), self._carried.get(name)
        count = len(step.rows)
        if tokens.shape[:2] == (count, own.shape[1]):
            return own
        with suppress(LookupError):
            if carried is not None:
                return carried.follow(own, tokens, count)
        msg = (
            f"{self.terms.name}: control model {self.network.name} expects {count} x "
            f"{own.shape[1]} tokens at {self.network.paths[name]}, got {tokens.shape[0]} x "
            f"{tokens.shape[1]}, and cannot tell which is which; switch off what merges or tiles "
            "the tokens of the U-Net, or the unit"
        )
        raise HostError(msg)

    def release(self) -> None:
        """Forget what was made of the hint."""
        self._stay.close()
        self._embeddings = None


def _fit(embedding: Tensor, size: Sequence[int]) -> Tensor:
    """Bring an embedding (b, c, h, w) to the tokens of a call, whose latent may have any size."""
    if tuple(embedding.shape[-2:]) == tuple(size):
        return embedding
    return F.interpolate(embedding, tuple(size), mode="nearest-exact")


class LLLiteFamily(ControlFamily):
    """Loads ControlNet-LLLites."""

    name = "ControlNet-LLLite"
    kinds = ("lllite",)
    bases = (BaseModel.SDXL,)
    networks = LLLiteNetwork

    def tiny(self, base: BaseUNet, seed: int = 0) -> LLLiteNetwork:
        """See `ControlFamily.tiny`."""
        found = {
            name: (path, LLLiteParams(width, 8, 16, DEPTHS.get(path[:14], 3)))
            for name, (path, width) in layer_paths(base).items()
            if name.endswith(LAYERS) and not name.startswith(f"{PREFIX}output_blocks")
        }
        name = f"{PREFIX}input_blocks_1_0_in_layers_2"
        path, width = layer_paths(base)[name]
        found[name] = path, LLLiteParams(width, 8, 16, depth=1, is_conv=True)
        module = LLLite({name: params for name, (_path, params) in found.items()})
        paths = {name: path for name, (path, _params) in found.items()}
        return LLLiteNetwork("tiny", randomize(module, seed), paths)

    def check(self, ckpt: Checkpoint, base: BaseUNet) -> None:
        """Look for the layers in the base, see `ControlFamily.check`."""
        _find_layers(ckpt, _read(ckpt), base)

    def load(
        self, ckpt: Checkpoint, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
    ) -> LLLiteNetwork:
        """Build the network and fill it, see `ControlFamily.load`."""
        params = _read(ckpt)
        paths = _find_layers(ckpt, params, base)
        with torch.device("meta"):
            module = LLLite(params)
        fill(ckpt, module, dtype, device)
        network = LLLiteNetwork(ckpt.name, module, paths)
        network.base = base.shape.kind  # its layers are there, whatever base it is
        return network


def layer_paths(base: BaseUNet) -> dict[str, tuple[str, int]]:
    """Every linear layer and convolution of a U-Net, by the name that a module for it has in files.

    Returns:
        Its path in the U-Net, and the width of what it reads.
    """
    return {
        PREFIX + path.replace(".", "_"): (path, width)
        for path, module in own_modules(base.module).items()
        if (width := widths_of(module)[0])
    }


def _read(ckpt: Checkpoint) -> dict[str, LLLiteParams]:
    return read_structure(ckpt, lambda: read_lllite_params(ckpt.shapes))


def _find_layers(
    ckpt: Checkpoint, params: Mapping[str, LLLiteParams], base: BaseUNet
) -> dict[str, str]:
    """Path of the layer of each module.

    Raises:
        WrongBaseModelError: the base lacks some layer, or it has another width.
        BrokenCheckpointError: a layer reads no part of the picture, where a hint says nothing.
    """
    layers = layer_paths(base)
    for name, one in params.items():
        path, width = layers.get(name, ("", 0))
        if not is_placed(path):
            msg = (
                f"{title(ckpt)}, but of an unknown variant: it acts on {path}, which reads no part "
                "of the picture (but the text or the time)"
            )
            raise BrokenCheckpointError(msg)
        if width != one.width:
            made_for = "for SDXL " if is_lllite_of_sdxl(ckpt.shapes) else ""
            is_xl = bool(made_for) and base.shape.kind is BaseModel.SDXL
            other = "it" if is_xl else base.shape.kind
            has = f"reads {width} channels there" if width else "has no such layer"
            msg = (
                f"control model {ckpt.name} is a ControlNet-LLLite {made_for}and acts on "
                f"{name.removeprefix(PREFIX)} with {one.width} channels; the loaded checkpoint "
                f"{base.name} ({base.shape}) {has}; choose a control model made for {other}"
            )
            raise WrongBaseModelError(msg)
    return {name: layers[name][0] for name in params}
