"""Captions of scenes: what is in them, in varying order and wording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np

JUNK: Final = (
    "photo", "detailed", "best", "quality", "masterpiece", "cute", "trending", "sharp", "highly",
    "realistic", "person", "man", "woman", "face", "cat", "dog", "house", "tree", "car",
    "portrait", "astronaut", "landscape", "city", "flower", "fine", "art",
)  # fmt: skip


class Described(Protocol):
    """What a caption says of a shape."""

    shape: str
    colour: str
    texture: str
    radius: float


def of_shapes(
    rng: np.random.Generator,
    things: Sequence[Described],
    background: tuple[str, tuple[str, ...]],
) -> str:
    """Caption of a scene of shapes, given from far to near."""
    near_first = list(things)[::-1]
    phrases = [_phrase(rng, t) for t in near_first]
    style = rng.random()
    if len(phrases) == 2 and style < 0.35:
        text = f"{phrases[0]} in front of {phrases[1]}"
    elif len(phrases) == 2 and style < 0.45:
        text = f"{phrases[1]} behind {phrases[0]}"
    else:
        text = _join(rng, [phrases[i] for i in rng.permutation(len(phrases))])
    place = _background(rng, background)
    if rng.random() < 0.12:
        text = f"{place.removeprefix('on ')}, {text}"
    else:
        text = f"{text} {place}" if rng.random() < 0.6 else f"{text}, {place}"
    return _dress(rng, text)


def of_mosaic(rng: np.random.Generator, colours: Sequence[str]) -> str:
    """Caption of a mosaic in the given colours."""
    shuffled = [str(c) for c in rng.permutation(list(colours))]
    names = _join(rng, shuffled)
    forms = (
        f"a mosaic of {names}",
        f"a mosaic of {names} colors",
        f"a {names} mosaic",
        f"an ink drawing in {names}",
        f"a pattern of {names}",
        f"{names} mosaic",
    )
    return _dress(rng, str(rng.choice(forms, p=[0.4, 0.1, 0.1, 0.2, 0.1, 0.1])))


def _phrase(rng: np.random.Generator, thing: Described) -> str:
    words = [thing.colour]
    if thing.texture != "solid" or rng.random() < 0.1:
        words.insert(int(rng.integers(0, 2)), thing.texture)
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words, thing.shape])


def _background(rng: np.random.Generator, background: tuple[str, tuple[str, ...]]) -> str:
    kind, names = background
    article = "an" if names[0][0] in "aeiou" else "a"
    if kind == "plain":
        forms = (f"on {article} {names[0]} background", f"on {names[0]} background")
        return str(rng.choice(forms))
    if kind == "gradient":
        return f"on a background gradient from {names[0]} to {names[1]}"
    if rng.random() < 0.5:
        names = names[::-1]
    return f"on a background of {names[0]} and {names[1]} {kind}"


def _join(rng: np.random.Generator, parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    if rng.random() < 0.2:
        return ", ".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _dress(rng: np.random.Generator, text: str) -> str:
    """Sometimes an opening such as "a drawing of", sometimes words that mean nothing."""
    if rng.random() < 0.25:
        openings = ("a drawing of", "a cartoon of", "a picture of", "an ink drawing of")
        text = f"{rng.choice(openings)} {text}"
    if rng.random() < 0.1:
        junk = ", ".join(str(w) for w in rng.choice(JUNK, rng.integers(1, 4)))
        text = f"{text}, {junk}" if rng.random() < 0.6 else f"{junk}, {text}"
    return text
