"""The face in the middle of a picture, upright, without hair, hat and background.

Faces are found by RetinaFace and taken apart by BiSeNet, as the project facexlib does for the
restoration of faces; PuLID (Guo et al. 2024, arXiv:2404.16022) looks at people in this way.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from ._sizes import within_box
from ._tensors import as_array, as_input
from .networks import lend, place_of
from .pose.retinaface import decode_faces
from .registry import Detector, Frame, NothingFoundError, register
from .weights import WeightFile

_RELEASES: Final = "https://github.com/xinntao/facexlib/releases/download"
FACES: Final = WeightFile(
    "detection_Resnet50_Final.pth",
    "facexlib",
    109_497_761,
    "MIT",
    sha256="6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
    url=f"{_RELEASES}/v0.1.0/detection_Resnet50_Final.pth",
)
PARTS: Final = WeightFile(
    "parsing_bisenet.pth",
    "facexlib",
    53_289_463,
    "MIT",
    sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
    url=f"{_RELEASES}/v0.2.0/parsing_bisenet.pth",
)

_SIDE: Final = 512
_LONGEST: Final = 8 * _SIDE
"""Pixels of the long side; narrower pictures stay smaller."""
_STEP: Final = 64
# Where the eyes, the nose and the mouth's corners are in the upright face.
_TEMPLATE: Final = np.array(
    [
        *((192.98138, 239.94708), (318.90277, 240.1936), (256.63416, 314.01935)),
        *((201.26117, 371.41043), (313.08905, 371.15118)),
    ]
)
_BEYOND: Final = (132, 133, 135)
_MEAN: Final = (123, 117, 104)
_NOT_FACE: Final = (0, 7, 8, 9, 14, 15, 16, 18)
"""Background, ears and their rings, neck and necklace, cloth, hat."""
_LUMA: Final = np.array([0.299, 0.587, 0.114])


@register
class FaceXLib(Detector):
    """The face in grey on white, 512 x 512 pixels whatever the picture's size."""

    name = "facexlib"
    resolution = None
    frame = Frame.AS_GIVEN
    weights = (FACES, PARTS)

    def detect(self, image: np.ndarray) -> np.ndarray:
        face = upright(fit_frame(image))
        return grey_on_white(face, find_parts(face))


def fit_frame(image: np.ndarray) -> np.ndarray:
    """The picture with a short side of 512, its edges repeated to multiples of 64."""
    image = within_box(image, _SIDE, _LONGEST)
    size = image.shape[1::-1]
    right, bottom = (-side % _STEP for side in size)
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)


def upright(image: np.ndarray) -> np.ndarray:
    """The face in the middle, uint8 (512, 512, 3), grey beyond the picture's edges.

    Raises:
        NothingFoundError: there is no face.
    """
    boxes, points = _faces(image)
    if not len(boxes):
        msg = "no face is found in the picture"
        raise NothingFoundError(msg)
    middle = np.array([image.shape[1], image.shape[0]]) / 2
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = np.hypot(*(centres - middle).T).argmin()
    matrix, _ = cv2.estimateAffinePartial2D(points[nearest], _TEMPLATE, method=cv2.LMEDS)
    if matrix is None:
        msg = "the face in the picture has no eyes, nose and mouth to turn it by"
        raise NothingFoundError(msg)
    return cv2.warpAffine(image, matrix, (_SIDE, _SIDE), borderValue=_BEYOND)


def _faces(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from .nets.retinaface import build

    centred = (image.astype(np.float32) - _MEAN)[:, :, ::-1]
    with lend(FACES, build) as network:
        device, dtype = place_of(network)
        planes = torch.from_numpy(np.ascontiguousarray(centred.transpose(2, 0, 1)))
        outputs = network(planes[None].to(device, dtype))
        boxes, scores, points = (as_array(output)[0] for output in outputs)
    return decode_faces(boxes, scores[:, 1], points, image.shape[1], image.shape[0])


def find_parts(face: np.ndarray) -> np.ndarray:
    """Class of each pixel, int (512, 512)."""
    from .nets.bisenet import build

    with lend(PARTS, build) as network:
        return as_array(network(as_input(face, network)).argmax(dim=1))[0].astype(int)


def grey_on_white(face: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """A face uint8 (h, w, 3) in grey, white where it is something else by the classes (h, w)."""
    grey = face @ _LUMA
    grey[np.isin(parts, _NOT_FACE)] = 255
    return np.rint(grey).astype(np.uint8)
