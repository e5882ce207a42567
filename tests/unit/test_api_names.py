"""Names of the routes and schemas in OpenAPI: generated clients carry them."""

from __future__ import annotations

from pathlib import Path

from api_names import ROUTES, SCHEMAS, read_routes
from fake_web import served


def test_openapi_names_of_every_route_and_schema(tmp_path: Path) -> None:
    with served(tmp_path) as (client, _runtime):
        schema = client.get("/openapi.json").json()
    assert read_routes(schema) == ROUTES
    assert all(path.startswith("/controlnet/") for path in schema["paths"])
    schemas = schema["components"]["schemas"]
    assert set(schemas) >= SCHEMAS
    assert schemas["Person"]["required"] == ["pose_keypoints_2d"]
    assert schemas["PoseData"]["required"] == ["canvas_width", "canvas_height"]
    queries = schema["paths"]["/controlnet/model_list"]["get"]["parameters"]
    assert [(q["name"], q["schema"]["default"]) for q in queries] == [("update", True)]
    assert not any("security" in op for ops in schema["paths"].values() for op in ops.values())
