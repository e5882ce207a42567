"""Faces for PuLID. Guo et al. (2024), "PuLID", arXiv:2404.16022."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from . import facexlib
from ._faces import FACES, GLINT, find_face, recognise_face
from ._onnx import open_onnx
from ._tensors import as_input
from .clip_vision import MEAN, STD
from .embedding import ANTELOPE, ID_LEVELS, ID_PICTURE, Embedding
from .ip_adapter import ImagePrompt
from .networks import lend, lend_opened
from .pose.arcface import SIDE, recognise
from .registry import Detected, NothingFoundError, register
from .weights import WeightFile

if TYPE_CHECKING:
    from torch import Tensor

EVA_CLIP: Final = WeightFile(
    "EVA02_CLIP_L_336_psz14_s6B.pt",
    "clip_vision",
    856_461_210,
    "MIT",
    exact=False,
    repo="QuanSun/EVA-CLIP",
)


@register
class PuLid(ImagePrompt):
    """A face as two networks see it: whose it is, and what of it is neither hair nor background."""

    name = "ip-adapter_pulid"
    resolution = None
    control_mode = True
    weights = (FACES, GLINT, *facexlib.FaceXLib.weights, EVA_CLIP)

    def detect(self, image: np.ndarray) -> Detected:
        import torch

        upright = facexlib.upright(facexlib.fit_frame(image))
        vector, notes = _recognise(image, upright)
        grey = facexlib.grey_on_white(upright, facexlib.find_parts(upright))
        shown = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        tensors = {ANTELOPE: torch.from_numpy(vector), **_look_at(shown)}
        return Detected(shown, embedding=Embedding(tensors, self.name), notes=notes)


def _recognise(image: np.ndarray, upright: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Whose face it is, float32 (1, 512), and what to tell of it.

    Where the one detector does not see the face that the other has turned upright, that is taken.
    """
    try:
        face = find_face(image)
    except NothingFoundError:
        with lend_opened(GLINT, open_onnx) as network:
            return recognise(cv2.resize(upright, (SIDE, SIDE)), network)[None], ()
    return recognise_face(image, face, GLINT), face.notes


def _look_at(face: np.ndarray) -> dict[str, Tensor]:
    """The tensors of a face's picture, uint8 (h, w, 3)."""
    from torch.nn import functional as F

    from .nets.eva_clip import build

    with lend(EVA_CLIP, build, half=False) as network:
        size = (network.side, network.side)
        pixels = F.interpolate(
            as_input(face, network, MEAN, STD), size, mode="bicubic", antialias=True
        )
        vector, levels = network(pixels)
        found = {ID_PICTURE: vector, **dict(zip(ID_LEVELS, levels, strict=True))}
        return {name: tensor.float().cpu() for name, tensor in found.items()}
