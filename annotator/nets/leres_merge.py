"""Merges two depths of one picture: the overall shape of the one, the details of the other.

Miangoleh, Dille, Mai, Paris, Aksoy (2021), arXiv:2105.14021; a pix2pix U-Net without norms.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ._load import filled
from .pix2pix import Params, UNet


def build(state: Mapping[str, Tensor]) -> UNet:
    """The network of a published file: (b, 2, 1024, 1024) -> (b, 1, 1024, 1024), all -1 to 1."""
    prefix = "model.model."
    widths = [len(state[f"{prefix}0.weight"])]
    prefix += "1.model."
    while f"{prefix}1.weight" in state:
        widths.append(len(state[f"{prefix}1.weight"]))
        prefix += "3.model."
    inputs = state["model.model.0.weight"].shape[1]
    outputs = len(state["model.model.3.bias"])
    params = Params(inputs, outputs, tuple(widths), normalised=False)
    return filled(lambda: UNet(params), state)
