"""Units of several control families in one generation, asked for over HTTP."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from controls import encoded, first, host_folder, picture, request, unet_hooks

ASSETS = Path(__file__).resolve().parents[2] / "minihost" / "assets"
EDGES = encoded(np.pad(np.full((24, 24, 3), 255, np.uint8), ((20, 20), (20, 20), (0, 0))))

UNITS: dict[str, dict[str, Any]] = {
    "ControlNet": {"model": "control_demo_depth"},
    "Control-LoRA": {"model": "control_lora_demo_canny", "module": "canny"},
    "T2I-Adapter": {"model": "t2iadapter_demo_canny", "module": "canny"},
    "Union": {"model": "union_demo", "module": "canny", "union_control_type": "Hard Edge"},
    "Reference": {"module": "reference_adain+attn", "image": encoded(picture(seed=8))},
}
"""A unit of each family with files for the demo checkpoint, and one without a file."""


@pytest.fixture(scope="module")
def webui(host: Any) -> Iterator[Any]:
    names = {f"{fields['model']}.safetensors" for fields in UNITS.values() if "model" in fields}
    for name in names:
        shutil.copyfile(ASSETS / name, host_folder() / name)
    assert host.client.get("/controlnet/model_list").status_code == 200
    yield host
    for name in names:
        (host_folder() / name).unlink()


def unit(name: str, **fields: Any) -> dict[str, Any]:
    return {"module": "none", "model": "None", "image": EDGES, "weight": 0.6} | UNITS[name] | fields


def made(webui: Any, *units: dict[str, Any]) -> tuple[np.ndarray, dict[str, str]]:
    answer = webui.txt2img(**request(*units, steps=2))
    return first(answer), answer.info["extra_generation_params"]


def test_families_act_together_in_any_order_and_alone(webui: Any) -> None:
    plain, hooks = made(webui)[0], unet_hooks()
    names = list(UNITS)
    alone = {name: made(webui, unit(name))[0] for name in names}
    assert not any(np.array_equal(picture, plain) for picture in alone.values())
    for number, name in enumerate(names):  # every pair is in one of these threes
        three = [names[(number + step) % len(names)] for step in range(3)]
        together, told = made(webui, *map(unit, three))
        assert {key for key in told if key.startswith("ControlNet ")} == {
            *(f"ControlNet {unit}" for unit in range(3)),
            "ControlNet report",
        }
        assert np.array_equal(made(webui, *map(unit, three[::-1]))[0], together), three
        assert not any(np.array_equal(alone[each], together) for each in three)
        silent = [unit(each, weight=0.0) for each in three[1:]]
        assert np.array_equal(made(webui, *silent, unit(name))[0], alone[name]), three
    assert unet_hooks() == hooks
    assert np.array_equal(made(webui)[0], plain)
