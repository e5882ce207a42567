"""What a batch consists of: listing, checking, turns, merging, names of results."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib_controlnet import limits
from lib_controlnet.enums import InputMode
from lib_controlnet.errors import ControlNetError, ImageError, UnitError
from lib_controlnet.pictures.decode import decode_image
from lib_controlnet.units.batch import (
    BatchSource,
    ResultNames,
    list_pictures,
    natural_key,
)
from lib_controlnet.units.plan import Animation, plan
from lib_controlnet.units.unit import ControlUnit, parse_unit

ANYWHERE = BatchSource(folders=True)
NAMES = ["frame2.png", "Frame1.jpg", "frame10.bmp"]


def shade(level: int) -> Image.Image:
    return Image.fromarray(np.full((8, 12, 3), level, np.uint8))


def encoded(level: int) -> str:
    buffer = io.BytesIO()
    shade(level).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def level(value: object) -> int:
    return int(decode_image(value)[0, 0, 0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """frame1, frame2 and frame10 with levels 10, 20 and 100, and what is no picture."""
    made = tmp_path / "pictures"
    made.mkdir()
    for name, value in zip(NAMES, (20, 10, 100), strict=True):
        shade(value).save(made / name, quality=100)
    shade(0).save(made / ".hidden.png")
    (made / "notes.txt").write_text("no picture")
    (made / "deeper.png").mkdir()
    return made


@pytest.mark.parametrize(
    ("mode", "most"), [("merge", limits.MAX_MERGED), ("batch", limits.MAX_LISTED)]
)
def test_more_pictures_than_one_request_may_bring_are_refused_unread(mode: str, most: int) -> None:
    unit = parse_unit({"input_mode": mode, "batch_images": ["no picture"] * (most + 1)}, 1)
    sentence = rf"unit 1: batch_images has {most + 1} pictures; at most {most} can be used"
    with pytest.raises(UnitError, match=sentence):
        plan([unit], ANYWHERE)
    one = encoded(9)
    fine = parse_unit({"input_mode": mode, "batch_images": [one] * min(most, 40)})
    assert plan([fine], ANYWHERE)


@pytest.mark.parametrize(
    ("mode", "limit"), [("merge", "plan.MAX_MERGED"), ("batch", "batch.MAX_FILES")]
)
def test_more_files_than_a_folder_may_have_are_refused_unread(
    mode: str, limit: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"lib_controlnet.units.{limit}", 2)
    (folder / "frame2.png").write_bytes(b"no picture")
    unit = batch_unit(str(folder), input_mode=mode)
    with pytest.raises(UnitError, match="batch_images has 3 pictures; at most 2 can be used"):
        plan([unit], ANYWHERE)


def batch_unit(pictures: object, **fields: object) -> ControlUnit:
    return parse_unit({"input_mode": "batch", "batch_images": pictures, **fields})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a10", "a9", "A1"], ["A1", "a9", "a10"]),
        (["10", "9", "b", "1b"], ["1b", "9", "10", "b"]),
        (["x-2-b", "x-2-a", "x-10"], ["x-2-a", "x-2-b", "x-10"]),
        (["a01", "a1", "a001"], ["a001", "a01", "a1"]),
    ],
)
def test_natural_key_sorts_numbers_by_value(names: list[str], expected: list[str]) -> None:
    assert sorted(names, key=natural_key) == expected


def test_list_pictures_is_natural_and_passes_over_the_rest(folder: Path) -> None:
    assert [path.name for path in list_pictures(folder)] == [
        "Frame1.jpg", "frame2.png", "frame10.bmp",
    ]  # fmt: skip


def test_plan_gives_each_turn_its_picture_and_leaves_other_units(folder: Path) -> None:
    still = parse_unit({"image": encoded(7), "loopback": False}, 1)
    made = plan([batch_unit(str(folder)), still], ANYWHERE)
    assert made.count == 3
    assert [made.name_of(turn).name for turn in range(3)] == sorted(NAMES, key=natural_key)
    for turn, expected in enumerate((10, 20, 100)):
        units = made.at(turn)
        assert [level(unit.image) for unit in units] == [expected, 7]
        assert units[0].input_mode is InputMode.SIMPLE
        assert units[1] is still


def test_plan_without_several_pictures_has_no_turns() -> None:
    unit = parse_unit({"image": encoded(7)})
    made = plan([unit], ANYWHERE, Animation(takes_batches=lambda: pytest.fail("nobody asked")))
    assert (made.turns, made.frames, made.count, made.at(0)) == ({}, {}, 1, [unit])


@pytest.mark.parametrize("way", ["unit", "host"])
def test_plan_frames_of_an_animation_are_no_turns(folder: Path, way: str) -> None:
    unit = batch_unit(str(folder), animatediff_batch=way == "unit")
    made = plan([unit], ANYWHERE, Animation(2, lambda: way == "host"))
    assert (made.turns, made.count) == ({}, 1)
    assert [picture.name for picture in made.frames[0].pictures] == ["Frame1.jpg", "frame2.png"]
    assert [level(first.image) for first in made.at(0)] == [10]
    with pytest.raises(UnitError, match="3 control pictures for the 4 frames"):
        plan([unit], ANYWHERE, Animation(4, lambda: way == "host"))


KEYFRAMES = {
    "text": ("0,6", (0, 6)),
    "blanks": ("0 6", (0, 6)),
    "list": ([0, 6], (0, 6)),
    "texts": (["6", "0"], (0, 6)),
    "one": ("3", (3,)),
    "none": (None, ()),
    "twice": ("2,2", None),
    "behind the end": ("0,7", None),
    "negative": ("-1", None),
    "words": ("first", None),
    "huge": ("9" * 5000, None),
    "fractions": ([0.5], None),
}


@pytest.mark.parametrize("line", [True, False], ids=["line", "field"])
@pytest.mark.parametrize("case", KEYFRAMES)
def test_plan_pairs_keyframes_with_pictures(folder: Path, case: str, line: bool) -> None:
    asked, expected = KEYFRAMES[case]
    given = [asked] if not isinstance(asked, list) else asked
    fields: dict[str, object] = {"batch_images": str(folder), "batch_keyframe_idx": asked}
    if line and asked is not None:
        text = ",".join(str(one) for one in given)
        fields = {"batch_images": f"{folder}\nkeyframe:{text}"}
    unit = parse_unit({"input_mode": "batch", "animatediff_batch": True, **fields})
    if expected is None:
        with pytest.raises(UnitError, match="different numbers from 0 to 6"):
            plan([unit], ANYWHERE, Animation(7))
    elif asked is None:
        with pytest.raises(UnitError, match="3 control pictures for the 7 frames"):
            plan([unit], ANYWHERE, Animation(7))
    else:
        frames = plan([unit], ANYWHERE, Animation(7)).frames[0]
        assert frames.keyframes == expected
        ordered = sorted(NAMES, key=natural_key)[: len(expected)]
        names = ordered[::-1] if case == "texts" else ordered
        assert [picture.name for picture in frames.pictures] == names


def test_plan_wants_a_picture_for_each_keyframe(folder: Path) -> None:
    unit = batch_unit(str(folder), animatediff_batch=True, batch_keyframe_idx="0,1,2,3")
    with pytest.raises(UnitError, match="3 control pictures for the 4 keyframes"):
        plan([unit], ANYWHERE, Animation(7))


def test_plan_knows_the_units_of_an_animation_that_have_one_picture() -> None:
    unit = parse_unit({"image": encoded(7)})
    assert plan([unit], ANYWHERE, Animation(2, lambda: True)).frames[0].keyframes == ()
    assert plan([unit], ANYWHERE, Animation(2, lambda: False)).frames == {}


def test_plan_never_mixes_frames_and_turns() -> None:
    units = [batch_unit("nowhere"), batch_unit("nowhere", animatediff_batch=True)]
    with pytest.raises(UnitError, match="cannot be mixed in one generation"):
        plan(units, ANYWHERE)


def test_plan_shortest_unit_decides_and_the_last_one_names(folder: Path) -> None:
    made = plan([batch_unit(str(folder)), batch_unit([encoded(1), encoded(2)])], ANYWHERE)
    assert made.count == 2
    assert [level(unit.image) for unit in made.at(1)] == [20, 2]
    assert made.name_of(1).stem == "picture-2"


@pytest.mark.parametrize("form", ["list", "pil", "data-url", "dicts"])
def test_plan_takes_lists_of_pictures(form: str) -> None:
    given = {
        "list": [encoded(3)],
        "pil": [shade(3)],
        "data-url": f"data:image/png;base64,{encoded(3)}",
        "dicts": [{"image": encoded(3), "mask": encoded(255)}],
    }[form]
    (unit,) = plan([batch_unit(given)], ANYWHERE).at(0)
    assert level(unit.image) == 3
    assert (unit.mask is not None) == (form == "dicts")


def test_plan_folder_comes_first_among_the_lines_of_an_animation(folder: Path) -> None:
    made = plan([batch_unit(f"{folder}\nkeyframe:0,6")], ANYWHERE)
    assert made.count == 3
    assert made.folders == (folder,)


@pytest.mark.parametrize("masks", ["same names", "in order", "one"])
def test_plan_masks_by_name_in_order_or_one_for_all(
    folder: Path, tmp_path: Path, masks: str
) -> None:
    where = tmp_path / "masks"
    where.mkdir()
    names = {"same names": ["frame10", "frame2", "Frame1"], "in order": ["a", "b", "c"]}
    for i, name in enumerate(names.get(masks, ["single"])):
        shade(200 + i).save(where / f"{name}.png")
    made = plan([batch_unit(str(folder), batch_mask_dir=str(where))], ANYWHERE)
    found = [level(made.at(turn)[0].mask) for turn in range(3)]
    assert found == {"same names": [202, 201, 200], "in order": [200, 201, 202]}.get(
        masks, [200] * 3
    )
    by_line = plan([batch_unit(f"{folder}\nmask:{where}")], ANYWHERE)
    assert [level(by_line.at(turn)[0].mask) for turn in range(3)] == found


def test_plan_too_few_masks_are_refused(folder: Path, tmp_path: Path) -> None:
    where = tmp_path / "masks"
    where.mkdir()
    for name in ("a", "b"):
        shade(255).save(where / f"{name}.png")
    with pytest.raises(UnitError, match="batch_mask_dir holds 2 masks for 3 pictures"):
        plan([batch_unit(str(folder), batch_mask_dir=str(where))], ANYWHERE)


def test_loopback_takes_the_last_result_and_nothing_at_first(folder: Path) -> None:
    made = plan(
        [batch_unit(str(folder), loopback=True), parse_unit({"image": encoded(7)}, 1)], ANYWHERE
    )
    assert level(made.at(0)[0].image) == 10
    assert [level(unit.image) for unit in made.at(1, result=shade(99))] == [99, 7]


def test_picture_of_a_script_replaces_those_of_the_batch(folder: Path) -> None:
    made = plan([batch_unit(str(folder)), parse_unit({"image": encoded(7)}, 1)], ANYWHERE)
    assert [level(unit.image) for unit in made.at(0, instead=shade(5))] == [5, 7]
    assert [level(unit.image) for unit in made.at(0, instead=[None, shade(5)])] == [10, 7]


def test_picture_of_the_host_s_name_is_preferred(folder: Path) -> None:
    made = plan([batch_unit(str(folder))], ANYWHERE)
    assert level(made.at(0, stem="frame10")[0].image) == 100
    assert level(made.at(0, stem="elsewhere")[0].image) == 10


@pytest.mark.parametrize(
    ("pictures", "source", "message"),
    [
        (None, ANYWHERE, "unit 0: input mode is 'batch', but no pictures are given"),
        ("", ANYWHERE, "no pictures are given"),
        ([], ANYWHERE, "no pictures are given"),
        ("{folder}/absent", ANYWHERE, "batch_images: the folder .*absent does not exist"),
        ("{folder}/deeper.png", ANYWHERE, "there is no picture in the folder"),
        ("{folder}", BatchSource(), "unit 0: batch_images names a folder, and .* base64"),
        ("{folder}", BatchSource(folders=["{folder}/deeper.png"]), "lies outside of"),
        ("{folder}/absent", BatchSource(), "names a folder, and folders may not be read"),
        (["{folder}/frame2.png"], BatchSource(), "picture 1 is a file path"),
        ([encoded(1), "not base64!"], ANYWHERE, "unit 0: picture 2 cannot be decoded"),
        (["https://example.org/a.png"], ANYWHERE, None),
    ],
)
def test_plan_refuses_before_anything_is_made(
    folder: Path, pictures: object, source: BatchSource, message: str | None
) -> None:
    def placed(value: object) -> object:
        if isinstance(value, list):
            return [placed(item) for item in value]
        return value.format(folder=folder) if isinstance(value, str) else value

    source = BatchSource(placed(source.folders), source.paths)
    if message is None:
        assert plan([batch_unit(placed(pictures))], source).count == 1
        return
    with pytest.raises(ControlNetError, match=message):
        plan([batch_unit(placed(pictures))], source)


@pytest.mark.parametrize("what", ["garbage", "empty", "huge"])
def test_plan_names_a_broken_file(folder: Path, what: str) -> None:
    broken = folder / "frame5.png"
    if what == "huge":
        Image.new("1", (20_000, 8)).save(broken)
    else:
        broken.write_bytes(b"" if what == "empty" else b"garbage" * 9)
    with pytest.raises(ImageError, match=r"frame5\.png"):
        plan([batch_unit(str(folder))], ANYWHERE)


def test_file_that_goes_after_planning_is_named(folder: Path) -> None:
    made = plan([batch_unit(str(folder))], ANYWHERE)
    (folder / "frame2.png").unlink()
    with pytest.raises(ImageError, match=r"frame2\.png cannot be read"):
        made.at(1)


def test_folder_below_an_opened_one_may_be_read(folder: Path) -> None:
    source = BatchSource(folders=[folder.parent])
    assert plan([batch_unit(str(folder))], source).count == 3
    sneaky = f"{folder}/../.."
    with pytest.raises(UnitError, match="lies outside of"):
        plan([batch_unit(sneaky)], source)


def test_merging_makes_one_unit_per_picture_at_its_share(folder: Path) -> None:
    several = parse_unit(
        {"input_mode": "merge", "batch_images": str(folder), "weight": 1.5,
         "advanced_weighting": [3.0, 6.0]}, 2,
    )  # fmt: skip
    other = parse_unit({"image": encoded(7)}, 3)
    made = plan([several, other], ANYWHERE).units
    assert [level(unit.image) for unit in made] == [10, 20, 100, 7]
    assert [unit.weight for unit in made[:3]] == pytest.approx([0.5] * 3)
    assert made[0].advanced_weighting == pytest.approx((1.0, 2.0))
    assert [unit.name for unit in made] == ["unit 2"] * 3 + ["unit 3"]
    assert made[3] is other
    assert {unit.input_mode for unit in made} == {InputMode.SIMPLE}


def test_merging_takes_a_list_of_images() -> None:
    unit = parse_unit(
        {"input_mode": "merge", "image": [{"image": encoded(1)}, {"image": shade(2)}]}
    )
    assert [level(one.image) for one in plan([unit], ANYWHERE).units] == [1, 2]
    with pytest.raises(UnitError, match="input mode is 'merge', but no pictures"):
        plan([parse_unit({"input_mode": "merge"})], ANYWHERE)


def test_result_names_are_the_pictures_and_never_given_twice() -> None:
    names = ResultNames()
    assert [names.take("a", number, ".png") for number in range(3)] == ["a", "a-1", "a-2"]
    assert names.take("a-1", 0, ".png") == "a-1-1"
    assert names.take("a", 0, ".jpg") == "a"
    assert names.take("A", 0, ".png") == "A-3"
