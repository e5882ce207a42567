"""The img2img tab's own widgets: what the host would generate from, for a unit's preview.

The host builds its pictures and inpaint settings before the scripts' panels, so they are found by
their published element ids in the Blocks that is being built, and become inputs of our event. The
server then gets the same values as the host's own handler, and nothing is asked of the page that
its Generate button would not send.

Where the host draws on canvases of its own, a block of HTML has the picture's id, and picture and
drawing are hidden texts beside it.
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
SKETCH: Final = 1
INPAINT: Final = 2
INPAINT_SKETCH: Final = 3
BACKGROUND: Final = "logical_image_background"
FOREGROUND: Final = "logical_image_foreground"
"""Classes of a canvas's texts."""
_DILATION: Final = 0.015
"""Of the short side: how far a canvas's host repaints beyond the strokes of "Inpaint sketch"."""
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
        numbers: for each of the pictures the number of the tab that uses it.
        original: keeps what "Inpaint sketch" was drawn on; the difference is the mask.
        has_canvases: every tab has two pictures, the second one being the drawing or the mask.
    """

    pictures: Sequence[Component]
    numbers: Sequence[int]
    settings: Sequence[Component]
    original: Component | None = None
    has_canvases: bool = False

    @classmethod
    def find(cls) -> HostTab | None:
        """The tab in the Blocks that is being built.

        None where the host has not built it, or has other things under these names than pictures
        and canvases.
        """
        root = Context.root_block
        by_id = {} if root is None else {block.elem_id: block for block in root.blocks.values()}
        if root is None or not {*PICTURES, *SETTINGS} <= by_id.keys():
            return None
        named = {name: by_id[name] for name in PICTURES}
        settings = [by_id[name] for name in SETTINGS]
        if all(isinstance(picture, gr.Image) for picture in named.values()):
            original = _state_beside(by_id["inpaint_sketch"], root)
            return cls([*named.values()], [*PICTURES.values()], settings, original)
        pictures, numbers = [], []
        for name, block in named.items():
            parts = [block] if isinstance(block, gr.Image) else _texts_beside(block, root)
            pictures += parts
            numbers += [PICTURES[name]] * len(parts)
        has_canvases = all(numbers.count(number) == 2 for number in PICTURES.values())
        return cls(pictures, numbers, settings, has_canvases=True) if has_canvases else None

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


def _texts_beside(canvas: Block, root: Any) -> list[Component]:
    """Picture and drawing of a host's canvas: the next texts that were made after its block."""
    found = []
    for kind in (BACKGROUND, FOREGROUND):
        texts = (
            block
            for number, block in root.blocks.items()
            if number > canvas._id and kind in (getattr(block, "elem_classes", None) or ())
        )
        found += [text for text in [next(texts, None)] if text is not None]
    return found


def tab_request(
    width: float,
    height: float,
    tab: float,
    scale: float,
    values: Sequence[Any],
    background: str = "#ffffff",
    has_canvases: bool = False,
) -> GenerationRequest:
    """What Generate would ask for, as far as previews need it.

    Args:
        width, height: the tab's size sliders.
        tab: number of the chosen way to give a picture.
        scale: size relative to the picture; 0 while width and height count.
        values: of the widgets of `HostTab.inputs`.
        background: what the host lays under a transparent picture.
        has_canvases: see `HostTab`.
    """
    count = 2 * len({*PICTURES.values()}) if has_canvases else len(PICTURES)
    pictures, rest = values[:count], values[count:]
    blur, alpha, inverted, only_masked, padding, resize_mode = rest[: len(SETTINGS)]
    if has_canvases:
        image, mask = picture_of_canvas(int(tab), pictures)
    else:
        original = rest[len(SETTINGS)] if len(rest) > len(SETTINGS) else None
        image, mask = picture_of(int(tab), pictures, original, blur, alpha)
    size = Size(int(width), int(height))
    if scale and image is not None:
        grid = 8 if has_canvases else 1
        sides = (int(side * scale) for side in image.size)
        size = Size(*(side - side % grid for side in sides))
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


def picture_of_canvas(
    tab: int, pictures: Sequence[Any]
) -> tuple[Image.Image | None, Image.Image | None]:
    """What `picture_of` tells, where the host has canvases.

    Args:
        tab: number of the tab.
        pictures: two of every tab; the second one is a drawing or, of "Inpaint upload", the mask.
    """
    picture, second = (*pictures[2 * tab : 2 * tab + 2], None, None)[:2]
    if picture is None:
        return None, None
    picture = ImageOps.exif_transpose(picture)
    if tab in (SKETCH, INPAINT_SKETCH) and second is not None and second.size == picture.size:
        picture = Image.alpha_composite(picture.convert("RGBA"), second.convert("RGBA"))
    if second is None or tab < INPAINT:
        return picture, None
    if tab > INPAINT_SKETCH:
        mask = ImageOps.exif_transpose(second)
    else:
        mask = second.convert("RGBA").getchannel("A")
        if tab == INPAINT_SKETCH:
            reach = int(_DILATION * min(mask.size))
            mask = mask.filter(ImageFilter.MaxFilter(2 * reach + 1))
    return picture, mask.point(lambda level: 255 if level > 128 else 0)


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
