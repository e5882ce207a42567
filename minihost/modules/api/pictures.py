"""Pictures to and from base64, and fetching of pictures by address."""

from __future__ import annotations

import base64
import io
import ipaddress
import socket
from io import BytesIO
from typing import Any
from urllib.parse import urlparse

import requests
from fastapi.exceptions import HTTPException
from modules import images
from modules.shared import opts
from PIL import Image, PngImagePlugin

_FETCH_SECONDS = 30
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286


def verify_url(url: str) -> bool:
    """Whether the host part of an address resolves to global addresses only."""
    try:
        netloc = urlparse(url).netloc
        found = socket.getaddrinfo(netloc, None)
        return all(ipaddress.ip_address(entry[4][0]).is_global for entry in found)
    except (OSError, ValueError):
        return False


def _fetch(url: str) -> Any:
    if not opts.api_enable_requests:
        raise HTTPException(status_code=500, detail="Requests not allowed")
    if opts.api_forbid_local_requests and not verify_url(url):
        raise HTTPException(status_code=500, detail="Request to local resource not allowed")
    headers = {"user-agent": opts.api_useragent} if opts.api_useragent else {}
    response = requests.get(url, timeout=_FETCH_SECONDS, headers=headers)
    try:
        return images.read(BytesIO(response.content))
    except Exception as e:
        raise HTTPException(status_code=500, detail="Invalid image url") from e


def decode_base64_to_image(encoding: str) -> Any:
    """Open a picture given as base64, as a data URL or by its address.

    Raises:
        HTTPException: 500 if that is not possible or not allowed.
    """
    if encoding.startswith(("http://", "https://")):
        return _fetch(encoding)
    if encoding.startswith("data:image/"):
        encoding = encoding.split(";")[1].split(",")[1]
    try:
        return images.read(BytesIO(base64.b64decode(encoding)))
    except Exception as e:
        raise HTTPException(status_code=500, detail="Invalid encoded image") from e


def encode_pil_to_base64(image: Any) -> bytes:
    """Encode a picture in the format of the setting `samples_format`; strings pass through."""
    with io.BytesIO() as output:
        if isinstance(image, str):
            return image
        kind = opts.samples_format.lower()
        if kind == "png":
            info = PngImagePlugin.PngInfo()
            texts = {k: v for k, v in image.info.items() if isinstance(v, str)}
            for key, value in texts.items():
                info.add_text(key, value)
            image.save(
                output, format="PNG", pnginfo=info if texts else None, quality=opts.jpeg_quality
            )
        elif kind in ("jpg", "jpeg", "webp"):
            if image.mode in ("RGBA", "P"):
                image = image.convert("RGB")
            image.save(
                output,
                format="WEBP" if kind == "webp" else "JPEG",
                exif=_comment(image.info.get("parameters")),
                quality=opts.jpeg_quality,
                **({"lossless": opts.webp_lossless} if kind == "webp" else {}),
            )
        else:
            raise HTTPException(status_code=500, detail="Invalid image format")
        return base64.b64encode(output.getvalue())


def _comment(parameters: str | None) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + (parameters or "").encode("utf-16-be")
    return exif.tobytes()
