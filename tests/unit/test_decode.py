"""Every form in which clients send pictures, and every sentence for what cannot be one."""

from __future__ import annotations

import base64
import io
import os
import urllib.parse
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageFile

from lib_controlnet.errors import ImageError
from lib_controlnet.pictures.decode import MAX_SIDE, decode_image, decode_mask, to_rgb
from lib_controlnet.prepare.crop import prepare_mask
from lib_controlnet.units.request import InpaintRules

GRADIENT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def text_of(image: Image.Image, kind: str = "PNG", **options: object) -> str:
    return base64.b64encode(file_of(image, kind, **options)).decode()


PNG = file_of(Image.fromarray(GRADIENT))
TEXT = base64.b64encode(PNG).decode()


def wrapped(text: str, between: str, width: int = 76) -> str:
    return between.join(text[i : i + width] for i in range(0, len(text), width))


FORMS = {
    "base64": TEXT,
    "bytes": PNG,
    "PIL": Image.fromarray(GRADIENT),
    "uint8 array": GRADIENT,
    "array from a view": np.flip(np.flip(GRADIENT, 1).copy(), 1),
    "uint16 array": GRADIENT.astype(np.uint16) * 257,
    "opaque RGBA array": np.dstack([GRADIENT, np.full((4, 6), 255, np.uint8)]),
    "BMP": text_of(Image.fromarray(GRADIENT), "BMP"),
    "lossless WebP": text_of(Image.fromarray(GRADIENT), "WEBP", lossless=True),
    "TIFF": text_of(Image.fromarray(GRADIENT), "TIFF"),
}


TRANSPORTS = {
    "as it is": lambda text: text,
    "without padding": lambda text: text.rstrip("="),
    "URL alphabet": lambda text: text.replace("+", "-").replace("/", "_"),
    "spaces for plus signs": lambda text: text.replace("+", " "),
    "spaces for plus signs, no padding": lambda text: text.replace("+", " ").rstrip("="),
    "line breaks": lambda text: wrapped(text, "\n") + "\n",
    "DOS line breaks": lambda text: wrapped(text, "\r\n", 20),
    "indented lines": lambda text: "\n    " + wrapped(text, "\n    ", 32),
    "lines joined by spaces": lambda text: wrapped(text, " "),
    "indented lines, spaces for plus signs": lambda text: wrapped(
        text.replace("+", " "), "\n\t", 256
    ),
    "percent encoded": lambda text: urllib.parse.quote(text, safe=""),
    "percent encoded twice": lambda text: urllib.parse.quote(urllib.parse.quote(text, safe="")),
    "escapes in small letters": lambda text: text.replace("+", "%2b").replace("=", "%3d"),
    "quoted": lambda text: f'"{text}"',
    "JSON with escaped slashes": lambda text: '"' + text.replace("/", "\\/") + '"',
    "JSON with escaped plus signs": lambda text: text.replace("+", "\\u002B"),
    "literal line breaks": lambda text: wrapped(text, "\\n"),
    "Python's text of bytes": lambda text: str(text.encode()),
    "bytes after the end": lambda text: base64.b64encode(
        base64.b64decode(text) + b"\0\r\n<trailer>" * 9
    ).decode(),
}
DATA_URLS = {
    "bare": "",
    "plain": "data:image/png;base64,",
    "capitals": "DATA:image/PNG;BASE64,",
    "no type": "data:;base64,",
    "nothing but base64": "data:base64,",
    "wrong type": "data:text/plain;base64,",
    "parameters": "data:image/png;charset=utf-8;base64,",
    "parameter with a comma": 'data:image/png;name="a, b.png";base64,',
    "spaces": " data: image/png ; base64 , ",
    "slashes": "data://image/png;base64,",
    "without data": "image/png;base64,",
    "twice": "data:image/png;base64,data:image/png;base64,",
}
CARRIED = {
    # Pixels whose base64 has many plus signs and slashes, and the file with and without padding.
    "PNG": file_of(Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8))),
    "JPEG": file_of(
        Image.fromarray(np.random.default_rng(4).integers(0, 256, (24, 24, 3), np.uint8)), "JPEG"
    ),
}


CARRIAGES = [
    *((way, head) for way in TRANSPORTS for head in ("bare", "plain")),
    *(("spaces for plus signs", head) for head in DATA_URLS),
]


@pytest.mark.parametrize("kind", CARRIED)
@pytest.mark.parametrize(
    ("way", "head"),
    CARRIAGES,
)
def test_picture_arrives_whole_whatever_transport_did(way: str, head: str, kind: str) -> None:
    text = base64.b64encode(CARRIED[kind]).decode()
    assert "+" in text
    assert "/" in text
    sent = DATA_URLS[head] + TRANSPORTS[way](text)
    assert np.array_equal(decode_image(sent), decode_image(CARRIED[kind]))


@pytest.mark.parametrize("way", ["percent encoded", "percent encoded twice", "quoted"])
def test_whole_data_url_may_be_escaped(way: str) -> None:
    sent = TRANSPORTS[way](f"data:image/png;base64,{TEXT}")
    assert np.array_equal(decode_image(sent), GRADIENT)


CUT_FORMATS = {
    "PNG": ("PNG", {}),
    "JPEG": ("JPEG", {"quality": 95}),
    "progressive JPEG": ("JPEG", {"progressive": True}),
    "GIF": ("GIF", {}),
    "WebP": ("WEBP", {}),
    "BMP": ("BMP", {}),
    "TIFF": ("TIFF", {}),
    "TGA": ("TGA", {}),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("lenient", [False, True], ids=["strict Pillow", "lenient Pillow"])
@pytest.mark.parametrize("kind", CUT_FORMATS)
def test_cut_picture_is_refused_or_whole(
    kind: str, lenient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # other extensions do
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    name, options = CUT_FORMATS[kind]
    data = file_of(Image.fromarray(noise), name, **options)
    whole, refused = decode_image(data), 0
    for cut in {*range(len(data) - 40, len(data)), *range(1, len(data), len(data) // 40)}:
        try:
            assert np.array_equal(decode_image(base64.b64encode(data[:cut]).decode()), whole)
        except ImageError as error:
            refused += 1
            assert "image cannot be decoded" in str(error)
    assert refused > 40
    assert ImageFile.LOAD_TRUNCATED_IMAGES is lenient


def test_png_with_a_changed_byte_is_refused_or_whole() -> None:
    data, refused = CARRIED["PNG"], 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 8
        try:
            assert np.array_equal(decode_image(bytes(changed)), decode_image(data))
        except ImageError as error:
            refused += 1
            assert "cannot be decoded" in str(error)
    assert refused > len(data) - 20, "all but lengths and names that nothing depends on"


@pytest.mark.parametrize("form", FORMS, ids=list(FORMS))
def test_decode_image_reads_every_form(form: str) -> None:
    found = decode_image(FORMS[form])
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert np.array_equal(found, GRADIENT)


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    if transparent:
        image.info["transparency"] = 1
    return image


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16))


MODES = {
    # name: (picture, RGB values of its first row)
    "grey": (Image.fromarray(np.array([[0, 77]], np.uint8)), [(0,) * 3, (77,) * 3]),
    "one bit": (
        Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1"),
        [(0,) * 3, (255,) * 3],
    ),
    "palette": (palette(False), [(10, 20, 30), (200, 100, 50)]),
    "palette with transparency": (palette(True), [(10, 20, 30), (255, 255, 255)]),
    "grey and alpha": (
        Image.fromarray(np.array([[[100, 255], [100, 0], [100, 51]]], np.uint8), "LA"),
        [(100,) * 3, (255,) * 3, (224,) * 3],
    ),
    "RGBA": (
        Image.fromarray(np.array([[[9, 8, 7, 255], [9, 8, 7, 0], [0, 100, 255, 128]]], np.uint8)),
        [(9, 8, 7), (255, 255, 255), (127, 177, 255)],
    ),
    "16 bit": (sixteen_bit(), [(v,) * 3 for v in (0, 0, 1, 1, 128, 255)]),
    "CMYK": (Image.new("CMYK", (1, 1), (0, 255, 255, 0)), [(255, 0, 0)]),
    "HSV": (Image.new("HSV", (1, 1), (0, 255, 255)), [(255, 0, 0)]),
}


@pytest.mark.parametrize("mode", MODES, ids=list(MODES))
def test_decode_image_converts_every_mode(mode: str) -> None:
    image, expected = MODES[mode]
    assert decode_image(image)[0].tolist() == [list(colour) for colour in expected]


@pytest.mark.parametrize("mode", ["grey", "one bit", "palette with transparency", "RGBA", "16 bit"])
def test_decode_image_reads_modes_from_png_files(mode: str) -> None:
    image, expected = MODES[mode]
    assert decode_image(text_of(image))[0].tolist() == [list(colour) for colour in expected]


def float_picture(*levels: float) -> Image.Image:
    return Image.fromarray(np.array([[0, 1, *levels]], np.float32))


@pytest.mark.parametrize(
    ("levels", "expected"), [((0.5,), [0, 255, 128]), ((254.6,), [0, 1, 255])], ids=str
)
def test_float_pictures_reach_from_0_to_1_or_to_255(levels: tuple, expected: list) -> None:
    data = file_of(float_picture(*levels), "TIFF")
    assert decode_image(data)[0].tolist() == [[level] * 3 for level in expected]


def test_integer_picture_from_python_with_byte_levels_stays_as_it_is() -> None:
    image = Image.fromarray(np.array([[0, 200]], np.int32))
    assert decode_image(image)[0].tolist() == [[0] * 3, [200] * 3]


ARRAYS = {
    "grey": (GRADIENT[:, :, 0], np.repeat(GRADIENT[:, :, :1], 3, axis=2)),
    "one channel": (GRADIENT[:, :, :1], np.repeat(GRADIENT[:, :, :1], 3, axis=2)),
    "bool": (GRADIENT[:, :, 0] > 50, np.where(GRADIENT[:, :, :1] > 50, 255, 0).repeat(3, axis=2)),
    "transparent": (np.dstack([GRADIENT, np.zeros((4, 6), np.uint8)]), np.full((4, 6, 3), 255)),
    "grey and alpha": (
        np.dstack([GRADIENT[:, :, 0], np.zeros((4, 6), np.uint8)]),
        np.full((4, 6, 3), 255),
    ),
}


@pytest.mark.parametrize("name", ARRAYS, ids=list(ARRAYS))
def test_decode_image_converts_arrays(name: str) -> None:
    array, expected = ARRAYS[name]
    assert np.array_equal(decode_image(array), expected)


def test_keep_alpha_returns_the_channel_only_where_it_says_something() -> None:
    clear = np.dstack([GRADIENT, np.arange(24, dtype=np.uint8).reshape(4, 6)])
    assert np.array_equal(decode_image(clear, keep_alpha=True), clear)
    opaque = np.dstack([GRADIENT, np.full((4, 6), 255, np.uint8)])
    assert decode_image(opaque, keep_alpha=True).shape == (4, 6, 3)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated clockwise
    data = file_of(Image.fromarray(GRADIENT), "PNG", exif=exif)
    assert np.array_equal(decode_image(data), np.rot90(GRADIENT, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_counts_as_none() -> None:
    data = file_of(Image.fromarray(GRADIENT), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert np.array_equal(decode_image(data), GRADIENT)


def test_decode_mask_is_the_first_channel() -> None:
    assert np.array_equal(decode_mask(TEXT), GRADIENT[:, :, 0])


def test_decode_mask_reads_transparency_as_the_host_does() -> None:
    drawn = np.random.default_rng(2).integers(0, 256, (24, 32, 4), np.uint8)
    drawn[..., 3][drawn[..., 3] == 128] = 129  # half way the host rounds down, and we up
    for picture in (drawn, np.dstack([drawn[..., :3], np.zeros((24, 32), np.uint8)])):
        image = Image.fromarray(picture)
        rules = InpaintRules(image, 0, 0, invert=False, binary=True, only_masked=False, padding=0)
        assert np.array_equal(
            decode_mask(text_of(image)) > 127, np.array(prepare_mask(rules)) > 127
        )


def test_decode_mask_without_transparency_is_the_first_channel() -> None:
    opaque = np.dstack([GRADIENT, np.full((4, 6), 255, np.uint8)])
    assert np.array_equal(decode_mask(opaque), GRADIENT[:, :, 0])


@pytest.mark.parametrize("alpha", [0, 1, 37, 128, 254, 255])
def test_to_rgb_composites_on_white_rounding_down(alpha: int) -> None:
    levels = np.arange(256, dtype=np.uint8)
    rgba = np.dstack([levels[None], levels[None], levels[None], np.full((1, 256), alpha, np.uint8)])
    exact = [(int(v) * alpha + 255 * (255 - alpha)) // 255 for v in levels]
    assert to_rgb(rgba)[0, :, 0].tolist() == exact


def header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    data = bytearray(file_of(Image.new("L", (1, 1))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


FAULTS = {
    "empty text": ("", "the text is empty"),
    "no base64": ("not a picture!", "neither base64 nor a data URL"),
    "base64 of something else": (base64.b64encode(b"hello world").decode(), "its 11 bytes are no"),
    "cut short": (PNG[:-30], "damaged or cut short"),
    "data URL without base64": ("data:image/png,abc", "the data URL must read"),
    "data URL without body": ("data:image/png;base64,", "the data URL must read"),
    "URL": ("https://example.com/a.png", "is a URL, which this WebUI does not load"),
    "path": ("C:\\pictures\\a.png", "reading local files is not allowed"),
    "unix path": ("/etc/pictures/a b.png", "reading local files is not allowed"),
    "number": (5, "it is int; send base64 text"),
    "None": (None, "it is NoneType; send base64 text"),
    "float array": (np.zeros((4, 4, 3), np.float32), "the array holds float32 numbers"),
    "int array": (np.zeros((4, 4, 3), np.int64), "the array holds int64 numbers"),
    "five channels": (np.zeros((4, 4, 5), np.uint8), "the array is 4 x 4 x 5"),
    "one dimension": (np.zeros(9, np.uint8), "the array is 9; expected"),
    "four dimensions": (np.zeros((1, 4, 4, 3), np.uint8), "the array is 1 x 4 x 4 x 3"),
    "empty array": (np.zeros((0, 4, 3), np.uint8), "it is empty (4 x 0 pixels)"),
    "float picture below 0": (float_picture(-0.5), "floating point pixels from -0.5 to 1"),
    "float picture above 255": (float_picture(256), "floating point pixels from 0 to 256"),
    "float picture with NaN": (float_picture(float("nan")), "floating point pixels from nan"),
    "base64 of base64": (base64.b64encode(TEXT.encode()).decode(), "no picture in a known format"),
    "half a base64": (TEXT[: len(TEXT) // 2 + 4], "cannot be decoded"),
    "a character too many": (TEXT[:9] + "A" + TEXT[9:], "cannot be decoded"),
    "too wide": (np.zeros((1, MAX_SIDE + 1, 3), np.uint8), "is 16385 x 1 pixels; at most 16384"),
    "too wide by its header": (header(20_000, 30), "is 20000 x 30 pixels"),
    "too many pixels": (header(12_000, 12_000), "128 million in all"),
    "bomb": (header(2**31 - 1, 2**31 - 1), "at most 16384 a side"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture in a known format"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("fault", FAULTS, ids=list(FAULTS))
def test_decode_image_says_what_is_wrong(fault: str) -> None:
    value, sentence = FAULTS[fault]
    with pytest.raises(ImageError) as caught:
        decode_image(value, "unit 2: image")
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("unit 2: image ")
    assert caught.value.status_code == 422


def test_url_is_loaded_by_the_given_fetcher() -> None:
    asked = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return PNG

    assert np.array_equal(decode_image("https://example.com/a.png", fetch=fetch), GRADIENT)
    assert asked == ["https://example.com/a.png"]
    shown = decode_image("http://example.com/b", fetch=lambda _: Image.fromarray(GRADIENT))
    assert np.array_equal(shown, GRADIENT)


def test_url_that_cannot_be_loaded_names_it() -> None:
    def fetch(_: str) -> bytes:
        msg = "Request to local resource not allowed"
        raise ValueError(msg)

    with pytest.raises(ImageError, match=r"from http://127\.0\.0\.1/a: Request to local resource"):
        decode_image("http://127.0.0.1/a", fetch=fetch)


@pytest.fixture
def opened(tmp_path: Path) -> Path:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "inside.png").write_bytes(PNG)
    (tmp_path / "outside.png").write_bytes(PNG)
    return folder


def test_path_is_read_from_an_opened_folder_only(opened: Path) -> None:
    inside, outside = opened / "inside.png", opened.parent / "outside.png"
    for value in (str(inside), inside):
        assert np.array_equal(decode_image(value, allow_paths=[opened]), GRADIENT)
    for value in (str(outside), str(opened / ".." / "outside.png")):
        with pytest.raises(ImageError, match="outside the folders opened for pictures"):
            decode_image(value, allow_paths=[opened])
    assert np.array_equal(decode_image(str(outside), allow_paths=True), GRADIENT)
    with pytest.raises(ImageError, match="reading local files is not allowed"):
        decode_image(inside)


def test_refused_path_does_not_tell_whether_the_file_exists(opened: Path) -> None:
    answers = set()
    for name in ("inside.png", "missing.png"):
        with pytest.raises(ImageError) as caught:
            decode_image(str(opened / name))
        answers.add(str(caught.value))
    assert len(answers) == 1


def test_link_out_of_an_opened_folder_is_refused(opened: Path) -> None:
    link = opened / "link.png"
    link.symlink_to(opened.parent / "outside.png")
    with pytest.raises(ImageError, match="outside the folders"):
        decode_image(str(link), allow_paths=[opened])


def test_missing_file_in_an_opened_folder_is_named(opened: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot be read from .*gone\.png"):
        decode_image(str(opened / "gone.png"), allow_paths=[opened])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_plain_file_in_an_opened_folder_is_refused(opened: Path) -> None:
    """Reading a pipe or a device could take for ever."""
    os.mkfifo(opened / "pipe.png")
    (opened / "folder.png").mkdir()
    (opened / "itself.png").symlink_to(opened / "itself.png")
    (opened / "gone.png").symlink_to(opened / "nowhere.png")
    (opened / "large.png").touch()
    os.truncate(opened / "large.png", 2**40)
    for name in ("pipe", "folder", "itself", "gone", "large"):
        with pytest.raises(ImageError, match=rf"cannot be read from .*{name}\.png"):
            decode_image(str(opened / f"{name}.png"), allow_paths=[opened])
    with pytest.raises(ImageError, match="cannot be read"):
        decode_image("/dev/zero.png", allow_paths=True)


@pytest.mark.parametrize("form", ['"{}"', " {} ", "'{}'"])
def test_path_may_be_typed_as_people_do(form: str, opened: Path) -> None:
    value = form.format(opened / "inside.png")
    assert np.array_equal(decode_image(value, allow_paths=[opened]), GRADIENT)


@pytest.mark.parametrize("text", ["~nobody-at-all/a.png", "a\0.png", "/" + "a" * 4000 + ".png"])
def test_no_path_is_more_than_a_sentence(text: str, opened: Path) -> None:
    for folders in ([opened], True, ["~nobody-at-all"]):
        with pytest.raises(ImageError):
            decode_image(text, allow_paths=folders)


BYTES = st.binary(max_size=200)
DAMAGED = st.tuples(
    st.sampled_from(
        [PNG, file_of(Image.fromarray(GRADIENT), "JPEG"), file_of(palette(True), "GIF")]
    ),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(8, 400),
)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        BYTES,
        BYTES.map(lambda data: base64.b64encode(data).decode()),
        st.text(st.characters(max_codepoint=300)),
    )
)
def test_any_bytes_and_text_decode_or_say_why(value: str | bytes) -> None:
    decoded_or_image_error(value)


@settings(max_examples=120, deadline=None)
@given(DAMAGED)
def test_damaged_files_decode_or_say_why(case: tuple) -> None:
    data, changes, end = case
    damaged = bytearray(data)
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    decoded_or_image_error(bytes(damaged[:end]))


DTYPES = st.sampled_from([np.uint8, np.uint16, np.bool_, np.float32, np.int32])


@settings(max_examples=80, deadline=None)
@given(arrays.arrays(DTYPES, st.lists(st.integers(0, 7), max_size=4).map(tuple)))
def test_any_array_decodes_or_says_why(array: np.ndarray) -> None:
    decoded_or_image_error(array)


def decoded_or_image_error(value: object) -> None:
    try:
        found = decode_image(value)
    except ImageError as error:
        assert len(str(error)) > 20
    else:
        assert found.dtype == np.uint8
        assert found.ndim == 3
        assert found.shape[2] == 3
        assert min(found.shape) > 0
