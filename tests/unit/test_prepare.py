"""From units to what will run: order, failures, comments, regions that refer to other units."""

import dataclasses
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotator.pose_drawing import draw_face_keys
from lib_controlnet.detect import preprocess
from lib_controlnet.enums import BatchOption, OnError, ResizeMode
from lib_controlnet.errors import ModelNotFoundError, UnitError
from lib_controlnet.pictures.maps import Size
from lib_controlnet.prepare.crop import host_picture
from lib_controlnet.prepare.units import Preparation, prepare_units
from lib_controlnet.units.batch import BatchPicture
from lib_controlnet.units.plan import Frames
from lib_controlnet.units.request import GenerationRequest, InpaintRules
from lib_controlnet.units.unit import parse_unit

SIZE = Size(64, 64)


class Models:
    """Every model exists but the one called "absent"."""

    def find_model(self, name):
        if name == "absent":
            msg = "control model 'absent' is not found"
            raise ModelNotFoundError(msg)
        return Path(name)

    def remark(self, name):
        return "a guess" if name == "guessed" else None

    def network(self, path, _base):
        return path


def preparation(**changes):
    return Preparation(GenerationRequest(SIZE), Models(), None, **changes)


def picture(width=64, height=64):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def unit(index=0, **fields):
    return parse_unit({"module": "none", "model": "m", "image": picture(), **fields}, index)


def prepare(*units, comments=None, **changes):
    said = [] if comments is None else comments
    return prepare_units(list(units), preparation(**changes), said)


def test_units_keep_their_order_and_disabled_ones_are_passed_over():
    made = prepare(unit(0), unit(1, enabled=False, model="absent"), unit(2))
    assert [one.unit.index for one in made] == [0, 2]


def test_failing_unit_stops_all_and_is_named():
    with pytest.raises(ModelNotFoundError, match="^unit 1: control model 'absent' is not found"):
        prepare(unit(0), unit(1, model="absent"))


def test_failing_unit_is_skipped_with_a_comment_if_the_user_wants_that():
    comments = []
    made = prepare(unit(0, model="absent"), unit(1), comments=comments, on_error=OnError.SKIP)
    assert [one.unit.index for one in made] == [1]
    assert comments == ["ControlNet: unit 0: control model 'absent' is not found (unit skipped)"]


def test_region_that_cannot_be_found_is_a_failure_like_others():
    inside = unit(0, region="Inside the inpaint mask")
    with pytest.raises(UnitError, match="unit 0: region .* there is no inpaint mask"):
        prepare(inside, unit(1))
    comments = []
    made = prepare(inside, unit(1), comments=comments, on_error=OnError.SKIP)
    assert [one.unit.index for one in made] == [1]
    assert "there is no inpaint mask" in comments[0]


def test_region_of_another_units_mask_is_found_before_and_behind_it():
    mask = np.zeros((64, 64), np.uint8)
    mask[:, :32] = 255
    painted = unit(1, module="inpaint_global_harmonious", mask=mask)
    made = prepare(
        unit(0, region="Inside the inpaint mask"),
        painted,
        unit(2, region="Outside the inpaint mask", region_feather=7),
    )
    assert np.array_equal(made[0].region.mask, mask)
    assert made[1].region is None
    assert np.array_equal(made[2].region.mask, 255 - mask)
    assert made[2].region.feather == 7.0


def test_interrupt_gives_nothing_rather_than_half():
    stops = iter([False, True])
    assert prepare(unit(0), unit(1), interrupted=lambda: next(stops)) == []


def test_frames_stay_with_their_unit_where_others_are_skipped():
    pictures = [BatchPicture(str(i), np.full((64, 64, 3), i, np.uint8)) for i in range(3)]
    frames = {1: Frames(tuple(pictures), (0, 4, 5)), 2: Frames()}
    units = [unit(0, model="absent"), pictures[0].give_to(unit(1)), unit(2)]
    comments = []
    made = prepare_units(units, preparation(on_error=OnError.SKIP), comments, frames)
    assert [one.unit.index for one in made] == [1, 2]
    assert [frame[0, 0, 0] for frame in made[0].frames] == [1, 2]
    assert not made[1].frames
    assert [one.keyframes for one in made] == [(0, 4, 5), ()]
    assert "absent" in comments[0]


def test_one_unit_makes_all_take_turns():
    assert [one.turn for one in prepare(unit(0), unit(1))] == [None, None]
    made = prepare(unit(0), unit(1), unit(2, batch_option=BatchOption.SEPARATE))
    assert [one.turn for one in made] == [(0, 3), (1, 3), (2, 3)]
    assert [sorted(one.images(5)) for one in made] == [[0, 3], [1, 4], [2]]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, True),
        ({"mask": np.full((64, 64), 255, np.uint8)}, False),
        ({"image": picture(64, 32), "resize_mode": ResizeMode.OUTER_FIT}, False),
        ({"image": picture(64, 32), "resize_mode": ResizeMode.INNER_FIT}, True),
        ({"resize_mode": ResizeMode.OUTER_FIT}, True),
        ({"module": "inpaint_global_harmonious"}, False),
    ],
    ids=["blank", "masked", "outpainting", "cut", "same proportions", "harmonious"],
)
def test_inpaint_only_without_anything_to_paint_says_so(fields, says):
    comments = []
    prepare(unit(**{"module": "inpaint_only", **fields}), comments=comments)
    assert any("nothing is masked" in comment for comment in comments) is says


@pytest.mark.parametrize("only_masked", [False, True])
@pytest.mark.parametrize(
    "module", ["inpaint_only", "inpaint_only+lama", "inpaint_global_harmonious"]
)
def test_host_keeps_the_rest_where_its_mask_stands_for_the_units(module, only_masked, monkeypatch):
    detector = preprocess.get("inpaint_only+lama")
    filled = lambda image: np.zeros((8, 8, 3), np.uint8)  # noqa: E731
    monkeypatch.setattr(sys.modules[type(detector).__module__], "fill", filled)
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    rules = InpaintRules(mask, 0, 0, False, True, only_masked, 8)
    init = Image.fromarray(picture())
    request = GenerationRequest(SIZE, init_image=init, inpaint=rules)
    (made,) = prepare_units([unit(module=module)], Preparation(request, Models(), None), [])
    host = host_picture(init, rules, SIZE, 0).mask
    assert np.array_equal(made.detected[:, :, 3] > 127, host > 127)
    assert (made.effect, made.fills) == (None, module == "inpaint_only+lama")
    assert not made.masks, "an inpainting checkpoint is told by the host"


def test_lama_blends_a_large_picture_in_strips(monkeypatch):
    lama = sys.modules[type(preprocess.get("inpaint_only+lama")).__module__]
    rng = np.random.default_rng(5)
    monkeypatch.setattr(lama, "fill", lambda image: rng.integers(0, 256, (16, 16, 3), np.uint8))
    image = rng.integers(0, 256, (90, 70, 4), np.uint8)
    made = []
    for pixels in (1 << 20, 1000):
        monkeypatch.setattr(lama, "_STRIP", pixels)
        rng = np.random.default_rng(6)
        made.append(preprocess.get("inpaint_only+lama").detect(image))
    assert np.array_equal(*made)
    assert np.array_equal(made[0][:, :, 3], image[:, :, 3])


def test_a_unit_holds_its_network_so_that_no_other_takes_its_place():
    class Network:
        pass

    class Loading(Models):
        def network(self, _path, _base):
            return Network()

    (made,) = prepare_units([unit()], Preparation(GenerationRequest(SIZE), Loading(), None), [])
    network = weakref.ref(made.model.network(None))
    assert network() is not None
    made.model.network(None)
    assert network() is None, "of another checkpoint's it lets go"


def test_a_guess_at_the_model_is_said():
    comments = []
    prepare_units([unit(model="guessed"), unit(1)], preparation(), comments)
    assert comments == ["ControlNet unit 0: a guess"]


SLIDERS = {
    "threshold_a": (300, 0, "Low Threshold of canny", "1 and 255", "100"),
    "threshold_b": (-5, 0.5, "High Threshold of canny", "1 and 255", "200"),
    "processor_res": (2049, 0, "Resolution of canny", "64 and 2048", "512"),
}


@pytest.mark.parametrize("field", SLIDERS)
def test_slider_out_of_range_stops_a_request_and_is_noted_otherwise(field):
    number, unmeant, name, limits, default = SLIDERS[field]
    wrong = unit(module="canny", **{field: number})
    sentence = f"{field} is {number:g}, {name}"
    with pytest.raises(UnitError, match=f"^unit 0: {sentence} must be between {limits}; -1 is"):
        prepare(wrong)
    note = f"ControlNet unit 0: {sentence} goes between {limits}: its default {default} is used"
    comments = []
    prepare(dataclasses.replace(wrong, is_request=False), comments=comments)
    assert comments == [note]
    comments = []
    prepare(unit(module="canny", **{field: unmeant}), comments=comments)
    assert comments == [note.replace(f"is {number:g},", f"is {unmeant:g},")]


def test_sliders_that_the_preprocessor_lacks_may_hold_anything():
    comments = []
    fields = {"threshold_a": 64, "threshold_b": 1e9, "processor_res": 9}
    prepare(unit(module="invert", **fields), comments=comments)
    prepare(unit(module="canny", processor_res=9, pixel_perfect=True), comments=comments)
    assert comments == []


@pytest.mark.parametrize(
    ("module", "shown"),
    [
        ("canny", "Hard Edge"),
        ("tile_resample", "Tile"),
        ("inpaint", "Inpaint"),
        ("shuffle", "Unknown"),
        ("none", "Unknown"),
    ],
)
def test_a_preprocessor_tells_what_its_map_shows(module, shown):
    (made,) = prepare(unit(module=module))
    assert made.control_type == shown


@pytest.mark.parametrize("module", ["none", "invert"])
def test_a_ready_made_map_tells_whose_network_reads_it(module):
    points = np.array([[20, 20], [44, 20], [32, 32], [22, 44], [42, 44]], float)
    (made,) = prepare(unit(module=module, image=draw_face_keys(points * 8, 512, 512)))
    is_given = module == "none"
    assert (made.partner, made.is_given) == ("InstantID" if is_given else "", is_given)
    (other,) = prepare(unit(module=module))
    assert (other.partner, other.is_given) == ("", is_given)
