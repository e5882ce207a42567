"""Units at places where the host does not look are refused; what asks for nothing passes."""

from __future__ import annotations

from typing import Any

import pytest

from lib_controlnet.api.payload import check_units
from lib_controlnet.api.strays import MAX_NODES
from lib_controlnet.errors import UnitError

UNIT = {"module": "canny", "model": "control_canny", "image": "aGk="}
OFF = {**UNIT, "enabled": False}
OTHER = {**UNIT, "module": "depth"}


def scripts(**given: Any) -> dict:
    return {"alwayson_scripts": {"controlnet": given}}


def args(*units: Any) -> dict:
    return scripts(args=list(units))


STRAYS: dict[str, dict] = {
    "the unit itself instead of args": scripts(**UNIT),
    "the unit beside empty args": scripts(args=[], **UNIT),
    "one field beside args": scripts(args=[OTHER], image="aGk="),
    "key misspelt": scripts(arg=[UNIT]),
    "key in other letters": scripts(Args=[UNIT]),
    "key of the older route": scripts(units=[UNIT]),
    "args as an object in another key": scripts(unit=UNIT),
    "units at the top": {"controlnet_units": [UNIT]},
    "unit at the top": {"ControlNet": UNIT},
    "args at the top": {"control net": {"args": [UNIT]}},
    "list of lists at the top": {"controlnet": [[[UNIT]]]},
    "only a picture under our name": {"controlnet": {"image": "aGk="}},
    "text of JSON": {"controlnet_units": '[{"module": "canny"}]'},
    "script args without a script": {"script_args": [UNIT]},
    "scripts misspelt": {"alwayson_script": {"controlnet": {"args": [UNIT]}}},
    "scripts in other letters": {"AlwaysOn_Scripts": {"ControlNet": {"args": [UNIT]}}},
    "under a name of nobody": {"extra": {"deep": [{"er": UNIT}]}},
    "in the settings": {"override_settings": {"controlnet": {"args": [UNIT]}}},
    "keys in other letters": {"units": [{"Module": "canny", "Control Mode": 2}]},
    "oldest flat keys": {
        "controlnet_module": "canny",
        "controlnet_model": "x",
        "controlnet_input_image": ["aGk="],
    },
    "one flat key": {"controlnet_model": "x"},
    "flat keys of scripts": {"control_net_model": "x", "control_net_weight": 1},
    "flat keys in camel case": {"controlNetModule": "canny"},
    "inside a unit": args({"args": [UNIT]}),
    "inside a unit under a number": args({"enabled": True, "0": UNIT}),
    "beside another unit": {**args(UNIT), "controlnet_units": [OTHER]},
    "beside switched off units": {**args(OFF), "controlnet_units": [UNIT]},
}


@pytest.mark.parametrize("case", STRAYS)
def test_unit_out_of_place_is_refused_with_its_place_and_the_right_one(case: str) -> None:
    with pytest.raises(UnitError, match="holds a ControlNet unit, which is not looked") as caught:
        check_units(STRAYS[case], 3)
    text = str(caught.value)
    assert text.endswith('"alwayson_scripts": {"controlnet": {"args": [{...}, ...]}}')
    assert caught.value.status_code == 422
    assert len(text) < 300


HARMLESS: dict[str, dict] = {
    "nothing": {"prompt": "a controlnet"},
    "no units": args(),
    "units in their place": args(UNIT, OTHER),
    "repeated for older servers": {**args(UNIT, OFF), "controlnet_units": [UNIT, OFF]},
    "all switched off": {**args(OFF), "controlnet_units": [OFF], "controlnet": OFF},
    "switched off in its own words": {"controlnet": {**UNIT, "enabled": "False"}},
    "empty keys": {"controlnet_units": [], "controlnet": None, "controlnet_module": "none"},
    "flat keys of nothing": {"controlnet_model": "None", "controlnet_weight": 1.0},
    "another script's models": {
        "alwayson_scripts": {"AnimateDiff": {"args": [{"model": "mm.ckpt", "enable": True}]}}
    },
    "another script's units": {"alwayson_scripts": {"other": {"args": [UNIT]}}},
    "a selectable script's arguments": {"script_name": "x", "script_args": [UNIT]},
    "a setting of ours": {"override_settings": {"control_net_unit_count": 5}},
    "a picture with its mask": args({**UNIT, "image": {"image": "aGk=", "mask": "aGk="}}),
    "a model of something else": {"upscaler": {"model": "4x", "scale": 4}},
    "remarks beside args": scripts(args=[UNIT], comment="x", version=3),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_request_without_stray_units_passes(case: str) -> None:
    check_units(HARMLESS[case], 3)


INFOTEXT = 'a cat\nSteps: 4, ControlNet 0: "Module: canny, Model: x, Weight: 1.0", Size: 64x64'


def test_infotext_that_names_units_is_refused_unless_the_request_says_what_it_wants() -> None:
    with pytest.raises(UnitError, match="^infotext names ControlNet units, but holds no picture"):
        check_units({"infotext": INFOTEXT, **args()}, 3)
    check_units({"infotext": INFOTEXT, **args(UNIT)}, 3)
    check_units({"infotext": INFOTEXT, **args({"enabled": False})}, 3)
    check_units({"infotext": "ControlNet notes: x, Steps: 4", **args()}, 3)
    check_units({"infotext": None}, 3)


def test_look_ends_whatever_the_request_holds() -> None:
    nested: Any = []
    for _ in range(5000):
        nested = [nested]
    wide = [{"a": {}} for _ in range(MAX_NODES)]
    much = {"a": nested, "b": wide, "c": [0] * 100_000}
    check_units(much, 3)
    with pytest.raises(UnitError):
        check_units({**much, "controlnet_units": [UNIT]}, 3)
