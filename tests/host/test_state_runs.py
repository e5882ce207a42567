"""Runs inside runs, one `p` many times, changed settings, reloads, two clients at once."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.host import state_memory, state_probe, state_rig
from tests.host.state_rig import SIZE, Rig, array, picture, unit


@pytest.fixture(scope="module")
def observed(host: Any) -> Iterator[Rig]:
    with state_rig.observed(host) as rig:
        yield rig


@pytest.fixture
def rig(observed: Rig) -> Iterator[Rig]:
    with observed.one_test():
        yield observed


# ---- generations inside generations --------------------------------------------------------


def detail(rig: Rig, outer: Any, image: Image.Image, units: tuple | None) -> list[np.ndarray]:
    """What a detailer does with a finished picture: img2img with copies of the arguments.

    Args:
        rig: the host.
        outer: the processing object whose picture it is.
        image: the picture.
        units: units of the inner run; None takes the outer ones as they are.
    """
    inner = rig.img2img(init_images=[image], seed=11)
    inner.scripts = outer.scripts  # the same script instances
    inner.script_args = copy.deepcopy(
        outer.script_args if units is None else rig.arguments("txt2img", *units)
    )
    drawn, maps = rig.images_and_maps(inner)
    return [*drawn, *maps]


INNER = {
    "same-units": None,
    "other-unit": (unit(seed=3, weight=0.6),),
    "no-picture": (unit(image=None),),
    "disabled": (unit(enabled=False),),
}


@pytest.mark.parametrize("name", list(INNER))
def test_detailer_and_outer_run_do_not_see_each_other(rig, name):
    alone = rig.run(rig.txt2img(unit(), n_iter=2))
    inner: list[list[np.ndarray]] = []
    outer: list[Any] = []

    def improve(p: Any, pp: Any) -> None:
        if p is outer[0]:
            inner.append(detail(rig, p, pp.image, INNER[name]))

    outer.append(rig.txt2img(unit(), n_iter=2))
    rig.hooks["late", "postprocess_image"] = improve
    with rig.job(outer[0]):
        drawn, maps = rig.images_and_maps(outer[0])
    rig.hooks.clear()
    assert all(np.array_equal(a, b) for a, b in zip(drawn, alone, strict=True))
    assert [m.shape for m in maps] == [(SIZE, SIZE, 3)]
    for image, result in zip(alone, inner, strict=True):
        units = (unit(),) if INNER[name] is None else INNER[name]
        p = rig.img2img(*units, init_images=[Image.fromarray(image)], seed=11)
        assert np.array_equal(result[0], rig.run(p)[0])
        assert len(result) == (1 if name == "disabled" else 2)
    outer.clear()
    del p
    rig.check()


def test_failing_detailer_leaves_the_outer_run_alone(rig):
    failed = []
    outer: list[Any] = []

    def improve(p: Any, pp: Any) -> None:
        if p is outer[0]:
            try:
                detail(rig, p, pp.image, (unit(model="absent"),))
            finally:
                failed.append(True)

    outer.append(rig.txt2img(unit()))
    rig.hooks["early", "postprocess_image"] = improve
    with rig.job(outer[0]):
        drawn, maps = rig.images_and_maps(outer[0])
    assert failed == [True]
    assert np.array_equal(drawn[0], rig.references["one"])
    assert len(maps) == 1
    outer.clear()
    rig.hooks.clear()
    rig.check()


def test_shallow_copy_of_p_inside_a_run(rig):
    """The copy carries every attribute of the outer `p`, the session included."""
    inner: list[np.ndarray] = []
    outer: list[Any] = []

    def again(p: Any, _pp: Any) -> None:
        if p is outer[0]:
            twin = copy.copy(p)
            twin.script_args = rig.arguments("txt2img", unit(enabled=False))
            inner.extend(rig.images(twin))

    outer.append(rig.txt2img(unit()))
    rig.hooks["early", "postprocess_image"] = again
    with rig.job(outer[0]):
        drawn, maps = rig.images_and_maps(outer[0])
    assert np.array_equal(drawn[0], rig.references["one"])
    assert np.array_equal(inner[0], rig.references["plain"])
    assert len(maps) == 1
    outer.clear()
    rig.hooks.clear()
    rig.check()


@pytest.mark.parametrize(
    ("place", "event"),
    [("early", "cfg_denoiser"), ("late", "cfg_denoiser"), ("late", "cfg_after_cfg")],
)
def test_run_in_the_middle_of_sampling(rig, place, event):
    """Hooks of the outer session are on the U-Net meanwhile and must not act on the inner run.

    The outer units act at different steps, so the outer session has to follow its steps again.
    """
    units = unit(guidance_end=0.4), unit(seed=1, guidance_start=0.6)
    alone = rig.run(rig.txt2img(*units, steps=5))[0]
    for name in ("plain", "one"):
        calls: list[bool] = []
        inner: list[np.ndarray] = []

        def generate(
            _params: Any, calls: list = calls, inner: list = inner, name: str = name
        ) -> None:
            calls.append(True)
            if len(calls) == 2:
                inner.extend(rig.images(state_rig.REQUESTS[name](rig)))

        rig.hooks[place, event] = generate
        assert np.array_equal(rig.run(rig.txt2img(*units, steps=5))[0], alone), name
        assert np.array_equal(inner[0], rig.references[name]), name
        rig.hooks.clear()
        rig.nothing_left()
    rig.check()


def test_run_without_scripts_in_the_middle_of_sampling(rig):
    """Such a run is seen by the cfg callbacks alone."""
    calls: list[bool] = []
    inner: list[np.ndarray] = []

    def generate(_params: Any) -> None:
        calls.append(True)
        if len(calls) == 2:
            p = rig.txt2img()
            p.scripts = None
            inner.extend(rig.images(p))

    rig.hooks["late", "cfg_after_cfg"] = generate
    assert np.array_equal(rig.draw("two"), rig.references["two"])
    assert np.array_equal(inner[0], rig.references["plain"])
    rig.hooks.clear()
    rig.check()


# ---- one p, many runs ----------------------------------------------------------------------

TILES = ((picture(seed=20), 32, 32), (picture(48, 40, seed=21), 48, 40), (picture(seed=22), 32, 32))


@pytest.mark.parametrize(
    ("own", "close"), [(False, True), (True, False)], ids=["follows-img2img-closed", "own-picture"]
)
def test_one_p_for_every_tile(rig, own, close):
    control = unit() if own else unit(image=None)

    def changes(tile: np.ndarray, width: int, height: int) -> dict[str, Any]:
        return {"init_images": [Image.fromarray(tile)], "width": width, "height": height}

    alone = [rig.run(rig.img2img(control, **changes(*tile)))[0] for tile in TILES]
    p = rig.img2img(control)
    with rig.job(p):
        for tile, expected in zip(TILES, alone, strict=True):
            for name, value in changes(*tile).items():
                setattr(p, name, value)
            drawn, maps = rig.images_and_maps(p)
            assert np.array_equal(drawn[0], expected)
            assert len(maps) == 1
            if close:
                p.close()
    own_keys = [key for key in p.extra_generation_params if key.startswith("ControlNet")]
    assert own_keys == ["ControlNet 0", "ControlNet report"]
    del p
    rig.check("img2img")


def test_one_p_with_a_new_mask_for_every_file(rig):
    """The batch tab: `image_mask` is replaced between runs."""
    control = unit(image=None, module="inpaint_only")
    masks = []
    for left in (4, 14):
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[8:24, left : left + 12] = 255
        masks.append(Image.fromarray(mask))
    fields = {"inpaint_full_res": False, "mask_blur": 0, "inpainting_fill": 1}
    alone = [rig.run(rig.img2img(control, mask=mask, **fields))[0] for mask in masks]
    assert not np.array_equal(*alone)
    p = rig.img2img(control, mask=masks[0], **fields)
    with rig.job(p):
        for mask, expected in zip(masks, alone, strict=True):
            p.image_mask, p.mask, p.mask_for_overlay = mask, None, None
            assert np.array_equal(rig.images(p)[0], expected)
    del p
    rig.check()


def test_loopback_feeds_results_back(rig):
    start = Image.fromarray(picture(seed=7))
    expected = [start]
    for _ in range(3):
        drawn = rig.run(rig.img2img(unit(image=None), init_images=[expected[-1]]))
        expected.append(Image.fromarray(drawn[0]))
    p = rig.img2img(unit(image=None), init_images=[start])
    with rig.job(p):
        for wanted in expected[1:]:
            drawn = rig.images(p)
            assert np.array_equal(drawn[0], array(wanted))
            p.init_images = [Image.fromarray(drawn[0])]
    del p
    rig.check("img2img")


def test_grid_of_shallow_copies(rig):
    """XYZ: a copy per cell, closed after it; extra_generation_params is one shared dict."""
    cells = [(unit(),), (), (unit(weight=0.4),), (unit(enabled=False),), (unit(),)]
    expected = [rig.run(rig.txt2img(*units))[0] for units in cells]
    p = rig.txt2img(unit(seed=9))
    with rig.job(p):
        for units, wanted in zip(cells, expected, strict=True):
            cell = copy.copy(p)
            cell.script_args = rig.arguments("txt2img", *units)
            assert np.array_equal(rig.images(cell)[0], wanted)
            assert ("ControlNet 0" in cell.extra_generation_params) == any(
                u.get("enabled", True) for u in units
            )
            cell.close()
        del cell
    del p
    rig.check()


def test_p_whose_units_are_switched_off_between_runs(rig):
    p = rig.txt2img(unit())
    with rig.job(p):
        assert np.array_equal(rig.images(p)[0], rig.references["one"])
        p.script_args = rig.arguments("txt2img", unit(enabled=False))
        drawn, maps = rig.images_and_maps(p)
        assert np.array_equal(drawn[0], rig.references["plain"])
        assert maps == []
        assert "ControlNet 0" not in p.extra_generation_params
    del p
    rig.check()


def test_p_that_failed_once_works_the_next_time(rig, monkeypatch):
    from lib_controlnet.families.controlnet import ControlNetNetwork

    def fail(*_args: Any) -> None:
        msg = "simulated"
        raise RuntimeError(msg)

    p = rig.txt2img(unit())
    with rig.job(p):
        with monkeypatch.context() as patch:
            patch.setattr(ControlNetNetwork, "evaluate", fail)
            with pytest.raises(RuntimeError, match="simulated") as caught:
                rig.images(p)
            del caught
        drawn, maps = rig.images_and_maps(p)
    assert np.array_equal(drawn[0], rig.references["one"])
    assert len(maps) == 1
    del p
    rig.check()


def test_finished_p_holds_nothing_of_its_generation(rig):
    """A script or a page that keeps `p` keeps no pictures, hints or networks of ours with it."""
    p = rig.txt2img(*state_rig.two_units())
    with rig.job(p):
        assert len(rig.images_and_maps(p)[1]) == 2
        gc.collect()
        assert state_memory.survivors() == []
    del p
    rig.check()


def test_twenty_runs_hold_no_more_memory_than_two(rig):
    requests = [
        lambda: rig.txt2img(unit(), n_iter=2),
        lambda: rig.txt2img(*state_rig.two_units(), batch_size=2),
        lambda: rig.txt2img(state_rig.masked_unit(), **state_rig.HIRES),
        lambda: rig.img2img(unit(image=None, module="canny")),
        lambda: rig.txt2img(unit(effective_region_mask=state_rig.encoded(picture(seed=30)))),
    ]
    sizes = []
    for index in range(20):
        rig.run(requests[index % len(requests)]())
        if index % len(requests) == len(requests) - 1:
            gc.collect()
            assert state_memory.survivors() == []
            sizes.append(state_memory.tensor_bytes())
    assert sizes[1:] == sizes[:-1], sizes


# ---- what others hold and wrap -------------------------------------------------------------


def test_arguments_of_a_request_are_neither_changed_nor_read_again(rig):
    units = [unit(weight=0.7), unit(seed=1, weight=0.5)]
    before = copy.deepcopy(units)
    seen = []

    def change(p: Any, *_args: Any) -> None:
        seen.append(copy.deepcopy(units))
        units[0]["weight"], units[1]["image"] = 0.1, None

    rig.hooks["late", "process"] = change
    drawn = rig.run(rig.txt2img(*units))
    assert seen == [before]
    assert np.array_equal(drawn[0], rig.references["two"])
    rig.hooks.clear()
    rig.check()


@pytest.mark.parametrize("place", state_probe.PLACES)
@pytest.mark.parametrize("copies_attributes", [False, True], ids=["plain", "functools-wraps"])
def test_wrapper_of_a_neighbour_stays_on_the_sampler(rig, place, copies_attributes):
    """img2img has one sampler for all batches; a neighbour wraps it once, at the first."""
    runs: list[int] = []

    def wrap(p: Any, *_args: Any, **_kwargs: Any) -> None:
        inner = p.sampler.launch_sampling

        def counted(steps: int, func: Callable[[], Any]) -> Any:
            runs.append(steps)
            return inner(steps, func)

        p.sampler.launch_sampling = wraps(inner)(counted) if copies_attributes else counted

    p = rig.img2img(unit(image=None), n_iter=3)
    alone = rig.run(rig.img2img(unit(image=None), n_iter=3))
    rig.hooks[place, "process_before_every_sampling"] = state_probe.at_call(0, wrap)
    drawn = rig.run(p)
    assert len(runs) == 3
    assert all(np.array_equal(a, b) for a, b in zip(drawn, alone, strict=True))
    rig.hooks.clear()
    rig.strays.clear()  # the neighbour's wrapper may hold a spent one of ours
    del p
    rig.check()
