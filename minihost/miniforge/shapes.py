"""In what the members differ; `use` chooses one, also in a running process."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from miniforge import memory


@dataclass(frozen=True)
class Shape:
    """One member.

    Attributes:
        manager: name of the memory manager's module.
        loads_late: there is no checkpoint until the first picture is made.
        walks_layers: the U-Net calls the layers of its blocks, never a block.
        keeps_model: the way that A1111 has to the U-Net, `sd_model.model`, is there as well.
        marks_rows: a call's options have `cond_mark`, a number for each row.
        hires_hooks: how often scripts are asked before the hires pass.
        owns_layers: linear layers of the U-Net are of a class of the host.
    """

    manager: str
    loads_late: bool
    walks_layers: bool
    keeps_model: bool
    marks_rows: bool
    hires_hooks: int
    owns_layers: bool


FORGE: Final = Shape("backend.memory_management", True, False, False, True, 2, True)
REFORGE: Final = Shape("ldm_patched.modules.model_management", False, True, True, False, 1, False)
SHAPES: Final = {"forge": FORGE, "reforge": REFORGE}

_current: list[Shape] = []


def current() -> Shape:
    """The member that the host is shaped as."""
    return _current[-1]


def use(name: str) -> Shape:
    """Take a member's shape; a checkpoint that is loaded keeps the one it was loaded in."""
    for shape in SHAPES.values():
        for module in _with_parents(shape.manager):
            sys.modules.pop(module, None)
    _current[:] = [SHAPES[name]]
    for module in ("modules_forge", *_with_parents(current().manager)):
        stub = ModuleType(module)
        stub.__spec__ = ModuleSpec(module, None, is_package=True)
        stub.__path__ = []
        sys.modules[module] = stub
    sys.modules[current().manager] = memory
    return current()


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]
