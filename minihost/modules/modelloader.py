"""Finding and fetching of model files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from modules import shared, util

log = logging.getLogger(__name__)


def load_file_from_url(
    url: str,
    *,
    model_dir: str,
    progress: bool = True,
    file_name: str | None = None,
    hash_prefix: str | None = None,
) -> str:
    """Download a file into `model_dir` unless it is there, and return its path."""
    from torch.hub import download_url_to_file

    Path(model_dir).mkdir(parents=True, exist_ok=True)
    target = Path(model_dir).absolute() / (file_name or Path(urlparse(url).path).name)
    if not target.exists():
        log.info("downloading %s to %s", url, target)
        download_url_to_file(url, str(target), progress=progress, hash_prefix=hash_prefix)
    return str(target)


def load_models(
    model_path: str,
    model_url: str | None = None,
    command_path: str | None = None,
    ext_filter: list[str] | None = None,
    download_name: str | None = None,
    ext_blacklist: list[str] | None = None,
) -> list[str]:
    """Paths of model files below the given folders, each once."""
    found: dict[str, None] = {}
    for place in (command_path, model_path):
        for path in util.walk_files(place, ext_filter) if place else []:
            if not any(path.endswith(ending) for ending in ext_blacklist or []):
                found[path] = None
    if model_url is not None and not found:
        found[load_file_from_url(model_url, model_dir=model_path, file_name=download_name)] = None
    return list(found)


def friendly_name(file: str) -> str:
    """File name without folder and ending."""
    return Path(urlparse(file).path if "http" in file else file).stem


def load_upscalers() -> None:
    """Fill `shared.sd_upscalers` with what all upscaler classes offer, `None` first."""
    from modules.upscaler import Upscaler

    known: dict[str, Any] = {}
    for cls in _subclasses(Upscaler):
        for data in cls().scalers:
            known.setdefault(data.name, data)
    shared.sd_upscalers = sorted(known.values(), key=lambda x: (x.name != "None", x.name.lower()))


def _subclasses(cls: type) -> list[type]:
    direct = cls.__subclasses__()
    return [*direct, *(sub for c in direct for sub in _subclasses(c))]
