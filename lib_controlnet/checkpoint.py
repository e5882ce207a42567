"""A control model file as networks see it: one set of names, whatever container and layout.

Also the few facts about a model that its tensors do not carry, from what lies beside the file.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lib_controlnet.containers import open_container
from lib_controlnet.layouts import is_diffusers, normalise

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lib_controlnet.containers import Device, TensorFile

log = logging.getLogger(__name__)

BESIDE_LIMIT: Final = 2**20
"""Bytes of the longest YAML or JSON beside a model that is read."""

GLOBAL_POOLING_STEMS: Final = frozenset(
    {
        "control_v11e_sd15_shuffle",
        "control_v11e_sd15_shuffle_fp16",
        "control_v11e_sd15_shuffle.fp16",
    }
)
"""Published files whose residuals are averaged over the picture, when nothing else says so."""


class Checkpoint:
    """A model file with one set of names, whatever its container, prefixes and layout.

    Attributes:
        path: the file.
        diffusers: it was saved by diffusers; the names here are the original (LDM) ones.
    """

    def __init__(self, path: Path, file: TensorFile) -> None:
        self.path = path
        self._file = file
        self._names = normalise(file.infos)
        self.diffusers = self._names.keys() != file.infos.keys() and _came_from_diffusers(
            self._names.values()
        )

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

    def dtype(self, key: str) -> torch.dtype:
        """Precision in which the file keeps a tensor."""
        return self._file.infos[self._names[key]].dtype

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

    @cached_property
    def global_average_pooling(self) -> bool:
        """Whether residuals are averaged over the picture (shuffle); no tensor tells.

        Asked in this order: the file's metadata, the YAML beside it, diffusers' configuration
        beside it, the table of published file names.
        """
        for key in ("global_average_pooling", "global_pool_conditions"):
            if key in self.metadata:
                return str(self.metadata[key]).strip().lower() in ("true", "1", "yes")
        from_yaml = _yaml_flag(self.path.with_suffix(".yaml"), "global_average_pooling")
        if from_yaml is not None:
            return from_yaml
        if "global_pool_conditions" in self.config:
            return self.config["global_pool_conditions"] is True
        if self.path.stem.lower() in GLOBAL_POOLING_STEMS:
            log.warning(
                "%s: taken for the published shuffle model by its name: residuals are averaged "
                "over the picture; put a YAML with global_average_pooling beside it to decide",
                self.path.name,
            )
            return True
        return False


def _came_from_diffusers(names: Iterable[str]) -> bool:
    return is_diffusers(re.sub(r"^(module\.|model\.|control_model\.)*", "", name) for name in names)


def _yaml_flag(path: Path, key: str) -> bool | None:
    """A true-or-false entry anywhere in a YAML file; None where it is not given.

    Read line by line: these files name classes to construct, which nobody wants, and the core
    needs no YAML package this way.
    """
    for line in (_text_beside(path) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() == key:
            word = value.partition("#")[0].strip().lower()
            if word in _YAML_WORDS:
                return _YAML_WORDS[word]
    return None


_YAML_WORDS: Final = {
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}


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
