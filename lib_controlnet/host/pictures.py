"""Reading pictures that requests point to, and saving detected maps, by the host's rules."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from modules import images, paths, shared
from PIL import Image
from safetensors.torch import save_file

from lib_controlnet.errors import ImageError, quote
from lib_controlnet.files.paths import PATH_FAULTS, open_path, parse_path
from lib_controlnet.prepare.inputs import DecodedFiles, PictureSource
from lib_controlnet.settings import BY_KEY, DEFAULTS
from lib_controlnet.units.batch import BatchSource
from lib_controlnet.units.unit import NO_MODULE

if TYPE_CHECKING:
    from lib_controlnet.engine.ports import Host
    from lib_controlnet.engine.prepared import PreparedUnit
    from lib_controlnet.host.adapter import WebUIHost

log = logging.getLogger(__name__)

MAPS_FOLDER: Final = "control_net_detectedmap_dir"
EMBEDDINGS: Final = "controlnet_embedding_autosaving"
FETCHED: Final = 4
"""Pictures from other servers that are kept while a generation is prepared."""
OPENED_FOLDER: Final = "control_net_allowed_image_folder"
_HOST_OUTPUTS: Final = str(Path(paths.data_path) / "outputs")


def source(host: Host, decoded: DecodedFiles | None = None) -> PictureSource:
    """How units may name pictures: no local paths unless a folder was opened for them.

    Args:
        host: whose settings say so.
        decoded: files that need not be decoded again.
    """
    folder = parse_path(host.option(OPENED_FOLDER))
    return PictureSource(
        allow_paths=[Path(folder)] if folder else False,
        # What several units name is loaded once, but anew for every generation.
        fetch=lru_cache(FETCHED)(fetch) if host.option("api_enable_requests") else None,
        ignore_masks=bool(host.option("controlnet_ignore_noninpaint_mask")),
        decoded=decoded,
    )


def batch_source(p: Any, host: WebUIHost) -> BatchSource:
    """Where pictures may come from; requests over HTTP name no folder unless one was opened."""
    single = source(host)
    if getattr(p, "is_api", False):
        refusal = (
            "send the pictures as a list of base64, or open a folder in the settings (ControlNet: "
            f"{BY_KEY[OPENED_FOLDER].label})"
        )
        return BatchSource(single.allow_paths, single.allow_paths, single.fetch, refusal)
    hidden = bool(host.flag("hide_ui_dir_config"))
    refusal = "the WebUI was started with --hide-ui-dir-config"
    return BatchSource(not hidden, single.allow_paths, single.fetch, refusal)


def fetch(url: str) -> Image.Image:
    """Load a picture from an http(s) URL with the host's own rules for addresses.

    Raises:
        ImageError: the host refuses the address or the answer is no picture.
    """
    from modules.api.api import decode_base64_to_image

    try:
        return decode_base64_to_image(url)
    except Exception as error:
        reason = getattr(error, "detail", None) or error
        msg = f"the picture cannot be loaded from {url}: {reason}"
        raise ImageError(msg) from error


def autosave(p: Any, prepared: PreparedUnit, host: Host) -> None:
    """Write a unit's detected map and its embeddings to disk if the user wants that.

    Both are off by default.

    Raises:
        ImageError: the request asks for a folder that is not open to it.
        OSError: the files cannot be written.
    """
    unit = prepared.unit
    saves_maps = bool(host.option("control_net_detectmap_autosaving"))
    saves_embeddings = bool(host.option(EMBEDDINGS)) and bool(prepared.pictures)
    if unit.module == NO_MODULE or not (saves_maps or saves_embeddings):
        return
    text = str(host.option(MAPS_FOLDER))
    if MAPS_FOLDER in p.override_settings:
        check_maps_folder(text, p.outpath_samples)
    target = _maps_folder(text, p.outpath_samples) / unit.module
    target.mkdir(parents=True, exist_ok=True)
    for placed in (prepared.pictures if prepared.embeddings else prepared.maps) * saves_maps:
        picture = Image.fromarray(placed[:, :, :3])
        images.save_image(picture, str(target), unit.module, extension="png")
    for embedding in (one for frame in prepared.embeddings * saves_embeddings for one in frame):
        save_file(
            dict(embedding.tensors), target / f"{unit.module}-{embedding.digest[:16]}.safetensors"
        )


def check_maps_folder(text: str, outputs: object = None) -> None:
    """Refuse a folder of detected maps that a request may not choose.

    Args:
        text: as for the setting.
        outputs: where the request's pictures are saved; the host's folder unless given.

    Raises:
        ImageError: it is not below a folder of the host's outputs.
    """
    try:
        folder = open_path(_maps_folder(text, outputs), _output_folders(outputs))
    except PATH_FAULTS:
        folder = None
    if folder is None:
        msg = (
            f"the setting {MAPS_FOLDER} is {quote(text)}: requests may only name a folder below "
            "those where the WebUI saves pictures; others are set under Settings > ControlNet"
        )
        raise ImageError(msg)


def _maps_folder(text: str, outputs: object) -> Path:
    folder = Path(parse_path(text) or str(DEFAULTS[MAPS_FOLDER]))
    if folder.is_absolute():
        return folder
    return Path(str(shared.opts.data.get("outdir_samples") or outputs or _HOST_OUTPUTS)) / folder


def _output_folders(outputs: object) -> list[Path]:
    keys = [key for key in shared.opts.data if key.startswith("outdir_")]
    folders = [shared.opts.data[key] for key in keys]
    return [Path(str(folder)) for folder in (*folders, outputs, _HOST_OUTPUTS) if folder]
