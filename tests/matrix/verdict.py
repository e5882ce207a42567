"""Compares what the probe noted with what had to happen; every difference is a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from matrix import pictures, regions
from matrix.cases import BATCH_TABS, wants_mask
from matrix.geometry import HostPicture, Shown, placement, shown
from matrix.pairwise import Case
from matrix.statement import PassStatement, passes

FACTOR_TOLERANCE = 2e-3
"""Additions are read back as differences of float32 numbers some hundred times larger."""
EXACT = 0.1
"""Mean difference in levels of 255, where the control picture has to be the host's to the pixel."""
RESAMPLED = 1.0
"""Where it is resampled by another filter; being a pixel off is worth 1.4 to 3 levels."""
FITTED = 2.2
"""Where it is fitted into a border: its size may be a pixel off the host's, by another rounding."""
EDGE_REACH = 2.5
EDGE_SHARE = 0.85
"""Edges of the enlarged map and of the enlarged picture lie within 2.5 pixels, corners aside."""
MASK_REACH = 2.0
"""The border of a mask may lie this far away: it is rounded before or after it is resized."""


def complaints(case: Case, answer: dict[str, Any], host_picture: HostPicture) -> list[str]:
    """Everything that is not as it had to be.

    Args:
        case: what was run.
        answer: what the probe noted.
        host_picture: the host's arithmetic on pictures.
    """
    found = [f"left on the U-Net: {hook}" for hook in answer["hooks"]]
    records = answer["generations"]
    wanted = 2 if case["path"] in BATCH_TABS else 1
    if len(records) != wanted:
        return [*found, f"{len(records)} generations instead of {wanted}"]
    for record in records:
        if not record["is_finished"]:
            found.append("the generation did not end well")
        found += list(_generation(case, record, host_picture))
    return found


def _generation(case: Case, record: dict[str, Any], host_picture: HostPicture) -> Iterator[str]:
    statements = passes(case)
    if len(record["passes"]) != len(statements):
        yield f"{len(record['passes'])} passes instead of {len(statements)}"
        return
    silenced = 0
    for number, (one, statement) in enumerate(zip(record["passes"], statements, strict=True)):
        where = f"pass {number}"
        if one["is_hires"] != statement.is_hires or one["sampler"] != statement.sampler:
            yield f"{where}: {one['sampler']}, hires {one['is_hires']}"
        region = regions.expected(case, record, one, host_picture)
        if region is not None and not region.any():
            statement = dataclasses.replace(statement, active=(False,) * len(statement.active))
        quiet = _silent(one, statement)
        silenced += sum(quiet)
        yield from (
            f"{where}: {text}" for text in _evaluations(one, statement, quiet, region is None)
        )
        strengths = _everywhere(case, record, one, statement, region)
        yield from (f"{where}: {text}" for text in strengths)
        yield from (
            f"{where}: {text}" for text in _hints(case, record, one, statement, host_picture)
        )
    told = sum("switched during sampling" in comment for comment in record["comments"])
    if silenced and told != 1:
        yield f"{silenced} evaluations silent after a switch, comments {record['comments']}"
    elif told and not silenced:
        yield f"nothing was silenced by a switch, but comments {record['comments']}"
    shortened = sum("the first 10" in comment for comment in record["comments"])
    units = 2 if case.get("batch_option") == "turns" else 1
    if shortened != (units if case["strength"] == "13 numbers" else 0):
        yield f"comments on the numbers for the layers: {record['comments']}"


def _silent(one: dict[str, Any], statement: PassStatement) -> list[bool]:
    """Evaluations that the unit would act in, had the host not put a foreign U-Net there."""
    pairs = zip(one["evaluations"], statement.active, strict=False)
    return [active and evaluation["structure"] != one["structure"] for evaluation, active in pairs]


def _evaluations(
    one: dict[str, Any], statement: PassStatement, quiet: Sequence[bool], is_whole: bool
) -> Iterator[str]:
    evaluations = one["evaluations"]
    if len(evaluations) != len(statement.active):
        yield f"{len(evaluations)} evaluations instead of {len(statement.active)}"
        return
    for number, (evaluation, active) in enumerate(zip(evaluations, statement.active, strict=True)):
        where = f"evaluation {number}"
        if (evaluation["conds"], evaluation["total"]) != (statement.conds, statement.total):
            yield f"{where}: {evaluation['conds']} cond of {evaluation['total']} rows"
        acts = active and not quiet[number]
        wanted = [acts and unit is not None for unit in statement.units]
        if [hint != -1 for hint in evaluation["hints"]] != wanted:
            yield f"{where}: hints of the rows {evaluation['hints']}, wanted {wanted}"
        elif acts:
            yield from (f"{where}: {text}" for text in _amounts(evaluation, statement, is_whole))


def _amounts(evaluation: dict[str, Any], statement: PassStatement, is_whole: bool) -> Iterator[str]:
    if evaluation["unexplained"] or evaluation["error"] > FACTOR_TOLERANCE:
        yield f"additions are not the network's output: {evaluation['error']:.2g}"
    if evaluation["spread"] > FACTOR_TOLERANCE and is_whole:
        yield f"factors differ between rows by {evaluation['spread']:.2g}"
    wanted, got = np.array(statement.factors), np.array(evaluation["factors"])
    apart = np.abs(got - wanted).max() if got.shape == wanted.shape else np.inf
    if is_whole and apart > FACTOR_TOLERANCE:
        yield f"factors {np.round(got, 4).tolist()} instead of {np.round(wanted, 4).tolist()}"


def _everywhere(
    case: Case,
    record: dict[str, Any],
    one: dict[str, Any],
    statement: PassStatement,
    region: np.ndarray | None,
) -> Iterator[str]:
    """Compare the strength at every cell of every layer."""
    for layer, (packed, factor) in enumerate(zip(one["maps"], statement.factors, strict=False)):
        strengths = pictures.unpacked(packed)
        if region is None:
            away = float(np.abs(strengths - factor).max())
            if away > 5 * FACTOR_TOLERANCE:
                yield f"layer {layer}: strength {factor:.3f} is missed by {away:.3f} somewhere"
        elif factor:
            feather = regions.feather_of(case, record, one)
            found = regions.complaints(strengths / factor, region, feather)
            yield from (f"layer {layer}: {text}" for text in found)
        elif strengths.any():
            yield f"layer {layer}: something was added with strength 0"


# ---- hints ---------------------------------------------------------------------------------


def _hints(
    case: Case,
    record: dict[str, Any],
    one: dict[str, Any],
    statement: PassStatement,
    host_picture: HostPicture,
) -> Iterator[str]:
    """Compare the hint behind the rows of each unit."""
    used: dict[int, set[int]] = {}
    for evaluation in one["evaluations"]:
        for hint, unit in zip(evaluation["hints"], statement.units, strict=False):
            if hint != -1 and unit is not None:
                used.setdefault(unit, set()).add(hint)
    for unit, found in used.items():
        if len(found) > 1:
            yield f"unit {unit}: hints {sorted(found)} instead of one"
        for hint in found:
            compared = _hint(case, record, (one, unit), hint, host_picture)
            yield from (f"unit {unit}: {text}" for text in compared)


def _hint(
    case: Case,
    record: dict[str, Any],
    place: tuple[dict[str, Any], int],
    index: int,
    host_picture: HostPicture,
) -> Iterator[str]:
    one, unit = place
    if index < 0:
        yield "the network was evaluated with a hint that was not encoded for this size"
        return
    hint = pictures.unpacked(record["hints"][index])
    size = [8 * cells for cells in one["latent"]]
    if list(hint.shape[1::-1]) != size:
        yield f"hint of {hint.shape[1::-1]} for a latent of {one['latent']}"
        return
    wanted = shown(placement(case, record, one, unit), host_picture)
    if case["module"] == "canny":
        yield from _compare_edges(hint, wanted)
    else:
        yield from _compare_pictures(hint, wanted, wants_mask(case), _tolerance(case))
        if case.get("source") == "host" and follows_host(case):
            yield from _compare_encoded(case, record, hint)


def _tolerance(case: Case) -> float:
    """Mean difference allowed between a hint and the host's picture, in levels."""
    if case.get("source") == "host" or case.get("crop") == "yes":
        return EXACT
    return FITTED if case["resize"] == "Resize and Fill" else RESAMPLED


def follows_host(case: Case) -> bool:
    """Whether the unit's picture has to be the very one that the host encodes."""
    if case.get("area", "whole") == "whole":
        return case["host_resize"] in ("0", "1")  # 2: the border is filled otherwise; 3: own size
    return case["crop"] == "yes"


def _compare_encoded(case: Case, record: dict[str, Any], hint: np.ndarray) -> Iterator[str]:
    """Compare with what the host itself encoded, where it did not fill the masked part."""
    height, width = hint.shape[:2]
    host = pictures.unpacked(record["encoded"][0])[:height, :width]
    kept = hint.min(axis=2) >= 0
    if case.get("fill", "1") != "1":
        mask = pictures.unpacked(record["mask"])[:height, :width]
        kept &= cv2.dilate(mask, np.ones((3, 3), np.uint8)) == 0
    if kept.any():
        away = np.abs(hint - host)[kept].mean()
        if away > EXACT:
            yield f"the hint differs from what the host encoded by {away:.2f} levels"


def _compare_pictures(
    hint: np.ndarray, wanted: Shown, with_mask: bool, tolerance: float
) -> Iterator[str]:
    masked = hint.min(axis=2) < 0
    if with_mask and wanted.masked is not None:
        away = _distance_to_border(wanted.masked)[(masked != wanted.masked) & wanted.certain]
        if away.size and away.max() > MASK_REACH:
            yield f"the mask is wrong up to {away.max():.1f} pixels from its border"
    elif masked.any():
        yield f"{masked.mean():.1%} of the hint is masked"
    compared = wanted.certain & ~masked
    if not compared.any():
        return
    away = np.abs(hint - wanted.picture)[compared].mean()
    if away > tolerance:
        yield f"the hint differs from the host's picture by {away:.2f} levels"


def _distance_to_border(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest one on the other side, (H, W)."""
    sides = (mask.astype(np.uint8), (~mask).astype(np.uint8))
    return sum(cv2.distanceTransform(side, cv2.DIST_L2, 5) for side in sides)


def _compare_edges(hint: np.ndarray, wanted: Shown) -> Iterator[str]:
    grey = wanted.picture.clip(0, 255).astype(np.uint8)
    edges = [(cv2.Canny(grey, 100, 200) > 0) & wanted.certain]
    edges.append((hint[:, :, 0] > 127) & wanted.certain)
    for one, other in (edges, edges[::-1]):
        if not one.any():
            yield "no edges"
            return
        away = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, 5)
        share = (away[one] <= EDGE_REACH).mean()
        if share < EDGE_SHARE:
            yield f"only {share:.0%} of the edges lie where the host's picture has them"
