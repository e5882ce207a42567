"""Measuring a WebUI over HTTP: against servers whose every picture has a known cost."""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
import pytest
from bench_http import measuring, meters
from bench_http.command import add_options, bench_http, check_alone
from bench_http.measuring import Plan, Site, run_rounds
from bench_http.meters import Meter, choose_clock
from bench_http.server import BenchError, Server, reason
from bench_http.tables import ratio, spread
from bench_http.variants import Scenery

QUICK = ("--quick", "--size", "64x64", "--rounds", "2")


def png(level: int) -> str:
    picture = np.full((8, 8, 3), level, np.uint8)
    return base64.b64encode(cv2.imencode(".png", picture)[1].tobytes()).decode("ascii")


@dataclass
class Host:
    """A WebUI whose clock advances by what it is asked.

    Attributes:
        step: seconds of a step without units.
        unit: of a unit in a step.
        once: of a picture, beside its steps.
        load: of a model that it does not hold.
        keeps: models that it holds.
        idle: models that do nothing.
        answers: by path, a status and an answer that it gives instead.
        refuses: says why it refuses a request, or nothing.
    """

    step: float = 1.0
    unit: float = 0.5
    once: float = 2.0
    load: float = 7.0
    keeps: int = 9
    models: tuple[str, ...] = ("canny [01234567]", "depth", "scribble")
    idle: tuple[str, ...] = ()
    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    refuses: Callable[[dict[str, Any]], str] = lambda _body: ""
    clock: float = 0.0
    held: list[str] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, object]:
        self.asked[path] += 1
        if path in self.answers:
            return self.answers[path]
        if path == "/sdapi/v1/txt2img":
            return self.generate(body)
        if path == "/sdapi/v1/options":
            self.chosen += [body["sd_model_checkpoint"]] if body else []
            return 200, {"sd_model_checkpoint": "first.safetensors [12]"}
        rows = [{"title": f"{name}.safetensors [12]", "model_name": name} for name in ("a", "xl")]
        known: dict[str, object] = {
            "/controlnet/model_list": {"model_list": list(self.models)},
            "/sdapi/v1/sd-models": rows,
        }
        return (200, known[path]) if path in known else (404, {"detail": "Not Found"})

    def generate(self, body: dict[str, Any]) -> tuple[int, object]:
        self.bodies.append(body)
        why = self.refuses(body)
        if why:
            return 422, {"detail": why}
        units = body.get("alwayson_scripts", {}).get("controlnet", {}).get("args", [])
        for unit in units:
            if unit["model"] in self.held:
                self.held.remove(unit["model"])
            else:
                self.clock += self.load
            self.held = [*self.held, unit["model"]][-self.keeps :]
        step = self.step + self.unit * len(units)
        self.clock += body["n_iter"] * (self.once + body["steps"] * step)
        acting = [unit for unit in units if unit["model"] not in self.idle]
        return 200, {"images": [png(20 * len(acting))]}


@contextmanager
def serving(host: Host) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            host.headers.append(self.headers.get("Authorization", ""))
            status, answer = host.answer(self.path, json.loads(text or b"{}"))
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = respond

        def log_message(self, *_words: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Host]]:
    """Starts hosts, whose clocks are those that are measured."""
    started: dict[int, Host] = {}
    stops = []

    def start(**facts: Any) -> Host:
        context = serving(Host(**facts))
        host = context.__enter__()
        stops.append(context)
        started[host.port] = host
        return host

    monkeypatch.setattr(Meter, "now", lambda self: started[self.server.port].clock)
    yield start
    for context in stops:
        context.__exit__(None, None, None)


def read(*words: str) -> argparse.Namespace:
    reader = argparse.ArgumentParser(prog="bench")
    reader.add_argument("--rounds", type=int, default=3)
    reader.add_argument("--width", type=int, default=64)
    add_options(reader)
    options = reader.parse_args(words)
    check_alone(reader, options)
    return options


def run(*words: str) -> int:
    return bench_http(read(*words))


def test_numbers_are_those_of_the_pictures(hosts, capsys) -> None:
    old, new = hosts(unit=1.0, keeps=2), hosts(unit=0.5)
    urls = ("--webui-url", f"new={new.url}", "--webui-url", old.url)
    assert run(*urls, *QUICK, "--output", "json") == 0
    found = json.loads(capsys.readouterr().out)
    for host, site in zip((new, old), found["sites"], strict=True):
        taken = site["seconds"]
        assert site["models"] == list(host.models)
        assert site["pictures"] == sum(body["n_iter"] for body in host.bodies)
        assert taken["one: first"] == [2 + 2 * (1 + host.unit) + 7] * 3
        assert taken["none: again"] == [4, 4]
        assert taken["none: long"] == [6, 6]
        assert taken["one: long"] == [2 + 4 * (1 + host.unit)] * 2
        assert taken["one: batch"] == [3 * taken["one: again"][0]] * 2
        loads = 21 if host is old else 0
        assert taken["three models: again"] == [2 + 2 * (1 + 3 * host.unit) + loads] * 2
        assert taken["one: switched"] == [2 + 2 * (1 + host.unit) + loads / 3] * 2


def test_tables_have_ratios_and_what_was_measured(hosts, capsys) -> None:
    old, new = hosts(unit=1.0), hosts(unit=0.5)
    assert run("--webui-url", new.url, "--webui-url", f"old={old.url}", *QUICK) == 0
    out = capsys.readouterr().out
    for line in (
        "| seconds per step | A | old | A / old |",
        "| one unit, Balanced | 0.500 (0.500 to 0.500), 50% | 1.000 (1.000 to 1.000), 100% | "
        "0.50 (0.50 to 0.50) |",
        "| no unit | 2.000 (2.000 to 2.000) | 2.000 (2.000 to 2.000) | 1.00 (1.00 to 1.00) |",
        "| three units, three models | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) | "
        "in the noise |",
        "| first picture with a model (its loading where the server had not) | "
        "7.000 (7.000 to 7.000) | 7.000 (7.000 to 7.000) | 1.00 (1.00 to 1.00) |",
    ):
        assert line in out
    assert "2 of 2 rounds" in out
    tables = [block.splitlines() for block in out.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 8
    for table in tables:
        assert len({line.count("|") for line in table}) == 1, table


def test_every_variant_has_its_units(hosts, capsys) -> None:
    host = hosts()
    assert run("--webui-url", host.url, "--size", "64x64", "--rounds", "1", "--batch", "1") == 0
    seen = set()
    for body in host.bodies:
        units = body.get("alwayson_scripts", {"controlnet": {"args": []}})["controlnet"]["args"]
        seen.add((tuple(unit["model"] for unit in units), *{u["control_mode"] for u in units}))
        assert len({unit["image"] for unit in units}) == len(units)
    canny, depth, scribble = host.models
    assert {((canny,), mode) for mode in ("Balanced", "ControlNet is more important")} < seen
    for models in ((canny, canny), (canny,) * 3, (canny, depth), (canny, depth, scribble)):
        assert (models, "Balanced") in seen
    assert "three units of one model" in capsys.readouterr().out


def test_variants_can_be_chosen(hosts, capsys) -> None:
    host = hosts()
    words = ("--variant", "two models", "--variant", "control", *QUICK, "--batch", "1")
    assert run("--webui-url", host.url, *words) == 0
    table = capsys.readouterr().out.split("\n\n")[2].splitlines()[2:]
    assert [line.split(" | ")[0] for line in table] == [
        "| no unit",
        "| one unit, ControlNet is more important",
        "| two units, two models",
    ]


ERRORS = {
    "no ControlNet": ({"/controlnet/model_list": (404, {"detail": "Not Found"})}, "no ControlNet"),
    "no models": ({"/controlnet/model_list": (200, {"model_list": []})}, "no control models"),
    "no JSON": ({"/sdapi/v1/txt2img": (200, b"<html>")}, "answered no JSON"),
    "no picture": ({"/sdapi/v1/txt2img": (200, {"images": []})}, "without a picture"),
    "password": ({"/sdapi/v1/txt2img": (401, {"detail": "Incorrect username"})}, "401"),
    "A1111's own": (
        {"/sdapi/v1/txt2img": (500, {"error": "E", "detail": "", "errors": "out of\nmemory"})},
        "answered 500 to /sdapi/v1/txt2img: out of memory",
    ),
}


@pytest.mark.parametrize(("answers", "words"), ERRORS.values(), ids=ERRORS)
def test_what_a_server_lacks_is_one_sentence(hosts, capsys, answers, words) -> None:
    host = hosts(answers=answers)
    assert run("--webui-url", host.url, *QUICK) == 1
    said = capsys.readouterr().err
    assert words in said
    assert host.url in said
    assert len(said.splitlines()) == 1


def test_server_that_is_not_there_is_told(capsys) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        assert run("--webui-url", url, *QUICK) == 1
    assert "cannot be reached" in capsys.readouterr().err


def test_slow_server_is_told(capsys) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        probe.listen()  # and never answers
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        assert run("--webui-url", url, *QUICK, "--timeout", "1") == 1
    assert "did not answer /controlnet/model_list within 1 s" in capsys.readouterr().err


def test_models_that_do_nothing_are_left_out(hosts, capsys) -> None:
    host = hosts(idle=("depth",))
    assert run("--webui-url", host.url, *QUICK) == 0
    told = capsys.readouterr()
    assert "same picture with depth as without" in told.err
    assert "Only 2 control models acted" in told.out
    assert "three models" not in told.out
    idle = hosts(idle=host.models)
    assert run("--webui-url", idle.url, *QUICK) == 1
    assert "no control model acts with this checkpoint" in capsys.readouterr().err


def test_models_are_those_that_both_have(hosts, capsys) -> None:
    one, other = hosts(models=("depth", "x", "canny [1]")), hosts(models=("canny [2]", "depth"))
    urls = ("--webui-url", one.url, "--webui-url", other.url)
    assert run(*urls, *QUICK, "--output", "json") == 0
    models = [site["models"] for site in json.loads(capsys.readouterr().out)["sites"]]
    assert models == [["depth", "canny [1]"], ["depth", "canny [2]"]]
    assert run(*urls, *QUICK, "--control", "x") == 1
    assert f"{other.url} has no control model x" in capsys.readouterr().err


def test_refused_variant_is_left_out_and_told(hosts, capsys) -> None:
    def refuses(body: dict[str, Any]) -> str:
        units = body.get("alwayson_scripts", {}).get("controlnet", {}).get("args", [])
        return "units: at most 2" if len(units) > 2 else ""

    host = hosts(refuses=refuses)
    assert run("--webui-url", host.url, *QUICK) == 0
    out = capsys.readouterr().out
    assert "Left out: three models: " in out
    assert "units: at most 2" in out
    assert "| three units, three models | – |" in out


def test_checkpoint_is_given_back(hosts, capsys) -> None:
    host = hosts()
    words = ("--checkpoint", "xl", "--checkpoint", "a", *QUICK[:1], "--rounds", "1")
    assert run("--webui-url", host.url, *words) == 0
    assert host.chosen == ["first.safetensors [12]"]
    sizes = {
        (body["override_settings"]["sd_model_checkpoint"], body["width"]) for body in host.bodies
    }
    assert sizes == {("xl.safetensors [12]", 1024), ("a.safetensors [12]", 512)}
    host.answers["/sdapi/v1/txt2img"] = (500, {"detail": "no"})
    assert run("--webui-url", host.url, *words) == 1
    assert len(host.chosen) == 2
    assert run("--webui-url", host.url, "--checkpoint", "b", *QUICK) == 1
    assert "has no checkpoint b; it has: a.safetensors [12], xl.saf" in capsys.readouterr().err


def test_password_goes_with_every_request_and_into_no_table(hosts, capsys) -> None:
    host = hosts()
    url = host.url.replace("//", "//me:s%40crt@")
    assert run("--webui-url", url, *QUICK, "--rounds", "1") == 0
    assert set(host.headers) == {f"Basic {base64.b64encode(b'me:s@crt').decode()}"}
    told = capsys.readouterr()
    assert "crt" not in told.out + told.err


REFUSED = {
    "same steps": (("--steps", "4,4"), "4,4: give two numbers"),
    "no steps": (("--steps", "0,4"), "0,4"),
    "size": (("--size", "100x100"), "multiples of 8"),
    "large": (("--size", "4096x64"), "64 to 2048"),
    "batch": (("--batch", "0"), "whole number from 1"),
    "width": (("--width", "96"), "--width does not go together with --webui-url"),
}


@pytest.mark.parametrize(("words", "told"), REFUSED.values(), ids=REFUSED)
def test_options_that_mean_nothing_are_refused(words, told, capsys) -> None:
    with pytest.raises(SystemExit):
        read("--webui-url", "http://127.0.0.1:1", *words)
    assert told in capsys.readouterr().err


def test_options_without_address_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        read("--quick")
    assert "--quick only counts with --webui-url" in capsys.readouterr().err


SERVERS = {
    "three": (["http://a"] * 3, (), "at most 2"),
    "sizes": (["http://a"], ("--size", "64x64", "--size", "64x96"), "--size was given 2 times"),
    "no scheme": (["127.0.0.1:7860"], (), "give an address such as"),
    "port": (["http://a:99999"], (), "give an address such as"),
    "rounds": (["http://a"], ("--rounds", "0"), "--rounds is 0"),
}


@pytest.mark.parametrize(("urls", "words", "told"), SERVERS.values(), ids=SERVERS)
def test_addresses_that_mean_nothing_are_refused(urls, words, told, capsys) -> None:
    given = [word for url in urls for word in ("--webui-url", url)]
    assert run(*given, *words) == 1
    assert told in capsys.readouterr().err


def test_no_turn_begins_after_the_time(hosts) -> None:
    host = hosts()
    site = Site(Meter(Server(host.url, "A", 9), None), Scenery(64, 64, "canny", "Euler"))
    said: list[str] = []
    plan = Plan(2, 4, 1, 3, deadline=time.monotonic() - 1)
    assert run_rounds([site], plan, said.append) == (0, {})
    assert not host.bodies
    assert "time is up" in said[0]


def test_lost_variant_without_units_ends_the_measurement(hosts) -> None:
    host = hosts(refuses=lambda _body: "no")
    site = Site(Meter(Server(host.url, "A", 9), None), Scenery(64, 64, "canny", "Euler"))
    plan = Plan(2, 4, 1, 3, deadline=time.monotonic() + 60)
    with pytest.raises(measuring.ServerError, match="answered 422"):
        run_rounds([site], plan, lambda _text: None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_process_is_found_by_its_port() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert meters.listening_process(port) is None
        probe.listen()
        assert meters.listening_process(port) == os.getpid()
    assert meters.cpu_seconds(os.getpid()) > 0
    assert meters.resident_bytes(os.getpid()) > 1e6


def test_clock_is_told_with_its_reason() -> None:
    server = Server("http://127.0.0.1:7860", "A", 9)
    here, far, gpu = Meter(server, 1), Meter(server, None), Meter(server, 1, has_gpu=True)
    assert choose_clock([here], "auto").startswith("CPU time")
    assert here.is_cpu
    assert "not every server" in choose_clock([here, far], "auto")
    assert not here.is_cpu
    assert "a GPU computes" in choose_clock([gpu], "auto")
    assert "as asked" in choose_clock([here], "wall")
    with pytest.raises(BenchError, match="--clock cpu"):
        choose_clock([here, far], "cpu")


def test_memory_is_watched_from_outside(hosts) -> None:
    told = {"ram": {"used": 5}, "cuda": {"allocated": {"current": 7}}}
    host = hosts(answers={"/sdapi/v1/memory": (200, told)})
    meter = Meter.of(Server(host.url, "A", 9))
    meter.pid = None
    with meter.watching():
        pass
    assert meter.peaks == {"RAM": 5, "GPU": 7}
    told["cuda"] = {"error": "unavailable"}
    assert not Meter.of(meter.server).has_gpu


def test_spread_and_ratio() -> None:
    assert spread([]) == "–"
    assert spread([2.0]) == "2.000"
    assert spread([1, 2, 3, 4, 5], 1) == "3.0 (2.0 to 4.0)"
    assert ratio([1, 2], [2, 4]) == "0.50 (0.50 to 0.50)"
    assert ratio([1, 2], [2, -1]) == "in the noise"
    assert ratio([], []) == "–"


def test_reason_is_one_line() -> None:
    assert reason(b'{"detail": [{"loc": ["a"]}]}') == '[{"loc": ["a"]}]'
    assert reason(b"<h1>Bad\n\ngateway" + b"x" * 999).startswith("<h1>Bad gatewayxx")
    assert len(reason(b"x" * 9999)) == 300
