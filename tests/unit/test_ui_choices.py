"""Pasted, saved and offered choices of the panel, and what it says about them."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from panels import CANNY, FOLLOWING, FakeRuntime, build, by_id
from safetensors.torch import save_file
from support import golden, save_sparse

from lib_controlnet.detect import listing, preprocess
from lib_controlnet.enums import ControlNetUnionControlType as UnionType
from lib_controlnet.families import Refusal
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.ui import choices
from lib_controlnet.ui.messages import as_html
from lib_controlnet.ui.panel import paste_fields
from lib_controlnet.units.unit import FIELDS


@pytest.fixture
def runtime(tmp_path: Path) -> FakeRuntime:
    for name in ("control_demo_canny", "control_demo_depth"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x")
    return FakeRuntime(Catalog([tmp_path]))


def test_paste_fields_fill_the_panel(runtime: FakeRuntime) -> None:
    demo, units = build(runtime)
    fields = paste_fields(units, runtime)
    assert len(fields) == 3 * (11 + 10 + 8) + 1
    params = {
        "ControlNet 1": "Module: canny, Model: control_demo_canny, Weight: 0.7, Resize Mode: Just "
        "Resize, Processor Res: 640, Threshold A: 64.0, Threshold B: 0.5, Guidance Start: 0.1, "
        "Guidance End: 0.9, Pixel Perfect: False, Control Mode: ControlNet is more important"
    }
    found = by_id(demo)
    values = {component.elem_id: read(params) for component, read in fields if component.elem_id}
    assert values.pop("txt2img_controlnet_ControlNet-1_controlnet_region_status") == gr.update(
        value="", visible=False
    )
    hidden = gr.update(value="", visible=False)
    notes = [f"txt2img_controlnet_ControlNet-{i}_controlnet_notes" for i in range(3)]
    assert [values.pop(name) for name in notes] == [None, hidden, None]
    lines = [f"txt2img_controlnet_ControlNet-{i}_controlnet_picture_note" for i in range(3)]
    assert [values.pop(name) for name in lines] == [None, hidden, None]
    prefix = "txt2img_controlnet_ControlNet-1_controlnet_"
    switches = [f"txt2img_controlnet_ControlNet-{i}_controlnet_enable_checkbox" for i in range(3)]
    assert [values.pop(name) for name in switches] == [False, True, False]
    assert values.pop("txt2img_controlnet_controlnet_style_align_checkbox") is False
    assert all(value is None for name, value in values.items() if not name.startswith(prefix))
    pasted = {name.removeprefix(prefix): value for name, value in values.items()}
    assert pasted["type_filter_radio"] == "Canny"
    assert pasted["union_control_type_dropdown"] == gr.update(value="Unknown", visible=False)
    assert pasted["preprocessor_dropdown"]["value"] == "canny"
    assert pasted["preprocessor_dropdown"]["choices"] == listing.labels_for("Canny")
    assert pasted["model_dropdown"]["value"] == CANNY
    assert pasted["control_weight_slider"] == 0.7
    assert pasted["resize_mode_radio"] == "Just Resize"
    mode = gr.update(value="ControlNet is more important", visible=True)
    assert pasted["control_mode_radio"] == mode
    resolution = pasted["preprocessor_resolution_slider"]
    assert (resolution["value"], resolution["visible"]) == (640, True)
    assert pasted["threshold_A_slider"]["label"] == "Low Threshold"
    assert pasted["pixel_perfect_checkbox"] is False
    assert set(values) <= set(found)


def test_paste_without_units_changes_nothing(runtime: FakeRuntime) -> None:
    _demo, units = build(runtime)
    assert all(read({"Steps": "20"}) is None for _component, read in paste_fields(units, runtime))


@pytest.mark.parametrize(
    ("module", "model", "kind"),
    [
        ("canny", "None", "Canny"),
        ("none", CANNY, "Canny"),
        ("invert", CANNY, "Canny"),
        ("scribble_xdog", CANNY, "Scribble"),
        ("none", "None", "All"),
        ("no such thing", "gone", "All"),
    ],
)
def test_control_type_of_preprocessor_and_model(
    runtime: FakeRuntime, module: str, model: str, kind: str
) -> None:
    assert listing.control_type_of(runtime.catalog, module, model) == kind


WATCHED = ("module", "model", "notes", "enabled", "picture_note")


def pasted(runtime: FakeRuntime, **params: str) -> dict[str, Any]:
    """What pasting writes into the first unit, by widget."""
    _demo, units = build(runtime)
    widgets = units[0].unit_widgets
    names = {id(getattr(widgets, name)): name for name in WATCHED}
    params = {key.replace("_", " "): value for key, value in params.items()}
    return {
        names[id(component)]: read(params)
        for component, read in paste_fields(units, runtime)
        if id(component) in names
    }


@pytest.mark.parametrize(
    ("text", "chosen", "said"),
    [
        pytest.param(
            "Model: gone [1], Module: canny",
            ("canny", "gone [1]"),
            "control model &#x27;gone [1]&#x27; is not found",
            id="model",
        ),
        pytest.param(
            "Model: control_demo_canny, Module: xx",
            ("xx", CANNY),
            "&#x27;xx&#x27; is no preprocessor here",
            id="preprocessor",
        ),
        pytest.param("Model: gone, Module: xx", ("xx", "gone"), "xx&#x27; is no", id="both"),
        pytest.param(
            "Model: None, Module: depth_hand_refiner", None, "cannot run", id="unavailable"
        ),
        pytest.param("Model: None, Module: none", ("none", "None"), "", id="nothing"),
    ],
)
def test_paste_chooses_what_is_not_there_and_says_so(
    runtime: FakeRuntime, text: str, chosen: tuple[str, str] | None, said: str
) -> None:
    found = pasted(runtime, ControlNet_0=text)
    if chosen:
        assert (found["module"]["value"], found["model"]["value"]) == chosen
    assert said in found["notes"]["value"]
    assert found["notes"]["visible"] is bool(said)
    assert found["enabled"] is True


def test_paste_says_which_units_have_no_place(runtime: FakeRuntime) -> None:
    found = pasted(runtime, ControlNet_4="Module: canny, Model: None")
    assert "more units than this panel; left out: 4." in found["picture_note"]["value"]


def test_paste_says_which_unit_cannot_be_read_and_leaves_it_alone(runtime: FakeRuntime) -> None:
    for others in ({}, {"ControlNet_1": "Module: canny"}):
        found = pasted(runtime, ControlNet_0="nothing of ours", **others)
        assert "cannot be read" in found["picture_note"]["value"]
        assert (found["module"], found["model"], found["enabled"]) == (None, None, None)


def test_paste_says_which_values_cannot_be_read(
    runtime: FakeRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    text = "Module: canny, Weight: inf, Weight Curve: soon"
    said = pasted(runtime, ControlNet_0=text)["picture_note"]["value"]
    assert "Weight is &#x27;inf&#x27;, must be a finite number; that was not pasted." in said
    assert "Weight Curve is &#x27;soon&#x27;, must be points such as" in said
    assert not caplog.text


def test_saved_defaults_that_are_gone_are_chosen_and_said(runtime: FakeRuntime) -> None:
    runtime.saved = {
        "txt2img/Model/value": "gone [12345678]",
        "txt2img/Preprocessor/value": "plugin",
        "img2img/Model/value": CANNY,
    }
    found = by_id(build(runtime)[0])
    prefix = "txt2img_controlnet_ControlNet-2_controlnet_"
    assert "gone [12345678]" in found[f"{prefix}model_dropdown"].choices, "the host asks for this"
    assert "plugin" in found[f"{prefix}preprocessor_dropdown"].choices
    following = choices.on_module("All", "plugin", "gone [12345678]", False, runtime)
    notes = following[FOLLOWING - 1]
    assert "plugin" in notes["value"]
    assert "gone" in notes["value"]
    other = by_id(build(runtime, "img2img")[0])
    names = other["img2img_controlnet_ControlNet-0_controlnet_model_dropdown"].choices
    assert names == listing.models_for(runtime.catalog, "All")


def told(updates: list[Any]) -> tuple[str, dict[str, Any]]:
    """The label of "Show all", and what the page is told of the list."""
    box, note = updates[-2:]
    text = re.search(r'data-offer="([^"]*)"', note["value"])[1]
    return box["label"], json.loads(html.unescape(text))


def test_models_that_do_not_fit_are_left_out_and_never_the_default(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    for name in ("control_v11_canny_xl", "t2i_canny", "a_canny"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x")
    runtime.catalog.refresh()
    other = Refusal("made for SDXL", other_base=True, reason="SDXL, your checkpoint is SD1")
    runtime.refused = {
        runtime.catalog.find("control_v11_canny_xl"): other,
        runtime.catalog.find("t2i_canny"): Refusal("t2i_canny is a <T2I-Adapter>", False),
        runtime.catalog.find("a_canny"): other,
    }
    reasons = {
        "a_canny [e3b0c442]": "SDXL, your checkpoint is SD1",
        "control_v11_canny_xl [e3b0c442]": "SDXL, your checkpoint is SD1",
        "t2i_canny [e3b0c442]": "t2i_canny is a <T2I-Adapter>",
    }
    _module, *rest = updates = choices.on_control_type("Canny", False, runtime)
    model, notes = rest[3], rest[FOLLOWING - 1]
    assert (model["choices"], model["value"]) == (["None", CANNY], CANNY)
    assert not notes["visible"]
    assert told(updates) == ("Show all (3 more)", {"why": {}, "isWhole": True})
    _module, *rest = updates = choices.on_control_type("Canny", False, runtime, shows_all=True)
    assert (rest[3]["choices"], rest[3]["value"]) == (["None", CANNY, *reasons], CANNY)
    assert told(updates) == ("Show all", {"why": reasons, "isWhole": True})

    chosen = "t2i_canny [e3b0c442]"
    kept, _about, notes, *_rest = updates = choices.on_offer("Canny", "canny", chosen, runtime)
    assert kept == gr.update(choices=["None", CANNY, chosen]), "what is chosen stays"
    assert notes["value"] == '<span class="cnet-misfit">t2i_canny is a &lt;T2I-Adapter&gt;</span>'
    assert told(updates) == (
        "Show all (2 more)",
        {"why": {chosen: reasons[chosen]}, "isWhole": True},
    )

    runtime.refused[runtime.catalog.find(CANNY)] = other
    _module, *rest = choices.on_control_type("Canny", False, runtime)
    assert (rest[3]["choices"], rest[3]["value"]) == (["None"], "None")
    said = rest[FOLLOWING - 1]["value"]
    assert "No control model of the type Canny fits the loaded checkpoint" in said
    assert "a_canny [e3b0c442], control_demo_canny" in said


def test_a_model_that_came_for_a_unit_is_chosen_where_it_is_offered(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    """The page names it by its file, see `noteChoices`."""
    for kind, value in (("Canny", CANNY), ("All", CANNY), ("Depth", "None")):
        came = "control_demo_canny.safetensors"
        model, _about, notes, *_rest = choices.on_offer(kind, "canny", came, runtime)
        assert model == gr.update(choices=model["choices"], value=value), kind
        assert value in model["choices"]
        expected = choices.remarks(kind, "canny", value, runtime)
        assert notes["value"] == as_html(*expected)
    for name in ("None", CANNY, "gone.safetensors"):
        assert "value" not in choices.on_offer("Canny", "canny", name, runtime)[0], name


def test_what_is_not_known_yet_is_listed_but_not_chosen(
    runtime: FakeRuntime, tmp_path: Path
) -> None:
    for name in ("control_v11_canny_xl", "z_canny_xl"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"x")
    runtime.catalog.refresh()
    paths = [runtime.catalog.find(name) for name in ("control_v11_canny_xl", "z_canny_xl", CANNY)]
    runtime.waiting = frozenset(paths)
    runtime.refused = dict.fromkeys(paths[:2], Refusal("made for SDXL", other_base=True))
    offered = choices.offer("Canny", runtime)
    assert offered.default == CANNY, "the published name counts first, and is looked into"
    assert offered.names == ["None", CANNY, "z_canny_xl [e3b0c442]"]
    assert not offered.is_whole
    runtime.waiting = frozenset()
    offered = choices.offer("Canny", runtime)
    assert (offered.names, offered.is_whole) == (["None", CANNY], True)


INVERT = "invert (from white bg & black line)"


@pytest.mark.parametrize(
    ("own", "module"), [("none", "none"), ("Invert", INVERT), ("shuffle", "canny")]
)
def test_a_models_own_preprocessor_comes_with_it(
    runtime: FakeRuntime, tmp_path: Path, own: str, module: str
) -> None:
    about = {"control_type": "Canny", "preprocessor": own}
    save_file({"a": torch.ones(1)}, tmp_path / "control_v11_mine.safetensors", metadata=about)
    runtime.catalog.refresh()
    chosen, *rest = choices.on_control_type("Canny", False, runtime)[: 1 + FOLLOWING]
    assert rest[3]["value"].startswith("control_v11_mine [")
    assert chosen["value"] == module


def test_control_types_that_cannot_be_used_say_so(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "Revision"
    for name in ("revision_clipvision", "revision_ignore_prompt"):
        detector = preprocess.get(name)
        monkeypatch.setattr(type(detector), "unavailable", "it is not there", raising=False)
    module, *rest = choices.on_control_type(kind, False, runtime)[: 1 + FOLLOWING]
    assert module["value"] == "none"
    assert f"{kind} cannot be used here: " in rest[-1]["value"]


def test_every_control_type_starts_with_something_that_works_or_says_so(
    runtime: FakeRuntime,
) -> None:
    for kind in listing.control_types()[1:]:
        module, *rest = choices.on_control_type(kind, False, runtime)[: 1 + FOLLOWING]
        works = rest[3]["value"] != "None" or not listing.needs_model(module["value"])
        assert works or rest[-1]["visible"], kind


def test_paste_is_off_by_setting(runtime: FakeRuntime) -> None:
    _demo, units = build(runtime)
    runtime.options["control_net_sync_field_args"] = False
    assert paste_fields(units, runtime) == []


@pytest.fixture(scope="module")
def union_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Headers of Unions with 6 and 9 types, without the data that nobody reads here."""
    folder = tmp_path_factory.mktemp("unions")
    for types in (6, 9):
        save_sparse(folder / f"union_{types}.safetensors", golden(f"sdxl_union_{types}"))
    for name in ("plain_canny", "noobaiInpainting_v10.fp16"):
        save_sparse(folder / f"{name}.safetensors", golden("sdxl_full_diffusers"))
    return folder


def test_a_union_offers_its_types_and_other_models_put_them_away(union_files: Path) -> None:
    runtime = FakeRuntime(Catalog([union_files]))
    names = {name.split(" ")[0]: name for name in runtime.catalog.names()}
    _about, _notes, shown, *_rest = choices.on_model("Depth", "none", names["union_6"], runtime)
    assert (shown["visible"], shown["value"]) == (True, "Depth")
    assert shown["choices"] == ["Unknown", *(kind.value for kind in list(UnionType)[:6])]
    _about, _notes, shown, *_rest = choices.on_model("All", "canny", names["union_9"], runtime)
    assert shown["choices"][-2:] == ["Inpaint", "Fuse"]
    assert shown["value"] == "Unknown", "what the preprocessor makes"
    _about, _notes, shown, *_rest = choices.on_model("Depth", "none", names["plain_canny"], runtime)
    assert shown == gr.update(visible=False, value="Unknown")
    _names, _about, _notes, kept, *_rest = choices.on_refresh(
        "Depth", "none", names["union_9"], runtime
    )
    assert "value" not in kept, "what is chosen stays"
    assert kept["visible"]


@pytest.mark.parametrize(
    ("written", "value"), [("", "Hard Edge"), (", Union Control Type: 8", "Fuse")]
)
def test_a_pasted_union_has_its_type(union_files: Path, written: str, value: str) -> None:
    """Parameters without one are of other programs."""
    runtime = FakeRuntime(Catalog([union_files]), units=1)
    demo, units = build(runtime)
    widget = by_id(demo)["txt2img_controlnet_ControlNet_controlnet_union_control_type_dropdown"]
    read = dict(paste_fields(units, runtime))[widget]
    shown = read({"ControlNet 0": f"Module: canny, Model: union_6{written}"})
    assert (shown["visible"], shown["value"]) == (True, value)
    assert value in shown["choices"], "also one that the file has not: the generation refuses it"


SPEED, APART, CURVES, PULID = "speed", "union_apart", "weight_type", "pulid_mode"
MEAN_SOMETHING: dict[str, tuple[str, str, set[str]]] = {
    # preprocessor, file, what is shown of the fields of single families
    "nothing chosen": ("none", "", set()),
    "ControlNet": ("canny", "sdxl_full_diffusers", {SPEED, CURVES}),
    "Control-LoRA": ("canny", "sdxl_full_control_lora_128", {SPEED, CURVES}),
    "SparseCtrl": ("none", "sd15_sparsectrl_rgb_original", {SPEED, CURVES}),
    "ControlNet Union": ("canny", "sdxl_union_6", {SPEED, APART, CURVES, "union_control_type"}),
    "T2I-Adapter": ("canny", "t2i_sd14_original", {CURVES}),
    "T2I-Adapter (style)": ("t2ia_style_clipvision", "t2i_sd14_style", set()),
    "ControlNet-LLLite": ("canny", "sdxl_lllite_16_32", set()),
    "IP-Adapter": ("ip-adapter-auto", "ip-adapter_sdxl", {CURVES}),
    "IP-Adapter-FaceID": ("ip-adapter_face_id", "sdxl_face_id", {CURVES}),
    "InstantID": ("instant_id_face_embedding", "sdxl_instant_id", {CURVES}),
    "PuLID": ("ip-adapter_pulid", "sdxl_pulid_1.1", {CURVES, PULID}),
    "Reference, beside a Union": ("reference_only", "sdxl_union_6", set()),
    "Revision, beside a PuLID": ("revision_clipvision", "sdxl_pulid_1.1", set()),
    "unknown": ("canny", "unknown", {SPEED, APART, CURVES, PULID}),
}


@pytest.fixture(scope="module")
def family_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("families")
    for name in {file for _module, file, _shown in MEAN_SOMETHING.values()} - {"", "unknown"}:
        save_sparse(folder / f"{name}.safetensors", golden(name))
    (folder / "unknown.pth").write_bytes(b"x")
    return FakeRuntime(Catalog([folder]), units=1)


@pytest.mark.parametrize("case", MEAN_SOMETHING)
def test_fields_of_a_family_are_shown_where_they_mean_something(
    family_files: FakeRuntime, case: str
) -> None:
    """Whatever chooses preprocessor and model; what is put away has its default."""
    module, file, expected = MEAN_SOMETHING[case]
    runtime = family_files
    listed = {name.split(" ")[0]: name for name in runtime.catalog.names()}
    model, away = listed.get(file, "None"), set(choices.OF_FAMILIES) - {"composition"} - expected
    if file not in ("", "unknown"):
        facts = choices.file_facts(model, runtime)
        assert facts.family == case or not listing.needs_model(module)
    first = 2  # lines for a model
    initial = {"weight_type": "normal"} | {
        name: FIELDS[name].initial for name in choices.OF_FAMILIES if name in FIELDS
    }
    for updates in (
        choices.on_model("All", module, model, runtime)[first:],
        choices.on_module("All", module, model, False, runtime)[FOLLOWING:],
        choices.on_offer("All", module, model, runtime)[1 + first : -2],
    ):
        shown = dict(zip(choices.OF_FAMILIES, updates, strict=True))
        assert {name for name, update in shown.items() if update.get("visible")} == expected
        assert {name: shown[name] for name in away} == {
            name: gr.update(visible=False, value=initial[name]) for name in away
        }
        assert shown["composition"] == gr.update(
            **({} if CURVES in expected else {"visible": False, "value": 1.0})
        )


@pytest.mark.parametrize(
    ("weights", "kind", "composition"),
    [
        ("", "normal", (1.0, False)),
        (", Advanced Weighting: style transfer", "style transfer", (1.0, False)),
        (
            ", Advanced Weighting: style and composition 0.5",
            "style and composition",
            (0.5, True),
        ),
    ],
)
def test_pasted_fields_of_a_family(
    family_files: FakeRuntime, weights: str, kind: str, composition: tuple[float, bool]
) -> None:
    demo, units = build(family_files)
    fields = dict(paste_fields(units, family_files))
    found = by_id(demo)

    def read(model: str, name: str) -> Any:
        text = f"Module: ip-adapter_pulid, Model: {model}{weights}, Pulid Mode: Extremely style"
        widget = found[f"txt2img_controlnet_ControlNet_controlnet_{name}"]
        return fields[widget]({"ControlNet 0": text})

    pulid = "sdxl_pulid_1.1"
    assert read(pulid, "pulid_mode_radio") == gr.update(visible=True, value="Extremely style")
    shown = read(pulid, "weight_type_dropdown")
    assert (shown["visible"], shown["value"]) == (True, kind)
    assert kind in shown["choices"]
    assert "soft" not in shown["choices"]
    assert read(pulid, "composition_weight_slider") == gr.update(
        value=composition[0], visible=composition[1]
    )
    assert read(pulid, "speed_radio")["visible"] is False
    assert not read("t2i_sd14_original", "pulid_mode_radio")["visible"]
    assert "soft" in read("t2i_sd14_original", "weight_type_dropdown")["choices"]


def test_a_hint_marked_otherwise_than_the_model_reads_it_is_said(union_files: Path) -> None:
    runtime = FakeRuntime(Catalog([union_files]))
    said = {
        (module, name): choices.remarks("Inpaint", module, name, runtime)
        for module in ("inpaint_noobai_xl", "inpaint_only")
        for name in runtime.catalog.names()
    }
    (spoken,) = [key for key, sentences in said.items() if sentences]
    assert spoken[1].startswith("plain_canny")
    assert said[spoken] == [
        f"inpaint_noobai_xl marks masked pixels by 0, and {spoken[1]} reads -1 there, as far as is "
        "known; inpaint_only gives every model what it reads"
    ]


PASTED_SPEEDS = {
    # what is written, what the settings say: what is chosen
    ("", "Exact"): "Default",
    ("", "Fast"): "Exact",
    (", Speed: Fast", "Exact"): "Fast",
    (", Speed: Exact", "Exact"): "Exact",
}


@pytest.mark.parametrize("case", PASTED_SPEEDS, ids=str)
def test_a_pasted_unit_has_the_speed_that_it_ran_at(
    family_files: FakeRuntime, monkeypatch: pytest.MonkeyPatch, case: tuple[str, str]
) -> None:
    """Parameters without one are of a unit that was evaluated in each step."""
    written, setting = case
    monkeypatch.setitem(family_files.options, "controlnet_speed", setting)
    demo, units = build(family_files)
    read = dict(paste_fields(units, family_files))
    widget = by_id(demo)["txt2img_controlnet_ControlNet_controlnet_speed_radio"]
    for model, chosen in (
        ("sdxl_full_diffusers", PASTED_SPEEDS[case]),
        ("t2i_sd14_original", "Default"),
    ):
        shown = read[widget]({"ControlNet 0": f"Module: canny, Model: {model}{written}"})
        assert shown == gr.update(visible=chosen != "Default" or model[:4] == "sdxl", value=chosen)


def test_what_hides_with_a_model_has_no_saved_default_to_lose(family_files: FakeRuntime) -> None:
    demo, (unit,) = build(family_files)
    del demo
    for name in choices.OF_FAMILIES:
        assert getattr(unit.unit_widgets, name).do_not_save_to_config, name
