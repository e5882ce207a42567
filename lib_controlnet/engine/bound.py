"""Binding a unit to a pass: its control, and its effects."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch

from lib_controlnet.detect.preprocess import mask_remark
from lib_controlnet.engine import effects, outcome
from lib_controlnet.engine.network import GuideKind, Terms
from lib_controlnet.engine.unit_pass import UnitPass
from lib_controlnet.engine.window import Window, is_for_sd1, own_strengths
from lib_controlnet.enums import ControlMode, ControlNetUnionControlType, HiResOption, Speed
from lib_controlnet.errors import UnitError
from lib_controlnet.units.unit import FIELDS
from lib_controlnet.units.weight_types import LayerCurve

if TYPE_CHECKING:
    from torch import Tensor

    from annotator.embedding import Embedding
    from lib_controlnet.engine.effects import Effect
    from lib_controlnet.engine.network import ActiveControl, ControlNetwork, Embeddings
    from lib_controlnet.engine.pass_info import PassInfo
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.prepared import Placed, PreparedUnit
    from lib_controlnet.units.unit import ControlUnit

log = logging.getLogger(__name__)

OF_SOME_FAMILIES: Final = ("union_apart", "pulid_mode", "speed")
"""Fields that mean something to some families only. The type for a Union is not among them:
clients send it with every unit."""


@dataclass(eq=False)
class BoundUnit:
    """What carries out a unit's part in a pass.

    Attributes:
        part: the unit, the pass, and on what terms it acts.
        control: acts on the U-Net.
        effects: what it does beside that.
    """

    part: UnitPass
    control: ActiveControl
    effects: list[Effect] = field(default_factory=list)


def bind_unit(
    prepared: PreparedUnit, info: PassInfo, host: Host, say: Callable[[str], None]
) -> BoundUnit | str:
    """Bind a unit to a pass; a text says why it has no effect there.

    Args:
        prepared: the unit.
        info: the pass.
        host: answers for settings and encodes pictures.
        say: is told what the user should know.

    Raises:
        ControlNetError: the unit cannot act on the pass's base.
    """
    unit = prepared.unit
    placed = prepared.place(info.geometry, info.base.identity)
    if prepared.model is None:
        return (
            f"the preprocessor {unit.module} asks for no control model, and nothing here steers by "
            "it alone; choose one that works with a model"
        )
    if not _acts_in(unit.hr_option, info):
        return f"it acts in another pass (hr_option is {unit.hr_option.value!r})"
    network = prepared.model.network(info.base)
    for note in (*network.notes, *_find_unheeded(unit, network)):
        say(f"ControlNet {unit.name}: {note}")
    _check_keyframes(prepared, network, info.images)
    strengths = _strengths(prepared, network, info, say)
    region, images = prepared.region_at(info), prepared.images(info.images)
    window = _window_of(unit, info)
    idle = outcome.before_pass(unit, strengths, window, region, images)
    if idle:
        log.info("%s has no effect in this pass: %s", unit.name, idle)
        return idle
    if region is not None and region.is_full:
        region = None
    if region is not None and not network.has_regions:
        msg = (
            f"{unit.name}: {network.family} acts on the whole picture, so a region has no effect "
            "on it; set the unit's region to the whole picture"
        )
        raise UnitError(msg)
    guide, key = _guide(prepared, network, placed, host)
    for note in _judge_picture(prepared, network):
        say(f"ControlNet {unit.name}: {note}")
    terms = replace(
        _terms_of(prepared, network), strengths=strengths, window=window, region=region,
        images=images, guide_key=key, speed=_find_speed(unit, host),
    )  # fmt: skip
    bound = BoundUnit(UnitPass(prepared, info, placed, terms), network.bind(terms, guide, info))
    for effect in effects.discover():
        bound.effects += effect.bind_all(bound.part, host)
    log.info(
        "%s: %s, %s, %s, window %g to %g, %s%dx%d%s",
        *(unit.name, unit.module, network.name, unit.control_mode),
        *(window.start, window.end, f"curve {unit.weight_curve}, " if window.curve else ""),
        *(info.geometry.size.width, info.geometry.size.height),
        ", hires" if info.is_hires else "",
    )
    return bound


def _find_unheeded(unit: ControlUnit, network: ControlNetwork) -> list[str]:
    """That fields of the unit mean nothing to its network, a sentence for each."""
    what = f"control model {network.name} ({network.family})"
    return [
        f"{name} means nothing to {what} and has no effect"
        for name in OF_SOME_FAMILIES
        if getattr(unit, name) != FIELDS[name].default and name not in network.heeds
    ]


def _judge_picture(prepared: PreparedUnit, network: ControlNetwork) -> list[str]:
    """What is to be said of a unit's picture before its network."""
    said = []
    if network.wants.kind is GuideKind.MAP:
        said.append(mask_remark(prepared.unit.module, network.name, network.wants.masked))
    if prepared.partner and not network.reads_tokens:
        said.append(
            f"its picture is made for the network of {prepared.partner}; control model "
            f"{network.name} ({network.family}) is none, and reads nothing of another unit"
        )
    return [note for note in said if note]


def _terms_of(prepared: PreparedUnit, network: ControlNetwork) -> Terms:
    """What the unit itself says of how it acts; when, where and how strongly is the pass's."""
    unit = prepared.unit
    is_unsaid = unit.union_control_type is ControlNetUnionControlType.UNKNOWN
    asks_cond = network.has_modes and unit.control_mode is ControlMode.CONTROL
    return Terms(
        name=unit.name,
        strengths=(),
        cond_only=network.cond_only or asks_cond,
        mode=unit.control_mode,
        values=prepared.values,
        keyframes=prepared.keyframes,
        control_type=prepared.control_type if is_unsaid else unit.union_control_type,
        apart=unit.union_apart,
        partner=prepared.partner,
        is_given=prepared.is_given,
        likeness=unit.pulid_mode,
    )


def _window_of(unit: ControlUnit, info: PassInfo) -> Window:
    """When the unit acts in a pass, and what its strength is multiplied by then."""
    curve = unit.weight_curve
    points = () if curve is None else curve.of_pass(info.is_hires)
    return Window(unit.guidance_start, unit.guidance_end, points)


def _find_speed(unit: ControlUnit, host: Host) -> Speed:
    """The unit's own, or what the settings say for all that choose none."""
    is_own = unit.speed is not Speed.DEFAULT
    return unit.speed if is_own else Speed.parse(host.option("controlnet_speed"))


def _acts_in(option: HiResOption, info: PassInfo) -> bool:
    """Whether a unit with this option acts in the pass; without hires it always does."""
    if not info.has_hires or option is HiResOption.BOTH:
        return True
    return info.is_hires == (option is HiResOption.HIGH_RES_ONLY)


def _check_keyframes(prepared: PreparedUnit, network: ControlNetwork, count: int) -> None:
    """Refuse pictures for some frames of an animation where the network takes them for all.

    Raises:
        UnitError: some of the frames have none.
    """
    keyframes = prepared.keyframes
    if keyframes and len(keyframes) < count and not network.takes_keyframes:
        msg = (
            f"{prepared.unit.name}: keyframes are for SparseCtrl, control model {network.name} "
            f"({network.family}) needs a control picture for each of the {count} frames; give as "
            "many, or a single one for all and no keyframes"
        )
        raise UnitError(msg)


def _strengths(
    prepared: PreparedUnit, network: ControlNetwork, info: PassInfo, say: Callable[[str], None]
) -> tuple[float, ...]:
    unit = prepared.unit
    mode, own = unit.control_mode, unit.advanced_weighting
    if not network.has_modes and mode is not ControlMode.BALANCED:
        say(f"ControlNet {unit.name}: {network.family} has no control modes, it acts as Balanced")
    if prepared.soft_in_hires and info.is_hires and mode is ControlMode.BALANCED:
        # Parity: one-pixel line maps are softened in a hires pass.
        mode = ControlMode.PROMPT
    if isinstance(own, LayerCurve):
        return _spread(own, unit, network, info)
    if own is None:
        return network.curve(unit.weight, mode)
    if is_for_sd1(own, network.layers):
        say(
            f"{unit.name}: advanced_weighting has {len(own)} numbers, one for each layer of "
            f"SD1; the control model is for {network.base} and takes the first {network.layers}"
        )
    return own_strengths(own, network.layers, unit.name)


def _spread(
    curve: LayerCurve, unit: ControlUnit, network: ControlNetwork, info: PassInfo
) -> tuple[float, ...]:
    """Strengths of a weight type.

    Raises:
        UnitError: it means nothing to the network.
    """
    with suppress(KeyError):
        return network.spread(curve, unit.weight, network.parts_of(info.base))
    types = ", ".join(network.weight_types)
    advice = "leave it out, as one weight is for all of its layers"
    if types:
        advice = f"choose one of {types}, or give {network.layers} numbers, one for each layer"
    msg = (
        f"{unit.name}: advanced_weighting is {str(curve)!r}, which means nothing to the layers of "
        f"control model {network.name} ({network.family}); {advice}"
    )
    raise UnitError(msg)


def _guide(
    prepared: PreparedUnit, network: ControlNetwork, placed: Placed, host: Host
) -> tuple[Tensor | Embeddings | None, str]:
    """What the network is steered by, and a text that is equal for equal guides."""
    wants, unit = network.wants, prepared.unit
    if wants.kind is GuideKind.NOTHING:
        return None, ""
    if wants.kind is GuideKind.EMBEDDING:
        given = [embedding for frame in prepared.embeddings for embedding in frame]
        if not given:
            msg = (
                f"{unit.name}: {network.name} is steered by an embedding, and the preprocessor "
                f"{unit.module} gives a map; choose {_reader(network)}"
            )
            raise UnitError(msg)
        for embedding in given:
            _check_embedding(unit.name, embedding, network)
        return prepared.embeddings, " ".join(
            ",".join(sorted(one.digest for one in frame)) for frame in prepared.embeddings
        )
    if prepared.embeddings:
        msg = (
            f"{unit.name}: {network.name} is steered by a map, and the preprocessor {unit.module} "
            f"gives an embedding; choose a preprocessor that fits {network.family}"
        )
        raise UnitError(msg)
    hint, key = placed.hint(wants.masked if prepared.masked is None else prepared.masked)
    if wants.kind is GuideKind.LATENT:
        make = _latent_and_mask if wants.has_mask else _latent
        latents = [make(prepared, network, placed, host, i) for i in range(len(placed.maps))]
        masks = placed.mask_digest if wants.has_mask else ""
        return torch.cat(latents), f"{key} {masks} {placed.base}"  # another VAE, another latent
    return hint, key


def _latent(
    prepared: PreparedUnit, network: ControlNetwork, placed: Placed, host: Host, number: int
) -> Tensor:
    del prepared, network
    return placed.latent(host, number)


def _latent_and_mask(
    prepared: PreparedUnit, network: ControlNetwork, placed: Placed, host: Host, number: int
) -> Tensor:
    """Latent and mask of a map, see `Guide.has_mask`.

    Raises:
        UnitError: there is no mask, or nothing in it.
    """
    cells = placed.find_masked(number)
    if cells is None or not cells.any():
        unit = prepared.unit
        msg = (
            f"{unit.name}: control model {network.name} ({network.family}) paints what is masked, "
            f"and {unit.module} gives no mask; paint one, and choose a preprocessor of the control "
            "type Inpaint"
        )
        raise UnitError(msg)
    return torch.cat([placed.latent(host, number, network.wants.masked), cells], dim=1)


def _reader(network: ControlNetwork) -> str:
    """What to choose for a network that reads an embedding."""
    if network.wants.preprocessor:
        return f"the preprocessor {network.wants.preprocessor}"
    return f"a preprocessor of the control type {network.family}"


def _check_embedding(unit: str, embedding: Embedding, network: ControlNetwork) -> None:
    """Refuse an embedding that lacks what the network reads.

    Raises:
        UnitError: a tensor is missing, or of another width.
    """
    for name, width in network.wants.tensors:
        found = embedding.tensors.get(name)
        if found is None or found.shape[-1] != width:
            got = "has none" if found is None else f"has {found.shape[-1]}"
            whose = f"that of {embedding.maker}" if embedding.maker else "the one given"
            msg = (
                f"{unit}: {network.name} reads an embedding with {name} of {width} numbers, "
                f"{whose} {got}; choose {_reader(network)}"
            )
            raise UnitError(msg)
