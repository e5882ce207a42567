"""What all generations of a running WebUI share: catalog, caches, and the preview path."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from modules import scripts

from lib_controlnet.detect.downloadable import find_order
from lib_controlnet.detect.preprocess import DetectionCache, networks, run_preprocessor
from lib_controlnet.detect.stopping import IsStopped, StoppedRuns
from lib_controlnet.engine.residency import Residency
from lib_controlnet.enums import BaseModel, LastUsed, Storage
from lib_controlnet.errors import ControlNetError, HostError, ModelNotFoundError
from lib_controlnet.families import FileFacts, Refusal, load_network
from lib_controlnet.families.known import PATIENCE, KnownFiles
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.files.containers import has_header
from lib_controlnet.files.downloads import MODEL, Downloads, Order
from lib_controlnet.files.hash_store import HashStore
from lib_controlnet.files.header_store import HeaderStore
from lib_controlnet.gate import Bounded
from lib_controlnet.host import annotators, pictures
from lib_controlnet.host.page.canvas import find_canvas
from lib_controlnet.limits import MAX_TURNS
from lib_controlnet.prepare.detection import detect_unit, follow_model
from lib_controlnet.prepare.inputs import DecodedFiles
from lib_controlnet.presets.store import Presets
from lib_controlnet.units.batch import MAX_CHECKED

if TYPE_CHECKING:
    import numpy as np

    from lib_controlnet.detect.preprocess import Detection
    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.session import ControlSession
    from lib_controlnet.engine.unet import BaseUNet
    from lib_controlnet.host.adapter import WebUIHost
    from lib_controlnet.prepare.inputs import ChosenPicture
    from lib_controlnet.units.batch import BatchSource
    from lib_controlnet.units.unit import ControlUnit

log = logging.getLogger(__name__)

RUNTIME_ATTRIBUTE: Final = "controlnet_runtime"

CACHE_BYTES: Final = 16 * 2**30
"""Upper bound of the weights kept in memory, whatever the number of models."""


class Runtime:
    """Created by the script, for its host, when it is loaded, closed when it is unloaded.

    Attributes:
        sampling: the session whose pass is being sampled; the host samples one at a time.
        guarded: the session whose generation is being sampled, between its passes as well.
    """

    def __init__(self, host: WebUIHost) -> None:
        self.host = host
        folder = self.host.cache_folder()
        self.hashes = HashStore(folder / "controlnet-hashes.json")
        self.headers = HeaderStore(folder / "controlnet-headers.json")
        self.known = KnownFiles(folder / "controlnet-models.json")
        self.catalog = self._scan()
        self.residency = self.host.residency = Residency(
            self.cache_size(), CACHE_BYTES, [annotators.park], self.host.free_memory
        )
        annotators.set_up(self.host)
        self.sampling: ControlSession | None = None
        self.guarded: ControlSession | None = None
        self._turns = threading.BoundedSemaphore(MAX_TURNS)
        self._batch: weakref.ref[object] | None = None
        count = self.host.flag("controlnet_preprocessor_cache_size")
        known = (count,) if isinstance(count, int) else ()
        self.stopped_previews = StoppedRuns()
        self.detections, self.decoded = DetectionCache(*known), DecodedFiles(*known)
        self._checked: Bounded[tuple, None] = Bounded(MAX_CHECKED)
        self.downloads = Downloads(
            options=lambda: annotators.download_options(self.host),
            find=lambda name: find_order(name, self.catalog.folders),
            tell=self._list_downloaded,
            file=folder / "controlnet-downloads.json",
        )
        self.presets = Presets(self.host.presets_folder, self.host.old_presets_folders)

    def option(self, key: str) -> Any:
        """A setting's present value, of the type that it has to have."""
        return self.host.option(key)

    @property
    def batch(self) -> Any:
        """The batch that is being run; generations inside it belong to its present turn.

        Its processing object alone keeps it.
        """
        return None if self._batch is None else self._batch()

    @batch.setter
    def batch(self, run: object | None) -> None:
        self._batch = None if run is None else weakref.ref(run)

    def unit_count(self) -> int:
        """Slots in the panel and in the API."""
        return self.option("control_net_unit_count")

    def cache_size(self) -> int:
        """Control models kept loaded."""
        return self.option("control_net_model_cache_size")

    def storage(self) -> Storage:
        """When control models are stored in 8 bits."""
        return Storage.parse(self.option("controlnet_store_8_bit"))

    def base(self) -> BaseUNet | None:
        """The loaded checkpoint's U-Net; never loads one."""
        return self.host.base()

    def refusals(self) -> Callable[[Path], Refusal | None]:
        """Tells for a control model's file why the loaded checkpoint cannot use it, None if it can.

        Without a checkpoint, or with one that takes no controls at all, nothing is refused.
        """
        return self.known.refusals(self.find_base())

    def look_into(self, paths: Iterable[Path], patience: float = PATIENCE) -> frozenset[Path]:
        """See `KnownFiles.look_ahead`, for the loaded checkpoint."""
        return self.known.look_ahead(paths, self.find_base(), patience)

    def find_base(self) -> BaseUNet | None:
        """The loaded checkpoint; None without one that takes controls."""
        try:
            return self.base()
        except ControlNetError:
            return None

    def checkpoint_name(self) -> str:
        """Name of the loaded checkpoint; "" without one that takes controls."""
        base = self.find_base()
        return "" if base is None else base.name

    def base_kind(self) -> BaseModel | None:
        """Which base the loaded checkpoint is; None without one that takes controls."""
        base = self.find_base()
        return None if base is None else base.shape.kind

    def facts(self, path: Path) -> FileFacts:
        """What there is to know of a control model's file before it is loaded."""
        return self.known.facts(path)

    def canvas(self) -> Callable[..., Any] | None:
        """What makes the host's own canvas for drawing on pictures, None where it has none."""
        return find_canvas()

    def has_queue(self) -> bool:
        """Whether the page's events go through gradio's queue, which carries progress."""
        return not self.host.flag("no_gradio_queue")

    def read_saved_default(self, key: str) -> str | None:
        """A text among the user's saved defaults of the page, None without one."""
        return self.host.read_saved_default(key)

    def refresh_models(self) -> list[str]:
        """Scan the model folders again and return the names."""
        self.catalog = self._scan()
        self.known.forget()
        return self.catalog.names()

    def _list_downloaded(self, order: Order) -> None:
        if order.id.startswith(f"{MODEL}/"):
            self.refresh_models()

    def _scan(self) -> Catalog:
        return Catalog(
            self.host.model_folders(),
            sort_by=self.option("control_net_models_sort_models_by"),
            name_filter=self.option("control_net_models_name_filter"),
            hashes=self.hashes,
            headers=self.headers,
        )

    def find_model(self, name: str) -> Path:
        """File of a control model by its name in the panel, its stem, or a part of it.

        Scans the folders again before giving up: the file may be new.

        Raises:
            ModelNotFoundError: no such file; the message lists similar names and the folders.
        """
        try:
            return self.catalog.find(name)
        except ModelNotFoundError:
            self.refresh_models()
            return self.catalog.find(name)

    def remark(self, name: str) -> str | None:
        """What to say where the file that `find_model` takes is a guess.

        Raises:
            ModelNotFoundError: see `find_model`.
        """
        return self.catalog.remark(name)

    def network(self, path: Path, base: BaseUNet) -> ControlNetwork:
        """The loaded control model, from the cache if it is there.

        Raises:
            CheckpointError: the file is damaged, of an unknown family, or for another base.
        """
        self.residency.max_count = self.cache_size()
        # Some hosts sample in inference mode, whose tensors could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return self.residency.network(
                *(path, base, self.host.network_dtype, load_network),
                *(self.storage(), self.host.device),
            )

    def can_wait(self, path: Path, base: BaseUNet) -> bool:
        """See `prepare.ahead.Models`.

        Not where the memory that is free decides how a model is stored, which a preprocessor may
        take meanwhile; nor what tells nothing before all of it is read.
        """
        if self.storage() is Storage.SHORT or not has_header(path):
            return False
        if self.known.refusals(base)(path) is not None:
            return False
        return self._find_loaded(path, base) is None

    def _find_loaded(self, path: Path, base: BaseUNet) -> ControlNetwork | None:
        dtype, storage = self.host.network_dtype, self.storage()
        return self.residency.find_loaded(path, base, dtype, storage)

    def find_loaded(self, names: Iterable[str], base: BaseUNet | None) -> list[ControlNetwork]:
        """Those of these control models that need not be loaded; hold them, and they stay so."""
        if base is None:
            return []
        found = []
        for name in names:
            with suppress(ModelNotFoundError):  # told where it is asked for
                found.append(self._find_loaded(self.catalog.find(name), base))
        return [network for network in found if network is not None]

    def detect(
        self,
        module: str,
        image: np.ndarray,
        resolution: float = -1,
        a: float = -1,
        b: float = -1,
    ) -> Detection:
        """Run a preprocessor, through the cache. See `preprocess.run_preprocessor`.

        Waits, see `_waiting`.
        """
        with self._wait_for_turn(module) as cache:
            return run_preprocessor(module, image, resolution, (a, b), cache)

    def detect_unit(self, choice: ChosenPicture) -> Detection:
        """What a generation would make of a unit's picture. Waits, see `_waiting`."""
        choice = follow_model(choice, self)
        with self._wait_for_turn(choice.unit.module) as cache:
            return detect_unit(choice, pictures.source(self.host, self.decoded), cache).detection

    @contextmanager
    def _wait_for_turn(self, module: str) -> Iterator[DetectionCache]:
        """The cache of detections, for a preprocessor outside of generations.

        What is not in it waits: on the device of generations for its turn in the host's queue, else
        until few enough others are at work. So it must not be used in a generation.
        """
        turns = None if annotators.computes_on_gpu(module) else self._turns
        turn = annotators.take_turn(turns)
        with ExitStack() as stack:
            yield _WaitingCache(self.detections, lambda: stack.enter_context(turn))

    def report_to(
        self, listener: annotators.Listener | None, is_stopped: IsStopped = bool
    ) -> AbstractContextManager[None]:
        """What preprocessors in here wait for is told to somebody else than the host's bar."""
        return annotators.report_to(listener, is_stopped)

    def batch_source(self, p: Any = None) -> BatchSource:
        """Where the units of a generation may have several pictures from; None: the panel's."""
        source = pictures.batch_source(p, self.host)
        return replace(source, decoded=self.decoded, checked=self._checked)

    def remember(self, units: Sequence[ControlUnit]) -> None:
        """Keep the units of a generation of the page as the setting `controlnet_last_used` says."""
        kept = LastUsed.parse(self.option("controlnet_last_used"))
        if kept is LastUsed.AUTOMATIC:
            kept = LastUsed.NEVER if self.host.is_shared() else LastUsed.PICTURES
        if kept is not LastUsed.NEVER and any(unit.enabled and unit.is_ui for unit in units):
            self.presets.remember(units, kept is LastUsed.PICTURES)

    def close(self) -> None:
        """Give back all memory, and end what runs beside."""
        self.downloads.close()
        self.known.close()
        self.residency.clear()
        self.detections.clear()
        self.decoded.clear()
        networks.CACHE.clear()
        self.host.free_memory()


class _WaitingCache(DetectionCache):
    """Another cache, for somebody who has to wait before computing what is not there."""

    def __init__(self, cache: DetectionCache, wait: Callable[[], object]) -> None:
        self._cache = cache
        self.seen = cache.seen
        self._wait: Callable[[], object] | None = wait

    def get(self, key: tuple) -> Detection | None:
        found = self._cache.get(key)
        if found is not None or self._wait is None:
            return found
        self._wait()
        self._wait = None  # whose turn it is keeps it for all that is asked
        return self._cache.get(key)  # somebody may have made it meanwhile

    def put(self, key: tuple, value: Detection, least: int = 0) -> None:
        self._cache.put(key, value, least)


def find_runtime() -> Runtime | None:
    """The extension's shared objects, held by its script class; None before it is loaded.

    "Reload custom script bodies" executes the script again, but keeps the instances of the old
    class at work: the new one must share their objects.
    """
    for data in scripts.scripts_data:
        found = getattr(data.script_class, RUNTIME_ATTRIBUTE, None)
        if found is not None:
            return found
    return None


def runtime() -> Runtime:
    """The extension's shared objects.

    Raises:
        HostError: the extension's script has not been loaded (yet).
    """
    found = find_runtime()
    if found is not None:
        return found
    msg = "ControlNet is not loaded yet; ask again after the WebUI has started"
    raise HostError(msg)
