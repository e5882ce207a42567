"""Batches in the embedded host: each picture is the one that a single run would have made."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import batch_unit, job, pixels, same, save_noise
from controls import SIZE, STEPS, encoded, first, picture, request, unet_hooks, unit
from neighbours import process as run
from PIL import Image

FILES = ["c1.png", "c2.png", "c10.png"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_noise(tmp_path / "control", FILES)


@pytest.fixture
def shown(webui, monkeypatch) -> None:
    """Results are shown in the gallery."""
    set_option(monkeypatch, "controlnet_show_batch_images_in_ui", True)


def set_option(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    from modules import shared

    monkeypatch.setitem(shared.opts.data, name, value)


def single(number: int, **fields: Any) -> list[np.ndarray]:
    """What one run with the n-th control picture makes."""
    p = job(unit(image=encoded(picture(seed=number))), do_not_save_grid=True, **fields)
    return pixels(run(p).images[: p.n_iter * p.batch_size])


@pytest.fixture(scope="module")
def singles(webui) -> list[np.ndarray]:
    """The picture of a single run for each control picture, and that of none."""
    return [single(number)[0] for number in range(len(FILES))]


def test_folder_gives_every_picture_of_its_own_single_run(webui, folder, shown, singles, tmp_path):
    p = job(batch_unit(str(folder)), save_to=tmp_path / "out")
    answer = run(p)
    assert same(pixels(answer.images), singles), "the pictures alone: no grid, no maps"
    assert not np.array_equal(singles[0], singles[1])
    assert (p.n_iter, p.do_not_save_grid, p.do_not_save_samples) == (1, False, False)
    saved = sorted((tmp_path / "out").rglob("*.png"))
    assert same([np.array(Image.open(path)) for path in saved], singles), "saved by the host"
    assert answer.all_seeds == [5, 5, 5]
    assert [text.count("ControlNet 0:") for text in answer.infotexts] == [1, 1, 1]
    assert unet_hooks() == 0


def test_seed_grows_with_the_setting(webui, folder, shown, monkeypatch, singles):
    set_option(monkeypatch, "controlnet_increment_seed_during_batch", True)
    made = pixels(run(job(batch_unit(str(folder)))).images)
    assert same(made, [single(number, seed=5 + number)[0] for number in range(3)])


@pytest.mark.parametrize("grows", [False, True])
def test_batch_count_and_size_are_made_for_each_picture(webui, folder, shown, monkeypatch, grows):
    set_option(monkeypatch, "controlnet_increment_seed_during_batch", grows)
    fields = {"n_iter": 2, "batch_size": 2}
    made = pixels(run(job(batch_unit(str(folder)), **fields)).images)
    expected = [
        array
        for number in range(3)
        for array in single(number, seed=5 + 4 * number * grows, **fields)
    ]
    assert same(made, expected)


def test_variations_keep_their_seed(webui, folder, shown, monkeypatch):
    set_option(monkeypatch, "controlnet_increment_seed_during_batch", True)
    fields = {"n_iter": 2, "subseed": 9, "subseed_strength": 0.3}
    made = pixels(run(job(batch_unit(str(folder)), **fields)).images)
    expected = [x for number in range(3) for x in single(number, seed=5 + 2 * number, **fields)]
    assert same(made, expected)


def test_hires_prompts_and_passes_follow(webui, folder, shown):
    hires = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
    hires |= {"hr_prompt": "a blue star", "width": SIZE, "height": SIZE}
    made = pixels(run(job(batch_unit(str(folder)), **hires)).images)
    assert same(made, [single(number, **hires)[0] for number in range(3)])


def test_other_units_repeat_their_picture_and_the_shortest_folder_ends(
    webui, folder, shown, tmp_path
):
    short = save_noise(tmp_path / "short", ["a.png", "b.png"])
    still = unit(image=encoded(picture(seed=7)), weight=0.5)
    p = job(batch_unit(str(folder)), still, batch_unit(str(short), weight=0.3))
    made = pixels(run(p).images)
    expected = []
    for number in range(2):
        again = unit(image=encoded(picture(seed=number)))
        asked = (again, still, {**again, "weight": 0.3})
        expected.append(pixels(run(job(*asked)).images)[0])
    assert same(made, expected)


def test_detections_are_made_for_every_picture(webui, folder, shown):
    made = pixels(run(job(batch_unit(str(folder), module="canny"))).images)
    for number in range(3):
        alone = unit(module="canny", image=encoded(picture(seed=number)))
        assert np.array_equal(made[number], pixels(run(job(alone)).images)[0])


def test_gallery_stays_empty_and_says_where_the_pictures_are(webui, folder, tmp_path):
    answer = run(job(batch_unit(str(folder)), save_to=tmp_path / "out"))
    assert answer.images == []
    assert f"3 of 3 pictures made, saved in {tmp_path / 'out'}" in answer.comments


def test_results_are_saved_even_where_the_host_would_not(webui, folder, monkeypatch, tmp_path):
    set_option(monkeypatch, "samples_save", False)
    run(job(batch_unit(str(folder)), save_to=tmp_path / "out"))
    saved = sorted((tmp_path / "out").rglob("*.png"))
    assert len(saved) == 3
    assert "ControlNet 0:" in Image.open(saved[0]).info["parameters"]


def test_output_folder_gets_the_names_of_the_control_pictures(webui, tmp_path, singles):
    controls = save_noise(tmp_path / "control", ["b.jpg", "b.png", "a.bmp"])
    target = tmp_path / "deep" / "out"
    p = job(
        batch_unit(str(controls), output_dir=str(target)),
        save_to=tmp_path / "usual",
        batch_size=2,
    )
    run(p)
    names = sorted(path.name for path in target.iterdir())
    assert names == ["a-1.png", "a.png", "b-1.jpg", "b-1.png", "b.jpg", "b.png"]
    assert np.array_equal(np.array(Image.open(target / "b.png")), single(1, batch_size=2)[0])
    assert "Steps: 4" in Image.open(target / "b-1.png").info["parameters"]
    assert not list(tmp_path.glob("usual/**/*.png"))
    assert p.do_not_save_samples is False


def test_output_folder_of_the_control_pictures_is_refused(webui, folder):
    with pytest.raises(Exception, match="unit 0: output_dir is the folder of the control pictures"):
        run(job(batch_unit(str(folder), output_dir=f"{folder}/../control")))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_loopback_takes_the_first_result_of_the_turn_before(webui, folder, shown):
    fields = {"batch_size": 2, "do_not_save_grid": True}
    looped = unit(image=encoded(picture(seed=7)), loopback=True)
    made = pixels(run(job(batch_unit(str(folder)), looped, **fields)).images)
    last = picture(seed=7)
    for turn in range(3):
        again = unit(image=encoded(picture(seed=turn)))
        expected = pixels(run(job(again, unit(image=encoded(last)), **fields)).images)[:2]
        assert same(made[2 * turn : 2 * turn + 2], expected)
        last = expected[0]


def test_loopback_alone_changes_nothing(webui, singles):
    p = job(unit(loopback=True), n_iter=2, do_not_save_grid=True)
    assert same(pixels(run(p).images[:2]), single(0, n_iter=2))


def test_detected_maps_are_saved_for_every_turn(webui, folder, monkeypatch, tmp_path):
    set_option(monkeypatch, "control_net_detectmap_autosaving", True)
    set_option(monkeypatch, "control_net_detectedmap_dir", str(tmp_path / "maps"))
    run(job(batch_unit(str(folder), module="invert")))
    maps = sorted((tmp_path / "maps" / "invert").rglob("*.png"))
    assert [np.array(Image.open(path))[0, 0, 0] for path in maps] == [
        255 - picture(seed=number)[0, 0, 0] for number in range(3)
    ]


@pytest.mark.parametrize("when", ["sampling", "between"])
def test_interrupt_keeps_what_is_done_and_puts_everything_back(
    webui, folder, shown, calls, monkeypatch, singles, tmp_path, when
):
    from modules import shared

    from lib_controlnet.units.plan import Plan

    if when == "sampling":
        calls.on_call = lambda count: count == STEPS + 2 and shared.state.interrupt()
    else:
        at = Plan.at

        def interrupted_at(self, turn, *rest):
            if turn == 1:
                shared.state.interrupt()
            return at(self, turn, *rest)

        monkeypatch.setattr(Plan, "at", interrupted_at)
    p = job(batch_unit(str(folder), output_dir=str(tmp_path / "out")))
    answer = run(p)
    assert np.array_equal(pixels(answer.images)[0], singles[0])
    assert len(answer.images) == (2 if when == "sampling" else 1), "no picture after a clean stop"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c1.png"]
    assert "1 of 3 pictures made" in answer.comments
    assert p.n_iter == 1
    calls.on_call = None
    monkeypatch.undo()
    assert np.array_equal(pixels(run(job(unit())).images)[0], singles[0])


def test_skip_leaves_out_one_picture_only(webui, folder, shown, calls, singles, tmp_path):
    from modules import shared

    calls.on_call = lambda count: count == STEPS + 2 and shared.state.skip()
    answer = run(job(batch_unit(str(folder), output_dir=str(tmp_path / "out"))))
    made = pixels(answer.images)
    assert np.array_equal(made[2], singles[2])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c1.png", "c10.png"]


def test_failure_in_the_middle_leaves_nothing_behind(webui, folder, shown, calls, singles):
    p = job(batch_unit(str(folder)))
    calls.fail_at = STEPS + 2
    with pytest.raises(RuntimeError, match="simulated failure"):
        run(p)
    calls.fail_at = None
    assert unet_hooks() == 0
    assert same(pixels(run(p).images), singles), "the same object runs again from the start"
    assert p.n_iter == 1
    assert same(pixels(run(job(batch_unit(str(folder)))).images), singles)


def test_file_broken_in_the_middle_is_named_and_the_first_results_stay(
    webui, folder, calls, tmp_path
):
    calls.on_call = lambda count: count == 1 and (folder / "c2.png").write_bytes(b"broken")
    with pytest.raises(Exception, match=r"unit 0: image cannot.*\(picture 2 of 3: c2\.png\)"):
        run(job(batch_unit(str(folder), output_dir=str(tmp_path / "out"))))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["c1.png"]


def test_broken_file_is_named_before_anything_is_made(webui, folder, calls):
    (folder / "c2.png").write_bytes(b"broken")
    with pytest.raises(Exception, match=r"unit 0: batch_images: .*c2\.png cannot be used"):
        run(job(batch_unit(str(folder))))
    assert calls.rows == []


def test_failing_unit_is_skipped_where_the_user_wants_that(
    webui, folder, shown, calls, monkeypatch, singles
):
    set_option(monkeypatch, "control_net_on_error", "skip")
    calls.on_call = lambda count: count == 1 and (folder / "c2.png").write_bytes(b"broken")
    answer = run(job(batch_unit(str(folder))))
    made = pixels(answer.images)
    assert np.array_equal(made[0], singles[0])
    assert np.array_equal(made[2], singles[2])
    assert np.array_equal(made[1], pixels(run(job()).images)[0])
    assert ["ControlNet 0:" in text for text in answer.infotexts] == [True, False, True]


def test_full_disk_reaches_the_user(webui, folder, monkeypatch, tmp_path):
    from modules import images

    def no_room(*_args: Any, **_options: Any) -> None:
        msg = "no space left"
        raise OSError(msg)

    monkeypatch.setattr(images, "save_image", no_room)
    with pytest.raises(Exception, match="a result could not be saved: no space left"):
        run(job(batch_unit(str(folder), output_dir=str(tmp_path / "out"))))


def test_prompts_that_do_not_fill_the_batches_are_refused(webui, folder):
    p = job(batch_unit(str(folder)), prompt=["a", "b", "c"], n_iter=2, batch_size=2)
    with pytest.raises(Exception, match="3 prompts do not fill 2 batches of 2"):
        run(p)


def test_prompt_lists_go_through_every_turn(webui, folder, shown):
    prompts = ["a red circle", "a blue star"]
    p = job(batch_unit(str(folder)), prompt=list(prompts), n_iter=2)
    made = pixels(run(p).images)
    assert p.prompt == prompts
    expected = [x for number in range(3) for x in single(number, prompt=list(prompts), n_iter=2)]
    assert same(made, expected)


def test_hidden_folders_are_closed_to_the_page(webui, folder, monkeypatch):
    from modules import shared

    monkeypatch.setattr(shared.cmd_opts, "hide_ui_dir_config", True)
    with pytest.raises(Exception, match="--hide-ui-dir-config"):
        run(job(batch_unit(str(folder))))


def test_upscale_button_takes_one_picture(webui, folder):
    fields = {"enable_hr": True, "firstpass_image": Image.fromarray(picture())}
    p = job(batch_unit(str(folder)), **fields)
    p.txt2img_upscale = True
    with pytest.raises(Exception, match="the upscale button works on one picture"):
        run(p)


def test_generation_inside_the_batch_belongs_to_its_turn(webui, folder, shown, monkeypatch):
    """A face detailer's: another object with the same units, between two pictures."""
    from modules import processing

    from lib_controlnet.host import generation

    inner: list[np.ndarray] = []
    finish = generation.finish_picture

    def detail(p: Any, result: Any) -> None:
        finish(p, result)
        if p.seed == 5:
            nested = job(batch_unit(str(folder)), seed=6)
            inner.extend(pixels(processing.process_images(nested).images))

    monkeypatch.setattr(generation, "finish_picture", detail)
    made = pixels(run(job(batch_unit(str(folder)))).images)
    monkeypatch.undo()
    assert same(made, [single(number)[0] for number in range(3)])
    assert same(inner[:1], single(0, seed=6))
    assert len(inner) == 3
    assert same(inner, [single(number, seed=6)[0] for number in range(3)])


def test_process_called_again_in_the_middle_changes_nothing(
    webui, folder, shown, monkeypatch, singles
):
    """What a face detailer does after its own generation: the scripts' `process`, again."""
    from lib_controlnet.host import generation
    from lib_controlnet.host.runtime import runtime

    finish = generation.finish_picture

    def again(p: Any, result: Any) -> None:
        finish(p, result)
        generation.begin(p, [batch_unit(str(folder))], runtime())

    monkeypatch.setattr(generation, "finish_picture", again)
    p = job(batch_unit(str(folder)))
    assert same(pixels(run(p).images), singles)
    assert p.n_iter == 1


def test_copies_of_a_job_run_on_their_own(webui, folder, shown, singles):
    p = job(batch_unit(str(folder)))
    run(p)
    for _ in range(2):
        again = copy.copy(p)
        assert same(pixels(run(again).images), singles)
        assert (again.n_iter, p.n_iter) == (1, 1)


# ---- pictures of other scripts -------------------------------------------------------------


def test_picture_of_a_script_counts_in_batches_if_allowed(
    webui, folder, shown, monkeypatch, singles
):
    p = job(batch_unit(str(folder)))
    p.image_control = Image.fromarray(picture(seed=2))
    assert same(pixels(run(p).images), singles)
    set_option(monkeypatch, "control_net_allow_script_control", True)
    assert same(pixels(run(p).images), [singles[2]] * 3)


# ---- several pictures at once --------------------------------------------------------------


def test_merge_of_equal_pictures_is_one_picture(webui, singles):
    twice = unit(image=None, input_mode="merge", batch_images=[encoded(picture(seed=0))] * 2)
    answer = run(job(twice))
    assert np.array_equal(pixels(answer.images)[0], singles[0])
    assert len(answer.images) == 3, "one map for each"
    assert "Weight: 0.5" in answer.infotexts[0]
    assert "ControlNet 1:" in answer.infotexts[0]


def test_merge_is_the_mean_of_its_pictures(webui, folder):
    together = unit(image=None, input_mode="merge", batch_images=str(folder), weight=1.5)
    apart = [unit(image=encoded(picture(seed=number)), weight=0.5) for number in range(3)]
    made = pixels(run(job(together)).images)[0]
    assert np.array_equal(made, pixels(run(job(*apart)).images)[0])


# ---- over HTTP -----------------------------------------------------------------------------


def api_pictures(count: int = 3) -> list[str]:
    return [encoded(picture(seed=number)) for number in range(count)]


def test_api_list_of_pictures_gives_one_result_each(webui, singles):
    answer = webui.txt2img(**request(batch_unit(api_pictures())))
    assert same(pixels(answer.images), singles)
    assert answer.info["all_seeds"] == [5, 5, 5]
    assert json.dumps(answer.parameters)


def test_api_merge(webui, singles):
    twice = unit(image=None, input_mode="merge", batch_images=api_pictures(1) * 2)
    assert np.array_equal(first(webui.txt2img(**request(twice))), singles[0])


def test_api_folder_needs_the_setting(webui, folder, monkeypatch, singles):
    asked = request(batch_unit(str(folder)))
    refused = webui.post("/sdapi/v1/txt2img", asked)
    assert refused.status_code == 422
    assert "unit 0: batch_images names a folder" in refused.json()["detail"]
    assert str(folder) not in refused.text
    set_option(monkeypatch, "control_net_allowed_image_folder", str(folder.parent))
    assert same(pixels(webui.txt2img(**asked).images), singles)


def test_api_output_folder_needs_the_setting(webui, folder, monkeypatch, tmp_path):
    asked = request(batch_unit(api_pictures(), output_dir=str(tmp_path / "out")))
    refused = webui.post("/sdapi/v1/txt2img", asked)
    assert refused.status_code == 422
    assert "unit 0: output_dir: results may only be saved below" in refused.json()["detail"]
    assert not (tmp_path / "out").exists()
    set_option(monkeypatch, "control_net_allowed_image_folder", str(tmp_path))
    webui.txt2img(**asked)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "picture-1.png", "picture-2.png", "picture-3.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_images": None}, "unit 0: input mode is 'batch', but no pictures"),
        ({"batch_images": ["?"]}, "unit 0: picture 1 cannot be decoded"),
        ({"input_mode": "many"}, "unit 0: input_mode is 'many'"),
    ],
)
def test_api_errors_name_unit_and_field(webui, fields, message):
    answer = webui.post("/sdapi/v1/txt2img", request({**batch_unit([]), **fields}))
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_arguments_of_the_page_are_not_changed(webui, folder, shown):
    from lib_controlnet.interop.unit import ControlNetUnit

    asked = ControlNetUnit(**batch_unit(str(folder)), enabled=True)
    before = copy.deepcopy(asked)
    run(job(asked))
    assert asked == before
