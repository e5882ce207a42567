"""Names of the routes and schemas in OpenAPI: generated clients carry them."""

from __future__ import annotations

from pathlib import Path

from fake_web import served


def test_openapi_names_of_every_route_and_schema(tmp_path: Path) -> None:
    with served(tmp_path) as (client, _runtime):
        schema = client.get("/openapi.json").json()
    found = {
        (path, method, operation["operationId"])
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    }
    wanted = {
        (f"/controlnet/{name}", method, f"{name}_controlnet_{name}_{method}")
        for name, method in {
            **dict.fromkeys(("version", "model_list", "module_list", "control_types"), "get"),
            **{"settings": "get", "detect": "post", "render_openpose_json": "post"},
            "downloads": "get",
        }.items()
    }
    wanted |= {
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
    }
    assert found == wanted
    schemas = schema["components"]["schemas"]
    assert {"Body_detect_controlnet_detect_post", "PoseData", "Person"} <= set(schemas)
    assert schemas["Person"]["required"] == ["pose_keypoints_2d"]
    assert schemas["PoseData"]["required"] == ["canvas_width", "canvas_height"]
    queries = schema["paths"]["/controlnet/model_list"]["get"]["parameters"]
    assert [(q["name"], q["schema"]["default"]) for q in queries] == [("update", True)]
    assert not any("security" in op for ops in schema["paths"].values() for op in ops.values())
