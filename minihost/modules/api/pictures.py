"""Pictures to and from base64, and fetching of pictures by address."""

from __future__ import annotations

import base64
import io
import ipaddress
import socket
from typing import Any
from urllib.parse import urlparse

import requests
from fastapi.exceptions import HTTPException
from modules import images
from modules.shared import opts

_FETCH_SECONDS = 30


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
    if not verify_url(url):
        raise HTTPException(status_code=500, detail="Request to local resource not allowed")
    response = requests.get(url, timeout=_FETCH_SECONDS)
    try:
        return images.read(io.BytesIO(response.content))
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
        return images.read(io.BytesIO(base64.b64decode(encoding)))
    except Exception as e:
        raise HTTPException(status_code=500, detail="Invalid encoded image") from e


def encode_pil_to_base64(image: Any) -> bytes:
    """Encode a picture in the format of the setting `samples_format`; strings pass through."""
    if isinstance(image, str):
        return image
    kind = opts.samples_format.lower()
    if kind not in ("png", "jpg", "jpeg", "webp"):
        raise HTTPException(status_code=500, detail="Invalid image format")
    texts = {key: value for key, value in image.info.items() if isinstance(value, str)}
    with io.BytesIO() as output:
        geninfo = texts.get("parameters")
        images.save_image_with_geninfo(image, geninfo, output, f".{kind}", texts)
        return base64.b64encode(output.getvalue())
