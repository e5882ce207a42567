"""What published files cost at the sizes that they are made for, counted without computing.

U-Net and networks lie on the meta device, which knows shapes alone; the files are the tables of
`tests/data/keys/`, read by the extension's own loader. One picture with a cond and an uncond row,
512 x 512 for SD1.5 and 1024 x 1024 for SDXL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import sessions
import support
import torch
from measures import Line, flops
from sessions import FakeHost
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.pass_info import PassInfo
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.enums import ControlNetUnionControlType
from lib_controlnet.families import identify
from lib_controlnet.host.a1111.rows import build_layout
from lib_controlnet.pictures.maps import Size
from lib_controlnet.pictures.placement import PassGeometry

META: Final = torch.device("meta")
GIGA: Final = 1e9
ROWS: Final = 2
TOKENS: Final = 77


HEAD: Final = (
    "| published file (family, base: the U-Net's 10^9 operations) | 10^9 operations more in the "
    "first step, share of the U-Net's in a later one, MB that stay in half precision | target | "
    "holds |"
)


@dataclass(frozen=True)
class Base:
    """A base at its published widths.

    Attributes:
        kind: its structure among the tests' U-Nets.
        latent: edge of the latent.
        context: width of the text tokens.
        changes: what else its U-Net is built with.
        adm: width of the vector condition.
    """

    kind: str
    latent: int
    context: int
    changes: dict[str, object]
    adm: int | None = None

    def unet(self) -> BaseUNet:
        """Its U-Net, without weights."""
        unet = support.empty_unet(
            self.kind, model_channels=320, context_dim=self.context, **self.changes
        )
        return BaseUNet(unet.eval(), describe_unet(unet), self.kind, self.kind)

    def arguments(self) -> dict[str, torch.Tensor | None]:
        """Those of one call."""
        with META:
            return {
                "x": torch.empty(ROWS, 4, self.latent, self.latent),
                "timesteps": torch.empty(ROWS),
                "context": torch.empty(ROWS, TOKENS, self.context),
                "y": None if self.adm is None else torch.empty(ROWS, self.adm),
            }


SDXL: Final = {"num_head_channels": 64, "transformer_depth": (0, 2, 10), "adm_in_channels": 2816}

BASES: Final = {
    "SD1.5": Base("SD1", 64, 768, {}),
    "SDXL": Base("SDXL", 128, 2048, SDXL, 2816),
}


@dataclass(frozen=True)
class Published:
    """A published file, and what it may cost.

    Attributes:
        base: a key of `BASES`.
        file: a table of `tests/data/keys/`.
        first: operations in the first step of a pass, in units of 10^9.
        share: operations of a later step, as a share of the U-Net's.
    """

    base: str
    file: str
    first: float
    share: float


FILES: Final = (
    Published("SD1.5", "sd15_original", 566.6, 0.353),
    Published("SD1.5", "sd15_sparsectrl_rgb_original", 800, 0.5),
    Published("SD1.5", "t2i_sd14_original", 59.9, 0),
    Published("SD1.5", "t2i_sd14_light_original", 13.34, 0),
    Published("SD1.5", "t2i_sd14_style", 10, 0.005),
    Published("SD1.5", "ip-adapter_sd15", 1, 0.001),
    Published("SD1.5", "ip-adapter-plus_sd15", 5, 0.001),
    Published("SD1.5", "sd15_face_id", 80, 0.05),
    Published("SDXL", "sdxl_full_diffusers", 6040, 0.447),
    Published("SDXL", "sdxl_union_8", 6040, 0.447),
    Published("SDXL", "t2i_sdxl_original", 239.6, 0),
    Published("SDXL", "sdxl_lllite_8_16", 135, 0.01),
    Published("SDXL", "sdxl_lllite_32_64", 135, 0.01),
    Published("SDXL", "sdxl_lllite_128_256", 650, 0.04),
    Published("SDXL", "ip-adapter_sdxl", 15, 0.001),
    Published("SDXL", "ip-adapter-plus_sdxl_vit-h", 100, 0.002),
    Published("SDXL", "sdxl_face_id", 700, 0.05),
    Published("SDXL", "sdxl_instant_id", 100, 0.002),
    Published("SDXL", "sdxl_pulid_1.1", 200, 0.005),
)
"""A file of each kind. Known of these networks: 283.3 and 3020 for each row of a ControlNet, hint
included; 59.9, 13.3 and 239.6 once for a T2I-Adapter; 1% of the U-Net's in every step for an LLLite
of 32 and 64 channels. The rest are bounds of our own."""


class Living(TorchDispatchMode):
    """Follows the tensors of the meta device that operations make: the device's memory, there."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(made):
            if storage._cdata not in given:  # else it is a view, of a weight perhaps
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of those that are still held."""
        return sum(size for kept, size in self._made.values() if not kept.expired())


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    """Those of the meta device in a tree of tensors and other things."""
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
    return [tensor.untyped_storage() for tensor in tensors if tensor.device == META]


class MetaHost(FakeHost):
    """A host whose device has no memory."""

    device = META
    network_dtype = torch.float16


def load(base: BaseUNet, file: str) -> ControlNetwork:
    """The network of a published file, without weights."""
    ckpt = support.memory_checkpoint(support.golden(file), f"{file}.safetensors")
    return identify(ckpt).load(ckpt, base, MetaHost.network_dtype, META)


def count(base: BaseUNet, size: Base, network: ControlNetwork) -> tuple[list[int], int]:
    """Operations of two steps of a pass, the U-Net's included, and bytes that stay behind them."""
    plain = partial(base.module, **size.arguments())
    shown = ControlNetUnionControlType.DEPTH
    unit = sessions.prepared(network, union_control_type=shown)
    session = ControlSession(MetaHost(), [unit])
    geometry = PassGeometry.of_latent(Size(size.latent, size.latent))
    session.begin_pass(PassInfo(geometry, base, alphas=FakeHost.alphas))

    def step() -> None:
        session.begin_evaluation(build_layout([1], 1, ROWS), 0.5)
        plain()

    work = []
    with session.sampling(base.module), Living() as living:
        for _ in range(2):
            work.append(flops(step))
        return work, living.nbytes


def published_lines() -> Iterator[Line]:
    """A row for each of `FILES`."""
    for name, size in BASES.items():
        base = size.unet()
        own = flops(partial(base.module, **size.arguments()))
        for one in (file for file in FILES if file.base == name):
            network = load(base, one.file)
            (first, later), stays = count(base, size, network)
            giga, share = (first - own) / GIGA, (later - own) / own
            yield Line(
                f"{one.file} ({network.family}, {name}: {own / GIGA:.0f})",
                f"{giga:.1f}, {share:.2%}, {stays / 1e6:.1f} MB",
                f"at most {one.first:g}, {one.share:.2%}",
                giga <= one.first and share <= one.share,
            )
