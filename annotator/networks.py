"""Networks of the preprocessors in memory: loaded once, bounded by count and by bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from .bounded import Bounded
from .store import STORE
from .weights import WeightFile, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

log = logging.getLogger(__name__)

Network = TypeVar("Network", bound="nn.Module")
Build = Callable[["dict[str, Any]"], Network]
"""Makes a network of what a file holds, tensors or dicts of them, strictly; raises KeyError or
RuntimeError where they do not fit."""
Opened = TypeVar("Opened")

MAX_COUNT: Final = 6
MAX_BYTES: Final = 4 << 30


@dataclass(frozen=True)
class Place:
    """Where networks run and in which precision.

    Attributes:
        device: as PyTorch calls it.
        half: whether networks that can do so compute in half precision.
        onnx: name of what runs ONNX files, "" for the best that is there.
    """

    device: str = "cpu"
    half: bool = False
    onnx: str = ""


class Resident(Protocol):
    """What moves one network between its device and the CPU."""

    def place(self, device: torch.device) -> None:
        """Have it compute on a device."""

    def park(self) -> bool:
        """Take it off the device; whether that freed any memory of it."""


class Moved:
    """A network that is moved as a whole."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def place(self, device: torch.device) -> None:
        """Move it to a device."""
        self.network.to(device)

    def park(self) -> bool:
        """Move it to the CPU."""
        self.network.to("cpu")
        return True


@dataclass(frozen=True)
class _Entry:
    """What a file holds, opened; and what moves it, where it is a network of torch."""

    opened: Any
    resident: Resident | None


class NetworkCache(Bounded[tuple, _Entry]):
    """Networks in use and used lately. Safe to use from several threads, one at a time.

    A network beyond `max_bytes` is only kept while it is used. The memory of opened files is taken
    to be the files' size.

    Attributes:
        place: where they run, unless `choose_place` says otherwise.
        choose_place: asked before each use; the host sets it.
        make_resident: what moves a network; who knows a better way sets it.
        make_room: asked for once where memory has run out, says whether it freed any; the host sets
            it.
        is_out_of_memory: tells lack of memory from other errors; who knows more sets it.
        check_file: asked before a file is opened; raises ValueError for one that would take more
            memory than it has bytes.
    """

    def __init__(self, max_count: int = MAX_COUNT, max_bytes: int = MAX_BYTES) -> None:
        super().__init__(max_count, max_bytes, _measure)
        self.place = Place()
        self.choose_place: Callable[[], Place] | None = None
        self.make_resident: Callable[[nn.Module], Resident] = Moved
        self.make_room: Callable[[], bool] = bool
        self.is_out_of_memory: Callable[[BaseException], bool] = _is_out_of_memory
        self.check_file: Callable[[Path], None] = lambda _path: None

    @contextmanager
    def lend(
        self, weight: WeightFile, build: Build[Network], *, half: bool = True
    ) -> Iterator[Network]:
        """A network in eval mode on the device it shall run on, without gradients.

        Args:
            weight: its file, downloaded if it is not there.
            build: makes the module of the file's tensors.
            half: whether it can compute in half precision.

        Raises:
            WeightsError: the file is missing, damaged, or holds something else; or the device
                has too little memory.
        """
        import torch

        def load(path: Path, place: Place) -> Network:
            # Layers draw initial values when they are made; the user's random numbers stay.
            with torch.random.fork_rng(devices=[]):
                network = build(read_tensors(path))
            dtype = torch.float16 if place.half and half else torch.float32
            return network.eval().requires_grad_(False).to(dtype)

        with self._lend(weight, load, build) as network:
            yield network

    @contextmanager
    def lend_opened(
        self, weight: WeightFile, open_file: Callable[[Path, Place], Opened]
    ) -> Iterator[Opened]:
        """The same for files that are more than tensors: ONNX, TorchScript, task bundles.

        Args:
            weight: the file.
            open_file: opens it at its path for a place.

        Raises:
            WeightsError: the file is missing or damaged.
        """
        with self._lend(weight, open_file, open_file) as opened:
            yield opened

    @contextmanager
    def _lend(
        self, weight: WeightFile, load: Callable[[Path, Place], Any], maker: Callable[..., Any]
    ) -> Iterator[Any]:
        import torch

        path = STORE.fetch(weight)
        state = path.stat()
        with self._lock:
            place = self.present_place
            name = f"{maker.__module__}.{maker.__qualname__}"
            key = (path, state.st_size, state.st_mtime_ns, name, place)
            try:
                found = self._prepare(key, lambda: self._load_entry(path, weight, place, load))
                with torch.no_grad(), _full_precision(place):
                    yield found
            except BaseException as error:
                # Whatever state it is in, the next call begins with a fresh one.
                self.drop(lambda other: other == key)
                if self.is_out_of_memory(error):
                    self.clear()
                    msg = (
                        f"{place.device} has not enough memory for {weight.name}; close other "
                        "programs, choose a lower resolution, or start the WebUI with "
                        "`--use-cpu controlnet`"
                    )
                    raise WeightsError(msg) from error
                raise
            finally:
                self.shrink()

    def _load_entry(
        self,
        path: Path,
        weight: WeightFile,
        place: Place,
        load: Callable[[Path, Place], Any],
    ) -> Any:
        """What a file holds, ready to use."""
        try:
            self.check_file(path)
            return load(path, place)
        except Exception as error:  # files hold anything, and each format has its own errors
            if isinstance(error, WeightsError) or self.is_out_of_memory(error):
                raise
            msg = f"{path} is damaged or no {weight.name}: {reason(error)}"
            raise WeightsError(msg) from error

    def _prepare(self, key: tuple, load: Callable[[], Any]) -> Any:
        """What an entry holds, on its device, made if it is not there."""
        import torch

        found = self.get(key)
        if found is None:
            # The file has been replaced, or another place is chosen.
            self.drop(lambda other: (other[0], other[3]) == (key[0], key[3]))
            opened = load()
            found = _Entry(opened, self._resident(opened))
            self.put(key, found, least=1)
        if found.resident is not None:
            found.resident.place(torch.device(key[-1].device))
        return found.opened

    def _resident(self, opened: Any) -> Resident | None:
        import torch

        if not isinstance(opened, torch.nn.Module):
            return None
        # The code inside a script keeps its own hold of the weights.
        is_script = isinstance(opened, torch.jit.ScriptModule)
        return Moved(opened) if is_script else self.make_resident(opened)

    @property
    def present_place(self) -> Place:
        """Where the next network is to run."""
        return self.choose_place() if self.choose_place else self.place

    def park(self) -> bool:
        """Take all networks off the device, which something else needs now; whether any was."""
        with self._lock:
            residents = [entry.resident for entry in self.values()]
            return any([one.park() for one in residents if one is not None])


def _measure(key: tuple, entry: _Entry) -> int:
    return key[1] if entry.resident is None else _nbytes(entry.opened)


def reason(error: BaseException) -> str:
    """What a reader says first, cut; torch goes on with advice to run the code of the file."""
    first = str(error).strip().partition("\n")[0].partition("Re-running ")[0]
    return first[:200].strip() or type(error).__name__


def read_tensors(path: Path) -> dict[str, Any]:
    """What a safetensors file or a pickle holds, read without running any code of it.

    Files under another name than their kind's are common: an address of the user's may give one.

    Raises:
        WeightsError: the WebUI refuses the file.
    """
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"  # behind the length of the header
    if is_safetensors:
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    # The host's loader returns nothing where it refuses a file, which it does with all that a
    # recent torch has written. Torch's own decides then, from the version on whose tensors-only
    # mode has no known hole (CVE-2025-32434).
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if state is None and version >= (2, 6):
        state = torch.serialization.load(path, map_location="cpu", weights_only=True)
        log.info(
            "%s was refused by the WebUI's loader; torch's own, of tensors only, took it", path
        )
    if state is None:
        msg = f"{path} is no plain file of tensors, so the WebUI refused to load it"
        raise WeightsError(msg)
    return state


def place_of(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and dtype that a network's input must have."""
    parameter = next(network.parameters())
    return parameter.device, parameter.dtype


def _full_precision(place: Place) -> AbstractContextManager[Any]:
    """Nothing chooses another precision for a network than its own."""
    import torch

    kind = torch.device(place.device).type
    return torch.autocast(kind, enabled=False) if kind in ("cpu", "cuda") else nullcontext()


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))


def _nbytes(network: nn.Module) -> int:
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


CACHE = NetworkCache()
lend = CACHE.lend
lend_opened = CACHE.lend_opened
