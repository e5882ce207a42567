"""The weights of one module: masters where they were loaded, and copies on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lib_controlnet.nets.layout import weights_for

if TYPE_CHECKING:
    from lib_controlnet.engine.memory import Derived

Copy = Callable[[Tensor, torch.device], Tensor]
Held = tuple[nn.Module, str, Tensor]
"""A tensor, the module that holds it, and its name there."""

LISTS: Final = (nn.ModuleList, nn.ModuleDict)


def copy_to(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of weights on a device, laid out as it wants them."""
    return weights_for(tensor.detach(), device).to(device)


class Resident:
    """The weights of one module: masters where they were loaded, and copies on a device.

    Parameters and buffers are replaced, not written to; tied ones stay tied.

    Args:
        module: any; what it holds now are the masters.
        copy: gives a tensor's copy on a device.

    Attributes:
        uses: evaluations that are going on.
        is_unwanted: it leaves the device when they are over.
        derived: what else was made of the weights; it goes when they leave the device.
    """

    def __init__(self, module: nn.Module, copy: Copy = copy_to) -> None:
        self._module = module
        self._copy = copy
        self._masters = list(_tensors(module))
        self._copies: dict[int, Tensor] = {}
        self._way: tuple[torch.device, bool, int] | None = None
        self._in_turns: list[Any] = []
        self.uses = 0
        self.is_unwanted = False
        self.derived: WeakSet[Derived] = WeakSet()

    @property
    def lying(self) -> int:
        """Bytes of the copies."""
        return _count(self._copies.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the masters, of the copies and of what else was made of them."""
        masters = {id(tensor): tensor for _, _, tensor in self._masters}
        return _count(masters.values()) + self.lying + sum(one.nbytes for one in self.derived)

    def place(self, device: torch.device, layer_by_layer: bool = False, staying: int = 0) -> None:
        """Have the module compute on a device; on the masters' own nothing is copied.

        Args:
            device: where.
            layer_by_layer: what `find_pieces` finds comes for the time of its own call, the rest
                stays until `park`.
            staying: bytes of those pieces that may stay as well.

        Raises:
            Exception: whatever the device says where its memory does not suffice; the module is
                then where it was, or on its masters.
        """
        way = (device, layer_by_layer, staying)
        if self._way == way:
            return
        if layer_by_layer or self._in_turns:
            self.park()
        whole, pieces = self._share_out(staying) if layer_by_layer else (self._masters, {})
        self._copies, self._way = self._put(whole, device), way
        for piece, some in pieces.items():
            bring = partial(self._bring_piece, some, device)
            leave = partial(_put_back, some)
            self._in_turns += [
                piece.register_forward_pre_hook(bring),
                piece.register_forward_hook(leave, always_call=True),
            ]

    def _share_out(self, staying: int) -> tuple[list[Held], dict[nn.Module, list[Held]]]:
        """What is there at once, and what comes with a piece's calls."""
        pieces: dict[nn.Module, list[Held]] = {}
        whole: list[Held] = []
        owners = find_pieces(self._module)
        for held in self._masters:
            piece = owners.get(held[0])
            (whole if piece is None else pieces.setdefault(piece, [])).append(held)
        for piece, some in list(pieces.items()):
            staying -= _count(tensor for _, _, tensor in some)
            if staying < 0:
                break
            whole += pieces.pop(piece)
        return whole, pieces

    def _put(self, some: list[Held], device: torch.device) -> dict[int, Tensor]:
        """Copies in the place of masters; by the masters' identities."""
        copies: dict[int, Tensor] = {}
        for _, _, master in some:
            if id(master) not in copies and master.device.type != device.type:
                fresh = self._copy(master, device)
                is_parameter = isinstance(master, nn.Parameter)
                copies[id(master)] = nn.Parameter(fresh, False) if is_parameter else fresh
        for owner, name, master in some:
            setattr(owner, name, copies.get(id(master), master))
        return copies

    def _bring_piece(self, some: list[Held], device: torch.device, *_call: Any) -> None:
        self._put(some, device)

    def park(self) -> bool:
        """Have the module compute on its masters again; whether anything was dropped by that."""
        for handle in self._in_turns:
            handle.remove()
        had_derived = any([one.drop() for one in self.derived])
        had_copies = bool(self._copies)
        if had_copies or self._in_turns:
            _put_back(self._masters)
        self._copies, self._way, self._in_turns = {}, None, []
        self.is_unwanted = False
        return had_copies or had_derived


def _put_back(some: list[Held], *_call: Any) -> None:
    for owner, name, master in some:
        setattr(owner, name, master)


def _count(tensors: Any) -> int:
    return sum(tensor.nelement() * tensor.element_size() for tensor in tensors)


def _tensors(module: nn.Module) -> Iterator[Held]:
    """Every parameter and buffer, with the module that holds it and its name there."""
    for owner in module.modules():
        parameters = owner.named_parameters(recurse=False, remove_duplicate=False)
        buffers = owner.named_buffers(recurse=False, remove_duplicate=False)
        for name, tensor in (*parameters, *buffers):
            yield owner, name, tensor


def find_pieces(module: nn.Module) -> dict[nn.Module, nn.Module]:
    """The modules whose weights can come and go with the call of one of a list's: by that one.

    Of lists in lists the innermost counts. All others are read whenever the network likes.
    """
    found: dict[nn.Module, nn.Module] = {}

    def walk(owner: nn.Module, piece: nn.Module | None) -> None:
        if piece is not None:
            found[owner] = piece
        for child in owner.children():
            walk(child, child if isinstance(owner, LISTS) else piece)

    walk(module, None)
    return found


def measure_layers(module: nn.Module) -> int:
    """The most bytes of weights that lie on a device layer by layer, see `Resident.place`."""
    nested = [0]

    def walk(owner: nn.Module) -> int:
        held = (*owner.parameters(recurse=False), *owner.buffers(recurse=False))
        if isinstance(owner, LISTS):
            nested.extend(map(measure_layers, owner.children()))
            return _count(held)
        return _count(held) + sum(map(walk, owner.children()))

    return walk(module) + max(nested)
