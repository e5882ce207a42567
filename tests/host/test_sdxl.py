"""Controls on checkpoints of SDXL's kind: everything that acts on SD1 acts there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdxl_models
import torch
from controls import encoded, first, picture, request, unet_hooks, unit
from random_weights import random_state
from weights import weights_folder

from annotator.lama import LAMA
from annotator.nets.lama import Lama, LamaParams

SIZE = 64
EFFECTS = ("inpaint_only", "inpaint_only+lama", "tile_colorfix", "tile_colorfix+sharp")
RUNS = [
    (sdxl_models.BASE, "Euler"),
    (sdxl_models.BASE, "DDIM"),
    (sdxl_models.V, "DDIM"),
    (sdxl_models.INPAINTING, "Euler"),
]


@pytest.fixture(autouse=True)
def _lama(tmp_path: Path) -> Iterator[None]:
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in Lama(LamaParams(8, 1)).state_dict().items()}
    with weights_folder(tmp_path) as folder:
        (folder / LAMA.folder).mkdir()
        torch.save(random_state(shapes, 1), folder / LAMA.folder / LAMA.name)
        yield


def left_half() -> np.ndarray:
    """A mask over the left half."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 255
    return mask


def effect(module: str, **fields: Any) -> dict[str, Any]:
    """A unit with a preprocessor that acts on the latent."""
    image = encoded(picture())
    own = {"image": image, "mask": encoded(left_half())} if "inpaint" in module else {}
    return unit(model=sdxl_models.CONTROL, module=module, **own, **fields)


def asked(name: str, *units: dict, **fields: Any) -> dict[str, Any]:
    """A request on a checkpoint, which stays loaded for the next one."""
    override = {"sd_model_checkpoint": name}
    stays = {"override_settings": override, "override_settings_restore_afterwards": False}
    return request(*units, **{"steps": 2, **stays, **fields})


@pytest.mark.parametrize(("name", "sampler"), RUNS)
def test_effects_on_the_latent_act_and_repeat(sdxl: Any, name: str, sampler: str) -> None:
    def generated(*units: dict) -> np.ndarray:
        return first(sdxl.txt2img(**asked(name, *units, sampler_name=sampler)))

    plain = generated(unit(model=sdxl_models.CONTROL))
    for module in EFFECTS:
        one, two = generated(effect(module)), generated(effect(module))
        assert np.array_equal(one, two), module
        assert np.abs(one.astype(int) - plain).mean() > 1, module
        if "inpaint" in module:
            away = slice(SIZE // 2 + 8, None)
            assert np.array_equal(one[:, away], picture()[:, away]), module
    assert unet_hooks() == 0
