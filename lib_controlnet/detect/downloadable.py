"""What there is to download: published control models, and weight files of preprocessors.

Whoever asks names one of these; no address and no path is ever taken from a request.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lib_controlnet.detect import preprocess
from lib_controlnet.detect.listing import ALL, control_types
from lib_controlnet.errors import ControlNetError, quote
from lib_controlnet.files.bases import describe_misfit
from lib_controlnet.files.catalog import ModelFile, is_listed_under
from lib_controlnet.files.downloads import MODEL, Order, order_model
from lib_controlnet.files.header_store import Header
from lib_controlnet.files.published import (
    HUB,
    PublishedFile,
    find_named,
    find_present,
    list_published,
)
from lib_controlnet.files.signatures import BY_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from annotator.weights import WeightFile
    from lib_controlnet.enums import BaseModel
    from lib_controlnet.files.catalog import Catalog

WEIGHTS: Final = "weights"
"""What the ids of orders of weight files begin with."""
SHOWN: Final = 200
"""Characters of a wrong name that a message repeats."""


def order_published(name: str, folders: Sequence[Path]) -> Order:
    """The order of a published control model, for the first of some folders of models.

    Raises:
        ControlNetError: there is no published model of that name, or no folder.
    """
    one = find_named(name)
    if one is None:
        msg = f"{quote(name[:SHOWN])} is none of the published control models; see the list"
        raise ControlNetError(msg, 404)
    if not folders:
        msg = "there is no folder of control models; make models/ControlNet in the WebUI's folder"
        raise ControlNetError(msg)
    return order_model(one, folders[0])


def order_weights(module: str) -> list[Order]:
    """Orders of the weight files that the next run of a preprocessor would download.

    Raises:
        ControlNetError: there is no such preprocessor, or it can never run here.
    """
    detector = preprocess.get(module)
    preprocess.require(detector)
    return list(map(_order_weight, detector.find_missing_files()))


def find_order(name: str, folders: Sequence[Path]) -> Order | None:
    """The order of an id that one of these made; None where there is none any more."""
    kind, _, rest = name.partition("/")
    if kind == MODEL:
        return order_published(rest, folders) if folders and find_named(rest) else None
    files = preprocess.weights.all_files(preprocess.all_detectors())
    orders = (_order_weight(weight) for weight in files if weight.places[0] == rest)
    return next(orders, None) if kind == WEIGHTS else None


def _order_weight(weight: WeightFile) -> Order:
    place = weight.places[0]
    return Order(f"{WEIGHTS}/{place}", weight, Path(preprocess.store.STORE.roots[0]) / place)


def describe_published(
    catalog: Catalog, own: BaseModel | None, kind: str = ALL
) -> list[dict[str, Any]]:
    """The published models of a control type, as lists show them.

    Args:
        catalog: the models that are there.
        own: the base of the loaded checkpoint; None: nothing is said not to fit.
        kind: the control type.
    """
    there = find_present(entry.path for entry in catalog.files.values())
    found = []
    for one in list_published():
        types = types_of(one)
        if kind not in (ALL, *types):
            continue
        is_there = one.name in there or any((f / one.name).is_file() for f in catalog.folders)
        found.append(
            {
                "name": one.name,
                "control_types": types,
                "family": _title(one),
                "base": str(one.base),
                "size": one.estimate or None,
                "size_text": order_model(one, Path()).weight.size_text,
                "licence": one.licence or None,
                "repository": one.repository,
                "page": f"{HUB}/{one.repository}",
                "sha256": one.sha256 or None,
                "note": one.note or None,
                "present": is_there,
                "unfit": (own and describe_misfit(one.base, own)) or None,
            }
        )
    return found


def types_of(one: PublishedFile) -> list[str]:
    """Control types under which a published file will be listed once it is there."""
    entry = ModelFile(Path(one.name), "", known=Header(one.kind))
    return [kind for kind in control_types()[1:] if is_listed_under(entry, kind)]


def _title(one: PublishedFile) -> str:
    """What a kind of file is called: "Control-LoRA"."""
    title = BY_KEY[one.kind].title
    return title.removeprefix("a ").removeprefix("an ")
