"""One owner of device memory: what is loaded, what of it lies on the device, and what has to go.

Weights are only read, so they stay on the CPU for as long as they are kept (the masters); the
device gets copies, and leaving it drops them: nothing is ever copied back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import torch

from lib_controlnet.engine.memory import Between, Derived, Pieces, measure_room
from lib_controlnet.engine.resident import Copy, Resident, copy_to
from lib_controlnet.engine.storage import settle_storage, shrink
from lib_controlnet.enums import Storage
from lib_controlnet.errors import (
    ModelNotFoundError,
    is_out_of_memory,
    lacks_memory,
    lacks_memory_here,
    without_frames,
)
from lib_controlnet.gate import Bounded

if TYPE_CHECKING:
    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.rehearsal import Asked, Footprint
    from lib_controlnet.engine.unet import BaseUNet

log = logging.getLogger(__name__)

Loader = Callable[["Path", "BaseUNet", "torch.dtype", "torch.device | str"], "ControlNetwork"]
Key = tuple[object, ...]

CPU = torch.device("cpu")

FOOTPRINTS: Final = 256
"""Structures and sizes of which it is remembered what they hold."""


@dataclass(frozen=True)
class Place:
    """Where the networks of a pass compute.

    Attributes:
        device: the U-Net's, or the CPU.
        between: when they leave it.
        pieces: in which they compute.
        staying: bytes of each that stay there where they come layer by layer.
        resting: those whose window is not open when the pass begins.
        say: is told what becomes of it where memory runs out.
    """

    device: torch.device
    between: Between = Between.NEVER
    pieces: Pieces = Pieces()
    staying: int = 0
    resting: Collection[ControlNetwork] = field(default=(), compare=False)
    say: Callable[[str], None] = field(default=log.warning, compare=False)


@dataclass(eq=False)
class _Pass:
    """One run of the sampler.

    Attributes:
        networks: all that are used in it.
        device: where they compute.
        between: when they leave it; sooner than asked if they do not fit there together.
        pieces: in which they compute; smaller than asked where an evaluation did not fit.
        staying: see `Place`.
        resting: those outside their window.
        say: see `Place`.
    """

    networks: list[ControlNetwork]
    device: torch.device
    between: Between
    pieces: Pieces
    staying: int
    resting: list[ControlNetwork]
    say: Callable[[str], None]

    @property
    def leaves_at_once(self) -> bool:
        """Whether a network leaves the device when it has been evaluated."""
        return self.between.is_scarce and not self.staying

    @property
    def open(self) -> list[ControlNetwork]:
        """Those inside their window."""
        resting = set(map(id, self.resting))
        return [network for network in self.networks if id(network) not in resting]

    @property
    def due(self) -> list[ControlNetwork]:
        """Those that may lie on the device between evaluations."""
        if self.between.is_scarce:
            return []
        return self.open if self.between is Between.WINDOW else self.networks


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
        self._footprints: Bounded[Key, Footprint] = Bounded(FOOTPRINTS)

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
            storage: when it is stored in 8 bits.
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
                settle_storage(network, storage, device, self.find_room)
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
        resting = list(place.resting)
        present = _Pass(
            *(list(networks), place.device, place.between, place.pieces, place.staying),
            *(resting, place.say),
        )
        if kept is not None:
            self.spare(kept)
        self.park(present.due, kept)
        with self._lock:
            self._passes.append(present)
        try:
            for network in (*present.open, *resting):
                if network in present.due:
                    self._bring(network, present, can_wait=network in resting)
            self.shrink(least=1)
            yield
        finally:
            with self._lock:
                self._passes.remove(present)
                outer = [network for one in self._passes for network in one.networks]
            if place.between is Between.PASS:
                self.park(outer)
            elif present.between is not Between.NEVER:
                with self._lock:
                    self._park_all(outer)

    def rest(self, networks: Collection[ControlNetwork]) -> None:
        """Tell which networks of the present pass are outside their window now.

        They leave the device if that was chosen, or else as soon as something lacks memory.
        """
        with self._lock:
            present = self._passes[-1] if self._passes else None
            if present is None:
                return
            present.resting = list(networks)
            if present.between in (Between.WINDOW, Between.LAYER):
                self._park_all(present.open)

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
                is_waiting = present is not None and present.leaves_at_once
                if not resident.uses and (is_waiting or resident.is_unwanted):
                    resident.park()

    @property
    def is_scarce(self) -> bool:
        """Whether networks of the present pass leave the device between its evaluations."""
        with self._lock:
            return bool(self._passes) and self._passes[-1].between.is_scarce

    @property
    def pieces(self) -> Pieces:
        """In what pieces the present pass is computed."""
        with self._lock:
            return self._passes[-1].pieces if self._passes else Pieces()

    def count(self, network: ControlNetwork, derived: Derived) -> None:
        """What was made of a network counts as its own, and goes when it leaves the device."""
        with self._lock:
            self._resident(network).derived.add(derived)
            self.shrink(least=1)

    def spare(self, derived: Derived) -> None:
        """Something of a pass that goes with all that leaves the device, see `park`."""
        with self._lock:
            self._spare.add(derived)

    def _bring(self, network: ControlNetwork, present: _Pass, can_wait: bool = False) -> None:
        """Put a network on the pass's device; what else lies there leaves, as far as need be.

        First those outside their window, then all others, then the network itself comes layer by
        layer. That holds for the rest of the pass. One that can wait comes when its window opens.
        """
        while True:
            try:
                self._place(network, present)
            except Exception as error:  # each device has its own for this
                if not is_out_of_memory(error):
                    raise
                lacking = lacks_memory(network.name)
                lacking.__cause__ = without_frames(error)
            else:
                return
            # Outside of `except`: there half of the network would still be held by the traceback.
            if not self._give_way(network, present):
                raise lacking
            if can_wait and not present.between.is_scarce:
                return

    def _give_way(self, network: ControlNetwork, present: _Pass) -> bool:
        """Have less on the device for the rest of the pass; whether that may help a network."""
        others = [one for one in present.networks if one is not network]
        before = present.between
        if before in (Between.NEVER, Between.PASS) and self._may_rest(network, present):
            present.between = Between.WINDOW
            self.relieve(present.open)
        elif not before.is_scarce and others:
            present.between = Between.EVALUATION
            self.relieve([network])
        elif before is not Between.LAYER or present.staying:
            present.between, present.staying = Between.LAYER, 0
            self.relieve([network])
        else:
            return False
        present.say(
            f"ControlNet: {present.device} has no room for all control networks: "
            f"{present.between.words}; the picture is the same"
        )
        return True

    def _may_rest(self, network: ControlNetwork, present: _Pass) -> bool:
        """Whether a network outside its window lies on the device, or is about to come."""
        with self._lock:
            return any(one is network or self._resident(one).lying for one in present.resting)

    def step_down(self, network: ControlNetwork, rows: int) -> None:
        """An evaluation has run out of memory, see `Memory.step_down`.

        Raises:
            HostError: there is nothing that takes less.
        """
        self.relieve([network])
        with self._lock:
            present = self._passes[-1] if self._passes else None
        if present is None:
            raise lacks_memory_here(network.name)
        smaller = present.pieces.halve(rows)
        if smaller is not None:
            present.pieces = smaller
            way = smaller.words
        elif network.comes_by_layer and (present.between is not Between.LAYER or present.staying):
            present.between, present.staying = Between.LAYER, 0
            self._place(network, present)
            way = "layer by layer"
        else:
            raise lacks_memory_here(network.name)
        log.warning("not enough memory to evaluate %s: from now on %s", network.name, way)
        present.say(
            f"ControlNet: {present.device} ran out of memory while {network.name} was evaluated; "
            "from there on it was evaluated in smaller pieces, and the picture is the same but for "
            "rounding"
        )

    def find_footprint(self, network: ControlNetwork, asked: Asked) -> Footprint:
        """What a network holds beside its weights, counted once for all that are built alike."""
        held = (*network.module.named_parameters(), *network.module.named_buffers())
        structure = tuple((name, tuple(one.shape), one.dtype) for name, one in held)
        key = (type(network), hash(structure), asked)
        return self._footprints.find(key, lambda: network.rehearse(asked))

    def shrink_networks(self, networks: Collection[ControlNetwork]) -> None:
        """Store networks in 8 bits, those that may be and are not yet."""
        for network in networks:
            if network.may_shrink and not network.stored:
                with self._lock:
                    self._resident(network).park()
                    del self._residents[network]
                    shrink(network, "since memory is short")

    def measure_lying(self, device: torch.device) -> int:
        """Bytes of weights that lie on a device and can leave it."""
        if device.type == "cpu":
            return 0
        with self._lock:
            return sum(resident.lying for resident in self._residents.values())

    def _place(self, network: ControlNetwork, present: _Pass) -> None:
        by_layer = present.between is Between.LAYER and network.comes_by_layer
        with self._lock:
            staying = present.staying if by_layer else 0
            self._resident(network).place(present.device, by_layer, staying)

    def park(self, keep: Collection[ControlNetwork] = (), present: Derived | None = None) -> bool:
        """Take everything off the device but `keep`; what is being evaluated goes after that.

        What passes have to spare goes, too, but for what is the present one's.

        Returns:
            Whether anything has left it now.
        """
        with self._lock:
            left = any([one.drop() for one in self._spare if one is not present])
            left = self._park_all(keep) or left
        left = self._park_others() or left
        if left:
            self._free_memory()
        return left

    def _park_all(self, keep: Collection[ControlNetwork]) -> bool:
        """Take all networks off the device but `keep`; whether any has left it now."""
        kept, left = {id(network) for network in keep}, False
        for network, resident in list(self._residents.items()):
            if id(network) in kept:
                continue
            if resident.uses:
                resident.is_unwanted = True
            else:
                left = resident.park() or left
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
