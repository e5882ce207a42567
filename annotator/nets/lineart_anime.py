"""A pix2pix U-Net that draws the lines of a painted picture.

Trained in the anime branch of "informative drawings" (Chan, Durand, Isola 2022,
arXiv:2203.12691). Keys are those of `netG.pth`.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ._load import filled, without_prefix
from .pix2pix import Params, UNet

PARAMS = Params(3, 1, (64, 128, 256, 512, 512, 512, 512, 512), normalised=True)


def build(state: Mapping[str, Tensor]) -> UNet:
    """The network of `netG.pth`.

    (b, 3, h, w) in -1 to 1 -> drawing (b, 1, h, w), black lines on white, -1 to 1; sides must be
    multiples of 256.
    """
    return filled(lambda: UNet(PARAMS), without_prefix(state))
