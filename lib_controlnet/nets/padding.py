"""Hints whose sides do not divide into a network's cells."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_cells(hint: Tensor, cell: int) -> Tensor:
    """Continue a hint (b, c, H, W) with its last pixels, so that `cell` divides its sides.

    The rest of a cell counts as a whole one, as it does in the U-Net's strided convolutions.
    """
    bottom, right = (-side % cell for side in hint.shape[-2:])
    return F.pad(hint, (0, right, 0, bottom), mode="replicate") if bottom or right else hint
