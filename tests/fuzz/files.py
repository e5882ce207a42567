"""Files that users bring, each with what reads it: damaged, it is refused in a sentence or works.

A kind makes a folder of good files and uses it as the extension does; every one of its files can
be damaged.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from random_weights import random_state, read_keys
from safetensors.torch import save
from support import tiny_controlnet, tiny_unet
from torch import nn
from weights import weights_folder

from annotator.store import STORE
from annotator.weights import Options
from lib_controlnet.detect import listing
from lib_controlnet.detect.preprocess import run_preprocessor
from lib_controlnet.engine.unet import BaseUNet, describe_unet
from lib_controlnet.families import load_network
from lib_controlnet.files.catalog import EXTENSIONS, Catalog, short_hash
from lib_controlnet.files.checkpoint import open_checkpoint
from lib_controlnet.files.hash_store import HashStore
from lib_controlnet.tools import check, convert, describe
from lib_controlnet.train import config, dataset

SOUND: Final = "sound_canny.safetensors"
"""A good control model beside each damaged one: it must stay in every list."""
HASHES: Final = "hashes.json"
NARROW: Final = {
    **{"model_channels": 32, "channel_mult": (1, 2), "attention_resolutions": (2,)},
    **{"context_dim": 32, "num_heads": 4},
}
PICTURE: Final = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        files: contents by name, SOUND among them where a list is asked; a name may have a folder.
        use: reads the files of a folder as the extension does.
    """

    files: Callable[[], Mapping[str, bytes]]
    use: Callable[[Path], object]


@lru_cache(maxsize=1)
def unet() -> nn.Module:
    """A U-Net as narrow as group norms allow."""
    return tiny_unet("demo", seed=2, **NARROW)


@lru_cache(maxsize=1)
def base() -> BaseUNet:
    """The checkpoint that the control models fit."""
    return BaseUNet(unet(), describe_unet(unet()), "narrow", "narrow")


# ---- control models: as the lists show them, as the tools and a generation read them


@lru_cache(maxsize=1)
def _tensors() -> Mapping[str, torch.Tensor]:
    network = tiny_controlnet("demo", seed=6, unet=unet())
    return {name: tensor.half() for name, tensor in network.module.state_dict().items()}


@lru_cache(maxsize=1)
def good_safetensors() -> bytes:
    """A control model in the container that most come in."""
    return save(dict(_tensors()), {"control_type": "Canny", "preprocessor": "canny"})


def _control() -> Mapping[str, bytes]:
    yaml = b"model:\n  params:\n    global_average_pooling: true\n"
    beside = {"mine.yaml": yaml, "mine.json": b'{"global_pool_conditions": true}'}
    return {"mine.safetensors": good_safetensors(), SOUND: good_safetensors(), **beside}


@cache
def good_torch(zipped: bool) -> bytes:
    """The same written by torch, in its present form or that of old."""
    made = io.BytesIO()
    torch.save({"state_dict": _tensors(), "epoch": 3}, made, _use_new_zipfile_serialization=zipped)
    return made.getvalue()


def _pickled(name: str, zipped: bool) -> Mapping[str, bytes]:
    return {name: good_torch(zipped), SOUND: good_safetensors()}


@lru_cache(maxsize=1)
def _diffusers() -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        old, new = Path(name, "old.safetensors"), Path(name, "new.safetensors")
        old.write_bytes(good_safetensors())
        convert.convert(old, new, None, "diffusers", False)
        tensors = new.read_bytes()
    settings = {"_class_name": "ControlNetModel", "global_pool_conditions": False}
    files = {"diffusion_pytorch_model.safetensors": tensors}
    files["config.json"] = json.dumps(settings).encode()
    return {**{f"mine/{name}": data for name, data in files.items()}, SOUND: good_safetensors()}


def _use_control(folder: Path) -> None:
    """List the folder, then read the damaged model in every way."""
    catalog = Catalog([folder], hashes=HashStore(folder / HASHES))
    lists = listing.describe_control_types(catalog)
    canny = lists["Canny"]["model_list"]
    assert any(name.startswith(Path(SOUND).stem) for name in canny), "the sound model is missing"
    path = next(p for p in folder.rglob("*") if p.suffix in EXTENSIONS and p.name != SOUND)
    assert isinstance(open_checkpoint(path).global_average_pooling, bool)
    describe.describe(path)
    check.check(path)
    load_network(path, base(), torch.float32, "cpu")


def _use_hashes(folder: Path) -> None:
    """The file of remembered hashes decides nothing that a listing shows."""
    remembered = Catalog([folder], hashes=HashStore(folder / HASHES))
    assert remembered.names() == [f"{Path(SOUND).stem} [{short_hash(folder / SOUND)}]"]


def _hashes() -> Mapping[str, bytes]:
    listed = {f"/models/{i}.safetensors": [10**18 + i, 5, "0123abcd"] for i in range(3)}
    return {HASHES: json.dumps(listed).encode(), SOUND: good_safetensors()}


# ---- weight files of preprocessors


def _weights() -> Mapping[str, bytes]:
    made = io.BytesIO()
    torch.save(random_state(read_keys("teed")), made)
    return {"7_model.pth": made.getvalue()}


@contextmanager
def _only(folder: Path) -> Iterator[None]:
    """Weight files from a folder; what is not there is not looked for elsewhere."""
    before, STORE.options = STORE.options, lambda: Options(offline=True)
    try:
        with weights_folder(folder):
            yield
    finally:
        STORE.options = before


def _use_weights(folder: Path) -> None:
    with _only(folder):
        found = run_preprocessor("softedge_teed", PICTURE, 64).image
    assert found.shape == PICTURE.shape


# ---- what a training reads


def _training() -> Mapping[str, bytes]:
    given = {"base": "a", "control": "b", "data": "c", "out": "d", "lr": 1e-5, "steps": 7}
    lines = [{"source": f"s/{i}.png", "target": f"t/{i}.png", "prompt": "red"} for i in range(3)]
    return {
        "settings.json": json.dumps({**given, "unlock_decoder": True}).encode(),
        "settings.yaml": "\n".join(f"{k}: {v}" for k, v in given.items()).encode(),
        dataset.LINES: "\n".join(map(json.dumps, lines)).encode(),
        dataset.ABOUT: b'{"preprocessor": "canny", "resolution": 512}',
    }


def _use_training(folder: Path) -> None:
    items, faults = dataset.read_items(folder)
    assert all(isinstance(fault, str) for fault in faults)
    assert all(isinstance(part, str) for item in items for part in item)
    assert isinstance(dataset.about(folder), dict)
    for name in ("settings.json", "settings.yaml"):
        config.read_file(folder / name)


KINDS: Final[Mapping[str, Kind]] = {
    "control": Kind(_control, _use_control),
    "zip": Kind(lambda: _pickled("mine.pth", True), _use_control),
    "pickle": Kind(lambda: _pickled("mine.old.pth", False), _use_control),
    "diffusers": Kind(_diffusers, _use_control),
    "hashes": Kind(_hashes, _use_hashes),
    "weights": Kind(_weights, _use_weights),
    "training": Kind(_training, _use_training),
}
