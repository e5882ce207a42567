"""Procedural "ink cartoon" scenes with exact captions, edges, depth and segmentation.

Two kinds: overlapping named shapes on a named background, and mosaics of organic regions in
named colours. Every region is outlined in dark ink. A scene follows from its seed alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import cv2
import numpy as np

from . import captions
from .shapes import fill, free_lines, mosaic_labels, outline, smooth_noise
from .vocabulary import COLOURS, SHAPES

PALETTE: Final = dict(
    zip(
        COLOURS,
        (
            (214, 40, 40),
            (244, 140, 32),
            (250, 220, 50),
            (52, 168, 70),
            (48, 96, 214),
            (132, 60, 176),
            (246, 136, 186),
            (246, 246, 246),
        ),
        strict=True,
    )
)
INK: Final = (24, 22, 30)
SUPERSAMPLING: Final = 2
TINT: Final = 0.2


@dataclass(frozen=True)
class Thing:
    """One shape of a scene; sizes in pixels."""

    shape: str
    colour: str
    texture: str
    centre: tuple[float, float]
    radius: float


@dataclass
class Scene:
    """A rendered scene of (s, s) pixels.

    Attributes:
        picture: uint8 (s, s, 3), outlined in ink.
        flat: uint8 (s, s, 3), the same without ink.
        labels: int32 (s, s), one number a region; 0 is the background, i the i-th thing.
        depth: float32 (s, s), 0 far to 1 near.
        lines: bool (s, s), inked lines that bound no region.
        things: shapes from far to near; empty for a mosaic.
        background: kind and colours; for a mosaic its colours.
    """

    picture: np.ndarray
    flat: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    lines: np.ndarray
    caption: str
    things: list[Thing] = field(default_factory=list)
    background: tuple[str, tuple[str, ...]] = ("plain", ("white",))


def make_scene(seed: int, size: int = 128, mosaic_share: float = 0.28) -> Scene:
    """The scene of a seed.

    Args:
        size: pixels of a side.
        mosaic_share: probability of a mosaic.
    """
    rng = np.random.default_rng([seed, size])
    return _mosaic(rng, size) if rng.random() < mosaic_share else _shapes_scene(rng, size)


def _shapes_scene(rng: np.random.Generator, size: int) -> Scene:
    big = size * SUPERSAMPLING
    background = _choose_background(rng)
    canvas = _paint_background(rng, big, background)
    labels = np.zeros((big, big), np.int32)
    slope = np.linspace(0, rng.uniform(0, 0.25), big, dtype=np.float32)
    depth = np.repeat(slope[:, None], big, axis=1)
    things = _choose_things(rng, size, background[1])
    for i, thing in enumerate(things, 1):
        centre = np.array(thing.centre) * SUPERSAMPLING
        radius = thing.radius * SUPERSAMPLING
        polygons = outline(thing.shape, centre, radius, _angle(rng, thing.shape))
        mask = fill(big, polygons)
        labels[mask] = i
        near = 0.35 + 0.65 * i / len(things)
        depth[mask] = near - rng.uniform(0, 0.1)
        canvas[mask] = _texture(rng, big, thing.colour, thing.texture)[mask]
    caption = captions.of_shapes(rng, things, background)
    scene = _finish(rng, canvas, labels, depth, np.zeros((big, big), np.uint8))
    return Scene(*scene, caption, things, background)


def _angle(rng: np.random.Generator, shape: str) -> float:
    return rng.normal(0, 0.25) if shape == "heart" else rng.uniform(-0.5, 0.5)


def _choose_background(rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    kind = str(rng.choice(("plain", "gradient", "stripes", "checker"), p=[0.6, 0.16, 0.12, 0.12]))
    count = 1 if kind == "plain" else 2
    return kind, tuple(str(c) for c in rng.choice(COLOURS, count, replace=False))


def _choose_things(rng: np.random.Generator, size: int, avoid: tuple[str, ...]) -> list[Thing]:
    count = int(rng.choice((1, 2, 3), p=[0.3, 0.42, 0.28]))
    growth = (size / 128) ** 0.75
    colours = [c for c in COLOURS if c not in avoid]
    things: list[Thing] = []
    for _ in range(count):
        radius = rng.uniform((18, 17, 15)[count - 1], (46, 38, 32)[count - 1]) * growth
        for _attempt in range(8):
            centre = rng.uniform(radius * 0.8, size - radius * 0.8, 2)
            gaps = [np.hypot(*(centre - t.centre)) / (radius + t.radius) for t in things]
            if all(g > 0.6 for g in gaps):
                break
        texture = str(rng.choice(("solid", "striped", "dotted"), p=[0.66, 0.18, 0.16]))
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(colours))
        place = (float(centre[0]), float(centre[1]))
        things.append(Thing(shape, colour, texture, place, float(radius)))
    return things


def colour_value(rng: np.random.Generator, name: str, tint: float = 0.0) -> np.ndarray:
    """Float (3,) RGB of a named colour, slightly varied, mixed with white by `tint`."""
    value = np.array(PALETTE[name], np.float32) + rng.normal(0, 4, 3).astype(np.float32)
    return np.clip(value * (1 - tint) + 255 * tint, 0, 255)


def _paint_background(
    rng: np.random.Generator, big: int, background: tuple[str, tuple[str, ...]]
) -> np.ndarray:
    kind, names = background
    colours = [colour_value(rng, n, TINT) for n in names]
    if kind == "plain":
        return np.full((big, big, 3), colours[0], np.float32)
    if kind == "gradient":
        t = np.linspace(0, 1, big, dtype=np.float32)[:, None, None]
        return np.broadcast_to(colours[0] * (1 - t) + colours[1] * t, (big, big, 3)).copy()
    y, x = np.mgrid[0:big, 0:big]
    if kind == "stripes":
        period = rng.uniform(24, 44) * SUPERSAMPLING
        along = x if rng.random() < 0.5 else y
        second = (along + rng.uniform(0, period)) % period < period / 2
    else:
        period = rng.uniform(18, 34) * SUPERSAMPLING
        shift = rng.uniform(0, period, 2)
        second = ((x + shift[0]) // period + (y + shift[1]) // period) % 2 < 1
    return np.where(second[..., None], colours[1], colours[0]).astype(np.float32)


def _texture(rng: np.random.Generator, big: int, colour: str, texture: str) -> np.ndarray:
    base = colour_value(rng, colour)
    if texture == "solid":
        return np.full((big, big, 3), base, np.float32)
    y, x = np.mgrid[0:big, 0:big].astype(np.float32)
    period = rng.uniform(9, 13) * SUPERSAMPLING
    angle = rng.uniform(0, np.pi)
    u = x * np.cos(angle) + y * np.sin(angle)
    v = y * np.cos(angle) - x * np.sin(angle)
    if texture == "striped":
        dark = (u % period) < period * 0.42
    else:
        dark = (u % period - period / 2) ** 2 + (v % period - period / 2) ** 2 < (period * 0.3) ** 2
    return np.where(dark[..., None], base * 0.55, base).astype(np.float32)


def _mosaic(rng: np.random.Generator, size: int) -> Scene:
    big = size * SUPERSAMPLING
    regions = mosaic_labels(rng, big, size / 128)
    _values, labels = np.unique(regions, return_inverse=True)
    labels = labels.reshape(regions.shape).astype(np.int32)
    names = tuple(str(c) for c in rng.choice(COLOURS, rng.integers(1, 4), replace=False))
    count = int(labels.max()) + 1
    order = rng.permutation(count)
    tint = rng.uniform(0, 0.25)
    values = np.stack([colour_value(rng, names[order[i] % len(names)], tint) for i in range(count)])
    shades = (
        rng.uniform(0.88, 1.0, (count, 1)) if len(names) > 1 else rng.uniform(0.7, 1, (count, 1))
    )
    canvas = (values * shades)[labels].astype(np.float32)
    depth = rng.uniform(0, 1, count).astype(np.float32)[labels]
    depth = np.clip(depth * 0.8 + 0.1 * smooth_noise(rng, big, 2) + 0.1, 0, 1)
    extra = np.zeros((big, big), np.uint8)
    if rng.random() < 0.4:
        for curve in free_lines(rng, big, int(rng.integers(1, 6) * size / 128)):
            cv2.polylines(extra, [np.round(curve).astype(np.int32)], False, 1, 1)
    caption = captions.of_mosaic(rng, names)
    scene = _finish(rng, canvas, labels, depth.astype(np.float32), extra)
    return Scene(*scene, caption, [], ("mosaic", names))


def _finish(
    rng: np.random.Generator,
    canvas: np.ndarray,
    labels: np.ndarray,
    depth: np.ndarray,
    extra: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ink the boundaries and shrink everything to the scene's size."""
    size = labels.shape[0] // SUPERSAMPLING
    edge = extra.copy()
    edge[:-1] |= (labels[:-1] != labels[1:]).astype(np.uint8)
    edge[:, :-1] |= (labels[:, :-1] != labels[:, 1:]).astype(np.uint8)
    width = int(rng.integers(3, 6))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    inked = np.where(cv2.dilate(edge, brush)[..., None] > 0, np.float32(INK), canvas)
    shrink = {"dsize": (size, size), "interpolation": cv2.INTER_AREA}
    picture = np.clip(cv2.resize(inked, **shrink), 0, 255).astype(np.uint8)
    flat = np.clip(cv2.resize(canvas, **shrink), 0, 255).astype(np.uint8)
    lines = cv2.resize(extra * 255, **shrink) > 60
    step = SUPERSAMPLING
    return picture, flat, labels[::step, ::step].copy(), depth[::step, ::step].copy(), lines


def boundary(labels: np.ndarray) -> np.ndarray:
    """Boolean (s, s): pixels whose right or lower neighbour lies in another region."""
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edge
