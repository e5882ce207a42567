"""Another ControlNet extension in the same WebUI: ours stays off and says so, theirs works."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import embedded_host

OTHER = """
import gradio as gr
from modules import script_callbacks, scripts


class Script(scripts.Script):
    def title(self):
        return "ControlNet"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox(label="unit", value="theirs")]

    def process(self, p, unit):
        p.extra_generation_params["Other ControlNet"] = unit


def on_app_started(_demo, app):
    app.add_api_route("/controlnet/version", lambda: {"version": "theirs"}, methods=["GET"])


script_callbacks.on_app_started(on_app_started)
"""
REQUEST = {"prompt": "a red circle", "steps": 1, "width": 64, "height": 64, "seed": 1}


@pytest.mark.parametrize("folder", ["a-controlnet", "zz-controlnet"])
def test_row_02_second_installation_stays_off_with_a_sentence(tmp_path: Path, folder: str) -> None:
    """Loaded before ours, or after it."""
    script = tmp_path / "extensions" / folder / "scripts" / "controlnet.py"
    script.parent.mkdir(parents=True)
    script.write_text(OTHER)
    with embedded_host(tmp_path) as server:
        log = server.log()
        assert log.count("ControlNet is installed twice") == 1
        assert str(script.parent.parent) in log
        assert "Traceback" not in log
        titles = server.get("/sdapi/v1/scripts")["txt2img"]
        assert titles.count("controlnet") == 1
        assert "controlnet (off: installed twice)" in titles
        assert server.get("/controlnet/version") == {"version": "theirs"}
        assert server.client.get("/controlnet/model_list").status_code == 404
        asked = {**REQUEST, "alwayson_scripts": {"ControlNet": {"args": ["mine"]}}}
        answer = server.post("/sdapi/v1/txt2img", asked)
        assert len(answer["images"]) == 1
        assert "Other ControlNet: mine" in answer["info"]
        assert "Traceback" not in server.log()
