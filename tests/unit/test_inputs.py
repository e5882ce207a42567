"""Which picture feeds a unit."""

import base64
import dataclasses
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from lib_controlnet.enums import ResizeMode
from lib_controlnet.errors import ImageError, UnitError
from lib_controlnet.pictures.maps import Size, fit_map
from lib_controlnet.prepare.crop import host_picture
from lib_controlnet.prepare.inputs import PictureSource, choose, control_picture, own_region
from lib_controlnet.units.request import GenerationRequest, InpaintRules
from lib_controlnet.units.unit import parse_unit

TXT2IMG = GenerationRequest(Size(64, 64))
ANY = PictureSource()


def red(width=48, height=32):
    return np.full((height, width, 3), (200, 10, 10), np.uint8)


def drawn(width=48, height=32):
    mask = np.zeros((height, width), np.uint8)
    mask[8:16, 8:16] = 255
    return mask


def chosen(unit, request, wants_mask, source=ANY, **options):
    """The picture of a unit, decoded."""
    return control_picture(choose(unit, request), source, wants_mask, **options)


def as_base64(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def img2img(mask=None, **changes):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    rules = None
    if mask is not None:
        rules = InpaintRules(
            **{
                "mask": Image.fromarray(mask),
                "blur_x": 0,
                "blur_y": 0,
                "invert": False,
                "binary": True,
                "only_masked": False,
                "padding": 4,
                **changes,
            }
        )
    return GenerationRequest(Size(64, 64), init_image=picture, resize_mode=1, inpaint=rules)


def painted(request):
    """What the host paints on."""
    return host_picture(request.init_image, request.inpaint, request.size, request.resize_mode)


@pytest.mark.parametrize(
    "image",
    [
        red(),
        as_base64(red()),
        {"image": red(), "mask": None},
        [red(), drawn() * 0],
        (as_base64(red()), None),
        [{"image": red()}],
    ],
    ids=["array", "base64", "dict", "list", "tuple", "list-of-one-dict"],
)
def test_own_picture_in_every_form(image):
    choice = choose(parse_unit({"image": image}), TXT2IMG)
    assert np.array_equal(control_picture(choice, ANY, False).image, red())
    assert choice.is_own


def test_no_picture_says_what_to_do():
    with pytest.raises(UnitError, match=r"unit 3: controlnet is enabled but no input image"):
        chosen(parse_unit({}, 3), TXT2IMG, False)


def test_mask_without_picture_is_refused():
    with pytest.raises(UnitError, match="mask is given without an image"):
        chosen(parse_unit({"mask": drawn()}), TXT2IMG, False)


@pytest.mark.parametrize("image", [[], [red()] * 3, [{"image": red()}] * 2], ids=len)
def test_list_of_wrong_length_is_refused(image):
    with pytest.raises(UnitError, match="unit 0: "):
        chosen(parse_unit({"image": image}), TXT2IMG, False)


def test_undecodable_picture_names_the_unit():
    with pytest.raises(ImageError, match="unit 1: image"):
        chosen(parse_unit({"image": "!!!"}, 1), TXT2IMG, False)


def test_local_path_is_refused(tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(red()).save(file)
    with pytest.raises(ImageError, match="unit 0: image"):
        chosen(parse_unit({"image": str(file)}), TXT2IMG, False)


def test_drawn_mask_becomes_the_picture_of_a_line_unit():
    unit = parse_unit({"image": red(), "mask": drawn()})
    picture = chosen(unit, TXT2IMG, False)
    assert np.array_equal(picture.image, np.dstack([drawn()] * 3))
    kept = chosen(unit, TXT2IMG, False, PictureSource(ignore_masks=True))
    assert np.array_equal(kept.image, red())


def test_inpaint_unit_keeps_picture_and_mask():
    unit = parse_unit({"image": {"image": red(), "mask": drawn()}})
    picture = chosen(unit, TXT2IMG, True)
    assert np.array_equal(picture.image, np.dstack([red(), drawn()]))


def test_img2img_picture_brings_its_resize_mode():
    unit = parse_unit({"resize_mode": "Just Resize"})
    picture = chosen(unit, img2img(), False)
    assert picture.resize_mode is ResizeMode.INNER_FIT
    assert not choose(unit, img2img()).is_own


BLANK = np.zeros((64, 96), np.uint8)
CORNER = np.pad(np.full((16, 16), 255, np.uint8), ((0, 48), (0, 80)))
WHOLE = {
    "no mask": (img2img, {}),
    "mask over the whole picture": (lambda: img2img(CORNER), {}),
    "blank mask, only masked": (lambda: img2img(BLANK, only_masked=True), {}),
    "crop not followed": (
        lambda: img2img(CORNER, only_masked=True),
        {"inpaint_crop_input_image": False},
    ),
}


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("case", WHOLE)
def test_preprocessor_gets_the_img2img_picture_in_full(case, mode):
    make, fields = WHOLE[case]
    smooth = cv2.resize(np.array(img2img().init_image)[::16, ::16], (96, 64))
    request = dataclasses.replace(
        make(), size=Size(48, 48), init_image=Image.fromarray(smooth), resize_mode=mode
    )
    picture = chosen(parse_unit(fields), request, False)
    assert np.array_equal(picture.image, smooth)
    placed = fit_map(picture.image, request.size, picture.resize_mode).astype(int)
    host = host_picture(request.init_image, None, request.size, mode).image
    shown = slice(8, 40) if mode == 2 else slice(None)  # the border is each side's own
    assert np.abs(placed[shown] - host[shown]).mean() < 2, "it lies where the host's lies"


def test_img2img_inpaint_takes_the_hosts_mask():
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :20] = 255
    request = img2img(mask, invert=True)
    picture = chosen(parse_unit({}), request, True)
    assert np.array_equal(picture.image[:, :, 3], painted(request).mask)
    assert np.array_equal(picture.image[:, :, 3], 255 - mask[:, 16:80])


def test_only_masked_crops_own_picture_to_the_same_pixels():
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 30:54] = 255
    request = img2img(mask, only_masked=True)
    own = parse_unit({"image": np.array(request.init_image), "resize_mode": "Just Resize"})
    cropped = chosen(own, request, False)
    followed = chosen(parse_unit({}), request, False)
    assert cropped.image.shape == (64, 64, 3)
    assert np.array_equal(cropped.image, followed.image)
    # Box 24 x 24 and 4 pixels of padding: 32 x 32 pixels, doubled to 64 x 64.
    part = request.init_image.crop((26, 12, 58, 44)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(cropped.image, np.array(part))


def test_only_masked_is_ignored_where_the_unit_says_so():
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 30:54] = 255
    unit = parse_unit({"inpaint_crop_input_image": False})
    picture = chosen(unit, img2img(mask, only_masked=True), True)
    assert np.array_equal(picture.image[:, :, :3], painted(img2img(mask)).image)
    assert np.array_equal(picture.image[:, :, 3], painted(img2img(mask)).mask)


@pytest.mark.parametrize("mode", [0, 1, 3])
def test_picture_without_a_preprocessor_is_what_the_host_paints_on(mode):
    request = dataclasses.replace(img2img(), resize_mode=mode)
    picture = chosen(parse_unit({}), request, False, identity=True)
    placed = fit_map(picture.image, request.size, picture.resize_mode)
    assert np.array_equal(placed, painted(request).image)


UNMASKED = {
    "picture alone": {"image": red()},
    "black mask": {"image": red(), "mask": np.zeros((32, 48), np.uint8)},
    "black mask in base64": {"image": red(), "mask": as_base64(np.zeros((9, 9), np.uint8))},
    "undrawn canvas": {"image": {"image": red(), "mask": np.zeros((32, 48, 3), np.uint8)}},
    "pair": {"image": [red(), np.zeros((32, 48), np.uint8)]},
    "transparent layer": {"image": red(), "mask": np.zeros((32, 48, 4), np.uint8)},
}


@pytest.mark.parametrize("form", UNMASKED)
@pytest.mark.parametrize(
    "rules", [{}, {"only_masked": True}, {"invert": True, "blur_x": 4}], ids=str
)
def test_own_picture_without_a_mask_takes_the_hosts(form, rules):
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 30:54] = 255
    request = img2img(mask, **rules)
    unit = parse_unit({**UNMASKED[form], "resize_mode": "Just Resize"})
    picture = chosen(unit, request, True)
    assert picture.is_held
    placed = fit_map(picture.image, request.size, picture.resize_mode)
    assert np.array_equal(placed[:, :, 3] > 127, painted(request).mask > 127)
    assert (placed[:, :, :3] == red()[0, 0]).all()


def test_own_mask_goes_before_the_hosts():
    unit = parse_unit({"image": red(), "mask": drawn()})
    picture = chosen(unit, img2img(CORNER), True)
    assert np.array_equal(picture.image[:, :, 3], drawn())
    assert not picture.is_held


STROKES = np.pad(np.full((16, 16), 255, np.uint8), ((8, 8), (8, 24)))
LAYER = np.dstack([STROKES] * 4)
LAYERS = {
    "PNG with transparency": as_base64(LAYER),
    "array with alpha": LAYER,
    "grey and alpha": Image.fromarray(np.dstack([STROKES] * 2), "LA"),
    "black strokes": Image.fromarray(np.dstack([STROKES * 0] * 3 + [STROKES])),
}
FIELDS = {
    "mask": lambda mask: inpaint_mask({"image": red(), "mask": mask}),
    "mask_image": lambda mask: inpaint_mask({"image": red(), "mask_image": mask}),
    "image and mask": lambda mask: inpaint_mask({"image": {"image": red(), "mask": mask}}),
    "pair": lambda mask: inpaint_mask({"image": [red(), mask]}),
    "image_fg": lambda mask: inpaint_mask({"image": red(), "image_fg": mask}),
    "effective_region_mask": lambda mask: (
        own_region(
            choose(parse_unit({"image": red(), "effective_region_mask": mask}), TXT2IMG), ANY
        ).mask
    ),
    "scribble on a canvas": lambda mask: chosen(
        parse_unit({"image": red(), "mask": mask}), TXT2IMG, False
    ).image[:, :, 0],
}


def inpaint_mask(fields):
    return chosen(parse_unit(fields), TXT2IMG, True).image[:, :, 3]


@pytest.mark.parametrize("form", LAYERS)
@pytest.mark.parametrize("field", FIELDS)
def test_transparency_of_a_mask_counts_in_every_field(field, form):
    assert np.array_equal(FIELDS[field](LAYERS[form]), STROKES)


def test_transparent_img2img_picture_lies_on_the_hosts_background():
    clear = Image.new("RGBA", (64, 64), (200, 10, 10, 0))
    request = GenerationRequest(Size(64, 64), init_image=clear, background="#102030")
    picture = chosen(parse_unit({}), request, False)
    assert np.unique(picture.image.reshape(-1, 3), axis=0).tolist() == [[16, 32, 48]]


def test_finished_map_stays_sharp_in_a_crop():
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 30:54] = 255
    lines = np.zeros((64, 96, 3), np.uint8)
    lines[::8] = 255
    fields = {"image": lines, "resize_mode": "Just Resize"}
    request = img2img(mask, only_masked=True)
    cropped = chosen(parse_unit(fields), request, False)
    assert set(np.unique(cropped.image)) == {0, 255}
