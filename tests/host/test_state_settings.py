"""Settings changed between runs, scripts loaded anew, several clients at once."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import support

from tests.host import state_memory, state_rig
from tests.host.state_rig import MODEL, Rig, array, picture, runtime, unit


@pytest.fixture(scope="module")
def observed(host: Any) -> Iterator[Rig]:
    with state_rig.observed(host) as rig:
        yield rig


@pytest.fixture
def rig(observed: Rig) -> Iterator[Rig]:
    with observed.one_test():
        yield observed


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Changes settings for the rest of the test."""
    from modules import shared

    def change(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setitem(shared.opts.data, name, value)

    return change


# ---- settings between runs -----------------------------------------------------------------


def test_number_of_units_differs_from_request_to_request(rig):
    for name in ("two", "one", "plain", "two", "plain"):
        assert np.array_equal(rig.draw(name), rig.references[name]), name
    five = [unit(enabled=False)] * 2 + [unit()]
    for units, name in (([unit()], "one"), (five, "one"), ([unit(enabled=False)], "plain")):
        answer = rig.host.txt2img(**rig.payload(*units))
        assert np.array_equal(array(answer.images[0]), rig.references[name])
    del answer
    rig.check()


def test_unit_count_changes_with_reloads(rig, options):
    import embedded
    from modules import scripts

    late = rig.payload(*[unit(enabled=False)] * 4, unit())
    for count in (1, 5, 3):
        options(control_net_unit_count=count)
        rig.host.reload_ui()
        for runner in (scripts.scripts_txt2img, scripts.scripts_img2img):
            script = runner.script("ControlNet")
            assert script.args_to - script.args_from == count
        answer = rig.host.txt2img(**rig.payload(unit()))
        assert np.array_equal(array(answer.images[0]), rig.references["one"])
        if count == 5:
            answer = rig.host.txt2img(**late)
            assert np.array_equal(array(answer.images[0]), rig.references["one"])
        else:
            with pytest.raises(embedded.ApiError, match=f"there are {count} slots") as caught:
                rig.host.txt2img(**late)
            del caught
    del answer
    rig.settle()
    rig.check()


def test_smaller_model_cache_lets_go_of_networks(rig, options):
    cache = runtime().residency
    options(control_net_model_cache_size=2, control_net_unit_count=1)
    rig.run(rig.txt2img(unit(model=state_rig.COPY)))
    rig.draw("one")
    networks = [weakref.ref(network) for network in cache.values()]
    assert len(networks) == 2
    options(control_net_model_cache_size=1)
    assert np.array_equal(rig.draw("one"), rig.references["one"])
    gc.unfreeze()
    gc.collect()
    assert [network() is not None for network in networks] == [False, True]
    rig.settle()
    rig.check()


def test_models_path_and_replaced_file_take_effect_at_once(rig, options, tmp_path):
    from modules import shared

    unet = shared.sd_model.model.diffusion_model
    file = tmp_path / "elsewhere.safetensors"

    def write(seed: int, time: int) -> None:
        support.save_controlnet(file, support.tiny_controlnet("demo", seed=seed, unet=unet))
        os.utime(file, (time, time))

    write(4, 1)
    request = unit(model="elsewhere")
    assert "elsewhere" in rig.fails(rig.txt2img(request), Exception)
    options(control_net_models_path=str(tmp_path))
    drawn = []
    for seed in (4, 8, 4):
        write(seed, 10 + len(drawn))
        drawn.append(rig.run(rig.txt2img(request))[0])
    assert np.array_equal(drawn[0], rig.references["one"])
    assert not np.array_equal(drawn[1], drawn[0])
    assert np.array_equal(drawn[2], drawn[0])
    file.unlink()
    assert "elsewhere" in rig.fails(rig.txt2img(request), Exception)
    rig.settle()
    rig.check()


def test_on_error_setting_is_read_for_every_run(rig, options):
    bad = unit(model="absent", seed=1)
    for choice in ("stop", "skip", "stop"):
        options(control_net_on_error=choice)
        if choice == "stop":
            assert "absent" in rig.fails(rig.txt2img(bad, unit()), Exception)
        else:
            assert np.array_equal(rig.run(rig.txt2img(bad, unit()))[0], rig.references["one"])
    rig.check()


def test_blur_and_maps_settings_are_read_for_every_run(rig, options):
    results = []
    for sigma in (0, 7, 0):
        options(control_net_inpaint_blur_sigma=sigma)
        results.append(rig.run(rig.txt2img(state_rig.masked_unit()))[0])
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])
    for hidden in (True, False):
        options(control_net_no_detectmap=hidden)
        p = rig.txt2img(unit())
        with rig.job(p):
            assert len(rig.images_and_maps(p)[1]) == (0 if hidden else 1)
    del p
    rig.check()


# ---- reloads -------------------------------------------------------------------------------


def test_reload_ui_gives_back_everything_of_before(rig):
    import modules.script_callbacks as callbacks

    def registered() -> dict[str, list[str]]:
        return {k: sorted(c.name for c in v) for k, v in callbacks.callback_map.items()}

    rig.draw("one")
    total, names = state_memory.all_tensor_bytes(), registered()
    old = weakref.ref(runtime())
    network = weakref.ref(next(iter(runtime().residency.values())))
    for _ in range(2):
        rig.host.reload_ui()
    assert registered() == names
    gc.unfreeze()
    gc.collect()
    assert network() is None
    assert old() is None
    rig.settle()
    rig.check("hires")
    assert state_memory.all_tensor_bytes() <= total  # the new cache holds what was used since


def test_reload_ui_in_the_middle_of_a_run(rig):
    """The button interrupts; scripts are loaded anew while the old run ends."""
    from modules import shared

    calls: list[bool] = []

    def reload(_params: Any) -> None:
        calls.append(True)
        if len(calls) == 2:
            shared.state.interrupt()
            rig.host.reload_ui()

    rig.hooks["early", "cfg_denoised"] = reload
    old = weakref.ref(runtime())
    p = rig.txt2img(unit(), n_iter=2)
    with rig.job(p):
        drawn, _ = rig.images_and_maps(p)
    assert len(drawn) == 1
    assert len(calls) == 2
    del p
    rig.hooks.clear()
    gc.unfreeze()
    gc.collect()
    assert old() is None
    assert state_memory.survivors() == []
    rig.settle()
    rig.check()


def test_reloaded_script_bodies_go_on_working(rig):
    """That path keeps old instances in use, and registers callbacks from the new module."""
    import modules.script_callbacks as callbacks
    from modules import scripts

    names = {k: sorted(c.name for c in v) for k, v in callbacks.callback_map.items()}
    for _ in range(2):
        scripts.reload_script_body_only()
    try:
        now = {k: sorted(c.name for c in v) for k, v in callbacks.callback_map.items()}
        ours = {k: [n for n in v if "sd-webui-controlnet" in n] for k, v in now.items()}
        assert ours == {k: [n for n in v if "sd-webui-controlnet" in n] for k, v in names.items()}
        rig.hooks.clear()
        for name in ("one", "plain", "hires"):
            assert np.array_equal(rig.draw(name), rig.references[name])
    finally:
        rig.host.reload_ui()
        rig.settle()
    rig.check()


# ---- several clients at once ---------------------------------------------------------------


def test_two_tabs_at_once_draw_what_each_draws_alone(rig, monkeypatch):
    """Both tabs generate, while others detect and refresh the list of models."""
    from modules import shared

    # The host's VAE would draw from the global generator, in the order of arrival.
    monkeypatch.setattr(
        *(shared.sd_model, "get_first_stage_encoding"),
        lambda posterior: posterior.mode() * shared.sd_model.scale_factor,
    )
    start = state_rig.encoded(picture(seed=7))
    noise = {"denoising_strength": 0.7, "init_images": [start]}
    jobs = [
        ("/sdapi/v1/txt2img", rig.payload(*state_rig.two_units())),
        ("/sdapi/v1/img2img", rig.payload(unit(image=None, module="canny"), **noise)),
        ("/sdapi/v1/txt2img", rig.payload(unit(seed=2, weight=0.6), n_iter=2)),
        ("/sdapi/v1/img2img", rig.payload(**noise)),
        *[
            (
                "/controlnet/detect",
                {
                    "controlnet_module": module,
                    "controlnet_input_images": [state_rig.encoded(picture(96, 96, seed=seed))],
                },
            )
            for seed, module in enumerate(("canny", "shuffle", "scribble_xdog", "canny"))
        ],
    ]
    with rig.serving() as url:

        def send(index: int, into: dict[int, list[str]]) -> None:
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
                route, body = jobs[index]
                answer = client.post(route, json=body)
                into[index] = answer.json().get("images", [answer.text])
                if route.startswith("/controlnet"):
                    models = client.get("/controlnet/model_list").json()["model_list"]
                    assert any(name.startswith(MODEL) for name in models)

        alone: dict[int, list[str]] = {}
        for index in range(len(jobs)):
            send(index, alone)
        together: dict[int, list[str]] = {}
        threads = [
            threading.Thread(target=send, args=(index, together)) for index in range(len(jobs))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert sorted(together) == list(range(len(jobs)))
    for index, images in alone.items():
        assert together[index] == images, jobs[index][0]
    monkeypatch.undo()
    rig.check()
