"""The img2img tab's own widgets: what the host would generate from, for a unit's preview.

The host builds its pictures and inpaint settings before the scripts' panels, so they are found by
their published element ids in the Blocks that is being built, and become inputs of our event. The
server then gets the same values as the host's own handler, and nothing is asked of the page that
its Generate button would not send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gradio as gr
from gradio.components import State
from gradio.context import Context
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from lib_controlnet.pictures.maps import Size
from lib_controlnet.units.request import GenerationRequest, InpaintRules

if TYPE_CHECKING:
    from gradio.blocks import Block
    from gradio.components import Component

PICTURES: Final[dict[str, int]] = {
    "img2img_image": 0,
    "img2img_sketch": 1,
    "img2maskimg": 2,
    "inpaint_sketch": 3,
    "img_inpaint_base": 4,
    "img_inpaint_mask": 4,
}
"""Element id of a picture -> number of the tab that uses it."""
INPAINT_SKETCH: Final = 3
SETTINGS: Final = (
    "img2img_mask_blur",
    "img2img_mask_alpha",
    "img2img_mask_mode",
    "img2img_inpaint_full_res",
    "img2img_inpaint_full_res_padding",
    "resize_mode",
)


@dataclass(frozen=True)
class HostTab:
    """The widgets of the img2img tab, in the order of `PICTURES`, then `SETTINGS`.

    Attributes:
        original: keeps what "Inpaint sketch" was drawn on; the difference is the mask.
    """

    pictures: Sequence[Component]
    settings: Sequence[Component]
    original: Component | None

    @classmethod
    def find(cls) -> HostTab | None:
        """The tab in the Blocks that is being built.

        None where the host has not built it, or has other things than pictures under these names
        (canvases of a host's own, on gradio 4).
        """
        root = Context.root_block
        by_id = {} if root is None else {block.elem_id: block for block in root.blocks.values()}
        if root is None or not {*PICTURES, *SETTINGS} <= by_id.keys():
            return None
        pictures = [by_id[name] for name in PICTURES]
        if not all(isinstance(picture, gr.Image) for picture in pictures):
            return None
        original = _state_beside(by_id["inpaint_sketch"], root)
        return cls(pictures, [by_id[name] for name in SETTINGS], original)

    @property
    def inputs(self) -> list[Component]:
        """Pictures first."""
        rest = [*self.settings] if self.original is None else [*self.settings, self.original]
        return [*self.pictures, *rest]


def _state_beside(sketch: Block, root: Any) -> Component | None:
    """The state that the host fills whenever the sketch changes."""
    for event in getattr(root, "dependencies", ()):
        if sketch._id not in event["inputs"]:
            continue
        for target in event["outputs"]:
            if (
                isinstance(block := root.blocks[target], State)
                and block.get_block_name() == "state"
            ):
                return block
    return None


def tab_request(
    width: float,
    height: float,
    tab: float,
    scale: float,
    values: Sequence[Any],
    background: str = "#ffffff",
) -> GenerationRequest:
    """What Generate would ask for, as far as previews need it.

    Args:
        width, height: the tab's size sliders.
        tab: number of the chosen way to give a picture.
        scale: size relative to the picture; 0 while width and height count.
        values: of the widgets of `HostTab.inputs`.
        background: what the host lays under a transparent picture.
    """
    pictures, rest = values[: len(PICTURES)], values[len(PICTURES) :]
    blur, alpha, inverted, only_masked, padding, resize_mode = rest[: len(SETTINGS)]
    original = rest[len(SETTINGS)] if len(rest) > len(SETTINGS) else None
    image, mask = picture_of(int(tab), pictures, original, blur, alpha)
    size = Size(int(width), int(height))
    if scale and image is not None:
        size = Size(int(image.width * scale), int(image.height * scale))
    rules = None
    if image is not None and mask is not None:
        rules = InpaintRules(
            mask=mask,
            blur_x=float(blur),
            blur_y=float(blur),
            invert=bool(inverted),
            binary=True,
            only_masked=bool(only_masked),
            padding=int(padding),
        )
    return GenerationRequest(
        size=size,
        init_image=image,
        resize_mode=int(resize_mode or 0),
        inpaint=rules,
        background=background,
    )


def picture_of(
    tab: int, pictures: Sequence[Any], original: Image.Image | None, blur: float, alpha: float
) -> tuple[Image.Image | None, Image.Image | None]:
    """Picture and mask of a tab, the mask white where the host repaints.

    Args:
        tab: number of the tab; those without one picture give nothing.
        pictures: values of `PICTURES`; the other tabs' count as absent.
        original: what "Inpaint sketch" was drawn on.
        blur: softens the strokes of "Inpaint sketch", pixels.
        alpha: their transparency, percent.
    """
    own = [
        value for value, number in zip(pictures, PICTURES.values(), strict=True) if number == tab
    ]
    picture = own[0] if own else None
    mask = own[1] if len(own) > 1 else None
    if isinstance(picture, dict):
        picture, mask = picture["image"], picture["mask"]
    if picture is None:
        return None, None
    picture = ImageOps.exif_transpose(picture)
    if tab == INPAINT_SKETCH:
        return _paint(picture, original or picture, blur, alpha)
    return picture, None if mask is None else ImageOps.exif_transpose(mask)


def _paint(
    sketch: Image.Image, original: Image.Image, blur: float, alpha: float
) -> tuple[Image.Image, Image.Image]:
    """The host's rule for "Inpaint sketch": every pixel that differs is masked and painted over.

    The blur softens the strokes themselves as well as their borders.
    """
    drawn, plain = sketch.convert("RGB"), original.convert("RGB")
    red, green, blue = ImageChops.difference(drawn, plain).split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    mask = most.point(lambda level: 255 if level else 0)
    mask = ImageEnhance.Brightness(mask).enhance(1 - alpha / 100)
    soften = ImageFilter.GaussianBlur(blur)
    return Image.composite(drawn.filter(soften), plain, mask.filter(soften)), mask
