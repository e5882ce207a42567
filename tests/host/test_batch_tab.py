"""Batches in the batch tab of img2img: one control picture for each of the host's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from batches import batch_unit, job, pixels, run_batch_tab, same, save_noise
from controls import SIZE, encoded, picture, unit
from neighbours import process as run
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_noise(tmp_path / "control", ["c1.png", "c2.png", "c10.png"])


def tab_singles(order: list[int], files: list[str], inputs: Path, **fields: Any) -> list:
    """One run of img2img per file with the control pictures in this order."""
    made = []
    for number, name in zip(order, files, strict=True):
        p = job(
            unit(image=encoded(picture(seed=number))),
            kind="Img2Img",
            init_images=[Image.open(inputs / name)],
            denoising_strength=0.6,
            mask_blur=0,
            do_not_save_grid=True,
            **fields,
        )
        made += pixels(run(p).images[: p.n_iter * p.batch_size])
    return made


@pytest.fixture(autouse=True)
def same_latents(webui, monkeypatch) -> None:
    """The noise with which img2img encodes its picture, which no seed of the host fixes."""
    from modules import sd_samplers_common

    encode = sd_samplers_common.images_tensor_to_samples

    def repeated(*args: Any) -> Any:
        torch.manual_seed(0)
        return encode(*args)

    monkeypatch.setattr(sd_samplers_common, "images_tensor_to_samples", repeated)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return save_noise(tmp_path / "inputs", ["x1.png", "x2.png", "x3.png"])


def test_batch_tab_uses_one_control_picture_per_file(webui, folder, inputs, tmp_path):
    target = tmp_path / "out"
    gallery, *_ = run_batch_tab(
        webui,
        [batch_unit(str(folder))],
        batch_input_dir=str(inputs),
        batch_output_dir=str(target),
    )
    files = ["x1.png", "x2.png", "x3.png"]
    expected = tab_singles([0, 1, 2], files, inputs)
    assert same(pixels(gallery), expected)
    assert not same([expected[0]], tab_singles([1], files[:1], inputs)), "the control matters"
    assert len(list(target.iterdir())) == 3, "saved by the host under its names"


def test_batch_tab_prefers_equal_names(webui, inputs, tmp_path):
    folder = save_noise(tmp_path / "control", ["x3.png", "x1.png", "x2.jpg", "x0.png"])
    (folder / "x2.jpg").unlink()
    Image.fromarray(picture(seed=2)).save(folder / "x2.bmp")
    gallery, *_ = run_batch_tab(
        webui,
        [batch_unit(str(folder))],
        batch_input_dir=str(inputs),
        batch_output_dir=str(tmp_path / "out"),
    )
    expected = tab_singles([1, 2, 0], ["x1.png", "x2.png", "x3.png"], inputs)
    assert same(pixels(gallery), expected)


def test_batch_tab_makes_all_iterations_with_the_file_s_picture(webui, folder, inputs, tmp_path):
    gallery, *_ = run_batch_tab(
        webui,
        [batch_unit(str(folder))],
        batch_input_dir=str(inputs),
        batch_output_dir=str(tmp_path / "out"),
        n_iter=2,
    )
    made = [array for array in pixels(gallery) if array.shape == (SIZE, SIZE, 3)]
    files = ["x1.png", "x2.png", "x3.png"]
    assert same(made, tab_singles([0, 1, 2], files, inputs, n_iter=2))


def test_batch_tab_loops_back_from_file_to_file(webui, inputs, tmp_path):
    looped = unit(image=encoded(picture(seed=0)), loopback=True)
    steady = batch_unit(str(save_noise(tmp_path / "c", ["a.png", "b.png", "c.png"])), weight=0.2)
    gallery, *_ = run_batch_tab(
        webui, [looped, steady], batch_input_dir=str(inputs), batch_output_dir=str(tmp_path / "o")
    )
    made, last = pixels(gallery), picture(seed=0)
    for number, result in enumerate(made):
        control = unit(image=encoded(picture(seed=number)), weight=0.2)
        p = job(
            unit(image=encoded(last)), control, kind="Img2Img", denoising_strength=0.6,
            init_images=[Image.open(inputs / f"x{number + 1}.png")], mask_blur=0,
        )  # fmt: skip
        expected = pixels(run(p).images)[0]
        assert same([result], [expected])
        last = result


def test_batch_tab_with_too_few_control_pictures_stops_at_once(webui, inputs, tmp_path, calls):
    folder = save_noise(tmp_path / "control", ["a.png", "b.png"])
    with pytest.raises(Exception, match="2 control pictures for the 3 files of the img2img batch"):
        run_batch_tab(
            webui, [batch_unit(str(folder))], batch_input_dir=str(inputs),
            batch_output_dir=str(tmp_path / "out"),
        )  # fmt: skip
    assert calls.rows == []


def test_batch_tab_without_control_folder_follows_each_file(webui, inputs, tmp_path):
    gallery, *_ = run_batch_tab(
        webui, [unit(image=None)], batch_input_dir=str(inputs), batch_output_dir=str(tmp_path / "o")
    )
    assert len({array.tobytes() for array in pixels(gallery)}) >= 3


@pytest.mark.parametrize(
    ("job_text", "changes"),
    [
        ("task(1)", {}),
        ("2 out of 3", {"count": 2}),
        ("2 out of 3", {"api": True}),
        ("2 out of 3", {"script": True}),
        ("Batch 2 out of 3", {}),
    ],
)
def test_only_the_batch_tab_is_taken_for_it(webui, monkeypatch, job_text, changes):
    from modules import shared

    from lib_controlnet.host.runs.batch import tab_turn

    p = job(unit(), kind="Img2Img", init_images=[Image.fromarray(picture())])
    monkeypatch.setattr(shared.state, "job", "2 out of 3")
    monkeypatch.setattr(shared.state, "job_count", 3)
    assert tab_turn(p) == (1, 3)
    monkeypatch.setattr(shared.state, "job", job_text)
    monkeypatch.setattr(shared.state, "job_count", changes.get("count", 3))
    p.is_api = changes.get("api", False)
    p.script_args_value = [int(changes.get("script", 0)), *p.script_args[1:]]
    assert tab_turn(p) is None
