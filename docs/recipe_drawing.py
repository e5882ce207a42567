"""The recipe's pictures: a sheet of results and charts of the measures, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from contact_sheet import GAP, MARGIN, PAPER, SOFT, TEXT, Row, font, wrap
from PIL import Image, ImageDraw

SHARPNESS: Final = 2  # charts are drawn this much larger and shrunk: Pillow draws no smooth lines
COLOURS: Final = ((148, 190, 222), (74, 144, 200), (30, 92, 160), (16, 42, 92))
AXIS: Final = (196, 196, 198)
CHART: Final = (620, 400)
CAPTION: Final = 66

Point = tuple[float, float]


def sheet(title: str, subtitle: str, rows: Sequence[Row]) -> Image.Image:
    """Captioned rows of pictures, all of one size, at that size.

    Args:
        title: large line on top.
        subtitle: small line below it.
        rows: what to show.
    """
    tall, wide = rows[0].tiles[0].picture.shape[:2]
    columns = max(len(row.tiles) for row in rows)
    width = 2 * MARGIN + columns * wide + (columns - 1) * GAP
    page = Image.new("RGB", (width, 108 + len(rows) * (40 + tall + CAPTION) + 8), PAPER)
    writer = ImageDraw.Draw(page)
    writer.text((MARGIN, 20), title, TEXT, font=font(28, bold=True))
    writer.text((MARGIN, 62), subtitle, SOFT, font=font(16))
    top = 100
    for row in rows:
        writer.line((MARGIN, top, width - MARGIN, top), SOFT, 1)
        writer.text((MARGIN, top + 9), row.headline, TEXT, font=font(18, bold=True))
        for column, tile in enumerate(row.tiles):
            left, below = MARGIN + column * (wide + GAP), top + 40 + tall
            page.paste(Image.fromarray(tile.picture), (left, top + 40))
            writer.text((left, below + 5), tile.title, TEXT, font=font(15, bold=True))
            note = wrap(tile.note, writer, font(13), wide)
            writer.multiline_text((left, below + 25), note, SOFT, font=font(13), spacing=2)
        top += 40 + tall + CAPTION
    return page


@dataclass(frozen=True)
class Series:
    """A line of a chart.

    Attributes:
        name: written at its end.
        points: (x, y), x rising.
        errors: half length of the bar at each point; none if empty.
    """

    name: str
    points: tuple[Point, ...]
    errors: tuple[float, ...] = ()


@dataclass(frozen=True)
class Chart:
    """What one chart shows.

    Attributes:
        levels: name and height of dashed lines.
        top: upper end of the y axis, which begins at 0.
        step: distance of the y axis's marks.
    """

    title: str
    x_label: str
    series: tuple[Series, ...]
    top: float
    step: float
    levels: tuple[tuple[str, float], ...] = ()


def charts(rows: Sequence[Sequence[Chart]]) -> Image.Image:
    """All charts on one page, in rows."""
    scale = SHARPNESS
    wide, tall = CHART
    size = (wide * max(map(len, rows)) * scale, tall * len(rows) * scale)
    page = Image.new("RGB", size, PAPER)
    for line, row in enumerate(rows):
        for column, chart in enumerate(row):
            _Plot(page, chart, column * wide * scale, line * tall * scale).draw()
    return page.resize((size[0] // scale, size[1] // scale), Image.Resampling.LANCZOS)


class _Plot:
    """A chart at its place on a page; lengths are multiplied by `SHARPNESS` here."""

    def __init__(self, page: Image.Image, chart: Chart, left: int, top: int) -> None:
        self.writer = ImageDraw.Draw(page)
        self.chart = chart
        self.origin = (left, top)
        self.ticks = sorted({x for series in chart.series for x, _y in series.points})
        s = SHARPNESS
        self.box = (left + 62 * s, top + 62 * s, left + (CHART[0] - 130) * s, top + 330 * s)
        self.face, self.small = font(14 * s), font(12 * s)

    def place(self, x: float, y: float) -> Point:
        """Values -> pixels."""
        left, top, right, bottom = self.box
        low, high = self.ticks[0], self.ticks[-1]
        inset = 14 * SHARPNESS
        along = (x - low) / (high - low)
        across = left + inset + along * (right - left - 2 * inset)
        return across, bottom - y / self.chart.top * (bottom - top)

    def draw(self) -> None:
        self.axes()
        ends = [self.line(series, number) for number, series in enumerate(self.chart.series)]
        ends += [self.level(name, y) for name, y in self.chart.levels]
        self.names(ends)

    def axes(self) -> None:
        s, chart = SHARPNESS, self.chart
        left, top, right, bottom = self.box
        at = (self.origin[0] + 24 * s, self.origin[1] + 20 * s)
        self.writer.text(at, chart.title, TEXT, font=font(17 * s, bold=True))
        for number in range(round(chart.top / chart.step) + 1):
            y = self.place(self.ticks[0], number * chart.step)[1]
            self.writer.line((left, y, right, y), AXIS, s)
            text = f"{number * chart.step:g}"
            self.writer.text((left - 8 * s, y), text, SOFT, font=self.small, anchor="rm")
        for x in self.ticks:
            at = self.place(x, 0)
            self.writer.text((at[0], bottom + 8 * s), f"{x:g}", SOFT, font=self.small, anchor="mt")
        middle = ((left + right) / 2, bottom + 28 * s)
        self.writer.text(middle, chart.x_label, TEXT, font=self.face, anchor="mt")

    def line(self, series: Series, number: int) -> tuple[float, str, tuple[int, int, int]]:
        """Draw a line with its bars; returns height, text and colour of the name at its end."""
        s = SHARPNESS
        count = len(self.chart.series)
        colour = COLOURS[-1] if count == 1 else COLOURS[number + len(COLOURS) - count]
        points = [self.place(*point) for point in series.points]
        self.writer.line(points, colour, 3 * s, joint="curve")
        for (x, y), (at_x, at_y) in zip(series.points, points, strict=True):
            error = series.errors[series.points.index((x, y))] if series.errors else 0.0
            low, high = self.place(x, y - error)[1], self.place(x, y + error)[1]
            self.writer.line((at_x, low, at_x, high), colour, s)
            self.writer.ellipse((at_x - 4 * s, at_y - 4 * s, at_x + 4 * s, at_y + 4 * s), colour)
        return points[-1][1], series.name, colour

    def level(self, name: str, y: float) -> tuple[float, str, tuple[int, int, int]]:
        """Draw a dashed line; returns height, text and colour of the name at its end."""
        s = SHARPNESS
        left, _top, right, _bottom = self.box
        at = self.place(self.ticks[0], y)[1]
        for x in range(int(left), int(right), 10 * s):
            self.writer.line((x, at, min(x + 5 * s, right), at), SOFT, 2 * s)
        return at, name, SOFT

    def names(self, ends: list[tuple[float, str, tuple[int, int, int]]]) -> None:
        """Write the names at the right, moved down where they would overlap."""
        s = SHARPNESS
        free = 0.0
        for y, name, colour in sorted(ends):
            at = max(y, free)
            self.writer.text((self.box[2] + 8 * s, at), name, colour, font=self.small, anchor="lm")
            free = at + 15 * s
