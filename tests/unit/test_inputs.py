"""Which picture feeds a unit."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from lib_controlnet.crop import host_picture
from lib_controlnet.errors import ImageError, UnitError
from lib_controlnet.image import Size, fit_map
from lib_controlnet.inputs import PictureSource, control_picture
from lib_controlnet.request import GenerationRequest, InpaintRules
from lib_controlnet.unit import parse_unit

TXT2IMG = GenerationRequest(Size(64, 64))
ANY = PictureSource()


def red(width=48, height=32):
    return np.full((height, width, 3), (200, 10, 10), np.uint8)


def drawn(width=48, height=32):
    mask = np.zeros((height, width), np.uint8)
    mask[8:16, 8:16] = 255
    return mask


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
    picture = control_picture(parse_unit({"image": image}), TXT2IMG, False, ANY)
    assert np.array_equal(picture.image, red())
    assert picture.is_own


def test_no_picture_says_what_to_do():
    with pytest.raises(UnitError, match=r"unit 3: controlnet is enabled but no input image"):
        control_picture(parse_unit({}, 3), TXT2IMG, False, ANY)


def test_mask_without_picture_is_refused():
    with pytest.raises(UnitError, match="mask is given without an image"):
        control_picture(parse_unit({"mask": drawn()}), TXT2IMG, False, ANY)


@pytest.mark.parametrize("image", [[], [red()] * 3, [{"image": red()}] * 2], ids=len)
def test_list_of_wrong_length_is_refused(image):
    with pytest.raises(UnitError, match="unit 0: "):
        control_picture(parse_unit({"image": image}), TXT2IMG, False, ANY)


def test_undecodable_picture_names_the_unit():
    with pytest.raises(ImageError, match="unit 1: image"):
        control_picture(parse_unit({"image": "!!!"}, 1), TXT2IMG, False, ANY)


def test_local_path_is_refused(tmp_path):
    file = tmp_path / "picture.png"
    Image.fromarray(red()).save(file)
    with pytest.raises(ImageError, match="unit 0: image"):
        control_picture(parse_unit({"image": str(file)}), TXT2IMG, False, ANY)


def test_drawn_mask_becomes_the_picture_of_a_line_unit():
    unit = parse_unit({"image": red(), "mask": drawn()})
    picture = control_picture(unit, TXT2IMG, False, ANY)
    assert np.array_equal(picture.image, np.dstack([drawn()] * 3))
    kept = control_picture(unit, TXT2IMG, False, PictureSource(ignore_masks=True))
    assert np.array_equal(kept.image, red())


def test_inpaint_unit_keeps_picture_and_mask():
    unit = parse_unit({"image": {"image": red(), "mask": drawn()}})
    picture = control_picture(unit, TXT2IMG, True, ANY)
    assert np.array_equal(picture.image, np.dstack([red(), drawn()]))


def test_img2img_picture_brings_its_resize_mode():
    request = img2img()
    unit = parse_unit({"resize_mode": "Just Resize"})
    picture = control_picture(unit, request, False, ANY)
    assert np.array_equal(picture.image, painted(request).image)
    assert not picture.is_own
    fitted = fit_map(picture.image, request.size, picture.resize_mode)
    assert np.array_equal(fitted, picture.image), "it lies on the host's pixels as it is"


def test_img2img_inpaint_takes_the_hosts_mask():
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :20] = 255
    request = img2img(mask, invert=True)
    picture = control_picture(parse_unit({}), request, True, ANY)
    assert np.array_equal(picture.image[:, :, 3], painted(request).mask)
    assert np.array_equal(picture.image[:, :, 3], 255 - mask[:, 16:80])


def test_only_masked_crops_own_picture_to_the_same_pixels():
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 30:54] = 255
    request = img2img(mask, only_masked=True)
    own = parse_unit({"image": np.array(request.init_image), "resize_mode": "Just Resize"})
    cropped = control_picture(own, request, False, ANY)
    followed = control_picture(parse_unit({}), request, False, ANY)
    assert cropped.image.shape == (64, 64, 3)
    assert np.array_equal(cropped.image, followed.image)
    # Box 24 x 24 and 4 pixels of padding: 32 x 32 pixels, doubled to 64 x 64.
    part = request.init_image.crop((26, 12, 58, 44)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(cropped.image, np.array(part))


def test_only_masked_is_ignored_where_the_unit_says_so():
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 30:54] = 255
    unit = parse_unit({"inpaint_crop_input_image": False})
    picture = control_picture(unit, img2img(mask, only_masked=True), False, ANY)
    assert np.array_equal(picture.image, painted(img2img(mask)).image)


def test_blank_only_masked_mask_falls_back_to_the_whole_picture():
    request = img2img(np.zeros((64, 96), np.uint8), only_masked=True)
    picture = control_picture(parse_unit({}), request, False, ANY)
    assert np.array_equal(picture.image, painted(img2img()).image)


def test_transparent_img2img_picture_lies_on_the_hosts_background():
    clear = Image.new("RGBA", (64, 64), (200, 10, 10, 0))
    request = GenerationRequest(Size(64, 64), init_image=clear, background="#102030")
    picture = control_picture(parse_unit({}), request, False, ANY)
    assert np.unique(picture.image.reshape(-1, 3), axis=0).tolist() == [[16, 32, 48]]


def test_finished_map_stays_sharp_in_a_crop():
    mask = np.zeros((64, 96), np.uint8)
    mask[16:40, 30:54] = 255
    lines = np.zeros((64, 96, 3), np.uint8)
    lines[::8] = 255
    fields = {"image": lines, "resize_mode": "Just Resize"}
    request = img2img(mask, only_masked=True)
    cropped = control_picture(parse_unit(fields), request, False, ANY)
    assert set(np.unique(cropped.image)) == {0, 255}
