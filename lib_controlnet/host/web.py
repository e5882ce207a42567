"""The host's side of HTTP: who may call, how pictures are encoded, what may be fetched."""

from __future__ import annotations

from collections.abc import Mapping

from modules import shared
from modules.api.api import decode_base64_to_image, encode_pil_to_base64
from PIL import Image


class A1111Web:
    """Answers `lib_controlnet.api.WebServices` for A1111."""

    def credentials(self) -> Mapping[str, str]:
        """User -> password of `--api-auth user:password[,user:password]`."""
        listed = getattr(shared.cmd_opts, "api_auth", None) or ""
        pairs = (entry.partition(":") for entry in listed.split(",") if entry)
        return {user: password for user, _, password in pairs}

    def encode(self, image: Image.Image) -> str:
        """Base64 text in the format of the user's samples."""
        return encode_pil_to_base64(image).decode("ascii")

    def fetch(self, url: str) -> Image.Image:
        """Load a picture by URL under the host's own rules.

        Raises:
            OSError: the settings forbid it, or it cannot be loaded.
        """
        try:
            return decode_base64_to_image(url)
        except Exception as error:  # the host raises HTTPException, requests its own kinds
            raise OSError(getattr(error, "detail", None) or str(error)) from error
