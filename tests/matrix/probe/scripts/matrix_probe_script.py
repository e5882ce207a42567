"""The probe's place in the host: script methods, callbacks and routes."""

from __future__ import annotations

import traceback
from typing import Any

from fastapi import Body
from fastapi.responses import JSONResponse
from matrix_probe import host, runs
from matrix_probe import recorder as recording
from modules import script_callbacks, scripts

script_callbacks.remove_current_script_callbacks()

RECORDER = recording.Recorder()
REQUEST = Body()


class MatrixProbe(scripts.Script):
    """Notes every generation."""

    def title(self) -> str:
        return "Matrix probe"

    def show(self, is_img2img: bool) -> object:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        return []

    def before_process(self, p: Any, *_args: Any) -> None:
        RECORDER.begin(p)

    def process(self, p: Any, *_args: Any) -> None:
        RECORDER.prepare(p)

    def process_before_every_sampling(self, p: Any, *_args: Any, **kwargs: Any) -> None:
        RECORDER.sampling_begins(p, kwargs["x"])

    def postprocess(self, p: Any, _processed: Any, *_args: Any) -> None:
        RECORDER.end(p)


def on_app_started(_demo: Any, app: Any) -> None:
    @app.get("/matrix-probe/take")
    def take() -> Any:
        """Notes of all generations since the last call, and hooks that should not be there."""
        taken, RECORDER.generations = RECORDER.generations, []
        found = recording.hooks_left()
        return JSONResponse({"generations": [one.as_json() for one in taken], "hooks": found})

    @app.get("/matrix-probe/member")
    def member() -> Any:
        """What the host is: A1111, or which member of the Forge family."""
        return host.member()

    @app.post("/matrix-probe/run")
    def run(request: dict = REQUEST) -> Any:
        """Run one of the page's functions; `forced` are set on the processing object."""
        RECORDER.forced = request.get("forced", {})
        try:
            return runs.run(request)
        except Exception:
            return JSONResponse({"error": traceback.format_exc()}, 500)
        finally:
            RECORDER.forced = {}

    @app.post("/matrix-probe/host-picture")
    def host_picture(request: dict = REQUEST) -> Any:
        """A picture after the host's own resizing and cropping."""
        return {"picture": runs.host_picture(request)}


script_callbacks.on_cfg_denoiser(RECORDER.evaluation)
script_callbacks.on_app_started(on_app_started)
