"""ArcFace: whose face it is, as 512 numbers.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", arXiv:1801.07698.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from .wholebody import Network

SIDE: Final = 112
"""Side of the upright face that the networks read."""

WIDTH: Final = 512
"""Numbers of an embedding."""

# Where the eyes, the nose and the mouth's corners are in a face of that size.
_TEMPLATE: Final = np.array(
    [
        *((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366)),
        *((41.5493, 92.3655), (70.7299, 92.2041)),
    ]
)
_MEAN: Final = 127.5


def turn_upright(picture: np.ndarray, points: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A face, turned, scaled and moved so that its points come as near to the usual ones as can be.

    Args:
        picture: uint8 (h, w, 3), RGB.
        points: (5, 2): the eyes, the nose and the corners of the mouth, in pixels.
        side: of the result, a multiple of 112.

    Returns:
        uint8 (side, side, 3), black beyond the picture's edges.
    """
    # With points as complex numbers such a motion is a x + b: least squares in two lines.
    given, wanted = (part[:, 0] + 1j * part[:, 1] for part in (points, _TEMPLATE * (side / SIDE)))
    spread = given - given.mean()
    turn = np.vdot(spread, wanted - wanted.mean()) / max(np.vdot(spread, spread).real, 1e-9)
    move = wanted.mean() - turn * given.mean()
    matrix = np.array([[turn.real, -turn.imag, move.real], [turn.imag, turn.real, move.imag]])
    return cv2.warpAffine(picture, matrix, (side, side), borderValue=(0, 0, 0))


def recognise(face: np.ndarray, network: Network) -> np.ndarray:
    """The embedding of an upright face.

    Args:
        face: uint8 (112, 112, 3), RGB.
        network: (1, 3, 112, 112) in -1 to 1 -> (1, 512).

    Returns:
        float32 (512,), of any length.
    """
    planes = (face.transpose(2, 0, 1)[None].astype(np.float32) - _MEAN) / np.float32(_MEAN)
    (embedding,) = network(planes)
    return embedding.reshape(WIDTH).astype(np.float32)
