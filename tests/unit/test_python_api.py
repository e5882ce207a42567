"""The Python API of other extensions: units, listings, and writing units into script arguments."""

from __future__ import annotations

import base64
import copy
import io
import json
import logging
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.encoders import jsonable_encoder

from lib_controlnet.enums import ControlMode, HiResFixOption, InputMode, ResizeMode
from lib_controlnet.errors import ImageError, UnitError
from lib_controlnet.interop import api as python_api
from lib_controlnet.interop import services
from lib_controlnet.interop import unit as unit_object
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.units.unit import FIELDS, parse_unit

FIELDS_IN_ORDER = [
    "is_ui",
    "input_mode",
    "batch_images",
    "output_dir",
    "loopback",
    "enabled",
    "module",
    "model",
    "weight",
    "image",
    "resize_mode",
    "low_vram",
    "processor_res",
    "threshold_a",
    "threshold_b",
    "guidance_start",
    "guidance_end",
    "pixel_perfect",
    "control_mode",
    "inpaint_crop_input_image",
    "hr_option",
    "save_detected_map",
    "advanced_weighting",
    "effective_region_mask",
    "pulid_mode",
    "union_control_type",
    "ipadapter_input",
    "mask",
    "batch_mask_dir",
    "animatediff_batch",
    "batch_modifiers",
    "batch_image_files",
    "batch_keyframe_idx",
    "region",
    "region_feather",
    "batch_option",
    "style_align",
    "union_apart",
    "speed",
    "region_colour",
    "region_map",
    "weight_curve",
]


@dataclass
class FakeScript:
    """A host script: a title and its slice of the arguments."""

    name: str
    args_from: int
    args_to: int

    def title(self) -> str:
        return self.name


@dataclass
class FakeRunner:
    """A host script runner with a selectable script in front of and behind ours."""

    alwayson_scripts: list[FakeScript] = field(
        default_factory=lambda: [
            FakeScript("before", 1, 3),
            FakeScript("ControlNet", 3, 6),
            FakeScript("after", 6, 8),
        ]
    )

    @property
    def scripts(self) -> list[FakeScript]:
        return [*self.alwayson_scripts, self.selectable]

    selectable: FakeScript = field(default_factory=lambda: FakeScript("x/y/z plot", 8, 9))


ARGS = (0, "b0", "b1", "u0", "u1", "u2", "a0", "a1", "s0")


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The extension's services, as far as this module asks for them."""
    scans: list[int] = []
    fake = SimpleNamespace(
        unit_count=lambda: 3,
        refresh_models=lambda: scans.append(1),
        catalog=SimpleNamespace(names=lambda: ["control_canny [01234567]"]),
        scans=scans,
    )
    monkeypatch.setattr(services, "_PROVIDERS", [lambda: fake])
    return fake


def test_unit_vars_are_the_published_fields_in_order() -> None:
    assert list(vars(ControlNetUnit())) == FIELDS_IN_ORDER
    assert tuple(FIELDS_IN_ORDER) == tuple(FIELDS)


def test_unit_default_is_disabled_and_serialisable() -> None:
    encoded = jsonable_encoder(ControlNetUnit())
    assert list(encoded) == FIELDS_IN_ORDER
    assert encoded["enabled"] is False
    assert (encoded["module"], encoded["model"]) == ("none", "None")
    assert encoded["resize_mode"] == "Crop and Resize"
    assert encoded["control_mode"] == "Balanced"


def test_unit_construction_takes_every_spelling_and_ignores_unknown_keys() -> None:
    unit = ControlNetUnit(
        resize_mode="Inner Fit (Scale to Fit)",
        control_mode=2,
        input_mode="simple",
        lowvram=True,
        guidance=0.6,
        some_future_key=1,
    )
    assert unit.resize_mode is ResizeMode.INNER_FIT
    assert unit.control_mode is ControlMode.CONTROL
    assert unit.input_mode is InputMode.SIMPLE
    assert (unit.low_vram, unit.guidance_end) == (True, 0.6)
    assert not hasattr(unit, "some_future_key")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"guidance": 0.4}, {"guidance_end": 0.4}),
        ({"lowvram": True}, {"low_vram": True}),
        ({"input_image": "abc"}, {"image": "abc"}),
        ({"mask_image": "abc"}, {"mask": "abc"}),
        ({"batch_image_dir": "/a"}, {"batch_images": "/a"}),
        ({"guessmode": True}, {"control_mode": ControlMode.CONTROL}),
        ({"guess_mode": False}, {"control_mode": ControlMode.BALANCED}),
        ({"guess_mode": True, "control_mode": "Balanced"}, {"control_mode": ControlMode.BALANCED}),
        ({"resize_mode": "Envelope (Outer Fit)"}, {"resize_mode": ResizeMode.OUTER_FIT}),
        ({"resize_mode": 3}, {"resize_mode": ResizeMode.RESIZE}),
        ({"hr_option": "HiResFixOption.BOTH"}, {"hr_option": HiResFixOption.BOTH}),
    ],
    ids=str,
)
def test_unit_older_names_and_values_are_taken_with_one_warning(
    fields: dict, expected: dict, caplog: pytest.LogCaptureFixture
) -> None:
    unit_object._notice.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            unit = ControlNetUnit(**fields)
            like = ControlNetUnit.from_dict(fields)
    for name, value in expected.items():
        assert getattr(unit, name) == getattr(like, name) == value
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1, warnings
    assert "out of date, use" in warnings[0]
    assert next(iter(fields)) in warnings[0]


def test_unit_unknown_keys_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    unit_object._notice.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ControlNetUnit(colour="red", weight=0.5)
            ControlNetUnit.from_dict({"colour": "blue", "flavour": 1})
    texts = sorted(record.getMessage() for record in caplog.records)
    assert [text.split("'")[1] for text in texts] == ["colour", "flavour"]
    assert all("no field" in text for text in texts)


def test_unit_in_present_form_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    unit_object._notice.cache_clear()
    with caplog.at_level(logging.WARNING):
        unit = ControlNetUnit(resize_mode="Just Resize", control_mode=ControlMode.PROMPT)
        ControlNetUnit(**vars(unit))
        ControlNetUnit.from_dict({"resize_mode": "Crop and Resize"})
    assert not caplog.records


def test_unit_takes_attributes_that_neighbours_add() -> None:
    unit = ControlNetUnit()
    unit.their_own = 1
    assert copy.deepcopy(unit).their_own == 1
    assert copy.copy(unit) == unit


@pytest.mark.parametrize(
    ("module", "claims"),
    [
        ("none", ()),
        ("canny", ()),
        ("inpaint_only", ("is_inpaint",)),
        ("inpaint_global_harmonious", ("is_inpaint",)),
        ("ip-adapter_clip_sd15", ("is_ipadapter", "accepts_multiple_inputs", "uses_clip")),
        ("ip-adapter_face_id", ("is_ipadapter", "accepts_multiple_inputs")),
        ("clip_vision", ("uses_clip",)),
        ("revision_ignore_prompt", ("uses_clip",)),
    ],
)
def test_unit_says_what_its_preprocessor_is(module: str, claims: tuple[str, ...]) -> None:
    unit = ControlNetUnit(module=module)
    names = ("is_inpaint", "is_ipadapter", "accepts_multiple_inputs", "uses_clip")
    assert tuple(name for name in names if getattr(unit, name)) == claims
    assert not unit.is_animate_diff_batch
    unit.animatediff_batch = True
    assert unit.is_animate_diff_batch


def test_unit_gives_its_pictures_with_masks() -> None:
    image = np.full((4, 6, 3), 9, np.uint8)
    mask = np.zeros((4, 6), np.uint8)
    mask[:2] = 255
    assert ControlNetUnit().get_input_images_rgba() is None
    (plain,) = ControlNetUnit(image=image).get_input_images_rgba()
    assert plain.shape == (4, 6, 4)
    assert not plain[..., 3].any()
    for unit in (
        ControlNetUnit(image=image, mask=mask),
        ControlNetUnit(image={"image": image, "mask": mask}),
        ControlNetUnit(image=[image, mask]),
    ):
        (found,) = unit.get_input_images_rgba()
        assert np.array_equal(found[..., :3], image)
        assert np.array_equal(found[..., 3], mask)
    several = ControlNetUnit(image=[{"image": image}, {"image": image, "mask": mask}])
    assert [found[..., 3].any() for found in several.get_input_images_rgba()] == [False, True]
    with pytest.raises(ImageError):
        ControlNetUnit(image="/etc/hostname").get_input_images_rgba()


WITHOUT_PYDANTIC = """
import sys
sys.modules["pydantic"] = sys.modules["pydantic_core"] = None  # whatever imports it now fails
from lib_controlnet.interop.api import ControlNetUnit, Preprocessor
unit = ControlNetUnit.from_dict({"module": "canny", "weight": "0.5", "lowvram": 1})
assert (unit.enabled, unit.weight, unit.low_vram) == (True, 0.5, True)
assert ControlNetUnit.parse(unit.serialize()).module == "canny"
assert Preprocessor.get_preprocessor("canny").slider_1.value == 100
"""


def test_units_need_no_pydantic_at_all() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYDANTIC],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_unit_construction_current_name_wins_over_alias() -> None:
    assert ControlNetUnit(guidance=0.1, guidance_end=0.9).guidance_end == 0.9


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"controlMode": 2, "Weight": 0.5}, {"control_mode": ControlMode.CONTROL, "weight": 0.5}),
        ({"image": None, "input_image": "abc"}, {"image": "abc"}),
        ({"control_mode": None, "guess_mode": True}, {"control_mode": ControlMode.CONTROL}),
        ({"control_mode": 1, "guess_mode": True}, {"control_mode": ControlMode.PROMPT}),
    ],
    ids=str,
)
def test_unit_keys_mean_the_same_in_an_object_and_in_a_request(
    fields: dict, expected: dict
) -> None:
    for unit in (ControlNetUnit(**fields), parse_unit(fields)):
        assert {name: getattr(unit, name) for name in expected} == expected


def test_unit_older_switch_that_is_neither_true_nor_false_is_reported_when_used() -> None:
    unit = ControlNetUnit(enabled=True, guess_mode="maybe")
    with pytest.raises(UnitError, match="unit 1: control_mode is 'maybe'"):
        parse_unit(unit, 1)


def test_unit_impossible_choice_is_kept_and_reported_when_used() -> None:
    unit = ControlNetUnit(enabled=True, resize_mode="Sideways")
    with pytest.raises(UnitError, match="unit 1: resize_mode is 'Sideways'"):
        parse_unit(unit, 1)


def test_row_08_adetailer_copy_of_a_unit_can_be_switched_off() -> None:
    unit = ControlNetUnit(enabled=True, batch_modifiers=[])
    for duplicate in (copy.copy(unit), copy.deepcopy(unit)):
        duplicate.enabled = False
        assert duplicate != unit
    assert unit.enabled


def test_row_11_animatediff_takes_a_units_fields_as_a_dict_gives_them() -> None:
    unit = ControlNetUnit(weight=0.5)
    assert (unit.get("weight"), unit.get("nothing"), unit.get("nothing", 3)) == (0.5, None, 3)
    assert unit.batch_images.split("\n") == [""]


def test_unit_lists_are_not_shared() -> None:
    ControlNetUnit().batch_modifiers.append(print)
    assert ControlNetUnit().batch_modifiers == []


def test_unit_equality_compares_pictures_by_content() -> None:
    first, second = (ControlNetUnit(image={"image": np.zeros((4, 4, 3), np.uint8)}) for _ in "ab")
    assert first == second
    second.image["image"][0, 0, 0] = 1
    assert first != second


def test_unit_repr_names_pictures_by_size_only() -> None:
    text = repr(ControlNetUnit(image=np.zeros((4, 6, 3), np.uint8), mask="A" * 5000))
    assert "<array (4, 6, 3)>" in text
    assert len(text) < 200


def test_unit_from_dict_without_enabled_is_enabled() -> None:
    unit = ControlNetUnit.from_dict({"module": "canny", "mask_image": "abc", "weight": "1.5"})
    assert (unit.enabled, unit.mask, unit.weight) == (True, "abc", 1.5)
    assert ControlNetUnit.from_dict({"enabled": False}).enabled is False


def test_unit_from_dict_is_strict_if_it_is_on_and_keeps_everything_if_it_is_off() -> None:
    with pytest.raises(UnitError, match="unit 0: weight is 3, must be between 0 and 2"):
        ControlNetUnit.from_dict({"weight": 3})
    unit = ControlNetUnit.from_dict({"weight": "x", "enabled": False, "module": "canny"})
    assert (unit.enabled, unit.weight, unit.module) == (False, "x", "canny")


def test_unit_infotext_round_trip() -> None:
    unit = ControlNetUnit(enabled=True, module="canny", model="a, b [1]", weight=0.5)
    assert ControlNetUnit.parse(unit.serialize()) == unit
    assert len(ControlNetUnit.infotext_fields()) == 11


def test_get_all_units_from_takes_units_dicts_and_look_alikes() -> None:
    like = SimpleNamespace(enabled=True, module="canny", model="m", weight=0.5)
    own = ControlNetUnit(enabled=True)
    units = python_api.get_all_units_from([own, {"module": "depth"}, like, None, "text"])
    assert [unit.module for unit in units] == ["none", "depth", "canny"]
    assert units[0] is own
    assert all(isinstance(unit, ControlNetUnit) for unit in units)


def test_get_all_units_from_nothing_recognised_warns_and_names_types(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert python_api.get_all_units_from([1, "text"]) == []
    assert "No ControlNetUnit detected in args" in caplog.text
    assert "int, str" in caplog.text


def test_get_all_units_in_processing_reads_our_slice_only() -> None:
    args = [0, {"module": "not ours"}, None, *(ControlNetUnit(module=m) for m in "abc")]
    p = SimpleNamespace(scripts=FakeRunner(), script_args=tuple(args))
    units = python_api.get_all_units_in_processing(p)
    assert [unit.module for unit in units] == ["a", "b", "c"]


def test_get_single_unit_from_counts_units() -> None:
    args = [None, ControlNetUnit(module="a"), "x", {"module": "b"}]
    assert python_api.get_single_unit_from(args, 1).module == "b"
    assert python_api.get_single_unit_from(args, 5) is None


def test_objects_without_arguments_have_no_units_and_get_none() -> None:
    runner = FakeRunner(alwayson_scripts=[FakeScript("ControlNet", 0, 3)])
    p = SimpleNamespace(scripts=runner, script_args={}, script_args_value={})
    assert python_api.get_all_units_in_processing(p) == []
    python_api.update_cn_script_in_processing(p, [ControlNetUnit()])
    assert p.script_args == {}
    p = SimpleNamespace(scripts=None, script_args=ARGS, script_args_value=ARGS)
    python_api.update_cn_script_in_processing(p, [ControlNetUnit()])
    assert p.script_args is ARGS


def test_update_reads_the_raw_value_and_writes_through_the_setter() -> None:
    """Hosts keep the arguments in `script_args_value`; the property runs scripts' `setup`."""

    class Processing:
        def __init__(self) -> None:
            self.scripts = FakeRunner()
            self.script_args_value: Any = ARGS
            self.set: list[Any] = []

        script_args = property(
            lambda self: self.script_args_value, lambda self, value: self.set.append(value)
        )

    p = Processing()
    python_api.update_cn_script_in_processing(p, [{"module": "canny"}])
    (written,) = p.set
    assert isinstance(written, tuple)
    assert written[3].module == "canny"
    assert p.script_args_value is ARGS


def test_find_cn_script_ignores_letter_case_and_no_runner() -> None:
    runner = FakeRunner()
    assert python_api.find_cn_script(runner) is runner.alwayson_scripts[1]
    assert python_api.find_cn_script(None) is None
    assert python_api.is_cn_script(FakeScript("controlnet", 0, 1))


@pytest.mark.parametrize("kind", [tuple, list])
def test_row_08_adetailer_update_keeps_the_container_and_fills_up(kind: type) -> None:
    runner = FakeRunner()
    p = SimpleNamespace(scripts=runner, script_args=None, script_args_value=kind(ARGS))
    python_api.update_cn_script_in_processing(
        p, [ControlNetUnit(module="canny")], is_img2img=False, is_ui=False
    )
    assert type(p.script_args) is kind
    units = p.script_args[3:6]
    assert [unit.module for unit in units] == ["canny", "none", "none"]
    assert (*p.script_args[:3], *p.script_args[6:]) == (*ARGS[:3], *ARGS[6:])
    assert p.script_args_value == kind(ARGS)


@pytest.mark.parametrize("count", range(8))
def test_update_with_any_number_of_units_moves_no_script(count: int) -> None:
    """Script objects are shared by all requests: what moves stays moved for all of them."""
    runner = FakeRunner()
    places = [(script.args_from, script.args_to) for script in runner.scripts]
    given = [ControlNetUnit(module=str(n)) for n in range(count)]
    updated = python_api.update_cn_script(runner, ARGS, given)
    assert [(script.args_from, script.args_to) for script in runner.scripts] == places
    assert (len(updated), updated[:3], updated[6:]) == (len(ARGS), ARGS[:3], ARGS[6:])
    units = python_api.get_all_units(runner, updated)
    assert [unit.module for unit in units[:count]] == [str(n) for n in range(count)]
    assert all(unit == ControlNetUnit() for unit in units[count:])
    last = python_api.get_single_unit_from(updated[3:6], count - 1)
    assert last is (given[-1] if given else None)
    again = python_api.update_cn_script(runner, updated, given[:1])
    assert len(python_api.get_all_units(runner, again)) == 3


def test_update_of_a_script_without_slots_changes_nothing() -> None:
    runner = FakeRunner()
    runner.alwayson_scripts[1].args_to = 3
    assert python_api.update_cn_script(runner, ARGS, [ControlNetUnit()]) is ARGS


@pytest.mark.parametrize(
    ("runner", "args"),
    [
        pytest.param(FakeRunner(alwayson_scripts=[]), ARGS, id="script-absent"),
        pytest.param(FakeRunner(), (0,), id="too-few-arguments"),
    ],
)
def test_update_without_our_slice_changes_nothing(runner: Any, args: tuple) -> None:
    assert python_api.update_cn_script(runner, args, [ControlNetUnit()]) is args


def test_update_in_place_needs_a_list() -> None:
    args = list(ARGS)
    python_api.update_cn_script_in_place(FakeRunner(), args, [{"module": "a"}], is_ui=True)
    assert args[3].module == "a"
    with pytest.raises(TypeError, match="must be a list"):
        python_api.update_cn_script_in_place(FakeRunner(), ARGS, [])


def test_listings_follow_the_runtime(runtime: SimpleNamespace) -> None:
    assert python_api.get_api_version() == 3
    assert python_api.get_max_models_num() == 3
    assert python_api.get_models() == ["control_canny [01234567]"]
    assert runtime.scans == []
    python_api.get_models(update=True)
    assert runtime.scans == [1]


def test_modules_names_and_labels_share_one_order() -> None:
    names, labels = python_api.get_modules(), python_api.get_modules(alias_names=True)
    assert names[0] == labels[0] == "none"
    assert len(names) == len(labels)
    assert labels[names.index("invert")] == "invert (from white bg & black line)"
    detail = python_api.get_modules_detail()
    assert detail["canny"] == {
        "model_free": False,
        "sliders": [
            {"name": "Resolution", "value": 512, "min": 64, "max": 2048, "step": 8},
            {"name": "Low Threshold", "value": 100, "min": 1, "max": 255, "step": 1},
            {"name": "High Threshold", "value": 200, "min": 1, "max": 255, "step": 1},
        ],
    }
    assert detail["invert"]["sliders"] == []
    assert list(python_api.get_modules_detail(alias_names=True)) == labels


@pytest.mark.parametrize(
    ("mode", "expected"), [(ResizeMode.OUTER_FIT, 50), (ResizeMode.INNER_FIT, 100)]
)
def test_pixel_perfect_resolution_published_example(mode: ResizeMode, expected: int) -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    assert python_api.pixel_perfect_resolution(image, 50, 100, mode) == expected


def test_choices_from_values(caplog: pytest.LogCaptureFixture) -> None:
    assert python_api.resize_mode_from_value(3) is ResizeMode.RESIZE
    with caplog.at_level(logging.WARNING):
        assert python_api.resize_mode_from_value(7) is ResizeMode.RESIZE
    assert "no resize mode 7" in caplog.text
    assert python_api.control_mode_from_value("ControlNet is more important") is (
        ControlMode.CONTROL
    )
    with pytest.raises(ValueError, match="must be one of"):
        python_api.resize_mode_from_value("Sideways")


def test_to_base64_nparray_and_visualize_inpaint_mask() -> None:
    with pytest.raises(ImageError, match="cannot be decoded"):
        python_api.to_base64_nparray("no picture")
    image = np.dstack([np.full((2, 2, 3), 9, np.uint8), np.array([[0, 255], [128, 1]], np.uint8)])
    shown = python_api.visualize_inpaint_mask(image)
    assert shown[..., 3].tolist() == [[255, 128], [191, 255]]
    assert image[0, 1, 3] == 255


def test_decode_base64_reads_tensors_and_no_code() -> None:
    def text_of(value: Any) -> str:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return base64.b64encode(buffer.getvalue()).decode()

    found = python_api.decode_base64(text_of({"tokens": torch.arange(3)}))
    assert found["tokens"].tolist() == [0, 1, 2]
    for bad in ("no base64!", base64.b64encode(b"nothing").decode(), text_of(subprocess.run)):
        with pytest.raises(ImageError, match="no base64 of a torch tensor"):
            python_api.decode_base64(bad)


def test_decode_base64_says_when_the_host_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's restricted loader prints and returns None."""
    monkeypatch.setattr(torch, "load", lambda *_args, **_options: None)
    with pytest.raises(ImageError, match="may be loaded"):
        python_api.decode_base64("AAAA")


def test_every_published_name_is_there() -> None:
    for name in python_api.__all__:
        assert getattr(python_api, name) is not None
    assert python_api.np is np
    assert python_api.logger.name == "ControlNet"


def test_a_model_of_pydantic_2_writes_a_unit_as_its_fields() -> None:
    """Hosts list what a script's components hold."""
    core = pytest.importorskip("pydantic_core")
    picture = np.zeros((8, 8, 3), np.uint8)
    unit = ControlNetUnit(image={"image": picture, "mask": [picture]}, weight=0.5)
    for held in (unit, ControlNetUnit()):
        written = json.loads(core.to_json({"value": held}))["value"]
        assert list(written) == list(vars(held))
        assert (written["enabled"], written["weight"]) == (held.enabled, held.weight)
        assert written["control_mode"] == held.control_mode.value
