"""Control models load in a thread while preprocessors run.

One after the other, in the order in which they will be asked for: two files at a time are read no
faster from one disk, and the bounds of what is kept loaded hold as without it. What is loaded
already, or is known not to fit, is left to whoever asks for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import torch

if TYPE_CHECKING:
    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.unet import BaseUNet


THREAD: Final = "ControlNet loading"


class Models(Protocol):
    """Finds and loads control models."""

    def find_model(self, name: str) -> Path:
        """File of a model; raises ModelNotFoundError."""
        ...

    def remark(self, name: str) -> str | None:
        """What to say where the file found for a name is a guess."""
        ...

    def network(self, path: Path, base: BaseUNet) -> ControlNetwork:
        """Loaded model for a base; raises CheckpointError."""
        ...

    def can_wait(self, path: Path, base: BaseUNet) -> bool:
        """Whether a model is still to be loaded, and nothing is known that would prevent it."""
        ...


@dataclass(eq=False)
class _Load:
    """A model that the thread loads.

    Attributes:
        path: its file.
        is_over: the thread is done with it, or will not come to it.
        network: what came of it.
        error: the same.
    """

    path: Path
    is_over: threading.Event = field(default_factory=threading.Event)
    network: ControlNetwork | None = None
    error: Exception | None = None


class LoadingAhead:
    """Answers `Models` while a thread loads some of them; afterwards it is what it was given.

    Args:
        models: finds and loads them.
        base: the checkpoint that is loaded now.
    """

    def __init__(self, models: Models, base: BaseUNet) -> None:
        self._models = models
        self._base = base
        self._loads: dict[Path, _Load] = {}
        self._is_stopped = False
        self.find_model: Callable[[str], Path] = models.find_model
        self.remark: Callable[[str], str | None] = models.remark

    @contextmanager
    def begin(self, paths: Sequence[Path]) -> Iterator[None]:
        """Load these inside; the thread has ended when the context is left, whatever happens."""
        wanted = dict.fromkeys(path for path in paths if self._models.can_wait(path, self._base))
        self._loads = {path: _Load(path) for path in wanted}
        if not self._loads:
            yield
            return
        loads = list(self._loads.values())
        thread = threading.Thread(target=self._run, args=(loads,), name=THREAD, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._is_stopped = True
            thread.join()
            self._loads = {}

    def _run(self, loads: Sequence[_Load]) -> None:
        try:
            with torch.no_grad():  # each thread has its own say on this
                for load in loads:
                    if self._is_stopped:
                        return
                    load.network = self._models.network(load.path, self._base)
                    load.is_over.set()
        except Exception as error:  # the boundary of the thread: raised where it is asked for
            load.error = error
        finally:
            for load in loads:
                load.is_over.set()

    def can_wait(self, path: Path, base: BaseUNet) -> bool:
        """Whether the thread loads it, so that it is to be asked for as late as possible."""
        return base is self._base and path in self._loads

    def network(self, path: Path, base: BaseUNet) -> ControlNetwork:
        """The model, for which the thread is waited for; see `Models.network`.

        Raises:
            CheckpointError: as where it is loaded here.
        """
        load = self._loads.pop(path, None) if base is self._base else None
        if load is not None:
            load.is_over.wait()
            if load.error is not None:
                raise load.error
            if load.network is not None:
                return load.network
        return self._models.network(path, base)
