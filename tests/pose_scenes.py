"""Made-up figures, and small networks that give the maps of them.

The same networks run in the reference implementation and in ours, so that everything before and
after a network can be compared without its weights.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from random_weights import random_state
from torch import Tensor, nn

from annotator import animal_openpose, dw_openpose

ONNX = Path(__file__).resolve().parent / "data" / "onnx"

# First joint, second joint, and the channel of the field's x between them.
LIMBS = (
    *((1, 2, 12), (1, 5, 20), (2, 3, 14), (3, 4, 16), (5, 6, 22), (6, 7, 24), (1, 8, 0)),
    *((8, 9, 2), (9, 10, 4), (1, 11, 6), (11, 12, 8), (12, 13, 10), (1, 0, 28), (0, 14, 30)),
    *((14, 16, 34), (0, 15, 32), (15, 17, 36), (2, 16, 18), (5, 17, 26)),
)
# A standing person, in shares of its height from the neck.
STANDING = np.array(
    [
        *((0, -0.12), (0, 0), (-0.1, 0.01), (-0.14, 0.18), (-0.17, 0.33), (0.1, 0.01)),
        *((0.15, 0.17), (0.2, 0.3), (-0.06, 0.32), (-0.07, 0.55), (-0.08, 0.78), (0.06, 0.32)),
        *((0.08, 0.55), (0.07, 0.78), (-0.03, -0.15), (0.03, -0.15), (-0.07, -0.13)),
        *((0.07, -0.13),),
    ]
)


def scene(seed: int, width: int, height: int) -> list[np.ndarray]:
    """Some people: float (18, 2) each, in pixels, NaN for joints that are not to be seen."""
    rng = np.random.default_rng(seed)
    people = []
    for _ in range(int(rng.integers(1, 5))):
        tall = rng.uniform(0.5, 1.1) * height
        neck = rng.uniform((0.15 * width, 0.2 * height), (0.85 * width, 0.45 * height))
        joints = neck + tall * (STANDING + rng.normal(0, 0.02, STANDING.shape))
        joints[rng.random(18) < 0.12] = np.nan
        people.append(joints)
    return people


def picture(seed: int, width: int, height: int) -> np.ndarray:
    """A smooth random picture, uint8 (height, width, 3)."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return (128 + smooth / smooth.std() * 50).clip(0, 255).astype(np.uint8)


class SceneNet(nn.Module):
    """Gives the fields and joints of a scene, at an eighth of any picture's size."""

    def __init__(self, seed: int, width: int, height: int) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.seed, self.size = seed, (width, height)
        self.people = scene(seed, width, height)

    def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = given.shape[2] // 8, given.shape[3] // 8
        rng = np.random.default_rng(self.seed + 1000)
        fields = rng.normal(0, 0.03, (38, rows, columns))
        joints = rng.uniform(0, 0.05, (19, rows, columns))
        # Cells of the map per pixel of the scene: the network sees it 184 pixels high.
        cells = 184 / self.size[1] / 8
        grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1) + 0.5
        for points in self.people:
            for joint, point in enumerate(points * cells):
                near = np.exp(-((grid - point) ** 2).sum(-1) / 1.6)
                joints[joint] = np.fmax(joints[joint], near)
            for first, second, x in LIMBS:
                ends = points[[first, second]] * cells
                if not np.isnan(ends).any():
                    fields[x : x + 2] += _along(grid, *ends)
        maps = (fields, joints)
        return tuple(torch.from_numpy(part)[None].float() for part in maps)


def _along(grid: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(2, h, w): the unit vector from start to end within a cell of the line between them."""
    way = end - start
    length = max(np.hypot(*way), 1e-6)
    share = ((grid - start) @ way / length**2).clip(0, 1)
    distance = np.hypot(*np.moveaxis(grid - start - share[..., None] * way, -1, 0))
    return (way / length)[:, None, None] * (distance < 0.8)


class PatchNet(nn.Module):
    """Maps that depend on the colours of each 8 x 8 patch; map 5 is empty, the last one full."""

    def __init__(self, maps: int, seed: int) -> None:
        super().__init__()
        conv = nn.Conv2d(3, maps, 8, stride=8)
        shapes = {key: value.shape for key, value in conv.state_dict().items()}
        conv.load_state_dict(random_state(shapes, seed, gain=4))
        with torch.no_grad():
            conv.weight[5], conv.bias[5], conv.bias[-1] = 0, 0, 5
        self.conv = conv

    def forward(self, given: Tensor) -> list[Tensor]:
        return [self.conv(given)]


def overlaps(people: list[np.ndarray]) -> int:
    """How many pairs of people have boxes that overlap."""
    boxes = [(np.nanmin(p, axis=0), np.nanmax(p, axis=0)) for p in people]
    return sum(
        bool((np.maximum(a[0], b[0]) < np.minimum(a[1], b[1])).all())
        for a, b in itertools.combinations(boxes, 2)
    )


def patches(seed: int = 4, side: int = 640) -> np.ndarray:
    """A grey-brown picture with two red cells and a green one, for `data/onnx/boxes.onnx`."""
    image = picture(seed, side, side) // 4 * 3
    image[:] = image.mean(axis=2, keepdims=True)
    for row, column, colour in ((9, 4, (255, 0, 0)), (8, 13, (230, 20, 20)), (4, 9, (10, 250, 0))):
        image[32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = colour
    return image


def yolox_rows(seed: int) -> np.ndarray:
    """What YOLOX might give: float32 (8400, 85), ninety sure cells, neighbours among them."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(0, 1, (8400, 85)).astype(np.float32)
    rows[:, 4:] = 0.02 * rng.random((8400, 81))
    hot = rng.integers(0, 8399, 60)
    hot = np.concatenate([hot, hot[:30] + 1])
    rows[hot, 2:4] = rng.normal(1.5, 0.3, (90, 2))
    rows[hot, 4] = rng.random(90)
    rows[hot, 5] = rng.random(90)
    rows[hot, 5 + rng.integers(14, 24, 90)] = rng.random(90)
    return rows


def simcc(seed: int, count: int, points: int, bins: int) -> np.ndarray:
    """Scores along one axis: float32 (count, points, bins), some points surer than others."""
    rng = np.random.default_rng(seed)
    scores = rng.random((count, points, bins)) * rng.random((count, points, 1))
    return scores.astype(np.float32)


def surfaces(seed: int, width: int, height: int, people: int) -> tuple[Tensor, ...]:
    """What DensePose might give: boxes (n, 4), coarse (n, 2, ...), fine (n, 25, ...), u, v."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, (0.6 * width, 0.6 * height), (people, 2))
    sizes = rng.uniform((0.15 * width, 0.2 * height), (0.4 * width, 0.4 * height), (people, 2))
    boxes = np.hstack([corners, corners + sizes]).astype(np.float32)
    coarse, fine, u, v = (
        np.stack([cv2.GaussianBlur(m, (0, 0), 2) for m in rng.normal(0, 1, (people * c, 28, 28))])
        for c in (2, 25, 25, 25)
    )
    parts = (m.reshape(people, -1, 28, 28).astype(np.float32) for m in (coarse, fine, u, v))
    return tuple(torch.from_numpy(part) for part in (boxes, *parts))


FACE_SETS = ("FACE_OVAL", "LEFT_EYE", "LEFT_EYEBROW", "RIGHT_EYE", "RIGHT_EYEBROW", "LIPS")


def face_rings() -> dict[str, list[tuple[int, int]]]:
    """Lines between the landmarks of a face: a ring of twelve points for each set of MediaPipe."""
    return {
        name: [(12 * i + j, 12 * i + (j + 1) % 12) for j in range(12)]
        for i, name in enumerate(FACE_SETS)
    }


def landmarks(seed: int, left: float, top: float, wide: float, tall: float) -> np.ndarray:
    """The 478 landmarks of a face of some size, float32, in fractions of a picture."""
    rng = np.random.default_rng(seed)
    points = rng.random((478, 2))
    points[:2] = (0, 0), (1, 1)
    return ((left, top) + points * (wide, tall)).astype(np.float32)


FACES = (
    landmarks(1, 0.1, 0.15, 0.6, 0.7),
    landmarks(2, 0.55, 0.4, 0.7, 0.8),
    landmarks(3, 0.1, 0.1, 0.2, 0.9),  # 51 of 256 pixels wide: too small
)


def scrfd_outputs(seed: int) -> list[np.ndarray]:
    """What SCRFD might give: scores, boxes and points at three strides; some thirty sure faces."""
    rng = np.random.default_rng(seed)
    scores, boxes, points = [], [], []
    for stride in (8, 16, 32):
        rows = (640 // stride) ** 2 * 2
        score = 0.4 * rng.random((rows, 1))
        score[rng.integers(0, rows, 12)] = rng.uniform(0.4, 1, (12, 1))
        scores.append(score.astype(np.float32))
        boxes.append(rng.uniform(0.5, 4, (rows, 4)).astype(np.float32))
        points.append(rng.uniform(-3, 3, (rows, 10)).astype(np.float32))
    return [*scores, *boxes, *points]


def put_small_networks(folder: Path) -> None:
    """Put the networks of `data/onnx` into a weights folder, where DWPose and animals look."""
    files = {
        dw_openpose.BOXES: "boxes.onnx",
        dw_openpose.POINTS: "people.onnx",
        animal_openpose.POINTS: "animals.onnx",
    }
    for weight, name in files.items():
        target = folder / weight.places[0]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ONNX / name, target)


def retinaface_outputs(seed: int, width: int, height: int) -> tuple[np.ndarray, ...]:
    """What RetinaFace might give for a picture: boxes (n, 4), scores (n, 2), points (n, 10)."""
    rng = np.random.default_rng(seed)
    rows = sum(2 * -(-width // step) * -(-height // step) for step in (8, 16, 32))
    boxes = rng.normal(0, 1, (rows, 4))
    sure = 0.5 * rng.random(rows)
    sure[rng.integers(0, rows, 12)] = rng.uniform(0.9, 1, 12)
    sure[-1] = 0.99
    points = rng.normal(0, 3, (rows, 10))
    scores = np.stack([1 - sure, sure], axis=-1)
    return tuple(part.astype(np.float32) for part in (boxes, scores, points))
