"""Settings, password, queue, restricted unpickler of the embedded host."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def opts(host: Any) -> Any:
    """The settings with three more, put back afterwards."""
    from modules import shared

    opts = shared.opts
    data, labels = dict(opts.data), dict(opts.data_labels)
    info = shared.OptionInfo
    opts.add_option("probe_number", info(3, "Number", section=("probe", "Probe")))
    opts.add_option("probe_text", info("x", "Text", section=("probe", "Probe"), restrict_api=True))
    opts.add_option("probe_html", shared.OptionHTML("explanation"))
    yield opts
    opts.data, opts.data_labels = data, labels


def test_setting_has_default_then_value(opts: Any) -> None:
    assert opts.probe_number == 3
    assert opts.set("probe_number", 4)
    assert opts.probe_number == 4
    assert not opts.set("probe_number", 4), "no change"
    with pytest.raises(AttributeError):
        _ = opts.nobody_declared_this
    assert getattr(opts, "nobody_declared_this", "fallback") == "fallback"


def test_types_compare_to_the_default(opts: Any) -> None:
    assert opts.same_type(1, 2.5)
    assert opts.same_type(None, "x")
    assert not opts.same_type("1", 1)
    assert opts.cast_value("probe_number", "7") == 7
    assert opts.cast_value("img2img_fix_steps", "False") is False


def test_onchange_runs_without_arguments_and_a_failure_reverts(opts: Any, capfd: Any) -> None:
    seen = []
    opts.onchange("probe_number", lambda: seen.append(opts.probe_number), call=False)
    opts.set("probe_number", 5)
    assert seen == [5]
    opts.onchange("probe_number", lambda: 1 / 0, call=False)
    assert not opts.set("probe_number", 6)
    assert opts.probe_number == 5
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_restricted_and_textual_options_cannot_be_set_by_the_api(opts: Any) -> None:
    assert not opts.set("probe_text", "y", is_api=True)
    assert opts.set("probe_text", "y")
    assert not opts.set("probe_html", "y")


def test_options_route_sets_saves_and_refuses_unknown_checkpoints(host: Any, opts: Any) -> None:
    from modules import shared

    answer = host.post("/sdapi/v1/options", {"probe_number": 11, "jpeg_quality": 70})
    assert answer.status_code == 200
    assert (opts.probe_number, opts.jpeg_quality) == (11, 70)
    assert '"probe_number": 11' in Path(shared.config_filename).read_text(encoding="utf8")
    assert host.get("/sdapi/v1/options").json()["jpeg_quality"] == 70
    refused = host.post("/sdapi/v1/options", {"sd_model_checkpoint": "nobody"})
    assert refused.status_code == 500
    assert refused.json()["errors"] == "model 'nobody' not found"
    host.post("/sdapi/v1/options", {"jpeg_quality": 80})


def test_override_settings_last_for_one_generation(host: Any) -> None:
    from modules import script_callbacks, shared

    seen: list[bool] = []

    def look(_params: Any) -> None:
        seen.append(shared.opts.batch_cond_uncond)

    script_callbacks.on_cfg_denoiser(look)
    try:
        host.txt2img(
            prompt="x", steps=1, width=64, height=64,
            override_settings={"batch_cond_uncond": False},
        )  # fmt: skip
    finally:
        script_callbacks.remove_callbacks_for_function(look)
    assert seen == [False]
    assert shared.opts.batch_cond_uncond is True


@pytest.mark.parametrize(
    ("auth", "status"),
    [
        pytest.param(None, 401, id="none"),
        pytest.param(("user", "wrong"), 401, id="wrong password"),
        pytest.param(("nobody", "one"), 401, id="unknown user"),
        pytest.param(("user", "one"), 200, id="first"),
        pytest.param(("other", "two"), 200, id="second"),
    ],
)
def test_api_auth_guards_the_routes(
    host: Any, monkeypatch: pytest.MonkeyPatch, auth: tuple | None, status: int
) -> None:
    from fastapi import FastAPI
    from modules import shared
    from modules.api import api, middleware
    from starlette.testclient import TestClient

    monkeypatch.setattr(shared.cmd_opts, "api_auth", "user:one,other:two")
    monkeypatch.setattr(api, "default_script_args", lambda runner: [0])
    app = FastAPI()
    api.Api(app, threading.Lock())
    middleware.close_middleware(app)
    answer = TestClient(app).get("/sdapi/v1/samplers", auth=auth)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Basic"


def test_queue_lock_serves_in_order_and_is_not_reentrant(host: Any) -> None:
    from modules.fifo_lock import FIFOLock

    lock, order = FIFOLock(), []

    def work(name: int) -> None:
        with lock:
            order.append(name)

    lock.acquire()
    assert not lock.acquire(blocking=False)
    threads = []
    for name in range(4):
        threads.append(threading.Thread(target=work, args=(name,)))
        threads[-1].start()
        while len(lock._waiting) <= name:
            time.sleep(0.001)
    lock.release()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3]
    assert not lock.locked()


def test_handler_error_becomes_html_and_resets_the_state(host: Any, capfd: Any) -> None:
    from modules import call_queue, progress, shared

    def fail(_task: str) -> None:
        shared.state.interrupted = True
        msg = "no <picture>"
        raise ValueError(msg)

    wrapped = call_queue.wrap_gradio_gpu_call(fail, extra_outputs=[None, "", ""])
    gallery, info, html_info, log = wrapped("task(failing)")
    assert (gallery, info, html_info) == (None, "", "")
    assert log.startswith("<div class='error'>ValueError: no &lt;picture&gt;</div>")
    assert "Time taken" in log
    assert not shared.state.interrupted
    assert "task(failing)" in progress.finished_tasks
    assert "Error completing request" in capfd.readouterr().err


class Payload:
    """Would be called when unpickled."""

    def __reduce__(self) -> tuple:
        return print, ("unpickled",)


def test_torch_load_refuses_by_returning_none(host: Any, tmp_path: Path, capfd: Any) -> None:
    from modules import safe

    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.save({"weight": torch.ones(3)}, good)
    torch.save({"weight": Payload()}, bad)
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Payload()))
    assert torch.load is safe.load
    assert torch.load(good)["weight"].tolist() == [1, 1, 1]
    assert torch.load(bad) is None
    assert torch.load(tmp_path / "old.pt") is None
    captured = capfd.readouterr()
    assert "unpickled" not in captured.out
    assert "/print' is forbidden" in captured.err
    with safe.Extra(lambda module, name: print if name == "print" else None):
        safe.check_pt(str(bad), safe.global_extra_handler)


def test_xformers_is_hidden(host: Any) -> None:
    with pytest.raises(ImportError):
        import xformers  # noqa: F401


def test_patches_refuse_the_same_key_twice(host: Any) -> None:
    from modules import patches

    class Thing:
        field = 1

    assert patches.patch("test", Thing, "field", 2) == 1
    assert patches.original("test", Thing, "field") == 1
    with pytest.raises(RuntimeError, match="already applied"):
        patches.patch("test", Thing, "field", 3)
    patches.undo("test", Thing, "field")
    assert Thing.field == 1
    with pytest.raises(RuntimeError, match="no patch"):
        patches.undo("test", Thing, "field")


def test_host_serves_the_same_routes_over_http(host: Any) -> None:
    import httpx

    url = host.serve()
    try:
        answer = httpx.get(f"{url}/sdapi/v1/samplers", trust_env=False)
        assert answer.json() == host.get("/sdapi/v1/samplers").json()
    finally:
        host.stop()
