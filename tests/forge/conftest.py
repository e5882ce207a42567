"""Members of the Forge family: the embedded host shaped as one, in this process, or a real one.

With `--webui-url URL` the tests that ask over HTTP run against that WebUI, whatever it is, and the
others are skipped. `python tests/matrix/prepare.py FOLDER` gives it the checkpoints, and the models
of `minihost/assets` belong into its `models/ControlNet`; what it lacks is skipped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sdxl_models
from host.conftest import calls, plain, webui  # noqa: F401 (fixtures over the one called `host`)
from servers import Server

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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests over HTTP meet each shape in turn, or the WebUI that is given."""
    if "web" in metafunc.fixturenames:
        shapes = ("given",) if metafunc.config.getoption("--webui-url") else SHAPES
        metafunc.parametrize("web", shapes, indirect=True, scope="module")


@pytest.fixture(scope="session")
def family_host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A started `embedded.Host` with this repository as its extension; its shape is `like`'s."""
    import embedded

    if request.config.getoption("--webui-url"):
        pytest.skip("looks into the process of the embedded host")
    data = tmp_path_factory.mktemp("forge")
    put_models(data)
    flags = ["--like", SHAPES[0], "--disable-console-progressbars", *CHECKPOINT]
    return embedded.start(data, flags)


@pytest.fixture(scope="module", params=SHAPES)
def like(request: pytest.FixtureRequest, family_host: Any) -> Iterator[str]:
    """Each member in turn; a checkpoint is loaded in its shape."""
    with shaped(request.param):
        yield request.param


@contextmanager
def shaped(name: str) -> Iterator[None]:
    """The embedded host in the shape of a member."""
    from miniforge import shapes
    from modules import sd_models

    shapes.use(name)
    sd_models.reload_model_weights(forced_reload=True)
    yield
    shapes.use(SHAPES[0])


@pytest.fixture(scope="session")
def served(family_host: Any) -> Iterator[Server]:
    """The embedded host over HTTP."""
    yield Server(family_host.serve())
    family_host.stop()


@pytest.fixture(scope="module")
def web(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A member over HTTP."""
    if request.param == "given":
        yield Server(request.config.getoption("--webui-url").rstrip("/"))
        return
    served = request.getfixturevalue("served")
    with shaped(request.param):
        yield served


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


@pytest.fixture(scope="module")
def more(web: Server) -> dict[str, Any]:
    """What requests need besides in a member that loads text encoders and VAE apart."""
    loads_apart = "forge_additional_modules" in web.get("/sdapi/v1/options")
    return {"hr_additional_modules": ["Use same choices"]} if loads_apart else {}
