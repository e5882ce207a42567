"""Which picture feeds a unit: its own, or the img2img picture, cropped as the host crops it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lib_controlnet.enums import ActingRegion, ResizeMode
from lib_controlnet.errors import UnitError
from lib_controlnet.files.paths import Folders
from lib_controlnet.gate import Bounded
from lib_controlnet.limits import MAX_MERGED
from lib_controlnet.pictures.decode import Fetch, decode_image, decode_mask, to_rgb
from lib_controlnet.pictures.maps import Size, fit_map, join_mask
from lib_controlnet.pictures.region import Region, lay
from lib_controlnet.prepare.crop import (
    LATENT_UPSCALE,
    crop_control,
    crop_region,
    host_picture,
    latent_part,
    prepare_mask,
    whole_picture,
    without_border,
)
from lib_controlnet.prepare.painted import read_painted_mask
from lib_controlnet.units.field_values import is_given
from lib_controlnet.units.unit import NO_MODULE

if TYPE_CHECKING:
    from PIL import Image

    from lib_controlnet.prepare.crop import Box, HostPicture
    from lib_controlnet.units.request import GenerationRequest, InpaintRules
    from lib_controlnet.units.unit import ControlUnit

NEARLY_BLACK: Final = 5
NEARLY_WHITE: Final = 250
PAIR: Final = 2


@dataclass(frozen=True, eq=False)
class ChosenPicture:
    """Which picture feeds a unit, and how it follows the host's.

    Attributes:
        unit: the unit.
        request: the generation.
        image: the unit's own picture, undecoded; None: it follows the img2img picture.
        mask: the unit's own mask, undecoded; None without one.
        crop: the part of the img2img picture that the unit is cropped to; None for the whole.
    """

    unit: ControlUnit
    request: GenerationRequest
    image: Any
    mask: Any
    crop: Box | None

    @property
    def is_own(self) -> bool:
        return self.image is not None

    @property
    def is_missing(self) -> bool:
        """Nothing feeds the unit."""
        return self.image is None and self.request.init_image is None

    @property
    def resize_mode(self) -> ResizeMode:
        """How what lies over the picture is brought to the result's size."""
        return self.unit.resize_mode if self.is_own else self.request.picture_resize_mode


@dataclass(frozen=True, eq=False)
class ControlPicture:
    """The picture a preprocessor gets.

    Attributes:
        image: uint8 (H, W, 3), or (H, W, 4) with the mask in the fourth channel.
        resize_mode: how the detected map is brought to the picture's size.
        is_held: the mask is the host's, which keeps the rest of the picture by itself.
    """

    image: np.ndarray
    resize_mode: ResizeMode
    is_held: bool = False


class DecodedFiles(Bounded[bytes, np.ndarray]):
    """Pictures decoded lately, by a digest of their files' bytes; read-only."""

    def __init__(self, max_count: int = 32, max_bytes: int = 128 << 20) -> None:
        super().__init__(max_count, max_bytes, lambda _digest, picture: picture.nbytes)


@dataclass(frozen=True)
class PictureSource:
    """How pictures may be read.

    Attributes:
        allow_paths: folders whose files a request may name; False refuses all.
        fetch: loads http(s) URLs, None refuses them.
        ignore_masks: a drawn mask never becomes the control image.
        decoded: files that need not be decoded again.
    """

    allow_paths: Folders = False
    fetch: Fetch | None = None
    ignore_masks: bool = False
    decoded: DecodedFiles | None = None

    def read(self, value: Any, where: str, *, keep_alpha: bool = False) -> np.ndarray:
        """A picture decoded, see `decode_image`."""
        reading = self.allow_paths, self.fetch, keep_alpha, self.decoded
        return decode_image(value, where, *reading)


def choose(unit: ControlUnit, request: GenerationRequest) -> ChosenPicture:
    """Choose the picture of a unit; nothing is decoded.

    Raises:
        UnitError: several pictures, or an empty or overlong list.
    """
    image, mask = split_picture(unit)
    rules = request.inpaint
    crop = None
    if rules is not None and _crops(unit, request):
        crop = crop_region(_mask_of(request), rules.padding, request.size)
    return ChosenPicture(unit, request, image, mask, crop)


def choose_all(
    unit: ControlUnit, request: GenerationRequest, takes_several: bool
) -> list[ChosenPicture]:
    """Choose the pictures of a unit that act together, as most units have only one.

    Args:
        unit: the unit.
        request: the generation.
        takes_several: whether its preprocessor takes several.

    Raises:
        UnitError: see `choose`; or there are more than can act in one generation.
    """
    given = unit.image
    is_list = isinstance(given, (list, tuple)) and len(given) > 1
    if not (takes_several and is_list and all(isinstance(item, Mapping) for item in given)):
        return [choose(unit, request)]
    if len(given) > MAX_MERGED:
        msg = f"{unit.name}: {len(given)} images are given, at most {MAX_MERGED} can act together"
        raise UnitError(msg)
    return [choose(dataclasses.replace(unit, image=item), request) for item in given]


def _crops(unit: ControlUnit, request: GenerationRequest) -> bool:
    """Whether the host works on the masked area only, and the unit follows it there."""
    only_masked = request.inpaint is not None and request.inpaint.only_masked
    return only_masked and (unit.inpaint_crop_input_image or request.is_upscale_script)


def control_picture(
    choice: ChosenPicture, source: PictureSource, wants_mask: bool, identity: bool = False
) -> ControlPicture:
    """Decode the chosen picture as the preprocessor is to see it.

    Args:
        choice: from `choose`.
        source: what may be read.
        wants_mask: the preprocessor works on a mask (inpainting).
        identity: the preprocessor returns the picture as it came.

    Raises:
        UnitError: there is no picture.
        ImageError: the picture cannot be decoded.
    """
    request = choice.request
    if choice.is_own:
        picture = _own_picture(choice, wants_mask, source)
        if wants_mask and request.inpaint is not None and not has_mask(picture.image):
            return _under_host_mask(picture, choice)
        return _crop_own(picture, choice)
    if choice.mask is not None:
        msg = f"{choice.unit.name}: a mask is given without an image; send both, or neither"
        raise UnitError(msg)
    if request.init_image is None:
        msg = (
            f"{choice.unit.name}: controlnet is enabled but no input image is given; add an image "
            "to the unit or disable it"
        )
        raise UnitError(msg)
    if wants_mask or identity or choice.crop is not None:
        return _take_painted(choice, wants_mask)
    # A preprocessor finds more in the picture as it was given than in one of the result's size.
    whole = _whole_picture(request)
    if request.resize_mode == LATENT_UPSCALE:
        whole = latent_part(whole, Size.from_array(whole), request.size)
    return ControlPicture(whole, choice.resize_mode)


def _mask_of(request: GenerationRequest) -> Image.Image:
    """The host's mask as it prepares it, in the size given."""
    rules = request.inpaint
    assert rules is not None
    return request.once(("mask",), lambda: prepare_mask(rules))


def _whole_picture(request: GenerationRequest) -> np.ndarray:
    """The img2img picture in full."""
    init = request.init_image
    assert init is not None

    def make() -> np.ndarray:
        whole = whole_picture(init, request.background)
        whole.flags.writeable = False
        return whole

    return request.once(("whole",), make)


def _host_picture(request: GenerationRequest, rules: InpaintRules | None) -> HostPicture:
    """What the host paints on, by its own rules or by others for the same mask."""
    init = request.init_image
    assert init is not None
    mask = None if rules is None else _mask_of(request)
    how = request.size, request.resize_mode, request.background, mask

    def make() -> HostPicture:
        made = host_picture(init, rules, *how)
        made.image.flags.writeable = False
        return made

    return request.once(("host", rules is not None and rules.only_masked), make)


def split_picture(unit: ControlUnit) -> tuple[Any, Any]:
    """Image and mask of a unit, undecoded, from every form the interface allows.

    Raises:
        UnitError: several pictures, or an empty or overlong list.
    """
    image, mask = unit.image, unit.mask
    if isinstance(image, (list, tuple)):
        if len(image) == 1 and isinstance(image[0], Mapping):
            image = image[0]
        elif image and all(isinstance(item, Mapping) for item in image):
            msg = f"{unit.name}: {len(image)} images are given, this preprocessor takes one"
            raise UnitError(msg)
        elif len(image) == PAIR:
            image, mask = image
        else:
            msg = f"{unit.name}: image is a list of {len(image)}; send [image, mask] or one image"
            raise UnitError(msg)
    if isinstance(image, Mapping):
        mask = image.get("mask") if is_given(image.get("mask")) else mask
        image = image.get("image")
    return (image if is_given(image) else None), (mask if is_given(mask) else None)


def read_mask(value: Any, where: str, source: PictureSource) -> np.ndarray:
    """Decode a mask, uint8 (H, W); of a drawn layer (`AlphaLayer`) the alpha channel counts."""
    layer = getattr(value, "picture", None)
    if layer is None:
        return decode_mask(value, where, source.allow_paths, source.fetch, source.decoded)
    drawn = source.read(layer, where, keep_alpha=True)
    full = np.full(drawn.shape[:2], 255, np.uint8)
    return drawn[:, :, 3] if drawn.shape[2] == 4 else full  # RGBA


def _own_picture(choice: ChosenPicture, wants_mask: bool, source: PictureSource) -> ControlPicture:
    name, mask = choice.unit.name, choice.mask
    pixels = source.read(choice.image, f"{name}: image")
    drawn = None if mask is None else read_mask(mask, f"{name}: mask", source)
    if wants_mask:
        pixels = join_mask(pixels, drawn)
    elif drawn is not None and not source.ignore_masks and _is_scribble(drawn):
        pixels = to_rgb(drawn)
    return ControlPicture(pixels, choice.resize_mode)


def _is_scribble(mask: np.ndarray) -> bool:
    """A mask that is neither blank nor full was drawn to be the control image itself."""
    return not (mask.max() <= NEARLY_BLACK or mask.min() >= NEARLY_WHITE)


def _crop_own(picture: ControlPicture, choice: ChosenPicture) -> ControlPicture:
    """Follow the host's "Only masked" area with a picture that lies over the whole picture."""
    init, size = choice.request.init_image, choice.request.size
    if choice.crop is None or init is None:
        return picture
    whole = Size(init.width, init.height)
    mode = list(ResizeMode).index(picture.resize_mode)
    is_map = choice.unit.module.lower() == NO_MODULE  # finished: lines and palettes stay sharp
    how = whole, choice.crop, size, mode, is_map
    image = choice.request.once(
        ("crop", id(picture.image), mode, is_map),
        lambda: crop_control(picture.image, *how),
        picture.image,
    )
    return ControlPicture(image, ResizeMode.OUTER_FIT)


def has_mask(image: np.ndarray) -> bool:
    """Whether anything is masked in a picture with a mask, uint8 (H, W, 4)."""
    return bool((image[:, :, 3] > 127).any())  # half of full scale


def _under_host_mask(picture: ControlPicture, choice: ChosenPicture) -> ControlPicture:
    """A picture without a mask of its own gets the host's, in the frame of the result."""
    request = choice.request
    laid = _crop_own(picture, choice)
    pixels = fit_map(laid.image[:, :, :3], request.size, laid.resize_mode)
    mask = _host_picture(request, _read_rules(choice)).mask
    return ControlPicture(join_mask(pixels, mask), ResizeMode.OUTER_FIT, is_held=True)


def _read_rules(choice: ChosenPicture) -> InpaintRules | None:
    """The host's rules, without its crop where the unit does not follow it."""
    rules = choice.request.inpaint
    if rules is None or _crops(choice.unit, choice.request):
        return rules
    return dataclasses.replace(rules, only_masked=False)


def _take_painted(choice: ChosenPicture, wants_mask: bool) -> ControlPicture:
    """The img2img picture on the very pixels on which the host paints."""
    request = choice.request
    found = _host_picture(request, _read_rules(choice))
    if request.init_image is not None:
        found = without_border(found, request.init_image, request.size, request.resize_mode)
    pixels = join_mask(found.image, found.mask) if wants_mask else found.image
    return ControlPicture(pixels, ResizeMode.OUTER_FIT, is_held=request.inpaint is not None)


def own_region(choice: ChosenPicture, source: PictureSource) -> Region:
    """The region that a unit's own mask draws; it goes the way of the control image.

    Raises:
        UnitError: there is no mask.
        ImageError: it cannot be decoded.
    """
    unit, request = choice.unit, choice.request
    mask = _own_mask(choice, source)
    mode, init = choice.resize_mode, request.init_image
    if init is None:
        return Region(mask, unit.resize_mode, unit.region_feather)
    whole = Size(init.width, init.height)
    if choice.crop is not None:
        # "Only masked" cuts from the picture as it was given, before any resizing.
        over = lay(Region(mask, mode if choice.is_own else ResizeMode.RESIZE), whole, choice.crop)
        mask = np.rint(over * 255.0).astype(np.uint8)
        mode = ResizeMode.OUTER_FIT  # as the host fits its crop, and repeats its edges
    elif not choice.is_own and request.resize_mode == LATENT_UPSCALE:
        mask = latent_part(mask, whole, request.size)
    return Region(mask, mode, unit.region_feather)


def _own_mask(choice: ChosenPicture, source: PictureSource) -> np.ndarray:
    """A unit's own mask, sent or painted in its colour, uint8 (H, W); see `own_region`."""
    unit = choice.unit
    value = unit.effective_region_mask
    if isinstance(value, Mapping):  # a drawing widget's {"image", "mask"}
        value = value.get("mask") if is_given(value.get("mask")) else value.get("image")
    if is_given(value):
        return read_mask(value, f"{unit.name}: region mask", source)
    if unit.region_colour:
        return read_painted_mask(unit, source.read, choice.request.once)
    msg = (
        f"{unit.name}: region is {ActingRegion.OWN.value!r}, but no mask is given; draw one, "
        "send effective_region_mask, or choose another region"
    )
    raise UnitError(msg)


def host_region(unit: ControlUnit, request: GenerationRequest) -> Region | None:
    """The part that the host repaints, blurred and cropped as the host does; None without a mask.

    A mask that turns out to be blank means that the host repaints nothing ("Only masked" off) or
    ignores it; no pixel counts as inside.
    """
    if request.init_image is None or request.inpaint is None:
        return None
    host = _host_picture(request, request.inpaint)
    blank = np.zeros((request.size.height, request.size.width), np.uint8)
    mask = blank if host.mask is None else host.mask
    return Region(mask, ResizeMode.RESIZE, unit.region_feather)
