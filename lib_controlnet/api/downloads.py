"""Downloads over HTTP: what there is, what is under way, and orders to start and to stop.

Orders name a published control model or a preprocessor; nothing else can be fetched. As they write
to the disk, hosts that are open to others take none of models without a password; weights of a
preprocessor are fetched by whoever may run it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Body, Query

from lib_controlnet.api.bodies import answer_errors
from lib_controlnet.detect import listing
from lib_controlnet.detect.downloadable import describe_published, order_published, order_weights
from lib_controlnet.errors import ControlNetError, quote

OPEN_TO_OTHERS: Final = (
    "this WebUI is open to others without a password, so no control models can be downloaded "
    "through it; start it with --api-auth, or with --enable-insecure-extension-access"
)
NOTHING_ASKED: Final = "name a published model (model) or a preprocessor (module), and only one"


def add(router: APIRouter, runtime: Any, public: Callable[[str], str], may_write: bool) -> None:
    """Add the routes.

    Args:
        router: of all our routes.
        runtime: the extension's services.
        public: makes a sentence one that clients may read.
        may_write: whether orders of control models are taken.
    """

    def describe() -> dict[str, Any]:
        found = [{**one, "message": public(one["message"])} for one in runtime.downloads.describe()]
        refused = runtime.downloads.refuse() if may_write else OPEN_TO_OTHERS
        return {"downloads": found, "refused": refused or None}

    def check(is_model: bool) -> None:
        if is_model and not may_write:
            raise ControlNetError(OPEN_TO_OTHERS, 403)
        if refused := runtime.downloads.refuse():
            raise ControlNetError(refused)

    @router.get("/published_models")
    def list_published_models(control_type: str = Query(listing.ALL)) -> dict[str, Any]:
        with answer_errors(public):
            kinds = {kind.lower(): kind for kind in listing.control_types()}
            kind = kinds.get(control_type.strip().lower())
            if kind is None:
                msg = f"{quote(control_type)} is no control type; see /controlnet/control_types"
                raise ControlNetError(msg)
            own = runtime.base_kind()
            found = describe_published(runtime.catalog, own, kind)
        return {"base": None if own is None else str(own), "models": found}

    @router.get("/downloads")
    def downloads() -> dict[str, Any]:
        return describe()

    @router.post("/downloads")
    def start_download(
        model: str | None = Body(None, title="File name of a published model"),
        module: str | None = Body(None, title="Preprocessor"),
    ) -> dict[str, Any]:
        with answer_errors(public):
            if bool(model) is bool(module):
                raise ControlNetError(NOTHING_ASKED)
            check(bool(model))
            folders = runtime.catalog.folders
            orders = [order_published(model, folders)] if model else order_weights(module or "")
            for order in orders:
                runtime.downloads.start(order)
        return {"started": [order.id for order in orders], **describe()}

    @router.post("/downloads/stop")
    def stop_download(
        name: str = Body(..., alias="id", embed=True, title="Id of a download"),
    ) -> dict[str, Any]:
        with answer_errors(public):
            runtime.downloads.stop(name)
        return describe()
