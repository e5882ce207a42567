"""Preprocessors as other extensions see them: to use ours, and to add their own.

`Preprocessor` is the class that companion extensions derive from. What is registered here becomes
a `Detector` of the one registry that the panel, the routes and the engine read.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np

from lib_controlnet.detect import listing, preprocess
from lib_controlnet.errors import PreprocessorUnavailableError
from lib_controlnet.gate import Bounded

log = logging.getLogger(__name__)

KEPT_RESULTS: Final = 16
NO_PICTURE: Final = "it gives no picture, and no control here takes what it gives"

_declarations: Any = preprocess.declarations


@dataclass
class PreprocessorParameter:
    """One slider; an invisible one is not shown and its default is passed on."""

    label: str = ""
    minimum: float = 0.0
    maximum: float = 1.0
    step: float = 0.01
    value: float = 0.5
    visible: bool = False

    @property
    def api_json(self) -> dict[str, Any]:
        """The slider as the HTTP routes describe it."""
        return {
            "name": self.label,
            "value": self.value,
            "min": self.minimum,
            "max": self.maximum,
            "step": self.step,
        }


def _resolution() -> PreprocessorParameter:
    return PreprocessorParameter("Resolution", 64, 2048, 8, 512, visible=True)


@dataclass(eq=False)
class Result:
    """What a preprocessor made of a picture.

    Attributes:
        value: uint8 (H, W), (H, W, 3) or (H, W, 4); anything where `returns_image` is False.
        display_images: pictures to show for it.
    """

    value: Any
    display_images: list[np.ndarray] = field(default_factory=list)


_Result: TypeAlias = Result  # the class below publishes the name too


@dataclass(eq=False)
class Preprocessor:
    """Base class of preprocessors that other extensions add; subclasses define `__call__`.

    Attributes:
        name: id in the API and in infotext.
        tags: control types that list it.
        slider_resolution: the short side to work at; passed to `__call__` as `resolution`.
        slider_1, slider_2, slider_3: further numbers.
        returns_image: False for embeddings.
        show_control_mode: whether the panel offers the control mode.
        do_not_need_model: the control works without a model file.
        sorting_priority: the highest of a control type comes first.
        requires_mask, accepts_mask: the picture comes with a mask as a fourth channel.
        preprocessor_deps: names of preprocessors that it calls.
    """

    name: str
    _label: str | None = None
    tags: list[str] = field(default_factory=list)
    slider_resolution: PreprocessorParameter = field(default_factory=_resolution)
    slider_1: PreprocessorParameter = field(default_factory=PreprocessorParameter)
    slider_2: PreprocessorParameter = field(default_factory=PreprocessorParameter)
    slider_3: PreprocessorParameter = field(default_factory=PreprocessorParameter)
    returns_image: bool = True
    show_control_mode: bool = True
    do_not_need_model: bool = False
    sorting_priority: int = 0
    requires_mask: bool = False
    accepts_mask: bool = False
    preprocessor_deps: list[str] = field(default_factory=list)
    model: Any = None

    all_processors: ClassVar[dict[str, Preprocessor]] = {}
    all_processors_by_name: ClassVar[dict[str, Preprocessor]] = {}
    Result: ClassVar[type[_Result]] = Result
    _results: ClassVar[Bounded[tuple[Any, ...], _Result]] = Bounded(KEPT_RESULTS)

    @property
    def label(self) -> str:
        """What the panel calls it."""
        return self._label or self.name

    def __call__(
        self,
        input_image: np.ndarray,
        resolution: int,
        slider_1: float | None = None,
        slider_2: float | None = None,
        slider_3: float | None = None,
        input_mask: np.ndarray | None = None,
        **kwargs: Any,
    ) -> Any:
        """Turn a picture into a control map.

        Args:
            input_image: uint8 (H, W, 3), or (H, W, 4) with the mask last if one is used.
            resolution: short side to work at.
            slider_1, slider_2, slider_3: the sliders' values.
            input_mask: uint8 (H, W), the same mask.
            kwargs: whatever a caller adds (`low_vram`, `model`, `json_pose_callback`).

        Returns:
            uint8 (H, W), (H, W, 3) or (H, W, 4), or a `Result`.
        """
        raise NotImplementedError

    def unload(self) -> bool:
        """Free memory that the preprocessor holds; whether there was any."""
        return False

    def cached_call(self, input_image: np.ndarray, *args: Any, **kwargs: Any) -> _Result:
        """Call it, or return what the same call gave before.

        A `json_pose_callback` makes the call run anew, since it is to be called.
        """
        pixels = np.ascontiguousarray(input_image)
        digest = hashlib.sha1(pixels.data, usedforsecurity=False).hexdigest()
        asked = repr((args, sorted(kwargs.items())))
        key = (self.name, id(type(self)), pixels.shape, digest, asked)
        wants_pose = kwargs.get("json_pose_callback") is not None
        found = None if wants_pose else self._results.get(key)
        if found is None:
            found = self._as_result(self(input_image, *args, **kwargs), input_image)
            self._results.put(key, found)
        return found

    def _as_result(self, value: Any, input_image: np.ndarray) -> _Result:
        if isinstance(value, Result):
            return value
        return Result(value, [value if self.returns_image else input_image])

    @staticmethod
    def add_supported_preprocessor(preprocessor: Preprocessor) -> None:
        """List a preprocessor in the panel, the routes and the API.

        Executing the same file again (Reload UI) replaces what it registered before.

        Raises:
            ValueError: the name or label is taken, or a declaration makes no sense.
        """
        detector = _Plugin(preprocessor)
        for spelling in (preprocessor.name, preprocessor.label):
            _refuse_taken(spelling, detector)
        before = preprocess.find(preprocessor.name)
        if isinstance(before, _Plugin):
            _forget(before)
        preprocess.registry.add(detector)
        _list(preprocessor)

    @classmethod
    def get_preprocessor(cls, name: str) -> Preprocessor | None:
        """The preprocessor of that name or label; None if there is none."""
        found = cls.all_processors_by_name.get(name) or cls.all_processors.get(name)
        if found is not None:
            return found
        detector = preprocess.find(name)
        return None if detector is None else cls.all_processors_by_name.get(detector.name)

    @classmethod
    def get_sorted_preprocessors(cls) -> list[Preprocessor]:
        """All of the panel, in its order."""
        return [cls.all_processors_by_name[d.name] for d in listing.detectors()]

    @classmethod
    def get_filtered_preprocessors(cls, tag: str) -> list[Preprocessor]:
        """Those of a control type, "none" first."""
        return [cls.all_processors[label] for label in listing.labels_for(tag)]

    @classmethod
    def get_default_preprocessor(cls, tag: str) -> Preprocessor:
        """The one a control type starts with."""
        return cls.all_processors[listing.default_module(tag)]

    @classmethod
    def get_all_preprocessor_tags(cls) -> list[str]:
        """ "All", then every control type in alphabetical order."""
        return listing.control_types()

    @classmethod
    def unload_unused(cls, active_processors: Collection[Preprocessor]) -> None:
        """Free the memory of all that are not in use."""
        for preprocessor in set(cls.all_processors.values()).difference(active_processors):
            preprocessor.unload()


class _BuiltIn(Preprocessor):
    """One of our own, for callers from outside."""

    def __call__(
        self,
        input_image: np.ndarray,
        resolution: int = -1,
        slider_1: float | None = None,
        slider_2: float | None = None,
        slider_3: float | None = None,
        input_mask: np.ndarray | None = None,
        **_kwargs: Any,
    ) -> np.ndarray:
        values = (slider_1, slider_2, slider_3)
        return preprocess.run_preprocessor(
            self.name, input_image, resolution, values, mask=input_mask
        ).image.copy()


class _Plugin(_declarations.Detector):
    """A foreign preprocessor in our registry."""

    frame = _declarations.Frame.OWN
    unavailable: str | None = None

    def __init__(self, plugin: Preprocessor) -> None:
        if not isinstance(plugin, Preprocessor) or not str(plugin.name or "").strip():
            msg = f"{type(plugin).__name__} is no Preprocessor with a name"
            raise ValueError(msg)
        self.plugin = plugin
        self.name, self.label = plugin.name, plugin.label
        self.tags = tuple(_texts(plugin, "tags"))
        self.priority = int(plugin.sorting_priority)
        resolution = _slider(plugin, "slider_resolution")
        self.resolution = resolution if resolution.visible else None
        self.fixed_resolution = int(resolution.default) if resolution.default >= 1 else 512
        sliders = [_slider(plugin, f"slider_{i}") for i in (1, 2, 3)]
        while sliders and not sliders[-1].visible:
            sliders.pop()
        self.sliders = tuple(sliders)
        use = _declarations.MaskUse
        self.mask = use.ACCEPTED if plugin.accepts_mask else use.IGNORED
        if plugin.requires_mask:
            self.mask = use.REQUIRED
        self.needs_model = not plugin.do_not_need_model
        self.control_mode = bool(plugin.show_control_mode)
        if not plugin.returns_image:
            self.output = _declarations.Output.EMBEDDING
            self.unavailable = NO_PICTURE
            self.listed = False

    @property
    def origin(self) -> tuple[str, str]:
        """File and class: equal for the same class executed again."""
        cls = type(self.plugin)
        code = getattr(cls.__call__, "__code__", None)
        return ("" if code is None else code.co_filename, cls.__qualname__)

    def detect(self, image: np.ndarray, *values: float, resolution: int) -> np.ndarray:
        mask = image[:, :, 3] if self.uses_mask and image.shape[2] == 4 else None
        named = {f"slider_{i + 1}": value for i, value in enumerate(values)}
        try:
            found = self.plugin(image, resolution=resolution, input_mask=mask, **named)
        except Exception as error:  # the boundary to foreign code: the message says whose it is
            msg = f"the preprocessor {self.name} ({self._file}) failed: {_describe(error)}"
            raise PreprocessorUnavailableError(msg) from error
        value = found.value if isinstance(found, Result) else found
        pixels = np.asarray(value) if hasattr(value, "__array_interface__") else value
        if not preprocess.is_map(pixels):
            facts = (
                type(value).__name__,
                getattr(pixels, "dtype", ""),
                getattr(pixels, "shape", ""),
            )
            what = " ".join(str(fact) for fact in facts if fact != "")
            msg = (
                f"the preprocessor {self.name} ({self._file}) returned {what}, "
                "expected a uint8 picture (H, W, 3)"
            )
            raise PreprocessorUnavailableError(msg)
        return pixels

    @property
    def _file(self) -> str:
        return Path(self.origin[0]).name or type(self.plugin).__name__


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip(": ")


def _texts(plugin: Preprocessor, name: str) -> Iterable[str]:
    values = getattr(plugin, name)
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        msg = f"preprocessor {plugin.name}: {name} is {values!r}, must be a list of texts"
        raise ValueError(msg)
    return values


def _slider(plugin: Preprocessor, name: str) -> Any:
    given = getattr(plugin, name)
    numbers = (given.minimum, given.value, given.maximum)
    if given.visible and not numbers[0] <= numbers[1] <= numbers[2]:
        msg = (
            f"preprocessor {plugin.name}: {name} ({given.label}) is {given.value} in a range of "
            f"{given.minimum} to {given.maximum}"
        )
        raise ValueError(msg)
    return _declarations.Slider(
        given.label, given.minimum, given.maximum, given.value, given.step, bool(given.visible)
    )


def _refuse_taken(spelling: str, detector: _Plugin) -> None:
    other = preprocess.find(spelling)
    if other is None or isinstance(other, _Plugin) and other.origin == detector.origin:
        return
    whose = f"an extension ({other._file})" if isinstance(other, _Plugin) else "ControlNet itself"
    msg = (
        f"a preprocessor called {spelling!r} exists already, from {whose}; the one of "
        f"{detector._file} needs another name"
    )
    raise ValueError(msg)


def _list(preprocessor: Preprocessor) -> None:
    Preprocessor.all_processors[preprocessor.label] = preprocessor
    Preprocessor.all_processors_by_name[preprocessor.name] = preprocessor


def _forget(detector: _Plugin) -> None:
    preprocess.registry.remove(detector.name)
    Preprocessor.all_processors.pop(detector.label, None)
    Preprocessor.all_processors_by_name.pop(detector.name, None)


def forget_plugins() -> None:
    """Take all foreign preprocessors off the lists: their files are about to be executed again."""
    for detector in preprocess.all_detectors():
        if isinstance(detector, _Plugin):
            _forget(detector)
            try:
                detector.plugin.unload()
            except Exception:  # the boundary to foreign code: the others are still to be forgotten
                log.exception("the preprocessor %s cannot be unloaded", detector.name)
    Preprocessor._results.clear()


def _parameter(slider: Any) -> PreprocessorParameter:
    return PreprocessorParameter(
        *(slider.label, slider.minimum, slider.maximum, slider.step, slider.default),
        visible=slider.visible,
    )


def _list_built_in() -> None:
    for detector in preprocess.all_detectors():
        sliders = [_parameter(slider) for slider in detector.sliders]
        sliders += [PreprocessorParameter() for _ in range(3 - len(sliders))]
        found = _BuiltIn(
            name=detector.name,
            _label=detector.title,
            tags=list(detector.tags),
            do_not_need_model=not detector.needs_model,
            show_control_mode=detector.control_mode,
            sorting_priority=detector.priority,
            returns_image=detector.gives_picture,
            requires_mask=detector.needs_mask,
            accepts_mask=detector.uses_mask,
            slider_1=sliders[0],
            slider_2=sliders[1],
            slider_3=sliders[2],
        )
        if detector.resolution is None:
            found.slider_resolution.visible = False
        else:
            found.slider_resolution = _parameter(detector.resolution)
        _list(found)


_list_built_in()
