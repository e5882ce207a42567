"""The table of a unit's fields: what is published of it, and that all who use units read it."""

from __future__ import annotations

from types import SimpleNamespace

import made_up
import pytest
from panels import FakeRuntime, build

from lib_controlnet.errors import UnitError
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.interop.unit import ControlNetUnit
from lib_controlnet.ui.panel import paste_fields
from lib_controlnet.ui.unit_value import UnitValue
from lib_controlnet.ui.unit_widgets import UnitWidgets
from lib_controlnet.ui.widgets import value_fields
from lib_controlnet.units import infotext, overrides
from lib_controlnet.units.fields import Written
from lib_controlnet.units.unit import FIELDS, aliases, parse_unit

ALWAYS_WRITTEN = [
    *("module", "model", "weight", "resize_mode", "processor_res", "threshold_a", "threshold_b"),
    *("guidance_start", "guidance_end", "pixel_perfect", "control_mode"),
]
ATTRIBUTES = {
    "control_net_enabled": "enabled",
    "control_net_module": "module",
    "control_net_model": "model",
    "control_net_weight": "weight",
    "control_net_image": "image",
    "control_net_resize_mode": "resize_mode",
    "control_net_lowvram": "low_vram",
    "control_net_pres": "processor_res",
    "control_net_pthr_a": "threshold_a",
    "control_net_pthr_b": "threshold_b",
    "control_net_guidance_start": "guidance_start",
    "control_net_guidance_end": "guidance_end",
    "control_net_guidance_strength": "guidance_end",
    "control_net_control_mode": "control_mode",
    "control_net_pixel_perfect": "pixel_perfect",
    "control_net_input_image": "image",
    "control_net_hr_option": "hr_option",
    "control_net_region": "region",
    "control_net_region_feather": "region_feather",
    "control_net_union_control_type": "union_control_type",
    "control_net_union_apart": "union_apart",
    "control_net_speed": "speed",
    "control_net_weight_curve": "weight_curve",
}
AXES = [
    *("Enabled", "Model", "Weight", "Guidance Start", "Guidance End", "Control Mode"),
    *("Resize Mode", "Preprocessor", "Pre Resolution", "Pre Threshold A", "Pre Threshold B"),
    *("Region", "Region Feather", "Hires-Fix Option", "Union Control Type"),
    *("Union Apart", "Speed", "Weight Curve"),
]
ALIASES = {
    "batch_image_dir": "batch_images",
    "input_image": "image",
    "lowvram": "low_vram",
    "guidance": "guidance_end",
    "guessmode": "control_mode",
    "guess_mode": "control_mode",
    "mask_image": "mask",
    "image_fg": "mask",
    "region_color": "region_colour",
}
VIEWS = {
    "weight": "weight",
    "start_guidance_percent": "guidance_start",
    "stop_guidance_percent": "guidance_end",
    "hr_option": "hr_option",
    "advanced_weighting": "advanced_weighting",
    "effective_region_mask": "effective_region_mask",
    "control_context_override": "ipadapter_input",
}
IN_PANEL = {
    *("enabled", "low_vram", "pixel_perfect", "module", "model", "weight", "guidance_start"),
    *("guidance_end", "processor_res", "threshold_a", "threshold_b", "control_mode"),
    "weight_curve",
    *("resize_mode", "hr_option", "image", "region", "region_feather", "advanced_weighting"),
    *("input_mode", "batch_images", "output_dir", "loopback", "effective_region_mask"),
    *("inpaint_crop_input_image", "union_control_type", "union_apart"),
    *("pulid_mode", "speed", "independent", "region_canvas", "merge_images"),
}


@pytest.fixture(scope="module")
def panel_of_one_unit() -> UnitWidgets:
    """The widgets of a real panel."""
    _blocks, (unit,) = build(FakeRuntime(Catalog([]), units=1))
    return unit.unit_widgets


def test_what_is_published_of_the_table(panel_of_one_unit: UnitWidgets) -> None:
    assert [field.name for field in infotext.fields(Written.ALWAYS)] == ALWAYS_WRITTEN
    optional = [field.name for field in infotext.fields(*infotext.IF_SET)]
    assert optional == [
        *("hr_option", "pulid_mode", "union_control_type", "region", "region_feather"),
        *("union_apart", "speed", "region_colour", "weight_curve", "advanced_weighting"),
    ]
    assert overrides.attributes() == ATTRIBUTES
    axes = sorted(field.axis for field in FIELDS.values() if field.axis)
    assert [axis.title for axis in axes] == AXES
    assert aliases() == ALIASES
    assert {field.view: name for name, field in FIELDS.items() if field.view} == VIEWS
    assert set(value_fields(panel_of_one_unit)) == IN_PANEL


@pytest.fixture
def made_up_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has a row more."""
    made_up.add_field(monkeypatch)


@pytest.mark.usefixtures("made_up_field")
def test_made_up_field_is_parsed() -> None:
    for key in ("glow", "Glow", "shine"):
        assert parse_unit({key: "0.25"}).glow == 0.25
    assert parse_unit({}).glow == 0.5
    with pytest.raises(UnitError, match="unit 2: glow is 3, must be between 0 and 1"):
        parse_unit({"glow": 3}, 2)
    assert parse_unit(ControlNetUnit(glow=0.75)).glow == 0.75


@pytest.mark.usefixtures("made_up_field")
def test_made_up_field_is_one_of_the_object() -> None:
    assert vars(ControlNetUnit())["glow"] == 0.5
    assert ControlNetUnit(shine=0.25) == ControlNetUnit.from_dict({"glow": 0.25, "enabled": False})
    assert ControlNetUnit(glow=0.25) != ControlNetUnit()
    assert "glow=0.25" in repr(ControlNetUnit(glow=0.25))
    assert vars(UnitValue().value)["glow"] == 0.5, "what the host shows as the API's default"


@pytest.mark.usefixtures("made_up_field")
def test_made_up_field_is_written_and_read_back() -> None:
    text = parse_unit({"glow": 0.25}), parse_unit({})
    written, plain = map(infotext.serialize, text)
    assert written.endswith(", Glow: 0.25")
    assert "Glow" not in plain
    assert ControlNetUnit.parse(written).glow == infotext.parse(written)["glow"] == 0.25


@pytest.mark.usefixtures("made_up_field")
def test_made_up_field_is_changed_from_outside() -> None:
    assert overrides.attributes()[made_up.ATTRIBUTE] == "glow"
    units = [parse_unit({"glow": 0.25}), parse_unit({})]
    assert [unit.glow for unit in overrides.apply(units, {"glow": [None, 1]})] == [0.25, 1.0]


@pytest.mark.usefixtures("made_up_field")
def test_made_up_field_is_one_of_the_panel(panel_of_one_unit: UnitWidgets) -> None:
    own = UnitWidgets(**vars(panel_of_one_unit), glow=object())
    assert value_fields(own)["glow"] is own.glow
    pasted = dict(
        paste_fields([SimpleNamespace(unit_widgets=own, widgets={})], FakeRuntime(Catalog([])))
    )
    written = infotext.serialize(parse_unit({"glow": 0.25}))
    assert pasted[own.glow]({"ControlNet 0": written}) == 0.25
    assert pasted[own.glow]({"ControlNet 0": "Module: canny"}) == 0.5
    assert pasted[own.glow]({"ControlNet 1": written}) is None
