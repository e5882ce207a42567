"""EVA-CLIP against the authors' class, with the random weights of `random_weights` (seed 3).

`data/networks/eva_clip.npz` holds what it gave at 64 channels, 22 blocks and 4 x 4 patches: the
vector, and of each level every fourth number.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_weights import random_input, random_state, read_keys, read_output, relative_error

from annotator.nets.eva_clip import EvaClip, EvaParams, build


def test_published_file_fits_strictly() -> None:
    with torch.device("meta"):
        state = {key: torch.empty(shape) for key, shape in read_keys("eva_clip").items()}
    beside = {"text.token_embedding.weight": torch.zeros(1), "logit_scale": torch.zeros(())}
    network = build(state | beside)
    assert sum(p.numel() for p in network.parameters()) == 304_432_832
    assert network.side == 336
    del state["visual.norm.bias"]
    with pytest.raises(RuntimeError, match="Missing key"):
        build(state)


def test_network_equals_the_reference() -> None:
    with torch.device("meta"):
        small = EvaClip(EvaParams(64, 170, 22, 14, 17, 24))
    shapes = {f"visual.{key}": value.shape for key, value in small.state_dict().items()}
    with torch.no_grad():
        vector, levels = build(random_state(shapes, seed=3)).eval()(
            random_input((2, 3, 56, 56), -2, 2)
        )
    given = [vector.numpy().ravel(), *(level[:, ::4, ::4].numpy().ravel() for level in levels)]
    assert relative_error(np.concatenate(given), read_output("eva_clip")) <= 1e-5
