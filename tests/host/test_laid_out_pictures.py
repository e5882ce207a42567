"""Scripts that count, number or lay out pictures never meet detected maps among them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from batches import arguments, run_batch_tab, save_noise
from controls import SIZE, encoded, first, picture, request, unit

from tests.host import layout_scripts

PICTURES = {
    "matrix": 5,
    "lines": 3,
    "feedback": 3,
    "cells": 1,
    "tiles": 1,
    "own_jobs": 2,
}
"""Pictures of each layout, its grid included."""


@pytest.fixture(scope="module")
def laid_out(webui):
    """The host with the scripts of `layout_scripts`."""
    from modules import paths_internal, shared

    folder = layout_scripts.write_extension(Path(paths_internal.extensions_dir))
    shared.layout_counts = []
    webui.reload_ui()
    yield webui
    shutil.rmtree(folder)
    webui.reload_ui()
    del shared.layout_counts


@pytest.fixture
def counts(laid_out):
    from modules import shared

    shared.layout_counts.clear()
    return shared.layout_counts


def asked(layout: str, *units: dict, **fields: Any) -> dict[str, Any]:
    script = {"script_name": layout_scripts.TITLE, "script_args": [layout]}
    return request(*units, steps=1, **script, **fields)


def the_map() -> np.ndarray:
    return picture()  # of a unit without a preprocessor


@pytest.mark.parametrize("layout", PICTURES)
def test_script_gets_its_pictures_and_the_answer_has_the_map_behind_them(laid_out, layout):
    plain = laid_out.txt2img(**asked(layout))
    made = laid_out.txt2img(**asked(layout, unit()))
    maps = 0 if layout == "own_jobs" else 1  # jobs inside a script are the script's affair
    assert (len(plain.images), len(made.images)) == (PICTURES[layout], PICTURES[layout] + maps)
    for name in ("index_of_first_image", "all_seeds", "all_prompts"):
        assert made.info[name] == plain.info[name], name
    assert len(made.info["infotexts"]) == len(plain.info["infotexts"])
    assert [i.size for i in made.images[: PICTURES[layout]]] == [i.size for i in plain.images]
    assert not np.array_equal(first(made), first(plain)), "the unit acted"
    if maps:
        assert np.array_equal(np.array(made.images[-1].convert("RGB")), the_map())


def test_maps_of_a_script_are_those_that_differ(laid_out):
    """Three lines and two units of one map each: once each, not once per line."""
    other = unit(image=encoded(picture(seed=1)))
    made = laid_out.txt2img(**asked("lines", unit(), other, n_iter=2))
    assert len(made.images) == 3 * 2 + 2
    assert len(laid_out.txt2img(**request(unit(), unit(), steps=1)).images) == 1 + 2


@pytest.mark.parametrize("units", [[], [unit()]], ids=["plain", "controlled"])
def test_what_an_always_on_script_counts_has_no_maps(laid_out, counts, units):
    answer = laid_out.txt2img(**request(*units, steps=1, batch_size=2, n_iter=2))
    assert counts == [4]
    assert len(answer.images) == 4 + len(units)


def test_script_that_fails_leaves_no_map_for_the_next_job(laid_out):
    refused = laid_out.post("/sdapi/v1/txt2img", asked("absent", unit()))
    assert refused.status_code == 500
    assert len(laid_out.txt2img(**request(steps=1)).images) == 1


TXT2IMG = {
    **{"id_task": "task", "request": SimpleNamespace(username=None), "prompt": "a red circle"},
    **{"negative_prompt": "", "prompt_styles": [], "n_iter": 1, "batch_size": 1},
    **{"cfg_scale": 3.0, "height": SIZE, "width": SIZE, "enable_hr": False},
    **{"denoising_strength": 0.5, "hr_scale": 1.5, "hr_upscaler": "Latent"},
    **{"hr_second_pass_steps": 1, "hr_resize_x": 0, "hr_resize_y": 0},
    **{"hr_checkpoint_name": "Use same checkpoint", "hr_sampler_name": "Use same sampler"},
    **{"hr_scheduler": "Use same scheduler", "hr_prompt": "", "hr_negative_prompt": ""},
    "override_settings_texts": [],
}


def page_values(layout: str | None, *units: dict) -> list[Any]:
    from modules import scripts

    values = arguments("txt2img", units)
    runner = scripts.scripts_txt2img
    values[runner.script("Sampler").args_from] = 1  # step
    if layout is not None:
        script = runner.script(layout_scripts.TITLE)
        values[0] = runner.selectable_scripts.index(script) + 1
        values[script.args_from] = layout
    return [*TXT2IMG.values(), *values]


@pytest.fixture
def unsaved(monkeypatch):
    from modules import shared

    for name in ("samples_save", "grid_save"):
        monkeypatch.setitem(shared.opts.data, name, False)
    shared.state.begin("test")
    yield
    shared.state.end()


@pytest.mark.parametrize("layout", [None, "matrix", "cells", "nothing"])
def test_page_has_a_text_for_every_picture_and_the_maps_behind(laid_out, unsaved, layout):
    """The gallery's Save button, and the text under the gallery, go by the picture's number."""
    from modules import txt2img

    count = PICTURES.get(layout, 1)
    gallery, info, *_ = txt2img.txt2img(*page_values(layout, unit()))
    texts = json.loads(info)["infotexts"]
    assert len(gallery) == count + 1
    assert len(texts) >= len(gallery)
    assert all("ControlNet 0: " in text and "Seed: " in text for text in texts[: len(gallery)])
    assert np.array_equal(np.array(gallery[-1]), the_map())


def test_upscale_button_keeps_texts_and_pictures_together(laid_out, unsaved):
    from modules import txt2img

    values = page_values(None, unit())
    gallery, info, *_ = txt2img.txt2img(*values)
    items = [
        {"name": None, "data": "data:image/png;base64," + encoded(np.array(i))} for i in gallery
    ]
    head = list(values[:2])
    pictures, info, *_ = txt2img.txt2img_upscale(*head, items, 0, info, *values[2:])
    texts = json.loads(info)["infotexts"]
    assert len(texts) == len(pictures)
    assert "Hires upscale" in texts[0]


def test_batch_tab_shows_the_pictures_of_all_files_and_then_the_maps(laid_out, unsaved, tmp_path):
    inputs = save_noise(tmp_path / "inputs", ["x1.png", "x2.png"])
    gallery, info, *_ = run_batch_tab(laid_out, [unit(image=None)], batch_input_dir=str(inputs))
    assert len(json.loads(info)["infotexts"]) == len(gallery) == 2 + 2
    for shown, seed in zip(gallery[2:], (0, 1), strict=True):
        assert np.array_equal(np.array(shown), picture(seed=seed))
