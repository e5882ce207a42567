"""Small model files for the command line tools, and a way to run it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import tiny_controlnet, tiny_unet
from torch import Tensor

from lib_controlnet.tools.__main__ import main

UNET = "model.diffusion_model."


@lru_cache
def _control(kind: str) -> Mapping[str, Tensor]:
    return dict(tiny_controlnet(kind).module.state_dict())


@lru_cache
def _unet(kind: str, seed: int) -> Mapping[str, Tensor]:
    return dict(tiny_unet(kind, seed).state_dict())


def control_file(
    folder: Path,
    kind: str = "SD1",
    dtype: torch.dtype = torch.float32,
    name: str = "control.safetensors",
    metadata: Mapping[str, str] | None = None,
    **extra: Tensor,
) -> Path:
    """A random ControlNet for `tiny_unet(kind)`, with further tensors."""
    tensors = {key: value.to(dtype) for key, value in _control(kind).items()} | extra
    save_file(tensors, folder / name, metadata=dict(metadata or {}))
    return folder / name


def base_file(folder: Path, kind: str = "SD1", seed: int = 0, **changes: object) -> Path:
    """A checkpoint with `tiny_unet(kind, seed)` and a few tensors of other parts."""
    path = folder / f"base-{kind}-{seed}.safetensors"
    weights = tiny_unet(kind, seed, **changes).state_dict() if changes else _unet(kind, seed)
    tensors = {UNET + name: value for name, value in weights.items()}
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.ones(4, 4, 3, 3)
    save_file(tensors, path)
    return path


def metadata(path: Path) -> Mapping[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def same_tensors(first: Path | Mapping[str, Tensor], second: Path | Mapping[str, Tensor]) -> bool:
    """Equal names, dtypes, shapes and bits."""
    one, two = (load_file(x) if isinstance(x, Path) else x for x in (first, second))
    return one.keys() == two.keys() and all(
        one[k].dtype is two[k].dtype and torch.equal(one[k], two[k]) for k in one
    )


def leftovers(folder: Path) -> list[str]:
    """Files that a command began and did not finish."""
    return [path.name for path in folder.rglob("*.part")]


class Tools:
    """Runs commands in this process and keeps what they say."""

    def __init__(self, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> None:
        self._capsys = capsys
        self._caplog = caplog
        caplog.set_level(logging.INFO, "lib_controlnet.tools")

    def __call__(self, *words: object) -> int:
        """Run a command; the exit status."""
        self._caplog.clear()
        return main([str(word) for word in words])

    @property
    def said(self) -> str:
        """What the last command logged."""
        return self._caplog.text

    def printed(self) -> str:
        """What commands wrote to standard output since the last call."""
        return self._capsys.readouterr().out


@pytest.fixture
def tools(capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> Tools:
    return Tools(capsys, caplog)
