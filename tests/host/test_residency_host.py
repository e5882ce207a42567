"""What is loaded and on the device in a running host: settings, flags, unloading, the queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import support
import torch
from controls import MODEL, encoded, first, host_folder, picture, request, unit
from fake_device import FakeDevice
from weights import weights_folder

from annotator.networks import CACHE, Place
from annotator.registry import Detector
from annotator.weights import WeightFile
from lib_controlnet.detect import preprocess
from lib_controlnet.engine import memory_plan
from lib_controlnet.engine.memory import Between
from lib_controlnet.errors import StoppedError
from lib_controlnet.prepare.ahead import THREAD

OTHERS = ("residency_b", "residency_c")
UNITS = (unit(), *(unit(model=name) for name in OTHERS))


@pytest.fixture(scope="module", autouse=True)
def models(webui: Any) -> None:
    from modules import shared

    unet = shared.sd_model.model.diffusion_model
    for seed, name in enumerate(OTHERS):
        network = support.tiny_controlnet("demo", seed=seed, unet=unet)
        support.save_controlnet(host_folder() / f"{name}.safetensors", network)


@pytest.fixture
def runtime(webui: Any) -> Iterator[Any]:
    from lib_controlnet.host.runtime import runtime as present

    present().residency.clear()
    yield present()
    present().residency.clear()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read."""
    from lib_controlnet.host import runtime as module

    names, load = [], module.load_network

    def counted(path: Any, *rest: Any) -> Any:
        names.append(path.stem)
        return load(path, *rest)

    monkeypatch.setattr(module, "load_network", counted)
    return names


@pytest.fixture
def device(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """Control networks compute on a device that counts what comes to it."""
    from lib_controlnet.host.adapter import WebUIHost

    fake = FakeDevice()
    monkeypatch.setattr(runtime.residency, "_copy", fake.copy)
    monkeypatch.setattr(WebUIHost, "device", FakeDevice.device)
    monkeypatch.setattr(WebUIHost, "network_dtype", torch.float32)
    return fake


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Any:
    from modules import shared

    return lambda *names: [monkeypatch.setattr(shared.cmd_opts, name, True) for name in names]


def test_cache_size_means_what_it_says(
    webui: Any, runtime: Any, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three units of three models, a batch of three: three loads, and one stays."""
    from modules import shared

    monkeypatch.setitem(shared.opts.data, "control_net_model_cache_size", 1)
    webui.txt2img(**request(*UNITS, n_iter=3, steps=1))
    assert sorted(loads) == sorted((MODEL, *OTHERS))
    assert len(runtime.residency) == 1
    webui.txt2img(**request(unit(model=loads[-1]), steps=1))
    assert len(loads) == 3
    webui.txt2img(**request(unit(model=loads[0]), steps=1))
    assert (len(loads), len(runtime.residency)) == (4, 1)


def test_models_load_in_a_thread_once_and_in_order_and_pictures_are_the_same(
    webui: Any, runtime: Any, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib_controlnet.host.runtime import Runtime

    asked, threads = request(*UNITS, steps=1), []
    load = runtime.network
    monkeypatch.setattr(
        runtime,
        "network",
        lambda *given: threads.append(threading.current_thread().name) or load(*given),
    )
    ahead = first(webui.txt2img(**asked))
    assert loads == [MODEL, *OTHERS]
    assert threads.count(THREAD) == len(loads)
    assert THREAD not in {thread.name for thread in threading.enumerate()}
    webui.txt2img(**request(UNITS[0], steps=1))
    threads.clear()
    webui.txt2img(**request(UNITS[0], steps=1))  # it is loaded by now
    assert THREAD not in threads
    runtime.residency.clear()
    monkeypatch.setattr(Runtime, "can_wait", lambda *_: False)
    assert np.array_equal(first(webui.txt2img(**asked)), ahead)


def test_what_is_loaded_refused_or_measured_is_not_loaded_ahead(
    webui: Any, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    base, path = runtime.base(), runtime.find_model(MODEL)
    broken, old = host_folder() / "residency_broken.safetensors", host_folder() / "residency_old.pt"
    broken.write_bytes(path.read_bytes()[:-100])
    torch.save({"a": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    try:
        assert runtime.can_wait(path, base)
        for unfit in (broken, old, broken.with_name("residency_gone.safetensors")):
            assert not runtime.can_wait(unfit, base)
        monkeypatch.setitem(shared.opts.data, "controlnet_store_8_bit", "When memory is short")
        assert not runtime.can_wait(path, base)
        monkeypatch.setitem(shared.opts.data, "controlnet_store_8_bit", "Never")
        held = runtime.network(path, base)
        assert not runtime.can_wait(path, base)
        del held
    finally:
        broken.unlink()
        old.unlink()


def test_the_setting_stores_networks_in_8_bits_and_that_is_said(
    webui: Any, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    asked = request(unit(), steps=2)
    exact = first(webui.txt2img(**asked))
    monkeypatch.setitem(shared.opts.data, "controlnet_store_8_bit", "Always")
    answer = webui.txt2img(**asked)
    assert "Stored: 8 bit" in answer.info["infotexts"][0]
    notes = answer.info["extra_generation_params"]["ControlNet notes"]
    assert f"{MODEL}: stored in 8 bits" in notes
    off = np.abs(first(answer).astype(float) - exact).mean()
    assert 0 < off < 3
    monkeypatch.setitem(shared.opts.data, "controlnet_store_8_bit", "Never")
    answer = webui.txt2img(**asked)
    assert np.array_equal(first(answer), exact)
    assert "8 bit" not in answer.info["infotexts"][0]
    assert loads == [MODEL, MODEL]


def test_loading_drops_none_that_the_same_generation_wants(
    webui: Any, runtime: Any, loads: list[str]
) -> None:
    """Three models and room for two beside generations: two are there when it begins again."""
    expected = first(webui.txt2img(**request(*UNITS, steps=1)))
    for order in (UNITS, UNITS[::-1], UNITS):
        loads.clear()
        assert len(runtime.residency) == 2
        again = first(webui.txt2img(**request(*order, steps=1)))
        assert len(loads) == 1
        assert np.array_equal(again, expected)
    assert len(runtime.residency) == 2


def test_short_memory_is_said_and_the_picture_is_the_same(
    webui: Any, device: FakeDevice, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A U-Net that is still to come takes its room; 8 bits are chosen where the setting says so."""
    from modules import shared

    asked = request(unit(), steps=2)
    expected = first(webui.txt2img(**asked))
    coming = runtime.host.measure_coming(device.device)
    unet = shared.sd_model.model.diffusion_model
    assert coming == sum(one.nbytes for one in unet.parameters())
    room = coming + int(0.9 * device.held)
    monkeypatch.setattr(runtime.residency, "find_room", lambda _device: room)
    monkeypatch.setattr(memory_plan, "MARGIN", 0)
    for setting, stored in (("Never", False), ("When memory is short", True)):
        runtime.residency.clear()
        monkeypatch.setitem(shared.opts.data, "controlnet_store_8_bit", setting)
        answer = webui.txt2img(**asked)
        notes = answer.info["extra_generation_params"]["ControlNet notes"]
        assert "GB would be needed beside the U-Net's weights" in notes
        assert ("layer by layer" in notes) != stored
        assert ("Stored: 8 bit" in answer.info["infotexts"][0]) == stored
        assert ("since memory is short" in notes) == stored
        assert np.array_equal(first(answer), expected) != stored
        assert device.held == 0


@pytest.mark.parametrize(
    ("given", "low", "copies", "left"),
    [
        pytest.param((), False, 1, 1, id="stays"),
        pytest.param(("medvram",), False, 2, 0, id="medvram: once a pass"),
        pytest.param(("lowvram", "medvram"), False, 4, 0, id="lowvram: once a step"),
        pytest.param((), True, 4, 0, id="Low VRAM: once a step"),
    ],
)
def test_flags_and_units_say_when_networks_leave_the_device(
    webui: Any, device: FakeDevice, runtime: Any, flags: Any,
    given: tuple[str, ...], low: bool, copies: int, left: int,
) -> None:  # fmt: skip
    expected = first(webui.txt2img(**request(unit(), steps=2)))
    runtime.residency.park()
    size, device.copied = device.copied, 0
    assert device.held == 0
    flags(*given)
    for _ in range(2):
        drawn = first(webui.txt2img(**request(unit(low_vram=low), steps=2)))
        assert np.array_equal(drawn, expected)
    assert (device.copied / size, device.held / size) == (copies, left)


@pytest.mark.parametrize("is_sdxl", [False, True])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), (Between.NEVER, Between.NEVER)),
        (("medvram_sdxl",), (Between.NEVER, Between.PASS)),
        (("medvram",), (Between.PASS, Between.PASS)),
        (("medvram_sdxl", "lowvram"), (Between.EVALUATION, Between.EVALUATION)),
    ],
    ids=str,
)
def test_networks_leave_as_the_hosts_own_parts_do(
    runtime: Any, flags: Any, monkeypatch: pytest.MonkeyPatch, is_sdxl: bool,
    given: tuple[str, ...], expected: tuple[Between, Between],
) -> None:  # fmt: skip
    from modules import shared

    flags(*given)
    if is_sdxl:
        monkeypatch.setattr(shared.sd_model, "conditioner", None, raising=False)
    assert runtime.host.between is expected[is_sdxl]


def test_networks_without_a_unit_leave_before_the_next_picture(
    webui: Any, device: FakeDevice
) -> None:
    webui.txt2img(**request(unit(), steps=1))
    size = device.held
    assert size
    webui.txt2img(**request(unit(model=OTHERS[0]), steps=1))
    assert (device.held, device.copied) == (size, 2 * size)
    webui.txt2img(**request(steps=1))
    assert device.held == 0


def test_unloading_the_checkpoint_empties_the_device(
    webui: Any, device: FakeDevice, loads: list[str]
) -> None:
    """The route and the button call the same function of the host; it is given back at unload."""
    from modules import sd_models

    from lib_controlnet.host import jobs

    expected = first(webui.txt2img(**request(unit(), steps=1)))
    assert device.held
    webui.api.unloadapi()
    assert device.held == 0
    webui.api.reloadapi()
    assert device.held == 0
    assert np.array_equal(first(webui.txt2img(**request(unit(), steps=1))), expected)
    assert loads == [MODEL]
    watched = sd_models.unload_model_weights
    jobs.unwatch()
    assert sd_models.unload_model_weights is watched.controlnet_original
    jobs.watch()
    assert sd_models.unload_model_weights is watched


def test_a_preprocessor_without_memory_gets_that_of_the_networks(
    webui: Any, device: FakeDevice, on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu("cpu")
    webui.txt2img(**request(unit(), steps=1))
    detect = Queued.detect

    def scarce(self: Queued, image: np.ndarray) -> np.ndarray:
        if device.held:
            raise torch.cuda.OutOfMemoryError
        return detect(self, image)

    monkeypatch.setattr(Queued, "detect", scarce)
    assert device.held
    webui.txt2img(**request(unit(module="queued", image=encoded(picture(seed=5))), steps=1))
    assert SEEN == [True]


# ---- the queue -----------------------------------------------------------------------------


class Queued(Detector):
    """Says whether anybody holds the host's queue."""

    name = "queued"
    weights = (WeightFile("q", "q", 1, "MIT", sha256="", repo="a/b"),)

    def detect(self, image: np.ndarray) -> np.ndarray:
        from modules.call_queue import queue_lock

        SEEN.append(is_held(queue_lock))
        return image


SEEN: list[bool] = []


def is_held(lock: Any) -> bool:
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


@pytest.fixture
def on_gpu(runtime: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Any]:
    """A preprocessor with a network; called, it says where such networks run."""
    preprocess.registry.add(Queued())
    SEEN.clear()
    with weights_folder(tmp_path) as folder:
        (folder / "q").write_bytes(b"q")
        yield lambda name: monkeypatch.setattr(CACHE, "choose_place", lambda: Place(name))
    preprocess.registry.remove("queued")


@pytest.mark.parametrize(
    ("place", "module", "waits"),
    [("cuda", "queued", True), ("cuda:1", "queued", True), ("cpu", "queued", False)],
)
def test_previews_wait_in_the_queue_only_for_a_gpu(
    runtime: Any, on_gpu: Any, place: str, module: str, waits: bool
) -> None:
    from modules.call_queue import queue_lock

    on_gpu(place)
    runtime.detect(module, picture(seed=1), 64)
    assert (SEEN, is_held(queue_lock)) == ([waits], False)
    with queue_lock:  # what is known, and what needs no network, waits for nobody
        runtime.detect(module, picture(seed=1), 64)
        runtime.detect("canny", picture(seed=1), 64)
    assert [waits] == SEEN


def test_a_preview_on_a_gpu_waits_for_the_generation_and_says_so(runtime: Any, on_gpu: Any) -> None:
    from modules.call_queue import queue_lock

    on_gpu("cuda")
    said: list[str] = []
    told = threading.Event()

    def listen(line: str, _share: float) -> None:
        said.append(line)
        told.set()

    def preview() -> None:
        with runtime.report_to(listen):
            runtime.detect("queued", picture(seed=2), 64)

    thread = threading.Thread(target=preview)
    with queue_lock:
        thread.start()
        assert told.wait(60)
        assert SEEN == []
    thread.join(60)
    assert (SEEN, said) == ([True], ["waiting for what the WebUI is doing", ""])


def test_a_preview_that_waits_in_the_queue_is_stopped_and_leaves_it(
    runtime: Any, on_gpu: Any
) -> None:
    from modules.call_queue import queue_lock

    on_gpu("cuda")
    waits, is_stopped, ended = threading.Event(), threading.Event(), list[str]()

    def preview() -> None:
        with runtime.report_to(lambda *_told: waits.set(), is_stopped.is_set):
            try:
                runtime.detect("queued", picture(seed=8), 64)
            except StoppedError as error:
                ended.append(str(error))

    thread = threading.Thread(target=preview)
    with queue_lock:
        thread.start()
        assert waits.wait(60)
        is_stopped.set()
        thread.join(60)
        assert ended == ["The preview was stopped."]
    with queue_lock:  # nobody else has it
        assert SEEN == []


def test_a_failing_preview_leaves_the_queue(
    runtime: Any, on_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules.call_queue import queue_lock

    on_gpu("cuda")
    monkeypatch.setattr(Queued, "detect", lambda *_: 1 / 0)
    with pytest.raises(Exception, match="ZeroDivisionError"):
        runtime.detect("queued", picture(seed=3), 64)
    assert not is_held(queue_lock)


def test_one_turn_is_enough_for_several_pictures(runtime: Any, on_gpu: Any) -> None:
    from modules.call_queue import queue_lock

    on_gpu("cuda")
    with runtime._wait_for_turn("queued") as cache:
        for seed in (6, 7):
            preprocess.run_preprocessor("queued", picture(seed=seed), 64, (), cache)
    assert (SEEN, is_held(queue_lock)) == ([True, True], False)


def test_a_generation_does_not_wait_for_itself(webui: Any, runtime: Any, on_gpu: Any) -> None:
    on_gpu("cuda")
    asked = unit(module="queued", image=encoded(picture(seed=4)))
    thread = threading.Thread(target=lambda: webui.txt2img(**request(asked, steps=1)), daemon=True)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    assert SEEN == [True]
