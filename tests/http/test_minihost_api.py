"""The host's own routes over HTTP; nothing here is about the extension."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FEW = {"prompt": "a red circle", "steps": 4, "width": 64, "height": 64, "seed": 7}


@pytest.mark.parametrize(
    ("route", "keys"),
    [
        ("samplers", {"name", "aliases", "options"}),
        ("schedulers", {"name", "label", "aliases", "default_rho", "need_inner_model"}),
        ("upscalers", {"name", "model_name", "model_path", "model_url", "scale"}),
        ("latent-upscale-modes", {"name"}),
        ("sd-models", {"title", "model_name", "hash", "sha256", "filename", "config"}),
        ("script-info", {"name", "is_alwayson", "is_img2img", "args"}),
    ],
)
def test_lists_have_the_hosts_keys(webui: Any, route: str, keys: set[str]) -> None:
    answer = webui.get(f"/sdapi/v1/{route}")
    assert answer.status_code == 200
    assert answer.json()
    assert all(set(item) == keys for item in answer.json())


def test_named_lists_hold_what_others_rely_on(webui: Any) -> None:
    samplers = {x["name"] for x in webui.get("/sdapi/v1/samplers").json()}
    wanted = {"Euler", "Euler a", "Heun", "DPM2", "DPM++ 2M", "DPM++ SDE", "LCM", "DDIM", "UniPC"}
    assert wanted <= samplers
    scripts = webui.get("/sdapi/v1/scripts").json()
    assert {"controlnet", "sampler", "seed"} <= set(scripts["txt2img"]) & set(scripts["img2img"])


def test_flags_are_told(webui: Any) -> None:
    flags = webui.get("/sdapi/v1/cmd-flags").json()
    assert flags["api"] is True
    assert "controlnet_dir" in flags


def test_txt2img_answers_with_pictures_request_and_info(webui: Any, codec: Any) -> None:
    answer = webui.generate("txt2img", **FEW, batch_size=2, n_iter=1, sampler_name="Euler")
    assert len(answer["images"]) == 2, "no grid, since nothing is saved"
    assert codec.decode(answer["images"][1]).shape == (64, 64, 3)
    assert answer["parameters"]["prompt"] == FEW["prompt"]
    info = json.loads(answer["info"])
    assert info["index_of_first_image"] == 0
    assert info["all_seeds"] == [7, 8]
    assert info["infotexts"][1].startswith("a red circle\nSteps: 4, Sampler: Euler")


def test_send_images_off_gives_none(webui: Any) -> None:
    assert webui.generate("txt2img", **FEW, send_images=False)["images"] == []


def test_same_seed_same_picture_and_png_info_repeats_the_request(webui: Any) -> None:
    first = webui.generate("txt2img", **FEW)
    assert webui.generate("txt2img", **FEW)["images"] == first["images"]
    answer = webui.post("/sdapi/v1/png-info", {"image": first["images"][0]}).json()
    assert answer["info"] == json.loads(first["info"])["infotexts"][0]
    assert answer["parameters"]["Prompt"] == FEW["prompt"]
    assert (answer["parameters"]["Seed"], answer["parameters"]["Size-1"]) == ("7", "64")


def test_img2img_echoes_the_picture_only_when_asked(webui: Any, codec: Any) -> None:
    picture = codec.encode(np.full((64, 64, 3), 128, np.uint8))
    for asked in (False, True):
        answer = webui.generate(
            "img2img", **FEW, init_images=[picture], denoising_strength=0.5,
            include_init_images=asked,
        )  # fmt: skip
        assert answer["parameters"]["init_images"] == ([picture] if asked else None)
        assert codec.decode(answer["images"][0]).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("route", "payload", "status", "field", "text"),
    [
        ("img2img", FEW, 404, "detail", "Init image not found"),
        ("img2img", {**FEW, "init_images": ["?"]}, 500, "detail", "Invalid encoded image"),
        (
            "img2img", {**FEW, "init_images": ["http://127.0.0.1:1/x.png"]}, 500, "detail",
            "Request to local resource not allowed",
        ),
        (
            "txt2img", {**FEW, "alwayson_scripts": {"nobody": {"args": []}}}, 422, "detail",
            "Script 'nobody' not found",
        ),
        (
            "options", {"sd_model_checkpoint": "nobody"}, 500, "errors",
            "model 'nobody' not found",
        ),
    ],
)  # fmt: skip
def test_errors_are_json_with_a_sentence(
    webui: Any, route: str, payload: dict, status: int, field: str, text: str
) -> None:
    answer = webui.post(f"/sdapi/v1/{route}", payload)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "detail", "body", "errors"}
    assert answer.json()[field] == text


def test_malformed_request_is_fastapis_422(webui: Any) -> None:
    answer = webui.post("/sdapi/v1/txt2img", {"steps": "many"})
    assert answer.status_code == 422
    assert "detail" in answer.json()


def test_progress_while_running_then_interrupt(webui: Any) -> None:
    idle = webui.get("/sdapi/v1/progress").json()
    assert (idle["progress"], idle["state"]["job_count"]) == (0, 0)
    answers: list[dict] = []
    request = {**FEW, "steps": 150, "width": 256, "height": 256}
    task = threading.Thread(target=lambda: answers.append(webui.generate("txt2img", **request)))
    task.start()
    seen = {}
    while task.is_alive():
        seen = webui.get("/sdapi/v1/progress").json()
        if seen["state"]["sampling_step"] > 1:
            break
        time.sleep(0.05)
    assert 0 < seen["progress"] < 1
    assert seen["state"]["sampling_steps"] == 150
    assert webui.post("/sdapi/v1/interrupt").json() == {}
    task.join()
    assert len(answers[0]["images"]) == 1, "the latest latent becomes the picture"
    assert webui.get("/sdapi/v1/progress").json()["progress"] == 0


def test_queue_progress_of_an_unknown_task(webui: Any) -> None:
    answer = webui.post("/internal/progress", {"id_task": "task(nobody)"}).json()
    assert not (answer["active"] or answer["queued"] or answer["completed"])
    assert answer["textinfo"] == "Waiting..."


def test_page_carries_the_extensions_files(webui: Any) -> None:
    html = webui.get("/").text
    assert "style.css?" in html
    assert ".js?" in html


def test_unknown_flag_ends_the_start(webui: Any, root: Path, tmp_path: Path) -> None:
    if not webui.is_ours:
        return
    command = [sys.executable, str(root / "minihost" / "launch.py"), "--data-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, "--skip-install", "--no-such-flag"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-flag" in done.stderr
    assert "--controlnet-dir" in done.stderr, "flags of preload.py are known by then"
