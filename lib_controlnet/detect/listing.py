"""What there is to choose from: preprocessors and models by control type, and their sliders.

The HTTP routes, the Python API and the panel show the same lists; they are made here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from lib_controlnet.detect import preprocess
from lib_controlnet.errors import ModelNotFoundError
from lib_controlnet.files.catalog import is_listed_under
from lib_controlnet.units.unit import NO_MODEL, NO_MODULE
from lib_controlnet.words import word

if TYPE_CHECKING:
    from lib_controlnet.files.catalog import Catalog, ModelFile

ALL: Final = "All"
CONTROL_TYPES: Final = (
    "Canny",
    "Depth",
    "IP-Adapter",
    "Inpaint",
    "Instant-ID",
    "InstructP2P",
    "Lineart",
    "MLSD",
    "NormalMap",
    "OpenPose",
    "Recolor",
    "Reference",
    "Revision",
    "Scribble",
    "Segmentation",
    "Shuffle",
    "SoftEdge",
    "SparseCtrl",
    "T2I-Adapter",
    "Tile",
)
"""Control types that are offered even while none of their preprocessors is installed."""

_PREFERRED: Final = "11"
"""Models of version 1.1 carry this in their file names and are chosen before others."""


def detectors() -> list[Any]:
    """All preprocessors that are offered, in display order, "none" first.

    Those that cannot run here are among them: they are marked, and refused with the reason.
    """
    return [detector for detector in preprocess.all_detectors() if detector.listed]


def label(module: str) -> str | None:
    """What the panel calls a preprocessor; None if it does not exist."""
    found = preprocess.find(module)
    return None if found is None else found.title


def module_names(labels: bool = False) -> list[str]:
    """Names (or labels) of all preprocessors in display order."""
    return [detector.title if labels else detector.name for detector in detectors()]


def module_detail(labels: bool = False) -> dict[str, Any]:
    """For every preprocessor: `model_free`, and its visible sliders, resolution first.

    One that cannot run here has `unavailable` besides, a sentence that says why.
    """
    return {
        detector.title if labels else detector.name: {
            "model_free": not detector.needs_model,
            "sliders": [_describe(slider) for slider in _sliders(detector) if slider is not None],
            **({"unavailable": reason} if (reason := detector.unavailable) else {}),
        }
        for detector in detectors()
    }


def quick_modules() -> list[str]:
    """Labels of the preprocessors that compute at once: from the picture, without any network."""
    return [
        detector.title
        for detector in detectors()
        if not (detector.weights or detector.requires or detector.unavailable)
    ]


def modules_with_resolution() -> list[str]:
    """Labels of the preprocessors whose resolution can be chosen."""
    return [one.title for one in detectors() if sliders(one.name)[0] is not None]


def module_sizes() -> dict[str, str]:
    """Label -> size of its files, for those that need some."""
    return {
        detector.title: preprocess.weights.describe_size(
            sum(file.size for file in detector.weights)
        )
        for detector in detectors()
        if detector.weights
    }


def _describe(slider: Any) -> dict[str, Any]:
    return {
        "name": slider.label,
        "value": slider.default,
        "min": slider.minimum,
        "max": slider.maximum,
        "step": slider.step,
    }


def _sliders(detector: Any) -> list[Any]:
    """Resolution and the up to three further sliders; None where one is absent or hidden."""
    own = [*detector.sliders, None, None, None][:3]
    return [
        slider if slider is not None and slider.visible else None
        for slider in (detector.resolution, *own)
    ]


def sliders(module: str) -> list[Any]:
    """Resolution, first and second slider of a preprocessor; None where there is none.

    The routes list a resolution for all but a few, because clients expect one; where it has no
    effect, the panel does not show it.
    """
    found = preprocess.find(module)
    if found is None:
        return [None] * 3
    resolution, first, second, _third = _sliders(found)
    return [None if found.is_as_given else resolution, first, second]


def type_remark(kind: str) -> str | None:
    """That a control type cannot be used here, if none of the preprocessors made for it runs."""
    own = [detector for detector in detectors() if detector.tags[:1] == (kind,)]
    reasons = [detector.unavailable for detector in own]
    if not reasons or None in reasons:
        return None
    return word("type_unusable", kind=kind, reason=reasons[0])


def needs_model(module: str) -> bool:
    """Whether a unit with this preprocessor needs a control model."""
    found = preprocess.find(module)
    return found is None or found.needs_model


def takes_several(module: str) -> bool:
    """Whether several pictures of a unit with this preprocessor act together, as one."""
    found = preprocess.find(module)
    return found is not None and found.several


def has_control_mode(module: str) -> bool:
    """Whether the control mode has a meaning for this preprocessor."""
    found = preprocess.find(module)
    return found is None or found.control_mode


def control_types() -> list[str]:
    """ "All", then every control type in alphabetical order."""
    tags = {tag for detector in detectors() for tag in detector.tags}
    return [ALL, *sorted(tags.union(CONTROL_TYPES))]


def labels_for(kind: str) -> list[str]:
    """Labels of the preprocessors of a control type, "none" first."""
    return [
        detector.title
        for detector in detectors()
        if kind == ALL or detector.name == NO_MODULE or kind in detector.tags
    ]


def control_type_of(catalog: Catalog, module: str, model: str) -> str:
    """The control type under which a preprocessor and a model are offered together.

    A preprocessor counts before a model's name; "All" where neither tells.
    """
    kinds = [kind for kind in control_types() if kind != ALL]
    title = label(module)
    by_module = [kind for kind in kinds if title != NO_MODULE and title in labels_for(kind)]
    by_model = [kind for kind in kinds if model != NO_MODEL and model in models_for(catalog, kind)]
    both = [kind for kind in by_module if kind in by_model]
    return next(iter([*both, *by_module, *by_model]), ALL)


def default_module(kind: str) -> str:
    """Label of the preprocessor that a control type starts with."""
    return preprocess.default_of(kind).title


def module_for(entry: ModelFile | None, kind: str, reads: str | None = None) -> str:
    """Label of the preprocessor that a model starts with under a control type.

    The model's own where it names one that is offered there; else, where the type's give some maps
    and some embeddings, the one that fits the model: by what it reads and by what its name speaks
    of (style, colour, sketch); else the type's, which gives a map.

    Args:
        entry: the model.
        kind: the control type.
        reads: name of the preprocessor whose embedding the model reads, "" for one that reads a
            map; None where that is not known.
    """
    own = None if entry is None else entry.preprocessor
    title = None if own is None else label(own)
    if title in labels_for(kind):
        return title
    made = [one for one in detectors() if kind in one.tags]
    if entry is None or len({one.gives_picture for one in made}) < 2:
        return default_module(kind)
    words = frozenset(re.findall(r"[a-z]+", entry.stem.lower()))
    every = Counter(word for one in made for word in _words(one))
    named = [one for one in made if any(every[w] == 1 for w in words & _words(one))]
    for one in (*named, *(made if reads else ())):
        if reads is None or (one.name == reads if reads else one.gives_picture):
            return one.title
    default = preprocess.default_of(kind)
    return default.title if default.gives_picture else NO_MODULE


def _words(detector: Any) -> frozenset[str]:
    return frozenset(detector.title.lower().split("_"))


def mismatch(module: str, reads: str) -> str | None:
    """That a model cannot be steered by what a preprocessor gives, None where it can.

    Args:
        module: the preprocessor.
        reads: see `module_for`.
    """
    found = preprocess.find(module)
    if found is None or found.gives_picture is not bool(reads) or (found.follows_model and reads):
        return None
    if reads:
        fits = label(reads)
        return word("reads_embedding", preprocessor=found.title, other=fits)
    return word("reads_map", preprocessor=found.title)


def models_for(catalog: Catalog, kind: str) -> list[str]:
    """Models whose names speak of a control type, after "None"."""
    return [NO_MODEL, *catalog.for_type(kind)]


def types_of(entry: ModelFile) -> list[str]:
    """Control types under which a model is listed, by its tensors, metadata or name."""
    return [kind for kind in control_types()[1:] if is_listed_under(entry, kind)]


def default_model(kind: str, models: Sequence[str]) -> str:
    """The model that a control type starts with.

    Args:
        kind: the control type.
        models: what `models_for` gave for it.
    """
    offered = [name for name in models if name != NO_MODEL]
    if kind == ALL or not offered:
        return NO_MODEL
    return next((name for name in offered if _PREFERRED in name.split("[")[0]), offered[0])


def find_offered(catalog: Catalog, text: str) -> str | None:
    """The listed name of the model that a text means; None if there is no such model."""
    if text == NO_MODEL:
        return NO_MODEL
    try:
        path = catalog.find(text)
    except ModelNotFoundError:
        return None
    return next((name for name, entry in catalog.files.items() if entry.path == path), None)


def describe_control_types(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """For every control type its preprocessors, models and defaults, as the HTTP route shows."""
    described = {}
    for kind in control_types():
        models = models_for(catalog, kind)
        described[kind] = {
            "module_list": labels_for(kind),
            "model_list": models,
            "default_option": default_module(kind),
            "default_model": default_model(kind, models),
        }
    return described
