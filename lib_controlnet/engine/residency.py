"""One owner of device memory: what is loaded, what of it lies on the device, and what has to go.

Weights are only read, so they stay on the CPU for as long as they are kept (the masters); the
device gets copies, and leaving it drops them: nothing is ever copied back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import torch
from torch import Tensor, nn

from lib_controlnet.engine.memory import Derived, measure_room
from lib_controlnet.engine.storage import settle_storage
from lib_controlnet.enums import Storage
from lib_controlnet.errors import ModelNotFoundError, is_out_of_memory, lacks_memory
from lib_controlnet.gate import Bounded
from lib_controlnet.nets.layout import weights_for

if TYPE_CHECKING:
    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.unet import BaseUNet

log = logging.getLogger(__name__)

Loader = Callable[["Path", "BaseUNet", "torch.dtype", "torch.device | str"], "ControlNetwork"]
Copy = Callable[[Tensor, torch.device], Tensor]
Key = tuple[object, ...]

CPU = torch.device("cpu")


class Between(Enum):
    """When control networks leave the device."""

    NEVER = "never"  # but for what else needs the memory
    PASS = "pass"
    EVALUATION = "evaluation"


@dataclass(frozen=True)
class Place:
    """Where the networks of a pass compute.

    Attributes:
        device: the U-Net's, or the CPU.
        between: when they leave it.
    """

    device: torch.device
    between: Between = Between.NEVER


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
        self._copy = copy
        self._masters = list(_tensors(module))
        self._copies: dict[int, Tensor] = {}
        self._device: torch.device | None = None
        self.uses = 0
        self.is_unwanted = False
        self.derived: WeakSet[Derived] = WeakSet()

    @property
    def nbytes(self) -> int:
        """Bytes of the masters, of the copies and of what else was made of them."""
        masters = {id(tensor): tensor for _, _, tensor in self._masters}
        held = (*masters.values(), *self._copies.values())
        weights = sum(tensor.nelement() * tensor.element_size() for tensor in held)
        return weights + sum(one.nbytes for one in self.derived)

    def place(self, device: torch.device) -> None:
        """Have the module compute on a device; on the masters' own nothing is copied.

        Raises:
            Exception: whatever the device says where its memory does not suffice; the module is
                then where it was.
        """
        if self._device == device:
            return
        copies: dict[int, Tensor] = {}
        for _, _, master in self._masters:
            if id(master) not in copies and master.device.type != device.type:
                fresh = self._copy(master, device)
                is_parameter = isinstance(master, nn.Parameter)
                copies[id(master)] = nn.Parameter(fresh, False) if is_parameter else fresh
        for owner, name, master in self._masters:
            setattr(owner, name, copies.get(id(master), master))
        self._copies, self._device = copies, device

    def park(self) -> bool:
        """Have the module compute on its masters again; whether anything was dropped by that."""
        had_derived = any([one.drop() for one in self.derived])
        had_copies = bool(self._copies)
        if had_copies:
            for owner, name, master in self._masters:
                setattr(owner, name, master)
        self._copies, self._device, self.is_unwanted = {}, None, False
        return had_copies or had_derived


def _tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """Every parameter and buffer, with the module that holds it and its name there."""
    for owner in module.modules():
        parameters = owner.named_parameters(recurse=False, remove_duplicate=False)
        buffers = owner.named_buffers(recurse=False, remove_duplicate=False)
        for name, tensor in (*parameters, *buffers):
            yield owner, name, tensor


@dataclass(eq=False)
class _Pass:
    """One run of the sampler.

    Attributes:
        networks: all that are used in it.
        device: where they compute.
        between: when they leave it; sooner than asked if they do not fit there together.
    """

    networks: list[ControlNetwork]
    device: torch.device
    between: Between


class Residency(Bounded[Key, "ControlNetwork"]):
    """Keeps networks loaded between generations, and decides what lies on the device.

    A network is found again for the same file (path, time, size), precision, storage and base
    structure; one whose weights contain the base's also needs the same base checkpoint. So a
    network loaded for another kind of base is never handed out: its loader gets to say why it does
    not fit.

    Whoever holds a network keeps it: it is found again and never loaded twice. Of those that
    nobody holds the most recently used stay.

    Args:
        max_count: networks to keep, at least 1.
        max_bytes: bytes of kept weights, their copies on the device included; one network alone
            may be larger.
        others: each takes something else off the device (detectors) and says whether it did.
        free_memory: returns cached device memory to the driver.
        copy: gives a tensor's copy on a device.
        measure: gives the bytes that are free on a device, or None.
    """

    def __init__(
        self,
        max_count: int,
        max_bytes: int,
        others: Collection[Callable[[], bool]] = (),
        free_memory: Callable[[], None] = lambda: None,
        copy: Copy = copy_to,
        measure: Callable[[torch.device], int | None] = measure_room,
    ) -> None:
        super().__init__(max_count, max_bytes, lambda _key, network: self._resident(network).nbytes)
        self._others = others
        self._free_memory = free_memory
        self._copy = copy
        self.find_room = measure
        self._alive: WeakValueDictionary[Key, ControlNetwork] = WeakValueDictionary()
        self._residents: WeakKeyDictionary[ControlNetwork, Resident] = WeakKeyDictionary()
        self._passes: list[_Pass] = []
        self._spare: WeakSet[Derived] = WeakSet()

    # ---- what is loaded ----

    def network(
        self,
        path: Path,
        base: BaseUNet,
        dtype: torch.dtype,
        loader: Loader,
        storage: Storage = Storage.NEVER,
        device: torch.device = CPU,
    ) -> ControlNetwork:
        """The network of a file, loaded if need be, always onto the CPU.

        Threads that ask at the same time wait for each other, so a file is loaded once.

        Args:
            path: the file.
            base: the U-Net that it is to steer.
            dtype: in which it computes.
            loader: reads the file.
            storage: when it is stored in 8 bits, which is decided when it is loaded.
            device: where it will compute.

        Raises:
            ModelNotFoundError: the file is gone.
            CheckpointError: from the loader; nothing is kept then.
        """
        path = Path(path)
        with self._lock:
            key = _key(path, base, dtype, storage)
            self._forget_stale(key, base)
            network = self._find_loaded(key, base)
            if network is None:
                count = max(self.max_count, 1) - 1
                self.shrink(count, least=min(count, 1))
                network = loader(path, base, dtype, CPU)
                settle_storage(network, storage, base, device, self.find_room)
            key = (*key, base.identity if network.depends_on_base else None)
            self._alive[key] = network
            self.put(key, network, least=1)
            return network

    def find_loaded(
        self, path: Path, base: BaseUNet, dtype: torch.dtype, storage: Storage = Storage.NEVER
    ) -> ControlNetwork | None:
        """The network of a file if it need not be loaded.

        Who is about to ask for several holds these first: loading drops what nobody holds.

        Raises:
            ModelNotFoundError: the file is gone.
        """
        with self._lock:
            return self._find_loaded(_key(Path(path), base, dtype, storage), base)

    def _find_loaded(self, key: Key, base: BaseUNet) -> ControlNetwork | None:
        network = self._alive.get((*key, None))
        return self._alive.get((*key, base.identity)) if network is None else network

    def _forget_stale(self, key: Key, base: BaseUNet) -> None:
        """Forget what a file held before it changed, and all sums with another base."""

        def is_stale(other: Key) -> bool:
            has_changed = other[0] == key[0] and other[1] != key[1]
            return has_changed or other[-1] not in (None, base.identity)

        self.drop(is_stale)

    def clear(self) -> None:
        """Let go of every network, and take what is in use off the device as `park` does."""
        super().clear()
        self.park()

    # ---- what lies on the device ----

    @contextmanager
    def sampling(
        self, networks: Collection[ControlNetwork], place: Place, kept: Derived | None = None
    ) -> Iterator[None]:
        """The networks of one pass are used inside, each within `on_device`.

        Everything else leaves the device first. These come to it now, unless they are to leave it
        between evaluations, and leave it in the end where they are to do so between passes.

        Args:
            networks: of the pass.
            place: where they compute.
            kept: what earlier passes have made for this one; it goes where memory runs out.

        Raises:
            HostError: the device has too little memory for one of them alone.
        """
        present = _Pass(list(networks), place.device, place.between)
        if kept is not None:
            self.spare(kept)
        self.park(() if place.between is Between.EVALUATION else networks, kept)
        with self._lock:
            self._passes.append(present)
        try:
            for network in present.networks:
                if present.between is not Between.EVALUATION:
                    self._bring(network, present)
            self.shrink(least=1)
            yield
        finally:
            with self._lock:
                self._passes.remove(present)
                outer = [network for one in self._passes for network in one.networks]
            if place.between is Between.PASS:
                self.park(outer)

    @contextmanager
    def on_device(self, network: ControlNetwork) -> Iterator[None]:
        """One evaluation: the network is on the device of the pass inside.

        It need not be before: other generations inside this one, the host and lack of memory take
        it away between two evaluations. Outside of a pass nothing moves.

        Raises:
            HostError: the device has too little memory for it.
        """
        with self._lock:
            present = self._passes[-1] if self._passes else None
            resident = self._resident(network)
            resident.uses += 1
        try:
            if present is not None:
                self._bring(network, present)
            yield
        finally:
            with self._lock:
                resident.uses -= 1
                is_waiting = present is not None and present.between is Between.EVALUATION
                if not resident.uses and (is_waiting or resident.is_unwanted):
                    resident.park()

    @property
    def is_scarce(self) -> bool:
        """Whether networks of the present pass leave the device between its evaluations."""
        with self._lock:
            return bool(self._passes) and self._passes[-1].between is Between.EVALUATION

    def count(self, network: ControlNetwork, derived: Derived) -> None:
        """What was made of a network counts as its own, and goes when it leaves the device."""
        with self._lock:
            self._resident(network).derived.add(derived)
            self.shrink(least=1)

    def spare(self, derived: Derived) -> None:
        """Something of a pass that goes with all that leaves the device, see `park`."""
        with self._lock:
            self._spare.add(derived)

    def _bring(self, network: ControlNetwork, present: _Pass) -> None:
        """Put a network on the pass's device; if there is no room, everything else leaves first."""
        try:
            self._place(network, present.device)
        except Exception as error:  # each device has its own for this
            if not is_out_of_memory(error):
                raise
        else:
            return
        # Outside of `except`: there half of the network would still be held by the traceback.
        if len(present.networks) > 1 and present.between is not Between.EVALUATION:
            present.between = Between.EVALUATION
            log.warning("%s has no room for all control networks: they take turns", present.device)
        self.relieve([network])
        try:
            self._place(network, present.device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise lacks_memory(network.name) from error

    def _place(self, network: ControlNetwork, device: torch.device) -> None:
        with self._lock:
            self._resident(network).place(device)

    def park(self, keep: Collection[ControlNetwork] = (), present: Derived | None = None) -> bool:
        """Take everything off the device but `keep`; what is being evaluated goes after that.

        What passes have to spare goes, too, but for what is the present one's.

        Returns:
            Whether anything has left it now.
        """
        kept = {id(network) for network in keep}
        with self._lock:
            left = any([one.drop() for one in self._spare if one is not present])
            for network, resident in list(self._residents.items()):
                if id(network) in kept:
                    continue
                if resident.uses:
                    resident.is_unwanted = True
                else:
                    left = resident.park() or left
        left = self._park_others() or left
        if left:
            self._free_memory()
        return left

    def park_others(self) -> None:
        """Take all but networks off the device."""
        if self._park_others():
            self._free_memory()

    def _park_others(self) -> bool:
        # Without the lock: these have their own, and whoever holds one may ask for memory here.
        return any([park() for park in self._others])

    def relieve(self, keep: Collection[ControlNetwork] = ()) -> None:
        """Memory has run out: `park`, and return cached device memory to the driver anyway."""
        if not self.park(keep):
            self._free_memory()

    def _resident(self, network: ControlNetwork) -> Resident:
        resident = self._residents.get(network)
        if resident is None:
            resident = self._residents[network] = Resident(network.module, self._copy)
        return resident


def _key(path: Path, base: BaseUNet, dtype: torch.dtype, storage: Storage) -> Key:
    try:
        state = path.stat()
    except OSError as error:
        msg = f"control model {path.name} cannot be opened: {error.strerror or error}"
        raise ModelNotFoundError(msg) from error
    file = (state.st_mtime_ns, state.st_size)
    return (str(path.resolve()), file, str(dtype), base.shape.signature, storage)
