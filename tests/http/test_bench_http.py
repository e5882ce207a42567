"""The measurement over HTTP, on a real server."""

from __future__ import annotations

import argparse
import json

import pytest
from bench_http.command import add_options, bench_http


def test_measurement_runs_on_a_server(webui, capsys: pytest.CaptureFixture) -> None:
    models = webui.get("/controlnet/model_list").json()["model_list"]
    model = next(name for name in models if "canny" in name)
    reader = argparse.ArgumentParser()
    reader.add_argument("--rounds", type=int)
    add_options(reader)
    words = ["--webui-url", webui.url, "--webui-url", f"same={webui.url}", "--rounds", "1"]
    words += ["--control", model, "--quick", "--size", "64x64", "--steps", "1,2", "--batch", "2"]
    status = bench_http(reader.parse_args([*words, "--output", "json"]))
    told = capsys.readouterr()
    assert status == 0, told.err
    sites = json.loads(told.out)["sites"]
    assert [site["name"] for site in sites] == ["A", "same"]
    for site in sites:
        # Two of the bare checkpoint, the model's first; three variants, three each; two batches.
        assert site["pictures"] == 2 + 1 + 3 * 3 + 2 * 2
        assert {len(taken) for taken in site["seconds"].values()} == {1}
        assert site["seconds"]["none: long"][0] > 0
    if webui.is_ours:
        assert "unit 0: canny, control_demo_canny, ControlNet is more important" in webui.log()
