"""Small things that the published paths hold besides the Python API."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from lib_controlnet.pictures.decode import to_rgb
from lib_controlnet.pictures.maps import resize_with_pad


class ControlNetUiGroup:
    """Stands for the panel of earlier versions, whose class attributes neighbours set.

    The panel needs none of them: it finds the host's components by their element ids.
    """

    a1111_context: ClassVar[SimpleNamespace] = SimpleNamespace(
        txt2img_submit_button=None,
        img2img_submit_button=None,
        img2img_w_slider=None,
        img2img_h_slider=None,
        txt2img_w_slider=None,
        txt2img_h_slider=None,
    )
    all_ui_groups: ClassVar[list[Any]] = []
    all_callbacks_registered: ClassVar[bool] = True


def HWC3(x: np.ndarray) -> np.ndarray:  # published name
    """uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) -> (H, W, 3), alpha over white."""
    return to_rgb(np.asarray(x))


def resize_image_with_pad(
    input_image: np.ndarray, resolution: float, upscale_method: str = "", skip_hwc3: bool = False
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Bring the short side to a resolution and pad to multiples of 64.

    Args:
        input_image: uint8 (H, W) or (H, W, C).
        resolution: short side in pixels.
        upscale_method: ignored.
        skip_hwc3: leave the channels as they are.

    Returns:
        The picture, and a function that cuts the padding off a map of its size.
    """
    del upscale_method
    picture = np.asarray(input_image)
    return resize_with_pad(picture if skip_hwc3 else HWC3(picture), int(resolution))
