"""A control model file as networks see it: one set of names, whatever container and layout.

Also the few facts about a model that its tensors do not carry, from what lies beside the file.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lib_controlnet.enums import truth
from lib_controlnet.files.containers import open_container
from lib_controlnet.files.hash_store import HASH_DIGITS
from lib_controlnet.files.layouts import DIFFUSERS_MARKS, normalise
from lib_controlnet.files.signatures import Signature, classify_names

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lib_controlnet.enums import truth
from lib_controlnet.files.containers import Device, TensorFile

log = logging.getLogger(__name__)

BESIDE_LIMIT: Final = 2**20
"""Bytes of the longest YAML or JSON beside a model that is read."""

SHUFFLE: Final = "shuffle"
PUBLISHED_WORDS: Final = frozenset(
    {
        *("control", "controlnet", "controlnet11models", "lllyasviel", "comfyanonymous", "diff"),
        *("v1", "v11", "v11e", "v1p1", "e", "sd", "sd1", "sd15", "fp16", "fp32", "bf16", "pruned"),
        *("lora", "rank128"),
    }
)
"""Words, beside numbers and hashes, of which published names of the shuffle model are made."""

PRECISIONS: Final[Mapping[str, str]] = {
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "float64": "fp64",
}
"""torch's names of precisions, and those that names of files have."""

GENERIC_STEMS: Final = ("diffusion_pytorch_model", "pytorch_model", "model")
"""File stems of model repositories, where only the folder says which model it is."""


class Checkpoint:
    """A model file with one set of names, whatever its container, prefixes and layout.

    Attributes:
        path: the file.
        diffusers: it was saved by diffusers; the names here are the original (LDM) ones.
        notes: what was concluded from the file's name, for users.
    """

    def __init__(self, path: Path, file: TensorFile) -> None:
        self.path = path
        self.notes: list[str] = []
        self._file = file
        self._names = normalise(file.infos)
        self.diffusers = any(name.endswith(DIFFUSERS_MARKS) for name in self._names.values())

    @property
    def name(self) -> str:
        """File stem, as the user knows the model."""
        return self.path.stem

    @property
    def keys(self) -> tuple[str, ...]:
        """Normalised names of all tensors that belong to the control model."""
        return tuple(self._names)

    @property
    def metadata(self) -> Mapping[str, str]:
        """Free text that trainers put in safetensors headers."""
        return self._file.metadata

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._file.infos[self._names[key]].shape

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors by normalised name."""
        return {key: self.shape(key) for key in self._names}

    @cached_property
    def kind(self) -> Signature | None:
        """The kind of the file, told by names and shapes; every family asks for it."""
        return classify_names(self.keys, self.shapes)

    def dtype(self, key: str) -> torch.dtype:
        """Precision in which the file keeps a tensor."""
        return self._file.infos[self._names[key]].dtype

    @cached_property
    def precision(self) -> str:
        """In which most of its bytes are kept, as files are named: "fp16"; "" without any."""
        held: Counter[str] = Counter()
        for old in self._names.values():
            info = self._file.infos[old]
            held[str(info.dtype).removeprefix("torch.")] += info.nbytes
        name = held.most_common(1)[0][0] if held else ""
        return PRECISIONS.get(name, "fp8" if name.startswith("float8") else name)

    def tensor(self, key: str, dtype: torch.dtype | None = None, device: Device = "cpu") -> Tensor:
        """Read one tensor."""
        return next(self.tensors([key], dtype, device))[1]

    def tensors(
        self,
        keys: Iterable[str] | None = None,
        dtype: torch.dtype | None = None,
        device: Device = "cpu",
    ) -> Iterator[tuple[str, Tensor]]:
        """Read tensors in the order of the file, straight to their precision and device.

        Args:
            keys: normalised names; None for all.
            dtype: precision of floating point tensors; None keeps the file's.
        """
        wanted = {self._names[key]: key for key in (self._names if keys is None else keys)}
        for old, tensor in self._file.read(wanted, dtype, device):
            yield wanted[old], tensor

    @cached_property
    def config(self) -> Mapping[str, object]:
        """The diffusers `config.json` that belongs to this file; empty without one."""
        places = [self.path.with_suffix(".json")]
        if self.path.stem.startswith("diffusion_pytorch_model"):
            places.append(self.path.with_name("config.json"))
        for place in places:
            text = _text_beside(place)
            if text is not None:
                try:
                    content = json.loads(text)
                except (ValueError, RecursionError) as error:
                    log.warning("%s cannot be read and is ignored: %s", place, error)
                    continue
                return content if isinstance(content, dict) else {}
        return {}

    def flag(self, key: str) -> bool | None:
        """What the file's metadata, or else the YAML beside it, says of a matter; None if nothing.

        Args:
            key: a name in lower case.
        """
        if key in self.metadata:
            return bool(truth(str(self.metadata[key])))
        return _yaml_flag(self.path.with_suffix(".yaml"), key)

    @cached_property
    def global_average_pooling(self) -> bool:
        """Whether residuals are averaged over the picture (shuffle); no tensor tells.

        Asked in this order: the file's metadata, the YAML beside it, diffusers' configuration
        beside it, its name. What the name says is noted.
        """
        for key in ("global_average_pooling", "global_pool_conditions"):
            if key in self.metadata:
                return bool(truth(str(self.metadata[key])))
        from_yaml = _yaml_flag(self.path.with_suffix(".yaml"), "global_average_pooling")
        if from_yaml is not None:
            return from_yaml
        if "global_pool_conditions" in self.config:
            return self.config["global_pool_conditions"] is True
        words = next((name for name in self.given_names if SHUFFLE in name), None)
        if words is None:
            return False
        published = all(word in PUBLISHED_WORDS or _is_number(word) for word in words - {SHUFFLE})
        how = (
            "taken for the published shuffle model by its name, so its residuals are averaged "
            "over the picture"
            if published
            else "its name speaks of shuffle, but it is not a published one, so its residuals are "
            "not averaged over the picture"
        )
        note = (
            f"{self.path.name}: {how}; put a YAML with global_average_pooling: true or false "
            "beside it to decide"
        )
        log.warning(note)
        self.notes.append(note)
        return published

    @property
    def told_names(self) -> list[str]:
        """Names that people know the model by.

        That is the file's own; a repository's file is called like all others, its folders tell.
        """
        if self.path.stem.lower().split(".", maxsplit=1)[0] in GENERIC_STEMS:
            return [folder.name for folder in self.path.parents[:2]]
        return [self.path.stem]

    @property
    def given_names(self) -> list[frozenset[str]]:
        """Lower-case words of each of `told_names`."""
        return [frozenset(re.findall(r"[a-z0-9]+", name.lower())) for name in self.told_names]


def _is_number(word: str) -> bool:
    return word.isdigit() or (len(word) == HASH_DIGITS and set(word) <= set("0123456789abcdef"))


def _yaml_flag(path: Path, key: str) -> bool | None:
    """A true-or-false entry anywhere in a YAML file; None where it is not given.

    Read line by line: these files name classes to construct, which nobody wants, and the core
    needs no YAML package this way.
    """
    for line in (_text_beside(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() == key:
            word = value.partition("#")[0].strip()
            if word and (found := truth(word)) is not None:
                return found
    return None


def _text_beside(path: Path) -> str | None:
    """The text of a file beside a model; None where there is none, or none that can be read."""
    if not os.path.isfile(path):  # noqa: PTH113 - never raises, whatever the path is
        return None
    try:
        with path.open("rb") as stream:
            text = stream.read(BESIDE_LIMIT + 1)
    except OSError as error:
        log.warning("%s cannot be read and is ignored: %s", path, error)
        return None
    if len(text) > BESIDE_LIMIT:
        log.warning("%s is ignored: it is longer than %d bytes", path, BESIDE_LIMIT)
        return None
    return text.decode("utf-8", errors="replace")


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a control model file.

    Raises:
        ModelNotFoundError: there is no such file.
        BrokenCheckpointError: it is damaged, empty, not a model file, or unsafe to load.
    """
    return Checkpoint(Path(path), open_container(Path(path)))
