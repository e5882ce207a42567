"""Control models that come into the folder of a running server for a test of its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import support

from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.families.base import ControlFamily


@contextmanager
def file_of_ours(webui: Any, stem: str, write: Callable[[Path], object]) -> Iterator[str]:
    """A control model in the folder of our own server's models; gives its stem."""
    if not webui.is_ours:
        pytest.skip("the models folder of a foreign server is not ours to fill")
    path = webui.log_file.parent / "models" / "ControlNet" / f"{stem}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    webui.get("/controlnet/model_list")
    try:
        yield stem
    finally:
        path.unlink()
        webui.get("/controlnet/model_list")


def network_of(family: ControlFamily) -> Callable[[Path], object]:
    """Writes a small model of a family for the demo checkpoint."""
    unet = support.tiny_unet("demo")
    network = family.tiny(BaseUNet(unet, describe_unet(unet), "demo", "demo"))
    return partial(support.save_controlnet, network=network)
