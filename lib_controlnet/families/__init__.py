"""Every way of steering a U-Net: one file per family, found by its place in this package."""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from lib_controlnet.engine.network import ControlNetwork
from lib_controlnet.engine.unet import BaseUNet
from lib_controlnet.errors import (
    AmbiguousCheckpointError,
    BrokenCheckpointError,
    CheckpointError,
    ControlNetError,
    WrongBaseModelError,
    is_out_of_memory,
    lacks_memory,
    quote,
)
from lib_controlnet.families.base import ControlFamily, FileFacts
from lib_controlnet.files.bases import base_of, describe_misfit
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.files.containers import has_header
from lib_controlnet.units.weight_types import LayerCurve, Parts

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from lib_controlnet.files.checkpoint import Checkpoint

log = logging.getLogger(__name__)


@cache
def discover() -> tuple[ControlFamily, ...]:
    """Import every module of this package and make one object of each family in it."""
    families = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for _name, value in inspect.getmembers(module, inspect.isclass):
            own = value.__module__ == module.__name__
            if own and issubclass(value, ControlFamily) and not inspect.isabstract(value):
                families.append(value())
    return tuple(families)


def identify(ckpt: Checkpoint) -> ControlFamily:
    """The one family that a file belongs to.

    Raises:
        CheckpointError: no family loads it; the sentence says what the file seems to be.
        AmbiguousCheckpointError: two families claim it.
    """
    families = [family for family in discover() if family.matches(ckpt)]
    if len(families) == 1:
        return families[0]
    if families:
        names = " and ".join(family.name for family in families)
        msg = f"{ckpt.path.name} is claimed by {names}; please report this file"
        raise AmbiguousCheckpointError(msg)
    kind = ckpt.kind
    if kind is not None:
        msg = f"{ckpt.path.name} is {kind.title}, not a ControlNet: {kind.advice}"
        raise CheckpointError(msg)
    some = ", ".join(quote(key)[1:-1] for key in sorted(ckpt.keys)[:3]) or "none"
    msg = (
        f"{ckpt.path.name} is no control model of a known kind: it holds {len(ckpt.keys)} tensors "
        f"(first names: {some})"
    )
    raise CheckpointError(msg)


@dataclass(frozen=True, eq=False)
class FilelessModel:
    """The model of a family that needs no file, see `engine.prepared.ModelReference`."""

    family: ControlFamily
    preprocessor: str

    def network(self, base: BaseUNet) -> ControlNetwork:
        """The family's network for a base."""
        return self.family.make(base, self.preprocessor)


def find_fileless(preprocessor: str) -> FilelessModel | None:
    """What steers by a preprocessor without a model's file; None where nothing does."""
    for family in discover():
        if preprocessor in family.preprocessors:
            return FilelessModel(family, preprocessor)
    return None


@dataclass(frozen=True)
class Refusal:
    """Why a file cannot control a checkpoint.

    Attributes:
        sentence: for the user.
        other_base: it could control another one; False for files that control none.
        reason: the same in a few words, for lists; "" where there are none.
    """

    sentence: str
    other_base: bool
    reason: str = ""

    @property
    def short(self) -> str:
        """What a list has room for."""
        return self.reason or self.sentence


def look_into(path: Path, base: BaseUNet | None) -> tuple[FileFacts, Refusal | None]:
    """What there is to know of a file before it is loaded, and why a checkpoint cannot use it.

    Args:
        path: the file.
        base: the checkpoint that it is to control; None: nothing is refused.

    Returns:
        Facts, or in them why nothing is known; and the refusal. That is None where nothing would
        refuse it, and for files of torch's first format, whose names cannot be read without all of
        their tensors.
    """
    try:
        size = path.stat().st_size
        if _hides_names(path):
            said = f"what {path.name} is, is told when it is loaded: all of it has to be read"
            return FileFacts(size=size, unread=said), None
        with _explain_failure(path):
            ckpt = open_checkpoint(path)
            family = identify(ckpt)
            facts = replace(_describe(family, ckpt), size=size)
            return facts, None if base is None else _refuse(family, ckpt, base, facts)
    except OSError as error:
        msg = f"control model {path.name} cannot be opened: {error.strerror or error}"
        return FileFacts(unread=msg), None  # it may be there when it is asked for
    except ControlNetError as error:
        refused = None if base is None else Refusal(str(error), other_base=False)
        is_lasting = isinstance(error, CheckpointError)  # not so a lack of memory
        return FileFacts(size=size if is_lasting else 0, unread=str(error)), refused


def _hides_names(path: Path) -> bool:
    """Whether it is of torch's first format, whose names cannot be read without all tensors.

    Raises:
        OSError: it cannot be opened.
    """
    if not path.is_file():  # nor looked at: a pipe would be read for ever
        return False
    with path.open("rb"):
        return not has_header(path)


def _describe(family: ControlFamily, ckpt: Checkpoint) -> FileFacts:
    kind = ckpt.kind
    base = None if kind is None else base_of(kind.key, ckpt.shapes)
    facts, reads = family.describe(ckpt), family.preprocessor_for(ckpt)
    facts = replace(facts, precision=ckpt.precision)
    return replace(_facts_of(family, facts), base=base, preprocessor=reads)


def _refuse(
    family: ControlFamily, ckpt: Checkpoint, base: BaseUNet, facts: FileFacts
) -> Refusal | None:
    try:
        with _explain_failure(ckpt.path):
            family.check(ckpt, base)
    except ControlNetError as error:
        is_other = isinstance(error, WrongBaseModelError)
        tells = facts.base if is_other else None
        reason = "" if tells is None else describe_misfit(tells, base.shape.kind)
        return Refusal(str(error), is_other, reason)
    return None


def describe_fileless(preprocessor: str) -> FileFacts:
    """The same of what steers by a preprocessor without a model's file."""
    found = find_fileless(preprocessor)
    return FileFacts() if found is None else _facts_of(found.family, FileFacts())


def _facts_of(family: ControlFamily, facts: FileFacts) -> FileFacts:
    says = family.networks
    return replace(facts, family=family.name, heeds=says.heeds, weight_types=says.weight_types)


@dataclass(frozen=True)
class Layers:
    """The layers of a control model, in the order of a unit's `advanced_weighting`.

    Attributes:
        parts: how many lie before, in and behind the middle block.
        shapes: weight types that mean something to it, with the share of each layer.
    """

    parts: Parts
    shapes: Mapping[str, tuple[float, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """One for each layer."""
        before, inside, behind = self.parts
        return (
            *(f"input {number}" for number in range(before)),
            *["middle"] * inside,
            *(f"output {number}" for number in range(behind)),
        )

    def describe(self) -> dict[str, object]:
        """Plain values for the page."""
        return {"parts": list(self.parts), "names": list(self.names), "shapes": dict(self.shapes)}


def describe_layers(facts: FileFacts, base: BaseUNet | None) -> Layers | None:
    """A model's layers on a checkpoint; None where one strength is for all, or nothing tells."""
    family = next((one for one in discover() if one.name == facts.family), None)
    parts = (0, 0, 0) if family is None or base is None else family.networks.parts_of(base)
    if family is None or not any(parts):
        return None
    shapes = {}
    for kind in family.networks.weight_types:
        with suppress(KeyError):
            shapes[str(kind)] = family.networks.spread(LayerCurve(kind), 1.0, parts)
    return Layers(parts, shapes)


def preprocessor_for(path: Path) -> str:
    """Name of the preprocessor whose embedding a file reads; "" where it reads none.

    Raises:
        CheckpointError: see `identify`.
    """
    with _explain_failure(path):
        ckpt = open_checkpoint(path)
        return identify(ckpt).preprocessor_for(ckpt)


def load_network(
    path: Path, base: BaseUNet, dtype: torch.dtype, device: torch.device | str
) -> ControlNetwork:
    """Open, identify and load a control model file.

    Raises:
        CheckpointError: the file or its base model does not fit; see `identify` and `load`.
        HostError: there is not enough memory.
    """
    with _explain_failure(path):
        ckpt = open_checkpoint(path)
        network = identify(ckpt).load(ckpt, base, dtype, device)
    log.info(
        "%s: %s for %s, %.0f MB%s",
        *(network.name, network.family, network.base, network.nbytes / 1e6),
        ", averaged over the picture" if network.cond_only else "",
    )
    return network


@contextmanager
def _explain_failure(path: Path) -> Iterator[None]:
    """Whatever else goes wrong in here becomes a sentence that names the file."""
    try:
        yield
    except ControlNetError:
        raise
    except Exception as error:  # a boundary: files hold anything, and so do other people's models
        if is_out_of_memory(error):
            raise lacks_memory(path.name) from error
        log.debug("loading %s failed", path, exc_info=True)
        said = quote(str(error))[1:-1] or "nothing more is known"
        msg = f"{path.name} could not be loaded ({type(error).__name__}: {said}); download it again"
        raise BrokenCheckpointError(msg) from error
