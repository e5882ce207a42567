"""HTTP: the routes under `/controlnet/`, and a look at units on their way into the host's routes.

`routes` lists what there is; `detection` and `poses` do the work, `bodies` limits what a request
may bring, `access` who may ask, `payload` checks units that the host would choke on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lib_controlnet.api.routes import WebServices


def mount(app: FastAPI, runtime: Any, services: WebServices | None = None) -> None:
    """Add the routes to an app, and the check of units to the host's generation routes.

    The script calls this from the host's `on_app_started`, each time a new app starts.

    Args:
        app: the host's application, whose own routes are there already.
        runtime: the extension's services (`lib_controlnet.host.runtime.Runtime`).
        services: the host's side of HTTP; the present host's unless given.
    """
    from lib_controlnet.api import routes  # the core must not pull in a web framework

    if services is None:
        from lib_controlnet.host.page.web import A1111Web

        services = A1111Web()
    routes.add(app, runtime, services)
