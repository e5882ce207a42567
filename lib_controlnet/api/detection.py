"""What `/controlnet/detect` does: pictures through one preprocessor."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from lib_controlnet.detect import preprocess
from lib_controlnet.detect.sliders import find_misplaced
from lib_controlnet.errors import ControlNetError, ImageError
from lib_controlnet.limits import MAX_IMAGES, MAX_MERGED, MAX_TOGETHER
from lib_controlnet.pictures.decode import decode_image, decode_mask
from lib_controlnet.pictures.maps import join_mask
from lib_controlnet.pictures.transport import bytes_of_text
from lib_controlnet.units.unit import SLIDERS

if TYPE_CHECKING:
    from annotator.embedding import Embedding

log = logging.getLogger(__name__)

# Clients compare these texts.
NO_SUCH_MODULE: Final = "Module not available"
NOT_SUPPORTED: Final = "Module not supported"
NO_IMAGE: Final = "No image selected"
UNDECODABLE: Final = "Invalid encoded image"

UNSUPPORTED: Final = frozenset(
    {"clip_vision", "revision_clipvision", "revision_ignore_prompt", "ip-adapter-auto"}
)
"""Never detected over HTTP, under these names."""
RGB: Final = 3
"""Channels, and the place of a transparency behind them."""

Fetch = Callable[[str], Image.Image]
Encode = Callable[[Image.Image], str]


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        module: name or label of the preprocessor.
        images: pictures as text.
        masks: one per picture, where the preprocessor works on masks.
        resolution, a, b: its sliders; None and -1 stand for their defaults.
    """

    module: str | None
    images: Sequence[str]
    masks: Sequence[str]
    resolution: float | None
    a: float | None
    b: float | None

    @property
    def sliders(self) -> tuple[int, float, float]:
        """Resolution, first and second slider as numbers."""
        resolution, a, b = (
            -1 if number is None or not math.isfinite(number) else number
            for number in (self.resolution, self.a, self.b)
        )
        return int(resolution), a, b


class PixelBudget:
    """How many pixels a request may still use."""

    def __init__(self, pixels: int = MAX_TOGETHER) -> None:
        self.all = self.left = pixels

    def spend(self, picture: np.ndarray) -> np.ndarray:
        """The picture itself.

        Raises:
            ImageError: it is more than what is left.
        """
        self.left -= picture.shape[0] * picture.shape[1]
        if self.left < 0:
            msg = (
                f"the pictures of this request and their maps have more than "
                f"{self.all // 1_000_000} million pixels; send fewer at a time"
            )
            raise ImageError(msg)
        return picture


@dataclass(frozen=True)
class Found:
    """What a preprocessor made of the pictures of a request, in their order.

    Attributes:
        images: the maps as they are shown to people, as base64 text.
        poses: the figures in each of them as JSON; None where the preprocessor finds none.
        tensors: embeddings as base64 of safetensors files, in the place of maps; None where it
            makes maps.
    """

    images: list[str]
    poses: list[dict[str, Any]] | None = None
    tensors: list[str] | None = None


def detect_all(runtime: Any, fetch: Fetch, encode: Encode, asked: Asked) -> Found:
    """Run one preprocessor on several pictures.

    Args:
        runtime: the extension's services; its `detect` runs a preprocessor, its `decoded` keeps
            pictures.
        fetch: loads a picture by URL.
        encode: makes text of a picture, at once, so that no more than one is held.
        asked: the request.

    Raises:
        ControlNetError: what is wrong with the request.
    """
    detector = _detector(asked)
    for found in find_misplaced(detector, dict(zip(SLIDERS, asked.sliders, strict=True))):
        if found.is_meant:
            msg = f"controlnet_{found.refusal}"
            raise ControlNetError(msg)
    if not detector.uses_mask and asked.masks:
        log.warning("%s uses no mask, those sent are ignored", detector.name)
    budget = PixelBudget()
    read, read_mask = (partial(one, decoded=runtime.decoded) for one in (decode_image, decode_mask))
    shown: list[str] = []
    poses: list[dict[str, Any]] = []
    tensors: list[str] = []
    for index, text in enumerate(asked.images):
        where = f"controlnet_input_images[{index}]"
        if detector.identity and not detector.uses_mask:
            shown.append(encode(_decode_as_it_is(text, where, fetch, budget)))
            continue
        picture = budget.spend(_decode(read, text, where, fetch))
        if detector.uses_mask and index < len(asked.masks):
            where = f"controlnet_masks[{index}]"
            mask = budget.spend(_decode(read_mask, asked.masks[index], where, fetch))
            picture = join_mask(picture, mask)
        detection = runtime.detect(detector.name, picture, *asked.sliders)
        if detection.embedding is not None:
            tensors.append(as_text(detection.embedding))
            continue
        made = np.ascontiguousarray(budget.spend(detection.display))
        shown.append(encode(Image.fromarray(made)))
        if detection.pose is not None:
            poses.append(detection.pose)
    return Found(shown, poses or None, tensors or None)


def _detector(asked: Asked) -> Any:
    """The preprocessor that is asked for.

    Raises:
        ControlNetError: there is none, or the request does not have what it needs.
    """
    if (asked.module or "").strip().lower() in UNSUPPORTED:
        raise ControlNetError(NOT_SUPPORTED)
    detector = preprocess.find(asked.module)
    if detector is None:
        raise ControlNetError(NO_SUCH_MODULE)
    preprocess.require(detector)
    if detector.follows_model:
        raise ControlNetError(NOT_SUPPORTED)
    if not asked.images:
        raise ControlNetError(NO_IMAGE)
    most = MAX_IMAGES if detector.gives_picture else MAX_MERGED  # as many as a unit takes
    if len(asked.images) > most:
        msg = f"{len(asked.images)} images are sent; at most {most} at a time"
        raise ControlNetError(msg)
    needs_masks = detector.needs_mask
    if needs_masks and len(asked.masks) != len(asked.images):
        name = (asked.module or "").strip()
        msg = f"Preprocessor {name} requires `controlnet_masks` param."
        raise ControlNetError(msg)
    return detector


def as_text(embedding: Embedding) -> str:
    """An embedding as `ipadapter_input` takes it: base64 of a safetensors file."""
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in embedding.tensors.items()}
    return base64.b64encode(save(tensors)).decode()


def _decode(decode: Callable[..., np.ndarray], text: str, where: str, fetch: Fetch) -> np.ndarray:
    try:
        return decode(text, where, fetch=fetch)
    except ImageError as error:
        msg = f"{UNDECODABLE}: {error}"
        raise ImageError(msg, error.status_code) from error


def _decode_as_it_is(text: str, where: str, fetch: Fetch, budget: PixelBudget) -> Image.Image:
    """The picture as it came, grey and transparent ones too."""
    picture = budget.spend(_decode(partial(decode_image, keep_alpha=True), text, where, fetch))
    if _is_grey(text):
        picture = picture[:, :, 0] if picture.shape[2] == RGB else picture[:, :, [0, RGB]]
    return Image.fromarray(np.ascontiguousarray(picture))


def _is_grey(text: str) -> bool:
    """Whether text that has been decoded once is a file with grey pixels."""
    try:
        return Image.open(io.BytesIO(bytes_of_text(text) or b"")).mode in ("L", "LA")
    except (OSError, ValueError):
        return False
