"""The routes: thin functions whose names are part of the interface, generated clients carry them.

Lists come from `listing`, work from `detection` and `poses`; every error is a 4xx with one
sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Protocol

from fastapi import APIRouter, Body, FastAPI
from PIL import Image

from lib_controlnet.api import downloads
from lib_controlnet.api.access import guards
from lib_controlnet.api.bodies import BoundedRoute, PoseRoute, answer_errors
from lib_controlnet.api.detection import Asked, detect_all
from lib_controlnet.api.payload import OPTIONS, ROUTES, check_units, read_settings, watch
from lib_controlnet.api.poses import NO_POSE, PoseData, render
from lib_controlnet.api.presets import add_presets
from lib_controlnet.detect import listing
from lib_controlnet.detect.palettes import describe_palettes
from lib_controlnet.enums import OnError

API_VERSION: Final = 3
PREFIX: Final = "/controlnet"
LOOKING: Final = 60.0
"""Seconds that a list waits for what is found out elsewhere; the rest it finds out itself."""


class WebServices(Protocol):
    """What the routes ask of the host (see `lib_controlnet.host.page.web`)."""

    def credentials(self) -> Mapping[str, str]:
        """User -> password that guard the host's own API; empty if it is open."""
        ...

    def serves_api(self) -> bool:
        """Whether the host serves its own API."""
        ...

    def is_shared(self) -> bool:
        """Whether people reach the host who may not manage its extensions."""
        ...

    def slots(self, is_img2img: bool) -> int:
        """Units that the host takes from a generation request."""
        ...

    def check_settings(self, asked: Mapping[str, object]) -> None:
        """Refuse settings that a request may not set, by a `ControlNetError`."""
        ...

    def public(self, sentence: str) -> str:
        """A sentence as clients may read it."""
        ...

    def encode(self, image: Image.Image) -> str:
        """Base64 text of a picture in the user's sample format."""
        ...

    def fetch(self, url: str) -> Image.Image:
        """Load a picture by URL where the user's settings allow it, else raise OSError."""
        ...


def add(app: FastAPI, runtime: Any, services: WebServices) -> None:
    """What `lib_controlnet.api.mount` does, with the host's side of HTTP at hand."""
    dependencies = guards(app, services.credentials(), services.serves_api())
    router = APIRouter(prefix=PREFIX, route_class=BoundedRoute, dependencies=dependencies)
    for add_some in (_add_lists, _add_detect, _add_render):
        add_some(router, runtime, services)
    may_write = bool(dependencies) or not services.is_shared()
    downloads.add(router, runtime, services.public, may_write)
    add_presets(router, runtime.presets, services.public)
    app.include_router(router)

    def check(body: object, is_img2img: bool) -> None:
        services.check_settings(read_settings(body, "override_settings"))
        on_error = runtime.option("control_net_on_error")
        check_units(body, services.slots(is_img2img), on_error == OnError.SKIP)

    checks = {path: partial(check, is_img2img=given) for path, given in ROUTES.items()}
    watch(app, {**checks, OPTIONS: lambda body: services.check_settings(read_settings(body))})


def _detail(name: str, runtime: Any, refusal: Any, services: WebServices) -> dict[str, Any]:
    """What a listed model is, and why the loaded checkpoint cannot use it, if so."""
    entry = runtime.catalog.files[name]
    facts, refused = runtime.facts(entry.path), refusal(entry.path)
    sentences = {"unavailable": refused and refused.sentence, "unknown": facts.unread}
    return {
        "family": facts.family or None,
        "base": None if facts.base is None else str(facts.base),
        "control_types": listing.types_of(entry),
        "precision": facts.precision or None,
        "size": facts.size,
        **({"made_on": facts.made_on} if facts.made_on else {}),
        **{key: services.public(said) for key, said in sentences.items() if said},
    }


def _add_lists(router: APIRouter, runtime: Any, services: WebServices) -> None:
    @router.get("/version")
    def version() -> dict[str, int]:
        return {"version": API_VERSION}

    @router.get("/model_list")
    def model_list(update: bool = True) -> dict[str, Any]:
        if update:
            runtime.refresh_models()
        # Copies of one model share a stem; the later one stands for all of them.
        by_stem = {name.rpartition(" [")[0]: name for name in runtime.catalog.names()}
        names = list(by_stem.values())
        runtime.look_into([runtime.catalog.files[name].path for name in names], LOOKING)
        refusal = runtime.refusals()
        detail = {name: _detail(name, runtime, refusal, services) for name in names}
        return {"model_list": names, "model_detail": detail}

    @router.get("/module_list")
    def module_list(alias_names: bool = False) -> dict[str, Any]:
        return {
            "module_list": listing.module_names(labels=alias_names),
            "module_detail": listing.module_detail(labels=alias_names),
        }

    @router.get("/control_types")
    def control_types() -> dict[str, Any]:
        return {"control_types": listing.describe_control_types(runtime.catalog)}

    @router.get("/palettes")
    def palettes() -> dict[str, Any]:
        return describe_palettes()

    @router.get("/settings")
    def settings() -> dict[str, int]:
        return {"control_net_unit_count": runtime.unit_count()}


Texts = list[str] | None
Number = float | None


def _add_detect(router: APIRouter, runtime: Any, services: WebServices) -> None:
    @router.post("/detect")
    def detect(
        controlnet_module: str | None = Body("none", title="Controlnet Module"),
        controlnet_input_images: Texts = Body([], title="Controlnet Input Images"),  # noqa: B008
        controlnet_processor_res: Number = Body(-1, title="Controlnet Processor Resolution"),  # noqa: B008
        controlnet_threshold_a: Number = Body(-1, title="Controlnet Threshold a"),  # noqa: B008
        controlnet_threshold_b: Number = Body(-1, title="Controlnet Threshold b"),  # noqa: B008
        controlnet_masks: Texts = Body([], title="Controlnet Masks"),  # noqa: B008
        controlnet_images: Texts = Body([], title="Older name of the input images"),  # noqa: B008
        low_vram: bool | None = Body(False, title="Low vram"),
    ) -> dict[str, Any]:
        del low_vram  # networks leave the device before sampling, whatever a request says
        asked = Asked(
            controlnet_module,
            controlnet_input_images or controlnet_images or [],
            controlnet_masks or [],
            controlnet_processor_res,
            controlnet_threshold_a,
            controlnet_threshold_b,
        )
        with answer_errors(services.public):
            found = detect_all(runtime, services.fetch, services.encode, asked)
        poses = {} if found.poses is None else {"poses": found.poses}
        shown = {"images": found.images} if found.tensors is None else {"tensor": found.tensors}
        return {**shown, **poses, "info": "Success"}


def _add_render(router: APIRouter, _runtime: Any, services: WebServices) -> None:
    def render_openpose_json(
        poses: list[PoseData] | None = Body([], title="Pose Data"),  # noqa: B008
    ) -> dict[str, Any]:
        if not poses:
            return {"info": NO_POSE}
        with answer_errors(services.public):
            pictures, note = render(poses, services.encode)
        info = f"Success; {note}" if note else "Success"
        return {"images": pictures, "info": info}

    router.add_api_route(
        "/render_openpose_json",
        render_openpose_json,
        methods=["POST"],
        route_class_override=PoseRoute,
    )
