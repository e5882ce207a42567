"""Pixel work of the editors (`javascript/editors/raster.mjs`), compared with OpenCV in one page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

SOURCE = Path(__file__).resolve().parents[2] / "javascript" / "editors" / "raster.mjs"
WIDTH, HEIGHT = 90, 70


class Raster:
    """Calls into the module, in a page that runs nothing else."""

    def __init__(self, page: Any) -> None:
        code = base64.b64encode(SOURCE.read_bytes()).decode()
        page.evaluate(
            """async (address) => {
              window.raster = await import(address);
              window.planeOf = (rows) => ({
                width: rows[0].length, height: rows.length, data: Uint8Array.from(rows.flat()),
              });
            }""",
            f"data:text/javascript;base64,{code}",
        )
        self.page = page

    def draw(self, act: str, value: Any = None, plane: np.ndarray | None = None) -> tuple:
        """What `act` draws into `plane`, uint8 (H, W), and the bounds that it returns."""
        start = np.zeros((HEIGHT, WIDTH), np.uint8) if plane is None else plane
        data, bounds = self.page.evaluate(
            f"""([rows, value]) => {{
              const plane = planeOf(rows);
              const bounds = ({act})(plane, value);
              return [Array.from(plane.data), bounds];
            }}""",
            [start.tolist(), value],
        )
        return np.array(data, np.uint8).reshape(start.shape), bounds


@pytest.fixture(scope="module")
def raster(profile: Any) -> Raster:
    return Raster(profile.pages[0])


@pytest.fixture
def patches() -> np.ndarray:
    """Patches of four values, with holes and pixels that touch at a corner, uint8 (H, W)."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 4, (HEIGHT // 5, WIDTH // 5), np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)


def bounds_of(changed: np.ndarray) -> dict[str, int]:
    rows, columns = np.nonzero(changed)
    return {
        "left": columns.min(),
        "top": rows.min(),
        "right": columns.max() + 1,
        "bottom": rows.max() + 1,
    }


def holds(outer: dict[str, int], inner: dict[str, int]) -> bool:
    starts = all(outer[side] <= inner[side] for side in ("left", "top"))
    return starts and all(outer[side] >= inner[side] for side in ("right", "bottom"))


def swept(one: tuple, other: tuple) -> np.ndarray:
    """Pixels whose centre a disc covers on its way, each (x, y, radius): bool (H, W)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    covered = np.zeros((HEIGHT, WIDTH), bool)
    for part in np.linspace(0, 1, 2001):
        cx, cy, radius = (a + (b - a) * part for a, b in zip(one, other, strict=True))
        covered |= np.hypot(x - cx, y - cy) <= radius
    return covered


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((20.2, 30.7, 9), (70.1, 44.4, 3)),
        ((45, 35, 12.5), (45, 35, 12.5)),
        ((40, 30, 20), (45, 33, 4)),  # one disc within the other
        ((-10, -5, 8), (120, 90, 2)),
    ],
)
def test_a_segment_is_what_a_disc_covers_on_its_way(raster: Raster, one: Any, other: Any) -> None:
    drawn, bounds = raster.draw(
        """(plane, ends) => {
          const [from, to] = ends.map(([x, y, radius]) => ({ x, y, radius }));
          return raster.drawSegment(plane, from, to, 7);
        }""",
        [one, other],
    )
    wanted = swept(one, other)
    assert set(np.unique(drawn)) == {0, 7}
    assert ((drawn == 7) != wanted).sum() <= 1  # sampled at places between
    assert holds(bounds, bounds_of(drawn))


def test_thin_lines_have_no_gap(raster: Raster) -> None:
    drawn, _ = raster.draw(
        """(plane) => {
          const stroke = raster.startStroke(plane, 255);
          for (let i = 0; i < 12; i += 1) {
            const [x, y] = [45 + 40 * Math.cos(i / 3), 35 + 30 * Math.sin(i / 2)];
            stroke.move({ x, y, radius: 0.5 });
          }
          stroke.end();
        }"""
    )
    count, _ = cv2.connectedComponents((drawn > 0).astype(np.uint8), connectivity=8)
    assert count == 2  # with what is around it
    assert set(np.unique(drawn)) == {0, 255}
    straight, bounds = raster.draw(
        "(plane) => raster.drawLine(plane, { x: 80.9, y: 5.1 }, { x: 3, y: 50 }, 1)"
    )
    assert straight.sum() == 80 - 3 + 1
    assert bounds == bounds_of(straight)


def test_areas_are_those_of_flood_filling(raster: Raster, patches: np.ndarray) -> None:
    for x, y in ((0, 0), (44, 33), (89, 69), (12, 60)):
        wanted = patches.copy()
        cv2.floodFill(wanted, None, (x, y), 200, 1, 1, 4 | cv2.FLOODFILL_FIXED_RANGE)
        drawn, bounds = raster.draw(
            "(plane, [x, y]) => raster.fillArea(plane, { x: x + 0.4, y: y + 0.6 }, 200, 1)",
            [x, y],
            patches,
        )
        assert (drawn == wanted).all()
        assert bounds == bounds_of(wanted == 200)
    _, nothing = raster.draw("(plane) => raster.fillArea(plane, { x: -1, y: 3 }, 200)")
    assert nothing is None


def test_polygons_and_rectangles(raster: Raster) -> None:
    points = [(10.5, 5.5), (80.5, 20.5), (60.5, 64.5), (40.5, 12.5), (5.5, 50.5)]
    ring = [float(side) for point in points for side in point]
    drawn, bounds = raster.draw("(plane, ring) => raster.fillPolygon(plane, [ring], 1)", ring)
    whole = cv2.fillPoly(np.zeros_like(drawn), [np.int32(points)], 1)  # with its edges
    edges = cv2.polylines(np.zeros_like(drawn), [np.int32(points)], True, 1)
    assert ((drawn != whole) <= (cv2.dilate(edges, np.ones((3, 3))) > 0)).all()
    assert drawn.sum() > 1000
    assert holds(bounds, bounds_of(drawn))
    box, bounds = raster.draw(
        "(plane) => raster.fillRectangle(plane, { x: 30.9, y: 99 }, { x: -4, y: 8.2 }, 3)"
    )
    assert bounds == bounds_of(box) == {"left": 0, "top": 8, "right": 31, "bottom": HEIGHT}
    assert (box[8:, :31] == 3).all()


def test_what_is_packed_comes_back(raster: Raster, patches: np.ndarray) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    act = "(plane) => { plane.data = raster.unpack(raster.pack(plane)).data; }"
    for plane in (noise, patches, np.full((HEIGHT, WIDTH), 9, np.uint8)):
        assert (raster.draw(act, plane=plane)[0] == plane).all()


def test_colours_are_exact_to_png_and_back(raster: Raster, patches: np.ndarray) -> None:
    colours = [[120, 120, 120], [180, 120, 121], [6, 230, 230], [1, 2, 254]]
    url, labels, strays = raster.page.evaluate(
        """async ([rows, colours]) => {
          const plane = planeOf(rows);
          const url = raster.toUrl(plane, raster.makePalette(colours));
          const image = new Image();
          image.src = url;
          await image.decode();
          const pixels = raster.readPixels(image, plane.width, plane.height);
          pixels.data[0] += 3;
          const read = raster.readLabels(pixels, colours);
          return [url, Array.from(read.plane.data), read.strays];
        }""",
        [patches.tolist(), colours],
    )
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert (np.asarray(picture.convert("RGB")) == np.uint8(colours)[patches]).all()
    assert np.asarray(picture.convert("RGBA"))[..., 3].min() == 255
    assert labels == patches.ravel().tolist()
    assert strays == 1
