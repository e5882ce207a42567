"""Preprocessors that other extensions add, and ours as they call them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import support
from sessions import FakeHost, info

from lib_controlnet import families
from lib_controlnet.detect import listing, preprocess
from lib_controlnet.engine.session import ControlSession
from lib_controlnet.errors import PreprocessorUnavailableError
from lib_controlnet.interop import plugins
from lib_controlnet.interop.plugins import Preprocessor, PreprocessorParameter
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units.request import GenerationRequest
from lib_controlnet.units.unit import parse_unit


class Halftone(Preprocessor):
    """Written as companion extensions are: fields set after the base constructor."""

    def __init__(self, name: str = "depth_halftone") -> None:
        super().__init__(name=name)
        self.tags = ["Depth", "Halftones"]
        self.slider_resolution = PreprocessorParameter(
            label="Resolution", minimum=128, maximum=2048, value=768, step=8, visible=True
        )
        self.slider_1 = PreprocessorParameter(
            label="Steps", minimum=1, maximum=50, value=20, step=1, visible=True
        )
        self.show_control_mode = True
        self.do_not_need_model = False
        self.sorting_priority = 100
        self.calls: list[dict[str, Any]] = []
        self.unloaded = 0

    def __call__(
        self, input_image, resolution, slider_1=None, slider_2=None, slider_3=None, **kwargs
    ):
        given = {"resolution": resolution, "slider_1": slider_1, "slider_2": slider_2}
        self.calls.append({"shape": input_image.shape, **given, **kwargs})
        return np.full(input_image.shape[:2], int(slider_1 or 0), np.uint8)

    def unload(self) -> bool:
        self.unloaded += 1
        return True


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    plugins.forget_plugins()


def picture(height: int = 50, width: int = 30) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)


def test_row_14_added_preprocessor_is_listed_like_our_own() -> None:
    added = Halftone()
    Preprocessor.add_supported_preprocessor(added)
    assert "depth_halftone" in listing.module_names()
    assert listing.labels_for("Halftones") == ["none", "depth_halftone"]
    assert listing.default_module("Halftones") == "depth_halftone"
    assert "depth_halftone" in listing.labels_for("Depth")
    assert listing.module_detail()["depth_halftone"] == {
        "model_free": False,
        "sliders": [
            {"name": "Resolution", "value": 768, "min": 128, "max": 2048, "step": 8},
            {"name": "Steps", "value": 20, "min": 1, "max": 50, "step": 1},
        ],
    }
    assert Preprocessor.get_preprocessor("depth_halftone") is added
    assert added in Preprocessor.get_filtered_preprocessors("Depth")
    assert Preprocessor.get_default_preprocessor("Halftones") is added
    assert Preprocessor.all_processors["depth_halftone"] is added
    assert Preprocessor.all_processors_by_name["depth_halftone"] is added


def test_added_preprocessor_gets_the_whole_picture_its_resolution_and_its_sliders() -> None:
    added = Halftone()
    Preprocessor.add_supported_preprocessor(added)
    found = preprocess.run_preprocessor("depth_halftone", picture(), 256, (7,))
    assert found.image.shape == (50, 30, 3)
    assert (found.image == 7).all()
    assert added.calls == [
        {"shape": (50, 30, 3), "resolution": 256, "slider_1": 7, "slider_2": None}
        | {"input_mask": None}
    ]
    preprocess.run_preprocessor("depth_halftone", picture(), 9, (99,))
    assert (added.calls[1]["resolution"], added.calls[1]["slider_1"]) == (768, 20)
    preprocess.run_preprocessor("depth_halftone", picture(), 100, (5,), pixel_perfect=True)
    assert added.calls[2]["resolution"] == 100


@pytest.mark.parametrize("declared", ["requires_mask", "accepts_mask"])
def test_added_preprocessor_gets_the_mask(declared: str) -> None:
    added = Halftone()
    setattr(added, declared, True)
    Preprocessor.add_supported_preprocessor(added)
    mask = np.zeros((50, 30), np.uint8)
    mask[:9] = 255
    preprocess.run_preprocessor("depth_halftone", picture(), mask=mask)
    assert added.calls[0]["shape"] == (50, 30, 4)
    assert np.array_equal(added.calls[0]["input_mask"], mask)


def test_hidden_slider_keeps_the_place_of_the_next_one() -> None:
    class Second(Halftone):
        def __init__(self) -> None:
            super().__init__("second")
            self.slider_1.visible = False
            self.slider_2 = PreprocessorParameter("Depth", 0, 9, 1, 4, visible=True)

    added = Second()
    Preprocessor.add_supported_preprocessor(added)
    preprocess.run_preprocessor("second", picture(), -1, (-1, 3))
    assert (added.calls[0]["slider_1"], added.calls[0]["slider_2"]) == (20, 3)
    names = [slider["name"] for slider in listing.module_detail()["second"]["sliders"]]
    assert names == ["Resolution", "Depth"]


@pytest.mark.parametrize("taken", ["canny", "invert (from white bg & black line)", "CANNY"])
def test_name_of_our_own_is_refused_with_a_sentence(taken: str) -> None:
    ours = Preprocessor.get_preprocessor("canny")
    with pytest.raises(ValueError, match=r"exists already, from ControlNet itself.*test_plugins"):
        Preprocessor.add_supported_preprocessor(Halftone(taken))
    assert Preprocessor.get_preprocessor("canny") is ours
    assert preprocess.get("canny").sliders


def test_name_of_another_extension_is_refused_and_the_first_stays() -> None:
    class Rival(Halftone):
        def __call__(self, input_image, resolution, **kwargs):
            return input_image

    first = Halftone()
    Preprocessor.add_supported_preprocessor(first)
    with pytest.raises(ValueError, match="exists already, from an extension"):
        Preprocessor.add_supported_preprocessor(Rival())
    assert Preprocessor.get_preprocessor("depth_halftone") is first


def test_same_class_again_replaces_what_it_registered() -> None:
    for _ in range(2):
        again = Halftone()
        Preprocessor.add_supported_preprocessor(again)
    assert Preprocessor.get_preprocessor("depth_halftone") is again
    preprocess.run_preprocessor("depth_halftone", picture())
    assert len(again.calls) == 1
    assert listing.module_names().count("depth_halftone") == 1


def broken_slider(added: Halftone) -> None:
    added.slider_1.value = 99


def tags_as_text(added: Halftone) -> None:
    added.tags = "Depth"


def no_name(added: Halftone) -> None:
    added.name = " "


@pytest.mark.parametrize("damage", [broken_slider, tags_as_text, no_name])
def test_declaration_without_sense_is_refused_and_leaves_nothing(damage: Any) -> None:
    before = listing.module_names()
    added = Halftone()
    damage(added)
    with pytest.raises(ValueError, match=r"99 in a range|list of texts|with a name"):
        Preprocessor.add_supported_preprocessor(added)
    assert listing.module_names() == before
    with pytest.raises(ValueError, match="str is no Preprocessor"):
        Preprocessor.add_supported_preprocessor("canny")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (RuntimeError("no weights"), r"depth_halftone \(test_plugins.py\) failed: RuntimeError"),
        (None, "returned NoneType, expected a uint8 picture"),
        (np.zeros((4, 4, 3), np.float32), r"returned ndarray float32 \(4, 4, 3\)"),
        (np.zeros((4, 4, 2), np.uint8), r"uint8 \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
    ],
    ids=["raises", "none", "float", "two-channels", "empty"],
)
def test_broken_preprocessor_names_itself_and_leaves_the_others(answer: Any, message: str) -> None:
    class Broken(Halftone):
        def __call__(self, input_image, resolution, **kwargs):
            if isinstance(answer, Exception):
                raise answer
            return answer

    Preprocessor.add_supported_preprocessor(Broken())
    with pytest.raises(PreprocessorUnavailableError, match=message):
        preprocess.run_preprocessor("depth_halftone", picture())
    assert preprocess.run_preprocessor("canny", picture()).image.any()


def test_result_object_and_picture_object_are_taken() -> None:
    class Wrapped(Halftone):
        def __call__(self, input_image, resolution, **kwargs):
            return Preprocessor.Result(input_image[:, :, ::-1].copy(), [input_image])

    Preprocessor.add_supported_preprocessor(Wrapped())
    found = preprocess.run_preprocessor("depth_halftone", picture())
    assert np.array_equal(found.image, picture()[:, :, ::-1])


def test_embedding_helper_is_found_but_not_offered() -> None:
    class Encoder(Preprocessor):
        def __init__(self) -> None:
            super().__init__(name="EVA02-CLIP-L-14-336")
            self.tags = []
            self.returns_image = False

        def __call__(self, input_image, resolution=0, **kwargs):
            return {"tokens": [1.0, 2.0]}

    Preprocessor.add_supported_preprocessor(Encoder())
    helper = Preprocessor.get_preprocessor("EVA02-CLIP-L-14-336")
    result = helper.cached_call(picture(), resolution=224)
    assert result.value == {"tokens": [1.0, 2.0]}
    assert np.array_equal(result.display_images[0], picture())
    assert "EVA02-CLIP-L-14-336" not in listing.module_names()
    with pytest.raises(PreprocessorUnavailableError, match="gives no picture"):
        preprocess.run_preprocessor("EVA02-CLIP-L-14-336", picture())


def test_forgotten_plugins_are_unloaded_and_gone() -> None:
    before = (listing.module_names(), set(Preprocessor.all_processors))
    added = Halftone()
    Preprocessor.add_supported_preprocessor(added)
    plugins.forget_plugins()
    assert added.unloaded == 1
    assert (listing.module_names(), set(Preprocessor.all_processors)) == before
    assert Preprocessor.get_preprocessor("depth_halftone") is None


def test_plugin_that_cannot_be_unloaded_does_not_keep_the_others() -> None:
    class Stuck(Halftone):
        def unload(self) -> bool:
            raise RuntimeError

    for added in (Stuck("a"), Halftone("b"), Stuck("c")):
        Preprocessor.add_supported_preprocessor(added)
    plugins.forget_plugins()
    assert not {"a", "b", "c"} & set(listing.module_names())


def test_unload_unused_spares_the_active_ones() -> None:
    kept, dropped = Halftone("kept"), Halftone("dropped")
    for added in (kept, dropped):
        Preprocessor.add_supported_preprocessor(added)
    Preprocessor.unload_unused({kept})
    assert (kept.unloaded, dropped.unloaded) == (0, 1)


def test_our_own_are_called_like_the_engine_calls_them() -> None:
    canny = Preprocessor.get_preprocessor("canny")
    expected = preprocess.run_preprocessor("canny", picture(), 64, (50, 90)).image
    assert np.array_equal(canny(picture(), resolution=64, slider_1=50, slider_2=90), expected)
    assert canny.label == "canny"
    assert (canny.slider_1.label, canny.slider_2.value) == ("Low Threshold", 200)
    assert canny.slider_resolution.api_json["value"] == 512
    assert not Preprocessor.get_preprocessor("inpaint_only").slider_resolution.visible
    assert Preprocessor.get_preprocessor("inpaint_only").requires_mask
    assert Preprocessor.get_preprocessor("no such") is None


def test_sorted_preprocessors_are_in_the_order_of_the_panel() -> None:
    names = [found.name for found in Preprocessor.get_sorted_preprocessors()]
    assert names == listing.module_names()
    assert Preprocessor.get_all_preprocessor_tags() == listing.control_types()


def test_cached_call_runs_once_per_picture_and_setting() -> None:
    added = Halftone()
    first = added.cached_call(picture(), resolution=64, slider_1=3, low_vram=False)
    assert added.cached_call(picture(), resolution=64, slider_1=3, low_vram=False) is first
    assert len(added.calls) == 1
    added.cached_call(picture(), resolution=64, slider_1=4, low_vram=False)
    added.cached_call(picture(51), resolution=64, slider_1=3, low_vram=False)
    assert len(added.calls) == 3
    for _ in range(2):
        added.cached_call(picture(), resolution=64, slider_1=3, json_pose_callback=print)
    assert len(added.calls) == 5
    for height in range(60, 90):
        added.cached_call(picture(height), resolution=64)
    assert len(Preprocessor._results) == plugins.KEPT_RESULTS


def test_base_class_has_no_detector() -> None:
    with pytest.raises(NotImplementedError):
        Preprocessor(name="nothing")(picture(), 64)


def test_one_that_asks_for_no_model_is_said_to_steer_nothing() -> None:
    def alone() -> set[str]:
        return {
            one.name
            for one in listing.detectors()
            if not (one.needs_model or families.find_fileless(one.name))
        }

    assert not alone()  # of our own each steers, or works with a model
    added = Halftone()
    added.do_not_need_model = True
    Preprocessor.add_supported_preprocessor(added)
    assert alone() == {added.name}
    unit = parse_unit({"module": added.name, "image": picture()})
    models: Any = None
    request = GenerationRequest(Size(64, 64))
    session = ControlSession(
        FakeHost(), prepare_units([unit], Preparation(request, models, None), [])
    )
    session.begin_pass(info(support.tiny_base("SD1")))
    session.say_idle()
    (said,) = session.comments
    assert "asks for no control model, and nothing here steers by it alone" in said
