"""Stand-ins for the host and the runtime, for the routes in an application of their own."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from annotator.weights import Options
from lib_controlnet import api
from lib_controlnet.detect import preprocess
from lib_controlnet.detect.preprocess import Detection
from lib_controlnet.enums import BaseModel
from lib_controlnet.errors import ControlNetError
from lib_controlnet.families import FileFacts, Refusal, look_into
from lib_controlnet.files.catalog import Catalog
from lib_controlnet.files.downloads import Downloads
from lib_controlnet.presets.store import Presets
from lib_controlnet.settings import DEFAULTS


@dataclass
class FakeRuntime:
    """The runtime interface over real catalog and preprocessors."""

    catalog: Catalog
    calls: list[tuple] = field(default_factory=list)
    options: dict[str, object] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    decoded: None = None
    presets: Presets = field(default_factory=lambda: Presets(lambda: Path("no-presets")))
    downloads: Downloads = field(init=False)

    def __post_init__(self) -> None:
        self.downloads = Downloads(lambda: Options(offline=True), lambda _name: None)

    def base_kind(self) -> BaseModel:
        return BaseModel.SD1

    def unit_count(self) -> int:
        return 3

    def option(self, key: str) -> object:
        return self.options.get(key, DEFAULTS[key])

    def refresh_models(self) -> None:
        self.catalog.refresh()

    def facts(self, path: Path) -> FileFacts:
        return look_into(path, None)[0]

    def look_into(self, paths: Iterable[Path], patience: float = 0) -> frozenset[Path]:
        return frozenset()

    def refusals(self) -> Callable[[Path], Refusal | None]:
        return lambda path: self.refused.get(path.stem)

    def detect(
        self, module: str, image: np.ndarray, resolution: float, a: float, b: float
    ) -> Detection:
        self.calls.append((module, image.shape, resolution, a, b))
        return preprocess.run_preprocessor(module, image, resolution, (a, b))


@dataclass
class FakeWeb:
    """A host without a network, whose API is open or guarded."""

    users: dict[str, str] = field(default_factory=dict)
    api: bool = True
    shared: bool = False

    def credentials(self) -> dict[str, str]:
        return self.users

    def serves_api(self) -> bool:
        return self.api

    def is_shared(self) -> bool:
        return self.shared

    def slots(self, is_img2img: bool) -> int:
        return 2 if is_img2img else 3

    def check_settings(self, asked: Mapping[str, object]) -> None:
        if "forbidden" in asked:
            msg = "the setting forbidden cannot be set by requests"
            raise ControlNetError(msg)

    def public(self, sentence: str) -> str:
        return sentence.replace("/secret/", "")

    def encode(self, image: Image.Image) -> str:
        return encode(np.asarray(image))

    def fetch(self, url: str) -> Image.Image:
        msg = "Requests not allowed"
        raise OSError(msg)


def encode(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def square() -> str:
    """A 96 x 64 picture of a white square on black."""
    array = np.zeros((64, 96, 3), np.uint8)
    array[16:48, 24:72] = 255
    return encode(array)


@contextmanager
def served(
    folder: Path, web: FakeWeb | None = None, app: FastAPI | None = None, **options: object
) -> Iterator[tuple[TestClient, FakeRuntime]]:
    """A client of an app with our routes, over a folder of models."""
    presets = Presets(lambda: folder / "presets")
    runtime = FakeRuntime(Catalog([folder]), options=options, presets=presets)
    app = app or FastAPI()
    api.mount(app, runtime, web or FakeWeb())
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client, runtime
