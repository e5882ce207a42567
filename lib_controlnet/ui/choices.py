"""What the choice of a control type, a preprocessor or a model makes of a unit.

Also what is to be said about such a choice: that it is not there, cannot run here, or does not
fit the loaded checkpoint. That line is written with every choice, pasted and saved ones included,
and stays as long as the choice does.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import gradio as gr

from lib_controlnet import families
from lib_controlnet.detect import listing, preprocess
from lib_controlnet.detect.downloadable import order_weights
from lib_controlnet.engine.bound import OF_SOME_FAMILIES
from lib_controlnet.enums import ControlNetUnionControlType, union_type
from lib_controlnet.errors import ControlNetError
from lib_controlnet.families import Refusal
from lib_controlnet.families.base import FileFacts
from lib_controlnet.files.claims import contradiction
from lib_controlnet.ui.messages import Download, Fault, Info, Misfit, cut, notice
from lib_controlnet.units.unit import FIELDS, NO_MODEL, NO_MODULE, SLIDERS
from lib_controlnet.units.weight_types import WeightType
from lib_controlnet.words import word

Update = dict[str, Any]

OF_FAMILIES: Final = ("union_control_type", *OF_SOME_FAMILIES, "weight_type", "composition")
"""Widgets that are shown while a model is chosen to which they mean something."""

_NAMED: Final = 3
"""Models that a sentence names at most."""


@dataclass(frozen=True)
class Offer:
    """Models of a control type, for the loaded checkpoint.

    Attributes:
        names: "None", those that can be used, and with "Show all" those that cannot.
        default: what the control type starts with; never one that cannot be used.
        sentence: why there is nothing to choose, None if there is something.
        misfits: those that cannot be used, and why in a few words.
        is_whole: it is known of all whether they can be used.
    """

    names: list[str]
    default: str
    sentence: str | None
    misfits: dict[str, str]
    is_whole: bool = True


def offer(kind: str, runtime: Any, shows_all: bool = False) -> Offer:
    """The models of a control type.

    What is not yet known of a file counts for it, but it is not chosen before it is known.

    Args:
        kind: the control type.
        runtime: the extension's services.
        shows_all: those that cannot be used are listed behind the others.
    """
    paths = {
        name: runtime.catalog.files[name].path
        for name in listing.models_for(runtime.catalog, kind)[1:]
    }
    waiting, refusal = runtime.look_into(paths.values()), runtime.refusals()
    refused = {name: None if path in waiting else refusal(path) for name, path in paths.items()}

    def find_default() -> str:
        fitting = [name for name, one in refused.items() if one is None]
        return listing.default_model(kind, [NO_MODEL, *fitting])

    while (default := find_default()) != NO_MODEL and paths[default] in waiting:
        waiting -= {paths[default]}
        refused[default] = refusal(paths[default])
    misfits = {name: one for name, one in refused.items() if one is not None}
    fitting = [name for name in paths if name not in misfits]
    return Offer(
        names=[NO_MODEL, *fitting, *(misfits if shows_all else ())],
        default=default,
        sentence=None if fitting else _explain_empty(kind, misfits),
        misfits={name: one.short for name, one in misfits.items()},
        is_whole=not waiting,
    )


def _explain_empty(kind: str, misfits: Mapping[str, Refusal]) -> str:
    of, places = ("", {}) if kind == listing.ALL else ("_of", {"kind": kind})
    foreign = [name for name, refused in misfits.items() if refused.other_base]
    if foreign:
        return word(f"none_fits{of}", name=_join(foreign), **places)
    for refused in misfits.values():
        return word(f"none_usable{of}", reason=refused.sentence, **places)
    return word(f"no_model_there{of}", **places)


def _join(names: Sequence[str]) -> str:
    more, named = len(names) - _NAMED, ", ".join(names[:_NAMED])
    return word("more_names", names=named, count=more) if more > 0 else named


def remarks(kind: str, module: str, model: str, runtime: Any) -> list[str]:
    """Sentences about the choices of a unit, as it would run with them."""
    try:
        detector = preprocess.get(module)
    except ControlNetError as error:
        said: str | None = cut(error)
    else:
        said = preprocess.remark(module)
        if size := preprocess.measure_download(module):
            said = Download(said or "")
            said.module, said.size = detector.name, size
            said.orders = [order.id for order in order_weights(detector.name)]
        elif said:
            said = (Fault if detector.unavailable else Info)(said)
        if said is None and detector.name == NO_MODULE and model == NO_MODEL:
            said = listing.type_remark(kind)
            if said:  # there is nothing to be done about models then
                return [said]
    found = [said] if said else []
    if not listing.needs_model(module):
        return found
    if model == NO_MODEL:
        problem = None if kind == listing.ALL else offer(kind, runtime).sentence
    else:
        facts = file_facts(model, runtime)
        problem = model_problem(model, runtime)
        problem = cut(problem, Misfit) if problem else None
        if facts.family:
            problem = problem or listing.mismatch(module, facts.preprocessor)
        problem = problem or preprocess.mask_remark(module, model, facts.masked)
        problem = problem or contradiction(model, facts.made_on, runtime.checkpoint_name())
    return [*found, problem] if problem else found


def model_problem(model: str, runtime: Any) -> str | None:
    """Why a generation with a model would stop, None if nothing is known against it."""
    try:
        refused = runtime.refusals()(runtime.catalog.find(model))
    except ControlNetError as error:
        return str(error)
    return None if refused is None else refused.sentence


def slider_updates(module: str, pixel_perfect: bool) -> dict[str, Update]:
    """What a preprocessor makes of the three sliders: label, range, default, visibility.

    Args:
        module: name or label of the preprocessor.
        pixel_perfect: hides the resolution, which then follows from the pictures' sizes.
    """
    updates = {}
    for name, slider in zip(SLIDERS, listing.sliders(module), strict=True):
        if slider is None:
            updates[name] = gr.update(visible=False, value=-1)
            continue
        updates[name] = gr.update(
            label=slider.label,
            minimum=slider.minimum,
            maximum=slider.maximum,
            step=slider.step,
            value=slider.default,
            visible=not (pixel_perfect and name == "processor_res"),
        )
    return updates


def on_module(
    kind: str, module: str, model: str, pixel_perfect: bool, runtime: Any
) -> list[Update]:
    """What a chosen preprocessor makes of a unit, and what of its family is shown."""
    shown = family_updates(module, model, runtime)
    return [*_follow_module(kind, module, model, pixel_perfect, runtime), *shown.values()]


def _follow_module(
    kind: str, module: str, model: str, pixel_perfect: bool, runtime: Any
) -> list[Update]:
    """Sliders, model, refresh button, control mode and lines for a chosen preprocessor."""
    needs_model, control_mode = listing.needs_model(module), listing.has_control_mode(module)
    return [
        *slider_updates(module, pixel_perfect).values(),
        gr.update(visible=needs_model),
        gr.update(visible=needs_model),
        gr.update(visible=control_mode),
        about(model if needs_model else NO_MODEL, runtime),
        notice(*remarks(kind, module, model, runtime)),
    ]


def about(model: str, runtime: Any) -> Update:
    """The line that says what a chosen model is, or why that is not known.

    What its layers are goes along for the page (`javascript/controlnet_layers.js`).
    """
    facts = file_facts(model, runtime)
    said = str(facts)
    if facts.unread and model_problem(model, runtime) is None:  # else that is said
        said = facts.unread
    shown = notice(said) if said else notice()
    layers = families.describe_layers(facts, runtime.find_base()) if facts.family else None
    if layers is not None:
        told = html.escape(json.dumps(layers.describe()))
        shown["value"] += f'<span data-layers="{told}"></span>'
    return shown


def file_facts(model: str, runtime: Any) -> FileFacts:
    """What is known of a model's file; nothing where there is none."""
    try:
        return runtime.facts(runtime.catalog.find(model)) if model != NO_MODEL else FileFacts()
    except ControlNetError:
        return FileFacts()


def family_updates(
    module: str, model: str, runtime: Any, kind: ControlNetUnionControlType | None = None
) -> dict[str, Update]:
    """What is shown of `OF_FAMILIES`: what means something to the chosen model, by its own word.

    The rest is put away with its default, so that nothing that is not seen has an effect. Of a
    model that nothing is known of all is shown.

    Args:
        module: the preprocessor that is chosen; it may steer without a model.
        model: the model that is chosen.
        runtime: the extension's services.
        kind: the type that a Union is to be told; None leaves it as it is.
    """
    needs_model = listing.needs_model(module)
    facts = file_facts(model, runtime) if needs_model else _fileless_facts(module)
    is_unknown = needs_model and model != NO_MODEL and not facts.family
    updates = {"union_control_type": _union_type(facts, kind)}
    for name in OF_SOME_FAMILIES:
        is_shown = is_unknown or name in facts.heeds
        updates[name] = _show() if is_shown else _put_away(FIELDS[name].initial)
    types = [*WeightType] if is_unknown else facts.weight_types
    if types:
        shown = gr.update(visible=True, choices=[str(kind) for kind in types])
        return {**updates, "weight_type": shown, "composition": gr.update()}
    normal = str(WeightType.NORMAL.value)
    return {**updates, "weight_type": _put_away(normal), "composition": _put_away(1.0)}


def _show() -> Update:
    return gr.update(visible=True)


def _put_away(value: Any) -> Update:
    return gr.update(visible=False, value=value)


def _fileless_facts(module: str) -> FileFacts:
    detector = preprocess.find(module)
    return FileFacts() if detector is None else families.describe_fileless(detector.name)


def _union_type(facts: FileFacts, value: ControlNetUnionControlType | None) -> Update:
    """The types that a Union offers; other models have none."""
    unknown = ControlNetUnionControlType.UNKNOWN
    if not facts.picture_types:
        return _put_away(unknown.value)
    offered = [unknown, *facts.picture_types]
    if value is None:
        return gr.update(visible=True, choices=[kind.value for kind in offered])
    offered += [] if value in offered else [value]
    names = [kind.value for kind in offered]
    return gr.update(visible=True, choices=names, value=value.value)


def on_model(kind: str, module: str, model: str, runtime: Any) -> list[Update]:
    """The lines for a chosen model, and what means something to it."""
    said = notice(*remarks(kind, module, model, runtime))
    shown = family_updates(module, model, runtime, union_type(kind))
    return [about(model, runtime), said, *shown.values()]


def on_control_type(
    kind: str, pixel_perfect: bool, runtime: Any, shows_all: bool = False
) -> list[Any]:
    """Filter preprocessors and models by control type and choose the type's defaults."""
    offered = offer(kind, runtime, shows_all)
    facts = file_facts(offered.default, runtime)
    reads = facts.preprocessor if facts.family else None
    module = listing.module_for(runtime.catalog.files.get(offered.default), kind, reads)
    updates = _follow_module(kind, module, offered.default, pixel_perfect, runtime)
    updates[3] = dict(updates[3], choices=offered.names, value=offered.default)
    return [
        gr.update(choices=listing.labels_for(kind), value=module),
        *updates,
        *family_updates(module, offered.default, runtime, union_type(kind)).values(),
        *tell_misfits(offered),
    ]


def tell_misfits(offered: Offer) -> list[Update]:
    """The label of the box "Show all", and what the page has to know of the list.

    The entries of a list are plain names, as they are sent and saved. What is wrong with one, the
    page's script writes behind it.
    """
    why = {name: reason for name, reason in offered.misfits.items() if name in offered.names}
    more = len(offered.misfits) - len(why)
    label = word("show_all_more", count=more) if more else word("show_all")
    told = {"why": why, "isWhole": offered.is_whole}
    note = f'<span data-offer="{html.escape(json.dumps(told))}"></span>'
    return [gr.update(label=label), gr.update(value=note)]


def on_offer(
    kind: str, module: str, model: str, runtime: Any, shows_all: bool = False
) -> list[Update]:
    """List the models that fit the checkpoint that is loaded now; the choice stays.

    The page names the file of a model that has just been downloaded for a unit without one; that is
    chosen then.
    """
    offered = offer(kind, runtime, shows_all)
    brought = _find_file(model, offered, runtime)
    model = brought or model
    if model in offered.misfits and not shows_all:  # it stays chosen, so it stays in the list
        offered = replace(offered, names=[*offered.names, model])
    said = notice(*remarks(kind, module, model, runtime))
    needed = model if listing.needs_model(module) else NO_MODEL
    chosen = {"value": brought} if brought else {}
    shown = family_updates(module, model, runtime, union_type(kind) if brought else None)
    return [
        gr.update(choices=offered.names, **chosen),
        *(about(needed, runtime), said),
        *shown.values(),
        *tell_misfits(offered),
    ]


def _find_file(text: str, offered: Offer, runtime: Any) -> str | None:
    """The offered model whose file has that name, "None" without one; None for no file's name."""
    named = [name for name, one in runtime.catalog.files.items() if one.path.name == text]
    return next((name for name in named if name in offered.names), NO_MODEL) if named else None


def on_refresh(
    kind: str, module: str, model: str, runtime: Any, shows_all: bool = False
) -> list[Update]:
    """Scan the model folders again, then the same; a model that has gone is said to be missing."""
    runtime.refresh_models()
    return on_offer(kind, module, model, runtime, shows_all)
