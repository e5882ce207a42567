"""Lay pictures out in captioned rows on one page."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER = (250, 249, 246)
TEXT = (32, 34, 40)
SOFT = (110, 112, 120)
GAP = 14
MARGIN = 28


@dataclass(frozen=True)
class Tile:
    """A picture, uint8 (H, W, 3), with one or two short lines below it."""

    picture: np.ndarray
    title: str
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A headline over tiles side by side."""

    headline: str
    tiles: tuple[Tile, ...]


def font(size: int, bold: bool = False) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """A readable font that is there wherever gradio is: matplotlib's DejaVu Sans."""
    spec = importlib.util.find_spec("matplotlib")
    places = list(spec.submodule_search_locations or []) if spec else []
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    for place in places:
        path = Path(place) / "mpl-data" / "fonts" / "ttf" / name
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default()


def wrap(text: str, writer: ImageDraw.ImageDraw, face: ImageFont.ImageFont, width: int) -> str:
    """Break a text into lines that fit into a width in pixels."""
    lines: list[str] = []
    for word in text.split():
        trial = f"{lines[-1]} {word}" if lines else word
        if lines and writer.textlength(trial, font=face) <= width:
            lines[-1] = trial
        else:
            lines.append(word)
    return "\n".join(lines)


def sheet(title: str, subtitle: str, rows: Sequence[Row], tile: int = 256) -> Image.Image:
    """Draw the page.

    Args:
        title: large line on top.
        subtitle: small line below it.
        rows: what to show; a row with fewer tiles stays shorter.
        tile: edge of a square tile in pixels; pictures are scaled to it.
    """
    columns = max(len(row.tiles) for row in rows)
    width = 2 * MARGIN + columns * tile + (columns - 1) * GAP
    heads, names, notes = font(19, bold=True), font(15, bold=True), font(13)
    caption = 88
    height = 118 + len(rows) * (44 + tile + caption) + MARGIN
    page = Image.new("RGB", (width, height), PAPER)
    writer = ImageDraw.Draw(page)
    writer.text((MARGIN, 24), title, TEXT, font=font(30, bold=True))
    writer.text((MARGIN, 68), subtitle, SOFT, font=font(16))
    top = 118
    for row in rows:
        writer.line((MARGIN, top, width - MARGIN, top), SOFT, 1)
        writer.text((MARGIN, top + 12), row.headline, TEXT, font=heads)
        for column, item in enumerate(row.tiles):
            left, upper = MARGIN + column * (tile + GAP), top + 44
            small = item.picture.shape[1] < tile
            resample = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
            page.paste(Image.fromarray(item.picture).resize((tile, tile), resample), (left, upper))
            writer.text((left, upper + tile + 6), item.title, TEXT, font=names)
            note = wrap(item.note, writer, notes, tile)
            writer.multiline_text((left, upper + tile + 27), note, SOFT, font=notes, spacing=2)
        top += 44 + tile + caption
    return page
