"""The routes of presets: list, get, put, delete.

Whoever is let in may do here what the page lets everybody do, as with the WebUI's own styles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Body

from lib_controlnet.api.bodies import answer_errors
from lib_controlnet.errors import PresetError
from lib_controlnet.presets.foreign import read_text
from lib_controlnet.presets.form import read_document
from lib_controlnet.presets.store import Presets

Units = list[dict[str, Any]] | None


def add_presets(router: APIRouter, presets: Presets, public: Callable[[str], str]) -> None:
    """Add the routes.

    Args:
        router: whose prefix, guards and limits they get.
        presets: of the WebUI.
        public: makes a sentence one that clients may read.
    """

    def list_presets(search: str = "") -> dict[str, Any]:
        found = presets.summaries(search[:1000])
        for one in found:
            if "fault" in one:
                one["fault"] = public(one["fault"])
        return {"presets": found, "old": [entry.name for entry in presets.find_old()]}

    def get_preset(name: str) -> dict[str, Any]:
        with answer_errors(public):
            return presets.describe(name)

    def put_preset(
        name: str,
        units: Units = Body(None, title="Units, as in a generation request"),  # noqa: B008
        text: str | None = Body(None, title="Or generation parameters"),
        scope: str | None = Body(None, title="unit or all"),
        pictures: bool = Body(True, title="Whether the units' pictures are kept"),
        replace: bool = Body(False, title="Whether a preset of this name is written over"),
    ) -> dict[str, Any]:
        with answer_errors(public):
            if (units is None) is (text is None):
                msg = "send either units, a list of objects, or text, generation parameters"
                raise PresetError(msg)
            given: dict[str, Any] = {"units": units, "pictures": pictures}
            given |= {} if scope is None else {"scope": scope}
            preset = read_document(given) if text is None else read_text(text)
            return {"info": "Success", "notes": presets.put(name, preset, {}, replace)}

    def delete_preset(name: str) -> dict[str, Any]:
        with answer_errors(public):
            presets.remove(name)
        return {"info": "Success"}

    router.add_api_route("/presets", list_presets, methods=["GET"])
    for method, route in (("GET", get_preset), ("PUT", put_preset), ("DELETE", delete_preset)):
        router.add_api_route("/presets/{name}", route, methods=[method])
