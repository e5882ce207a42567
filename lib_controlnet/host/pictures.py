"""Reading pictures that requests point to, and saving detected maps, by the host's rules."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules import images, shared
from PIL import Image

from lib_controlnet.errors import ImageError
from lib_controlnet.inputs import PictureSource
from lib_controlnet.typed_paths import typed_path
from lib_controlnet.unit import NO_MODULE

if TYPE_CHECKING:
    from lib_controlnet.host.runtime import Runtime
    from lib_controlnet.session import PreparedUnit

log = logging.getLogger(__name__)


def source(runtime: Runtime) -> PictureSource:
    """How units may name pictures: no local paths unless a folder was opened for them."""
    folder = typed_path(runtime.option("control_net_allowed_image_folder", ""))
    return PictureSource(
        allow_paths=[Path(folder)] if folder else False,
        fetch=fetch if runtime.option("api_enable_requests", False) else None,
        ignore_masks=bool(runtime.option("controlnet_ignore_noninpaint_mask", False)),
    )


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


def autosave(p: Any, prepared: PreparedUnit, runtime: Runtime) -> None:
    """Write a unit's detected map to disk if the user wants that (off by default)."""
    unit = prepared.unit
    if not runtime.option("control_net_detectmap_autosaving", False) or unit.module == NO_MODULE:
        return
    folder = Path(str(runtime.option("control_net_detectedmap_dir", "detected_maps")))
    if not folder.is_absolute():
        outputs = shared.opts.data.get("outdir_samples") or p.outpath_samples
        folder = Path(str(outputs)) / folder
    target = folder / unit.module
    target.mkdir(parents=True, exist_ok=True)
    for placed in prepared.maps:
        picture = Image.fromarray(placed[:, :, :3])
        images.save_image(picture, str(target), unit.module, extension="png")
