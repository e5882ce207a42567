"""The embedded host shaped as a member of the Forge family, in this process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sdxl_models
from host.conftest import calls, plain, webui  # noqa: F401 (fixtures over the one called `host`)

SHAPES = ("forge", "reforge")
ASSETS = Path(__file__).resolve().parents[2] / "minihost" / "assets"
CHECKPOINT = ("--ckpt", str(ASSETS / "demo.safetensors"))
CONTROLS = ("control_demo_*", "control_lora_demo_canny", "t2iadapter_demo_canny", "union_demo")


def put_models(data: Path) -> None:
    """Control models of several families, and further checkpoints, into a host's folder of data."""
    from matrix import checkpoints

    folders = {name: data / "models" / name for name in ("ControlNet", "Stable-diffusion")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for pattern in CONTROLS:
        for path in ASSETS.glob(f"{pattern}.safetensors"):
            shutil.copyfile(path, folders["ControlNet"] / path.name)
    checkpoints.write(folders["Stable-diffusion"])
    clip = f"{checkpoints.BASE}-clip"
    shutil.copytree(checkpoints.ASSETS / clip, folders["Stable-diffusion"] / clip)
    sdxl_models.write(folders["Stable-diffusion"], [sdxl_models.BASE])
    sdxl_models.write_control(folders["ControlNet"])


@pytest.fixture(scope="session")
def family_host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A started `embedded.Host` with this repository as its extension; its shape is `like`'s."""
    import embedded

    data = tmp_path_factory.mktemp("forge")
    put_models(data)
    flags = ["--like", SHAPES[0], "--disable-console-progressbars", *CHECKPOINT]
    return embedded.start(data, flags)


@pytest.fixture(scope="module", params=SHAPES)
def like(request: pytest.FixtureRequest, family_host: Any) -> Iterator[str]:
    """Each member in turn; a checkpoint is loaded in its shape."""
    from miniforge import shapes
    from modules import sd_models

    shapes.use(request.param)
    sd_models.reload_model_weights(forced_reload=True)
    yield request.param
    shapes.use(SHAPES[0])


@pytest.fixture(scope="module")
def host(like: str, family_host: Any) -> Any:
    """The host in the shape of `like`."""
    return family_host


@pytest.fixture(scope="session")
def a1111(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The embedded host as it is, in a process of its own: what pictures are compared with."""
    from servers import embedded_host

    data: Path = tmp_path_factory.mktemp("a1111")
    put_models(data)
    with embedded_host(data, "--nowebui", *CHECKPOINT) as server:
        yield server
