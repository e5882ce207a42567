"""Two units of one Union in a WebUI: what arrives at the U-Net, what is said and what is refused.

Against a real WebUI as `test_matrix.py`; it skips where there is no model of that name.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import sdxl_models
from matrix import cases, members, orders, pictures, verdict
from matrix.test_matrix import host_arithmetic
from servers import Server

PLAIN: cases.Case = {
    **{"path": cases.TXT2IMG, "checkpoint": "sdxl", "sampler": "Euler", "size": "64x64"},
    **{"batch": "one", "prompt": "short", "module": "none", "resize": "Crop and Resize"},
    **{"mode": "Balanced", "strength": "0.6", "window": "0-1", "region": "whole"},
}
CASES = {
    "balanced": PLAIN,
    "hires": {
        **PLAIN,
        **{"path": cases.HIRES, "upscaler": "Latent", "target": "scale", "hr_checkpoint": "same"},
        **{"hr_sampler": "same", "hr_option": "Both", "mode": "ControlNet is more important"},
        **{"window": "0-0.5", "region": "own", "feather": "0", "batch": "size"},
        "batch_option": "all",
    },
}
UNKNOWN_HINT = "the network was evaluated with a hint that was not encoded for this size"
"""It reads the sum of two encoded pictures, which the probe does not know."""


@pytest.fixture
def union(server: Server) -> str:
    """A Union for the SDXL checkpoint."""
    listed = server.get("/controlnet/model_list")["model_list"]
    if not any(name.startswith(f"{sdxl_models.UNION} ") for name in listed):
        pytest.skip(f"the WebUI has no control model {sdxl_models.UNION}")
    return sdxl_models.UNION


def send(server: Server, names: dict[str, str], case: cases.Case, *units: dict[str, Any]) -> Any:
    """The WebUI's answer to a case with other fields in its units."""
    route, request = orders.order(case)
    (unit,) = request["alwayson_scripts"]["ControlNet"]["args"]
    given = [
        {**unit, "image": pictures.encoded(pictures.own_picture(number)), **fields}
        for number, fields in enumerate(units)
    ]
    request["alwayson_scripts"] = {"ControlNet": {"args": given}} if units else {}
    member = server.get("/matrix-probe/member")
    request = members.fitted(orders.renamed(request, names), member, case)
    return server.client.post(route, json=request)


@pytest.mark.parametrize("name", CASES)
def test_two_units_arrive_as_one(
    server: Server, names: dict[str, str], union: str, name: str
) -> None:
    case = CASES[name]
    kinds = ({"union_control_type": "Depth"}, {"union_control_type": 3})
    server.get("/matrix-probe/take")
    answer = send(server, names, case, *({"model": union, **kind} for kind in kinds))
    assert answer.status_code == 200, answer.text[:2000]
    taken = server.get("/matrix-probe/take")
    said = verdict.complaints(case, taken, partial(host_arithmetic, server))
    assert [one for one in said if UNKNOWN_HINT not in one] == []
    info = json.loads(answer.json()["info"])
    for number, kind in enumerate(("Depth", "Hard Edge")):
        written = info["extra_generation_params"][f"ControlNet {number}"]
        assert f"Union Control Type: {kind}" in written
        assert written.endswith(f", Evaluated With: {1 - number}")
        assert written in info["infotexts"][0]
    notes = info["extra_generation_params"]["ControlNet notes"]
    assert f"unit 0, unit 1 are evaluated together by {union}, as Depth, Hard Edge" in notes


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "needs to be told what the picture shows"),
        ({"union_control_type": 8}, "has 8 types of pictures, and Fuse (8) is none of them"),
        ({"union_control_type": "Scenery"}, "union_control_type is 'Scenery', must be one of"),
        ({"union_control_type": 32}, "union_control_type is 32, must be one of"),
    ],
)
def test_types_that_are_not_there_are_refused(
    server: Server, names: dict[str, str], union: str, asked: dict[str, Any], said: str
) -> None:
    before = send(server, names, PLAIN).json()["images"]
    answer = send(server, names, PLAIN, {"model": union, **asked})
    assert (answer.status_code, said in answer.text) == (422, True), answer.text[:2000]
    assert "Depth" in answer.text, "the list"
    assert send(server, names, PLAIN).json()["images"] == before
