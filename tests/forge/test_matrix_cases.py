"""Cases of the matrix on the embedded host shaped as each member: all of them take too long here.

Chosen from those that need no second checkpoint, so that they cover as many pairs as so few can.
`pytest tests/matrix --like forge` runs all.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matrix import cases, members, orders, pictures, verdict
from matrix.pairwise import Case
from PIL import Image

from lib_controlnet.nets.cldm import ControlNet

PROBE = Path(__file__).resolve().parents[1] / "matrix" / "probe"
COUNT = 3


def chosen() -> list[Case]:
    """Cases of one checkpoint, each the one that adds most pairs to those before."""
    left = [
        case
        for case in cases.matrix()[0]
        if case["checkpoint"] == "plain" and case.get("hr_checkpoint", "same") == "same"
    ]
    found: list[Case] = []
    while left and len(found) < COUNT:
        seen = cases.covered(found)
        found.append(max(left, key=lambda case: len(cases.covered([case]) - seen)))
        left.remove(found[-1])
    return found


@pytest.fixture(scope="module")
def probe(host: Any) -> Iterator[ModuleType]:
    """The probe's script, at work in this process as its extension would be in a host."""
    from modules import script_callbacks, scripts

    sys.path.insert(0, str(PROBE))
    (file,) = (PROBE / "scripts").glob("*.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    script = module.MatrixProbe()
    script.args_from = script.args_to = 0
    script.filename = str(file)
    runners = [scripts.scripts_txt2img, scripts.scripts_img2img]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("encode_hint", "forward"):  # the probe puts spies there
            patch.setattr(ControlNet, name, getattr(ControlNet, name))
        for runner in runners:
            patch.setattr(runner, "alwayson_scripts", [*runner.alwayson_scripts, script])
            runner.callback_map.clear()
        yield module
    module.RECORDER.finish()
    sys.path.remove(str(PROBE))
    for runner in runners:
        runner.callback_map.clear()
    for callback in (module.RECORDER.evaluation, module.on_app_started):
        script_callbacks.remove_callbacks_for_function(callback)


@pytest.mark.parametrize("case", chosen(), ids=cases.label)
def test_case_of_the_matrix(case: Case, host: Any, like: str, probe: ModuleType) -> None:
    route, asked = orders.order(case)
    asked = members.fitted(asked, like, case)
    if "function" in asked:
        probe.RECORDER.forced = asked["forced"]
        probe.runs.run(asked)
        probe.RECORDER.forced = {}
    else:
        answer = host.post(route, asked)
        assert answer.status_code == 200, answer.text[:2000]

    def host_picture(image: Image.Image, steps: list[list[Any]]) -> Image.Image:
        asked = {"picture": pictures.encoded(image), "steps": steps}
        return pictures.decoded(probe.runs.host_picture(asked))

    recorder = probe.RECORDER
    taken, recorder.generations = recorder.generations, []
    noted = {"generations": [one.as_json() for one in taken], "hooks": probe.recording.hooks_left()}
    found = verdict.complaints(case, noted, host_picture)
    assert not found, f"{case}:\n" + "\n".join(found)
