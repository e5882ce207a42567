"""What a preprocessor declares, and the list of those that exist.

Adding one means adding one file to this folder: a subclass of `Detector` under `@register`.
Whatever the rest of the extension does with a preprocessor (its sliders, how the picture is
resized before it runs, whether it needs a mask, what follows during sampling) is read from these
declarations, never from its name.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

import numpy as np

from .embedding import Embedding
from .palettes import Palette
from .store import STORE
from .weights import WeightFile

log = logging.getLogger(__name__)

_MACHINERY = frozenset(
    {
        *("registry", "weights", "download", "store", "networks", "palettes", "pose_drawing"),
        "embedding",
    }
)


@dataclass(frozen=True)
class Slider:
    """One number a user may set; values outside the range stand for the default."""

    label: str
    minimum: float
    maximum: float
    default: float
    step: float = 1
    visible: bool = True

    def settle(self, value: float | None, where: str = "") -> float:
        """The value itself if it is in range, else the default.

        Args:
            value: what the caller sent; None, NaN and numbers out of range give the default.
            where: "preprocessor.field" for the log line, which is left out for -1, the number
                clients send when they mean "default", and for sliders nobody sees.
        """
        if value is not None and math.isfinite(value) and self.minimum <= value <= self.maximum:
            return value
        if self.visible and value is not None and value != -1:
            name = where or self.label
            log.info("[%s] Invalid value(%s), using default value %s.", name, value, self.default)
        return self.default


RESOLUTION = Slider("Resolution", 64, 2048, 512, 8)
# What a slider that is not there reads as; clients store these numbers in infotext.
HIDDEN = Slider("", 0, 1, 0.5, 0.01, visible=False)


class Frame(str, Enum):
    """How the picture is brought to the detector."""

    AS_GIVEN = "as given"  # untouched; the resolution is not used
    RESIZED = "resized"  # short side brought to the resolution
    PADDED = "padded"  # the same, then padded to multiples of 64; the result is cropped back
    AREA = "area"  # short side brought to the resolution by area averaging, no padding
    OWN = "own"  # untouched; `detect` takes the keyword `resolution` and does the rest itself


class Output(str, Enum):
    """What the detector returns."""

    MAP = "map"  # uint8 RGB
    MASKED = "masked"  # uint8 RGB and the mask as a fourth channel
    EMBEDDING = "embedding"  # `Detected.embedding`; the picture shows what was looked at


class MaskUse(str, Enum):
    """What the detector does with a mask."""

    IGNORED = "ignored"
    ACCEPTED = "accepted"
    REQUIRED = "required"


class Effect(str, Enum):
    """What follows a map during sampling or after decoding, beside the control itself."""

    NONE = ""
    INPAINT_ONLY = "inpaint_only"  # what is not masked stays as it was
    TILE_COLORFIX = "tile_colorfix"  # sampling holds the colours of the map
    RECOLOR_LUMINANCE = "recolor_luminance"  # the result gets the map as lightness L of CIELAB
    RECOLOR_INTENSITY = "recolor_intensity"  # the result gets the map as value V of HSV


class Detected(NamedTuple):
    """A map with what was found beside it.

    Attributes:
        image: what `detect` returns otherwise.
        pose: the figures as JSON (interface of OpenPose), None where there is no such thing.
        embedding: what steers, where it is not the map.
        notes: what to tell the user of this picture, each completing "unit 0: ".
    """

    image: np.ndarray
    pose: dict[str, Any] | None = None
    embedding: Embedding | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Requirement:
    """A Python package that only some preprocessors need, never installed by itself.

    Attributes:
        module: what is imported, "onnxruntime".
        install: what `pip install` is given, with the version it was tried with.
        note: further words for the user, a sentence or "".
    """

    module: str
    install: str = ""
    note: str = ""

    @property
    def hint(self) -> str:
        """How to get it."""
        words = (self.install or self.module).split()  # a shell takes a bare > for itself
        quoted = (f'"{word}"' if {"<", ">"} & set(word) else word for word in words)
        line = f"`pip install {' '.join(quoted)}` in the WebUI's environment"
        return f"{line}, then restart the WebUI" + (f". {self.note}" if self.note else "")

    def explain(self) -> str | None:
        """Why it cannot be used, as a sentence; None if it is there. Imports nothing."""
        fault = _BROKEN.get(self.module)
        if fault is not None:
            return f"the Python package {self.module} cannot be used ({fault}); {self.hint}"
        there = sys.modules.get(self.module) or importlib.util.find_spec(self.module)
        return None if there else f"it needs the Python package {self.module}; {self.hint}"

    def load(self) -> Any:
        """The imported module.

        Raises:
            RequirementError: it is missing, or fails when it is imported; remembered, so that
                the preprocessor is marked from then on.
        """
        if (reason := self.explain()) is not None:
            raise RequirementError(reason)
        try:
            return importlib.import_module(self.module)
        except Exception as error:  # a foreign package: OSError of a library, anything
            _BROKEN[self.module] = f"{type(error).__name__}: {error}"[:300]
            raise RequirementError(str(self.explain())) from error


class RequirementError(RuntimeError):
    """A package that a preprocessor needs is missing or broken; the text says what to do."""


class NothingFoundError(RuntimeError):
    """The picture does not show what a preprocessor cannot do without; the text says what."""


_BROKEN: dict[str, str] = {}


class Detector:
    """One preprocessor. Subclasses set the fields that differ and define `detect`.

    Fields:
        name: id used by the API and infotext. label: text in the panel. aliases: further
            spellings that find it.
        tags: control types that list it; the first is the one it was made for.
        priority: the highest of a control type comes first.
        sliders: at most three, in the order of `detect`'s arguments.
        resolution: the slider for the short side, None if the user cannot set it.
        fixed_resolution: the short side when there is no slider but the picture is resized.
        frame, output, mask, effect: see the enums.
        needs_model: False where the control works without a model file ("model_free").
        control_mode: whether the panel offers the control mode.
        identity: returns the picture as it came.
        seeded: `detect` takes the keyword `rng`, an explicit generator.
        soft_in_hires: the control fades in the hires pass (thin binary lines would be burnt in).
        held_as: name of the preprocessor that takes its place where the host itself keeps what is
            not masked, "" for none.
        masked: value of masked pixels in the hint; None leaves it to the model, which knows best.
        fills: paints the masked part itself. "Resize and Fill" comes before it, so that it paints
            the border, and sampling starts from its picture under full noise.
        sized: `detect` takes the keyword `kept`, (height, width) of the part of a padded picture
            that stays, from its top left corner; for results with coordinates.
        weights: files it needs, downloaded when it first runs.
        larger: files that stand for the first of `weights` where the user has put one of them;
            never downloaded unasked.
        listed: offered to users; helpers that only other preprocessors call are not.
        several: several pictures of a unit act together as one, each with an embedding of its own.
        follows_model: the preprocessor that the control model asks for takes its place.
        partner: family of models whose tokens a network that follows this map reads in the place
            of the text, "" where it reads the text.
        palette: classes and colours of its maps, None where colours are no classes.
        requires: Python packages that it cannot run without.
        unavailable: why it cannot run here, as a sentence, None if it can. Follows from
            `requires`; a preprocessor that can never run sets it.
    """

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    tags: ClassVar[tuple[str, ...]] = ()
    priority: ClassVar[int] = 0
    sliders: ClassVar[tuple[Slider, ...]] = ()
    resolution: ClassVar[Slider | None] = RESOLUTION
    fixed_resolution: ClassVar[int] = 512
    frame: ClassVar[Frame] = Frame.PADDED
    output: ClassVar[Output] = Output.MAP
    mask: ClassVar[MaskUse] = MaskUse.IGNORED
    needs_model: ClassVar[bool] = True
    control_mode: ClassVar[bool] = True
    identity: ClassVar[bool] = False
    seeded: ClassVar[bool] = False
    soft_in_hires: ClassVar[bool] = False
    effect: ClassVar[Effect] = Effect.NONE
    held_as: ClassVar[str] = ""
    masked: ClassVar[float | None] = None
    fills: ClassVar[bool] = False
    sized: ClassVar[bool] = False
    weights: ClassVar[tuple[WeightFile, ...]] = ()
    larger: ClassVar[tuple[WeightFile, ...]] = ()
    listed: ClassVar[bool] = True
    several: ClassVar[bool] = False
    follows_model: ClassVar[bool] = False
    partner: ClassVar[str] = ""
    palette: ClassVar[Palette | None] = None
    requires: ClassVar[tuple[Requirement, ...]] = ()

    @property
    def unavailable(self) -> str | None:
        return next(filter(None, (package.explain() for package in self.requires)), None)

    @property
    def title(self) -> str:
        return self.label or self.name

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """Every weight file that it may use."""
        return (*self.weights, *self.larger)

    def find_missing_files(self) -> tuple[WeightFile, ...]:
        """The files that its next run downloads."""
        if any(map(STORE.locate, self.larger)):
            return tuple(weight for weight in self.weights[1:] if not STORE.locate(weight))
        return tuple(weight for weight in self.weights if not STORE.locate(weight))

    @property
    def is_as_given(self) -> bool:
        """Whether the picture's own size is worked at, so that a resolution has no effect."""
        return self.frame is Frame.AS_GIVEN

    @property
    def uses_mask(self) -> bool:
        return self.mask is not MaskUse.IGNORED

    @property
    def needs_mask(self) -> bool:
        return self.mask is MaskUse.REQUIRED

    @property
    def gives_picture(self) -> bool:
        return self.output is not Output.EMBEDDING

    @property
    def sort_key(self) -> str:
        """Lists are in descending order of this text, "none" before all of them."""
        return f"{self.priority:08d}{self.title}"

    def knows(self, image: np.ndarray) -> bool:
        """Whether a ready-made map, uint8 (H, W, 3 or 4), must be one of this preprocessor's."""
        del image
        return False

    def detect(self, image: np.ndarray, *values: Any, **named: Any) -> np.ndarray | Detected:
        """Turn a picture into a control map. Subclasses name the arguments that they declare.

        Args:
            image: uint8 (H, W, 3), or (H, W, 4) with the mask last if `mask` says so; not to be
                modified.
            values: one number per slider, in range.
            named: `rng`, `kept` and `resolution`, as declared.

        Returns:
            uint8 (H, W), (H, W, 3) or (H, W, 4), or that in a `Detected`; with an embedding if
            `output` says so.

        Raises:
            WeightsError: a weight file is missing or damaged.
            RequirementError: a package is missing or broken.
            NothingFoundError: the picture has nothing to make a map of.
        """
        raise NotImplementedError

    @property
    def takes_many(self) -> bool:
        """Whether several pictures at once are less work than one after the other."""
        return type(self).detect_many is not Detector.detect_many

    def detect_many(
        self, images: Sequence[np.ndarray], *values: Any, **named: Any
    ) -> list[np.ndarray | Detected]:
        """Turn pictures of one size into what `detect` makes of each of them.

        Args:
            images: as `detect` takes them, at least one.
            values, named: as for `detect`, the same for all.

        Raises:
            Exception: whatever `detect` raises, about any of them.
        """
        return [self.detect(image, *values, **named) for image in images]

    def display(self, detection: np.ndarray) -> np.ndarray:
        """The picture shown to the user for a detection."""
        return detection


class NetworkDetector(Detector):
    """One whose network takes several pictures at once. Subclasses define `see` and `draw`."""

    def see(self, images: Sequence[np.ndarray], *values: Any, **named: Any) -> Iterable[Any]:
        """What the network says of pictures of one size, one answer for each of them."""
        raise NotImplementedError

    def draw(
        self, seen: Any, image: np.ndarray, *values: Any, **named: Any
    ) -> np.ndarray | Detected:
        """The map of one answer; the rest as for `detect`."""
        raise NotImplementedError

    def detect(self, image: np.ndarray, *values: Any, **named: Any) -> np.ndarray | Detected:
        return self.detect_many([image], *values, **named)[0]

    def detect_many(
        self, images: Sequence[np.ndarray], *values: Any, **named: Any
    ) -> list[np.ndarray | Detected]:
        every = zip(self.see(images, *values, **named), images, strict=True)
        return [self.draw(seen, image, *values, **named) for seen, image in every]


_ENUMS: Final = {"frame": Frame, "output": Output, "mask": MaskUse, "effect": Effect}


class Registry:
    """Detectors by name, and the files that could not be imported."""

    def __init__(self) -> None:
        self._detectors: dict[str, Detector] = {}
        self.broken: dict[str, str] = {}

    def add(self, detector: Detector) -> None:
        """List a detector. One of the same class path is replaced, so reloading is harmless.

        Raises:
            ValueError: no name, too many sliders, a word where an enum's member belongs, or the
                name or label belongs to another one.
        """
        if not detector.name or len(detector.sliders) > 3:
            msg = f"{type(detector).__name__} needs a name and at most three sliders"
            raise ValueError(msg)
        for field, kind in _ENUMS.items():
            if not isinstance(value := getattr(detector, field), kind):
                msg = f"{type(detector).__name__}.{field} is {value!r}, must be a {kind.__name__}"
                raise ValueError(msg)
        spellings = {detector.name, detector.title, *detector.aliases}
        for other in self._detectors.values():
            shared = spellings & {other.name, other.title, *other.aliases}
            if shared and _class_path(other) != _class_path(detector):
                msg = f"two preprocessors are called {shared.pop()!r}: {other!r} and {detector!r}"
                raise ValueError(msg)
        self._detectors[detector.name] = detector

    def remove(self, name: str) -> None:
        self._detectors.pop(name, None)

    def all(self) -> list[Detector]:
        """Every detector, "none" first, then by falling priority and label."""
        ordered = sorted(self._detectors.values(), key=lambda d: d.sort_key, reverse=True)
        return sorted(ordered, key=lambda d: d.name != "none")

    def get(self, text: str | None) -> Detector | None:
        """The detector of that label, name or alias; any letter case if nothing fits exactly.

        None and "" stand for "none".
        """
        wanted = (text or "none").strip() or "none"
        for fold in (str, str.casefold):
            for spelling in (
                lambda d: (d.title,),
                lambda d: (d.name,),
                lambda d: d.aliases,
            ):
                for detector in self._detectors.values():
                    if fold(wanted) in map(fold, spelling(detector)):
                        return detector
        return None

    def discover(self, package: str, folders: Iterable[str]) -> None:
        """Import every file of a package; one that fails is noted in `broken`, the others load.

        Args:
            package: dotted name of the package.
            folders: its `__path__`.
        """
        for info in pkgutil.iter_modules(list(folders)):
            if info.ispkg or info.name in _MACHINERY or info.name.startswith("_"):
                continue
            try:
                importlib.import_module(f"{package}.{info.name}")
            except Exception as error:  # any file, any fault: the others must still load
                reason = f"{type(error).__name__}: {error}"
                self.broken[info.name] = reason
                log.warning("preprocessor file %s.py cannot be loaded: %s", info.name, reason)
            else:
                self.broken.pop(info.name, None)


def _class_path(detector: Detector) -> tuple[str, str]:
    cls = type(detector)
    return cls.__module__, cls.__qualname__


REGISTRY = Registry()

DetectorClass = TypeVar("DetectorClass", bound=type[Detector])


def register(cls: DetectorClass) -> DetectorClass:
    """Class decorator: list one instance of a detector."""
    REGISTRY.add(cls())
    return cls


def discover() -> Registry:
    """Import every preprocessor of this folder and return the registry."""
    package = __name__.rpartition(".")[0]
    REGISTRY.discover(package, [str(Path(__file__).parent)])
    return REGISTRY
