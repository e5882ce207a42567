"""The host's side of HTTP: who may call, how pictures are encoded, what may be fetched."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping

from modules import scripts, shared
from modules.api.api import decode_base64_to_image, encode_pil_to_base64
from PIL import Image

from lib_controlnet.host import clients, pictures
from lib_controlnet.host.page import settings
from lib_controlnet.host.runtime import RUNTIME_ATTRIBUTE

log = logging.getLogger(__name__)


class A1111Web:
    """Answers `lib_controlnet.api.WebServices` for A1111."""

    def credentials(self) -> Mapping[str, str]:
        """User -> password of `--api-auth user:password[,user:password]`."""
        listed = getattr(shared.cmd_opts, "api_auth", None) or ""
        pairs = (entry.partition(":") for entry in listed.split(",") if entry)
        return {user: password for user, _, password in pairs}

    def serves_api(self) -> bool:
        """Whether the host was started with `--api`, or without a page."""
        return bool(shared.cmd_opts.api or shared.cmd_opts.nowebui)

    def is_shared(self) -> bool:
        """Whether people reach the host who may not manage its extensions (`--listen` alone)."""
        return settings.is_shared()

    def slots(self, is_img2img: bool) -> int:
        """Units that the host copies from a request: as many as the panel was built with."""
        runner = scripts.scripts_img2img if is_img2img else scripts.scripts_txt2img
        own = [s for s in runner.alwayson_scripts if hasattr(s, RUNTIME_ATTRIBUTE)]
        return max((script.args_to - script.args_from for script in own), default=0)

    def check_settings(self, asked: Mapping[str, object]) -> None:
        """Refuse settings that a request may not set, or not so.

        Raises:
            ControlNetError: one of them.
        """
        settings.check_asked(asked, lambda key: getattr(shared.opts, key, None))
        folder = asked.get(pictures.MAPS_FOLDER)
        if folder is not None and folder != getattr(shared.opts, pictures.MAPS_FOLDER, None):
            pictures.check_maps_folder(str(folder))

    def public(self, sentence: str) -> str:
        """A sentence as clients may read it: without folders."""
        return clients.public(sentence)

    def encode(self, image: Image.Image) -> str:
        """Base64 text in the format of the user's samples, PNG where that cannot hold it."""
        try:
            return encode_pil_to_base64(image).decode("ascii")
        except Exception as error:  # Pillow's many kinds, and the host's own HTTPException
            log.info("a %s picture is sent as PNG: %s", image.mode, error)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode("ascii")

    def fetch(self, url: str) -> Image.Image:
        """Load a picture by URL under the host's own rules.

        Raises:
            OSError: the settings forbid it, or it cannot be loaded.
        """
        try:
            return decode_base64_to_image(url)
        except Exception as error:  # the host raises HTTPException, requests its own kinds
            raise OSError(getattr(error, "detail", None) or str(error)) from error
