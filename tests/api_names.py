"""Names of the routes in OpenAPI: generated clients carry them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

SCHEMAS: Final = frozenset({"Body_detect_controlnet_detect_post", "PoseData", "Person"})
"""Names of schemas that clients know."""

_LISTS: Final = (
    *("version", "model_list", "module_list", "control_types", "settings", "downloads"),
    "palettes",
)
ROUTES: Final = frozenset(
    [
        *((f"/controlnet/{name}", "get", f"{name}_controlnet_{name}_get") for name in _LISTS),
        *(
            (f"/controlnet/{name}", "post", f"{name}_controlnet_{name}_post")
            for name in ("detect", "render_openpose_json")
        ),
        *(
            (f"/controlnet/{route}", method, f"{name}_controlnet_{path}_{method}")
            for name, method, route, path in (
                ("list_published_models", "get", "published_models", "published_models"),
                ("start_download", "post", "downloads", "downloads"),
                ("stop_download", "post", "downloads/stop", "downloads_stop"),
                ("list_presets", "get", "presets", "presets"),
                ("get_preset", "get", "presets/{name}", "presets__name_"),
                ("put_preset", "put", "presets/{name}", "presets__name_"),
                ("delete_preset", "delete", "presets/{name}", "presets__name_"),
            )
        ),
    ]
)
"""Path, method and name of every route."""


def read_routes(schema: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Path, method and name of our routes in a server's description of itself."""
    return {
        (path, method, operation["operationId"])
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/controlnet/")
    }
