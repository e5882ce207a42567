"""What the engine needs to know of one generation, copied from the host once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from lib_controlnet.enums import ResizeMode
from lib_controlnet.gate import Bounded
from lib_controlnet.pictures.maps import Size

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

MADE: Final = 16
"""Pictures of a generation that are kept while it is prepared."""
LATENT_UPSCALE_MODE = 3
"""The host's resize mode "just resize (latent upscale)"."""


@dataclass(frozen=True)
class InpaintRules:
    """How the host prepares an inpainting mask.

    Attributes:
        mask: picture as given, any mode.
        blur_x, blur_y: standard deviation of the blur, pixels.
        invert: repaint what is not masked.
        binary: round the mask to 0 and 255.
        only_masked: work on the masked area, enlarged to the requested size.
        padding: pixels around the masked area.
    """

    mask: Image
    blur_x: float
    blur_y: float
    invert: bool
    binary: bool
    only_masked: bool
    padding: int


@dataclass(frozen=True)
class GenerationRequest:
    """One call of the host's `process_images`.

    Attributes:
        size: requested picture size, pixels (first pass).
        batch_size, iterations: pictures per batch, batches.
        seed: of the first picture, as the host resolved it.
        init_image: img2img picture, None for txt2img.
        resize_mode: the host's img2img resize mode, 0 to 3.
        inpaint: mask and its rules, None without a mask.
        background: colour that the host lays under a transparent img2img picture.
        has_hires: a hires pass follows.
        is_upscale_script: a script upscales tile by tile; maps are not shown then.
    """

    size: Size
    batch_size: int = 1
    iterations: int = 1
    seed: int = 0
    init_image: Image | None = None
    resize_mode: int = 0
    inpaint: InpaintRules | None = None
    background: str = "#ffffff"
    has_hires: bool = False
    is_upscale_script: bool = False
    _made: Bounded[tuple, tuple] = field(
        default_factory=lambda: Bounded(MADE), init=False, repr=False, compare=False
    )

    def once(self, key: tuple, make: Callable[[], T], *held: object) -> T:
        """What `make` gives; whoever asks for it again in this generation gets the same.

        Args:
            key: what it is.
            make: makes it; what it gives is not to be modified.
            held: objects whose `id` is in the key, which nothing else may have meanwhile.
        """
        return self._made.find(key, lambda: (make(), held))[0]

    @property
    def picture_resize_mode(self) -> ResizeMode:
        """The host's resize mode as a unit's: latent upscale stretches, like "Just Resize"."""
        if self.resize_mode == LATENT_UPSCALE_MODE:
            return ResizeMode.RESIZE
        return ResizeMode.parse(self.resize_mode)
