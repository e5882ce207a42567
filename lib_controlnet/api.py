"""HTTP routes under `/controlnet/`: what there is, and running a preprocessor.

The script calls `mount(app, runtime)` from the host's `on_app_started`, each time a new app
starts. Routes are thin: lists come from `listing`, detection from the runtime; every error is a
4xx with one sentence. Function names are part of the interface, generated clients are named
after them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, Final, Protocol

import numpy as np
from fastapi import Body, Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from PIL import Image

from lib_controlnet import listing, preprocess
from lib_controlnet.errors import ControlNetError
from lib_controlnet.image import decode_image, decode_mask, join_mask
from lib_controlnet.python_api import API_VERSION
from lib_controlnet.unit import NO_MODULE

PREFIX: Final = "/controlnet"
# Clients compare these texts.
NO_SUCH_MODULE: Final = "Module not available"
NO_IMAGE: Final = "No image selected"


class WebServices(Protocol):
    """What the routes ask of the host (see `lib_controlnet.host.web`)."""

    def credentials(self) -> Mapping[str, str]:
        """User -> password that guard the host's own API; empty if it is open."""
        ...

    def encode(self, image: Image.Image) -> str:
        """Base64 text of a picture in the user's sample format."""
        ...

    def fetch(self, url: str) -> Image.Image:
        """Load a picture by URL where the user's settings allow it, else raise OSError."""
        ...


def mount(app: FastAPI, runtime: Any, services: WebServices | None = None) -> None:
    """Add the routes to an app.

    Args:
        app: the host's application.
        runtime: the extension's services (`lib_controlnet.host.a1111.Runtime`).
        services: the host's side of HTTP; the present host's unless given.
    """
    if services is None:
        from lib_controlnet.host.web import A1111Web

        services = A1111Web()
    guards = _guards(services.credentials())
    for method, function in _routes(runtime, services):
        app.add_api_route(
            f"{PREFIX}/{function.__name__}", function, methods=[method], dependencies=guards
        )


def _guards(credentials: Mapping[str, str]) -> list[Any]:
    """Dependencies that let only the host's API users in; none if its API is open."""
    if not credentials:
        return []

    def check(sent: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008
        known = credentials.get(sent.username)
        if known is None or not secrets.compare_digest(known.encode(), sent.password.encode()):
            raise HTTPException(
                401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"}
            )

    return [Depends(check)]


def _routes(runtime: Any, services: WebServices) -> list[tuple[str, Any]]:
    def version() -> dict[str, int]:
        return {"version": API_VERSION}

    def model_list(update: bool = True) -> dict[str, list[str]]:
        if update:
            runtime.refresh_models()
        # Copies of one model share a stem; the later one stands for all of them.
        by_stem = {name.rpartition(" [")[0]: name for name in runtime.catalog.names()}
        return {"model_list": list(by_stem.values())}

    def module_list(alias_names: bool = False) -> dict[str, Any]:
        return {
            "module_list": listing.module_names(labels=alias_names),
            "module_detail": listing.module_detail(labels=alias_names),
        }

    def control_types() -> dict[str, Any]:
        return {"control_types": listing.describe_control_types(runtime.catalog)}

    def settings() -> dict[str, int]:
        return {"control_net_unit_count": runtime.unit_count()}

    def detect(  # noqa: PLR0913 - the body's keys
        controlnet_module: str | None = Body("none", title="Controlnet Module"),
        controlnet_input_images: list[str] = Body([], title="Controlnet Input Images"),  # noqa: B008
        controlnet_processor_res: float | None = Body(-1, title="Controlnet Processor Resolution"),
        controlnet_threshold_a: float | None = Body(-1, title="Controlnet Threshold a"),
        controlnet_threshold_b: float | None = Body(-1, title="Controlnet Threshold b"),
        controlnet_masks: list[str] = Body([], title="Controlnet Masks"),  # noqa: B008
        controlnet_images: list[str] = Body([], title="Older name of the input images"),  # noqa: B008
        low_vram: bool | None = Body(False, title="Low vram"),
    ) -> dict[str, Any]:
        del low_vram  # every preprocessor here runs on the CPU
        try:
            shown = _detect(
                runtime,
                services,
                controlnet_module,
                controlnet_input_images or controlnet_images,
                controlnet_masks,
                (controlnet_processor_res, controlnet_threshold_a, controlnet_threshold_b),
            )
        except ControlNetError as error:
            raise HTTPException(error.status_code, error.detail) from error
        return {"images": [services.encode(picture) for picture in shown], "info": "Success"}

    return [
        ("GET", version),
        ("GET", model_list),
        ("GET", module_list),
        ("GET", control_types),
        ("GET", settings),
        ("POST", detect),
    ]


def _detect(
    runtime: Any,
    services: WebServices,
    module: str | None,
    images: list[str],
    masks: list[str],
    numbers: tuple[float | None, float | None, float | None],
) -> list[Image.Image]:
    """Run one preprocessor on several pictures.

    Args:
        runtime: the extension's services.
        services: the host's side of HTTP.
        module: name or label of the preprocessor.
        images: pictures as text.
        masks: one per picture, where the preprocessor needs masks.
        numbers: resolution, first and second slider; None and -1 are their defaults.

    Returns:
        The maps as they are shown to people, in the order of the pictures.

    Raises:
        ControlNetError: what is wrong with the request.
    """
    detector = preprocess.find(module)
    if detector is None:
        raise ControlNetError(NO_SUCH_MODULE)
    if not images:
        raise ControlNetError(NO_IMAGE)
    if detector.mask is preprocess.declarations.MaskUse.REQUIRED and len(masks) != len(images):
        msg = f"Preprocessor {module} requires `controlnet_masks` param."
        raise ControlNetError(msg)
    resolution, a, b = (-1 if number is None else number for number in numbers)
    shown = []
    for index, text in enumerate(images):
        where = f"controlnet_input_images[{index}]"
        as_given = detector.name == NO_MODULE  # keeps its transparency; others see it on white
        picture = decode_image(text, where, fetch=services.fetch, keep_alpha=as_given)
        if as_given:
            shown.append(Image.fromarray(picture))
            continue
        if detector.uses_mask and index < len(masks):
            mask = decode_mask(masks[index], f"controlnet_masks[{index}]", fetch=services.fetch)
            picture = join_mask(picture, mask)
        detection = runtime.detect(detector.name, picture, int(resolution), a, b)
        shown.append(Image.fromarray(np.ascontiguousarray(detection.display)))
    return shown
