"""Copies what the engine needs from the host's processing object `p`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lib_controlnet.enums import LATENT_SCALE
from lib_controlnet.host.page import settings
from lib_controlnet.pictures.maps import Size
from lib_controlnet.units.request import GenerationRequest, InpaintRules

UPSCALE_KEYS = ("sd upscale",)


def read_request(p: Any) -> GenerationRequest:
    """The request of a txt2img or img2img processing object, as it is inside `process`.

    Sizes may be any JSON number over the API; they are truncated as the host does.
    """
    init_images = getattr(p, "init_images", None) or []
    return GenerationRequest(
        size=Size(int(p.width), int(p.height)),
        batch_size=int(p.batch_size),
        iterations=int(p.n_iter),
        seed=preparation_seed(p),
        init_image=init_images[0] if init_images else None,
        resize_mode=int(getattr(p, "resize_mode", 0) or 0),
        inpaint=_inpaint(p) if init_images else None,
        background=settings.option("img2img_background_color"),
        has_hires=bool(getattr(p, "enable_hr", False)),
        is_upscale_script=is_upscale_script(p),
    )


def is_upscale_script(p: Any) -> bool:
    """Whether an upscaling script runs this generation tile by tile."""
    keys = [str(key).lower() for key in p.extra_generation_params]
    return any(mark in key for key in keys for mark in UPSCALE_KEYS)


def hires_canvas(p: Any) -> Size | None:
    """Size that the host upscales to before it crops; only valid once it has settled it."""
    width, height = getattr(p, "hr_upscale_to_x", 0), getattr(p, "hr_upscale_to_y", 0)
    return Size(int(width), int(height)) if width and height else None


@dataclass(frozen=True)
class HiresLayout:
    """How the picture lies under a hires pass's latent.

    Attributes:
        canvas: size of the whole picture there.
        cells: size of the latent before the host crops it.
    """

    canvas: Size
    cells: Size


def hires_layout(p: Any) -> HiresLayout | None:
    """The layout of a hires pass; only valid once the host has settled its size.

    The host enlarges what the first pass's latent covers. A picture upscaler brings it to the
    target, of which the encoder drops what fills no cell; a latent upscaler stretches the whole
    latent to the target's whole cells. Of a first pass whose size is no multiple of 8 the latent
    covers a part: the whole picture is then larger than the target, and goes past its end.
    """
    target = hires_canvas(p)
    if target is None:
        return None
    cells = Size(target.width // LATENT_SCALE, target.height // LATENT_SCALE)
    is_latent = getattr(p, "latent_scale_mode", None) is not None
    picture = getattr(p, "firstpass_image", None)
    first = Size(int(p.width), int(p.height)) if picture is None else Size(*picture.size)
    covered = (
        first if picture is not None and not is_latent else first.multiple_of_down(LATENT_SCALE)
    )
    stretched = target.multiple_of_down(LATENT_SCALE) if is_latent else target
    canvas = Size(
        round(first.width * stretched.width / max(covered.width, 1)),
        round(first.height * stretched.height / max(covered.height, 1)),
    )
    return HiresLayout(canvas, cells)


def preparation_seed(p: Any) -> int:
    """Seed of preprocessors that use random numbers: the first picture's.

    The variation seed has no part in it: the host draws one at random for every generation, also
    where no variation is asked for and none is written into the picture's text.
    """
    seeds = getattr(p, "all_seeds", None) or [p.seed]
    return max(int(seeds[0] or 0), 0) & 0xFFFFFFFF


def inpaint_rules(mask: Any, p: Any) -> InpaintRules:
    """How the host prepares a mask (PIL picture) in this generation."""
    return InpaintRules(
        mask=mask,
        blur_x=float(getattr(p, "mask_blur_x", 4) or 0),
        blur_y=float(getattr(p, "mask_blur_y", 4) or 0),
        invert=bool(getattr(p, "inpainting_mask_invert", 0)),
        binary=bool(getattr(p, "mask_round", True)),
        only_masked=bool(getattr(p, "inpaint_full_res", False)),
        padding=int(getattr(p, "inpaint_full_res_padding", 0) or 0),
    )


def _inpaint(p: Any) -> InpaintRules | None:
    mask = getattr(p, "image_mask", None)
    if isinstance(mask, (list, tuple)):  # AnimateDiff has one for each frame
        mask = mask[0] if mask else None
    return None if mask is None else inpaint_rules(mask, p)
