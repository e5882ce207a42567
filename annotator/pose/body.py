"""OpenPose: bodies from maps of joints and fields between joints.

Cao et al., "OpenPose", arXiv:1812.08008: joints are peaks of their maps; two joints belong
together where the field between them points from one to the other; people are what is joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

JOINTS: Final = 18
STRIDE: Final = 8
"""Pixels of the network's input per cell of its maps."""

_HEIGHT: Final = 184
"""The network sees the picture at this height, half of what it was trained at."""
_GREY: Final = 128
_SIGMA: Final = 3.0
_RADIUS: Final = 4 * 3
"""The blur is cut off at four sigma."""

# First joint, second joint, and the channel of the field's x; y is the next one.
_LIMBS: Final = (
    *((1, 2, 12), (1, 5, 20), (2, 3, 14), (3, 4, 16), (5, 6, 22), (6, 7, 24), (1, 8, 0)),
    *((8, 9, 2), (9, 10, 4), (1, 11, 6), (11, 12, 8), (12, 13, 10), (1, 0, 28), (0, 14, 30)),
    *((14, 16, 34), (0, 15, 32), (15, 17, 36), (2, 16, 18), (5, 17, 26)),
)
_STARTING_LIMBS: Final = 17
"""Only these make a new person; the last two go from shoulder to ear."""
_PEAK: Final = 0.1
_SAMPLES: Final = 10
_ALONG: Final = 0.05
"""Least share of the field that points along the limb, at more than 8 of 10 samples."""
_ENOUGH_SAMPLES: Final = 8
_FEWEST_JOINTS: Final = 4
_WEAKEST: Final = 0.4
"""Mean score per joint below which a person is not believed."""


class Peaks(NamedTuple):
    """Candidates of one joint.

    Attributes:
        points: int (n, 2), x and y in pixels.
        scores: float64 (n,), the map's values there.
        first: number of the first one, when those of all joints are numbered on.
    """

    points: np.ndarray
    scores: np.ndarray
    first: int


class Link(NamedTuple):
    """Two candidates, by their numbers, that make a limb."""

    start: int
    end: int
    score: float


@dataclass(eq=False)
class _Figure:
    """A person in the making: the number of the candidate per joint, -1 for none."""

    joints: np.ndarray
    score: float
    count: int


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize (h, w) or (h, w, c) as the networks were trained with it: areas or Lanczos."""
    shrinks = width + height < image.shape[0] + image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LANCZOS4
    return cv2.resize(image, (width, height), interpolation=method)


def smooth(score_map: np.ndarray) -> np.ndarray:
    """A map of joints, float64 (h, w), without its single spikes."""
    side = 2 * _RADIUS + 1
    return cv2.GaussianBlur(score_map, (side, side), _SIGMA, borderType=cv2.BORDER_REFLECT)


def as_input(pictures: np.ndarray, network: nn.Module) -> Tensor:
    """(b, 3, h, w) in -0.5 to 0.5 of uint8 (b, h, w, 3)."""
    import torch

    weight = next(network.parameters())
    planes = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    return (planes.to(weight.device).float() / 256 - 0.5).to(weight.dtype)


def find_bodies(picture: np.ndarray, network: nn.Module) -> list[np.ndarray]:
    """The people in a picture.

    Args:
        picture: uint8 (h, w, 3), BGR.
        network: `nets.openpose.body_net`.

    Returns:
        One part of 18 points per person.
    """
    height, width = picture.shape[:2]
    factor = _HEIGHT / height
    small = resize(picture, max(int(width * factor), 1), max(int(height * factor), 1))
    inner = small.shape[:2]
    bottom, right = (-side % STRIDE for side in inner)
    grey = (_GREY,) * 3
    padded = cv2.copyMakeBorder(small, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=grey)
    maps = network(as_input(padded[None], network))
    fields, joints = (
        _enlarge(part[0].float().cpu().numpy(), inner, width, height) for part in maps
    )
    return assemble(fields, joints)


def _enlarge(maps: np.ndarray, inner: Sequence[int], width: int, height: int) -> np.ndarray:
    """A network's maps (c, h, w) in the size of the picture."""
    rows, columns = maps.shape[1] * STRIDE, maps.shape[2] * STRIDE
    channels = []
    for channel in maps:
        large = resize(channel, columns, rows)[: inner[0], : inner[1]]
        channels.append(resize(large, width, height))
    return np.stack(channels)


def assemble(fields: np.ndarray, joints: np.ndarray) -> list[np.ndarray]:
    """People of a network's maps.

    Args:
        fields: float (38, h, w).
        joints: float (18 or more, h, w).

    Returns:
        One part of 18 points per person.
    """
    peaks = find_peaks(joints)
    links = [
        find_links(fields[x : x + 2], peaks[first], peaks[second]) for first, second, x in _LIMBS
    ]
    points = np.concatenate([part.points for part in peaks])
    scores = np.concatenate([part.scores for part in peaks])
    people = []
    for figure in _join(links, scores):
        if figure.count < _FEWEST_JOINTS or figure.score / figure.count < _WEAKEST:
            continue
        person = np.zeros((JOINTS, 3))
        there = figure.joints >= 0
        person[there, :2] = points[figure.joints[there]]
        person[there, 2] = 1
        people.append(person)
    return people


def find_peaks(joints: np.ndarray) -> list[Peaks]:
    """Where each joint may be: no neighbour's smoothed value is larger."""
    found, first = [], 0
    for score_map in joints[:JOINTS].astype(np.float64):
        smoothed = smooth(score_map)
        around = np.pad(smoothed, 1)
        sides = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
        top = (smoothed >= np.maximum.reduce(sides)) & (smoothed > _PEAK)
        rows, columns = np.nonzero(top)
        points = np.column_stack([columns, rows])
        found.append(Peaks(points, score_map[rows, columns], first))
        first += len(points)
    return found


def find_links(field: np.ndarray, starts: Peaks, ends: Peaks) -> list[Link]:
    """Which candidates of two joints make a limb, the best first, each end used once.

    Args:
        field: float (2, h, w), x and y of the unit vector from the first joint to the second,
            where there is such a limb.
    """
    if not (len(starts.points) and len(ends.points)):
        return []
    start, end = np.broadcast_arrays(starts.points[:, None], ends.points[None])
    way = (end - start).astype(np.float64)
    length = np.maximum(np.sqrt((way**2).sum(axis=-1)), 0.001)
    columns, rows = np.moveaxis(np.rint(np.linspace(start, end, _SAMPLES)).astype(int), -1, 0)
    direction = way / length[..., None]
    there = np.moveaxis(field[:, rows, columns], 0, -1).astype(np.float64)
    along = (there * direction).sum(axis=-1)
    # Limbs longer than half the picture's height are less likely.
    score = along.mean(axis=0) + np.minimum(0.5 * field.shape[1] / length - 1, 0)
    limbs = ((along > _ALONG).sum(axis=0) > _ENOUGH_SAMPLES) & (score > 0)
    pairs = np.argwhere(limbs)
    ranked = pairs[np.argsort(-score[limbs], kind="stable")]
    taken: tuple[set[int], set[int]] = (set(), set())
    links = []
    for first, second in ranked.tolist():
        if first not in taken[0] and second not in taken[1]:
            taken[0].add(first)
            taken[1].add(second)
            links.append(Link(starts.first + first, ends.first + second, score[first, second]))
    return links


def _join(links: Sequence[Sequence[Link]], scores: np.ndarray) -> list[_Figure]:
    """Figures of the links of all limbs, limb by limb."""
    figures: list[_Figure] = []
    for index, (first, second, _) in enumerate(_LIMBS):
        for link in links[index]:
            owners = [
                figure
                for figure in figures
                if figure.joints[first] == link.start or figure.joints[second] == link.end
            ][:2]
            if len(owners) == 2 and not _overlap(owners[0], owners[1]):
                _merge(owners[0], owners[1], link)
                figures = [figure for figure in figures if figure is not owners[1]]
            elif owners:
                _extend(owners, second, link, scores[link.end])
            elif index < _STARTING_LIMBS:
                joints = np.full(JOINTS, -1)
                joints[[first, second]] = link.start, link.end
                score = scores[link.start] + scores[link.end] + link.score
                figures.append(_Figure(joints, score, 2))
    return figures


def _overlap(one: _Figure, other: _Figure) -> bool:
    return bool(((one.joints >= 0) & (other.joints >= 0)).any())


def _merge(one: _Figure, other: _Figure, link: Link) -> None:
    one.joints = np.maximum(one.joints, other.joints)
    one.score += other.score + link.score
    one.count += other.count


def _extend(owners: Sequence[_Figure], joint: int, link: Link, score: float) -> None:
    """Give the first owner the link's end; two owners both have joints that the other has."""
    owner = owners[0]
    if len(owners) == 1 and owner.joints[joint] == link.end:
        return
    owner.joints[joint] = link.end
    owner.score += score + link.score
    owner.count += 1
