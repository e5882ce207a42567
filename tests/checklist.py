"""Small requests for the checklist of client programs."""

from __future__ import annotations

from typing import Any

import numpy as np

MODEL = "control_demo_canny"
FEW = {
    **{"prompt": "a red circle", "steps": 2, "width": 64, "height": 64, "seed": 7},
    **{"cfg_scale": 4, "sampler_name": "Euler"},
}
DETECT = "/controlnet/detect"


def shapes(width: int = 128, height: int = 128) -> np.ndarray:
    """Two coloured rectangles on grey, uint8."""
    array = np.full((height, width, 3), 220, np.uint8)
    array[height // 4 : height // 2, width // 8 : width // 2] = (200, 30, 30)
    array[height // 2 : height * 7 // 8, width * 5 // 8 : width * 7 // 8] = (20, 60, 200)
    return array


def ask(webui: Any, *units: Any, route: str = "txt2img", **more: Any) -> Any:
    """The response to a small generation with these units."""
    scripts = {"ControlNet": {"args": list(units)}}
    return webui.post(f"/sdapi/v1/{route}", {**FEW, "alwayson_scripts": scripts, **more})


def pictures(webui: Any, *units: Any, **more: Any) -> list[str]:
    """The pictures of a small generation that has to succeed."""
    answer = ask(webui, *units, **more)
    assert answer.status_code == 200, answer.text[:2000]
    return answer.json()["images"]
