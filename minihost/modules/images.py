"""Resizing, grids, and pictures on disk with their generation parameters."""

from __future__ import annotations

import datetime
import io
import math
import re
from pathlib import Path

from modules import script_callbacks, shared
from PIL import Image, ImageOps, PngImagePlugin

LANCZOS = Image.Resampling.LANCZOS
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
INVALID_NAME = re.compile(r'[#<>:"/\\|?*\n\r\t]')


# ---- resizing ------------------------------------------------------------------------------


def resize_image(
    resize_mode: int,
    im: Image.Image,
    width: int,
    height: int,
    upscaler_name: str | None = None,
) -> Image.Image:
    """Resize to exactly width x height.

    Args:
        resize_mode: 0 stretches; 1 covers and crops the centre; every other value fits the
            picture in and fills the borders by stretching its edge rows or columns.
        im: picture; mode `L` is always resized with Lanczos.
        width: pixels.
        height: pixels.
        upscaler_name: used for enlarging.

    Returns:
        Mode 0 keeps the picture's mode, the others give RGB.
    """

    def resize(picture: Image.Image, w: int, h: int) -> Image.Image:
        scale = max(w / picture.width, h / picture.height)
        if upscaler_name not in (None, "None") and picture.mode != "L" and scale > 1.0:
            picture = _upscale(picture, scale, upscaler_name)
        return picture if picture.size == (w, h) else picture.resize((w, h), resample=LANCZOS)

    if resize_mode == 0:
        return resize(im, width, height)

    ratio, source_ratio = width / height, im.width / im.height
    cover = resize_mode == 1
    full_width = ratio > source_ratio if cover else ratio < source_ratio
    full_height = ratio <= source_ratio if cover else ratio >= source_ratio
    new_width = width if full_width else im.width * height // im.height
    new_height = height if full_height else im.height * width // im.width
    resized = resize(im, new_width, new_height)
    result = Image.new("RGB", (width, height))
    left, top = width // 2 - new_width // 2, height // 2 - new_height // 2
    result.paste(resized, box=(left, top))
    if not cover:
        _fill_borders(result, resized, left, top)
    return result


def _fill_borders(canvas: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    """Stretch the outermost rows (or columns) of `picture` over the free borders, in place."""
    width, height = canvas.size
    right_edge, bottom_edge = picture.width, picture.height
    if top > 0:
        first = picture.resize((width, top), box=(0, 0, width, 0))
        last = picture.resize((width, top), box=(0, bottom_edge, width, bottom_edge))
        canvas.paste(first, box=(0, 0))
        canvas.paste(last, box=(0, top + bottom_edge))
    elif left > 0:
        first = picture.resize((left, height), box=(0, 0, 0, height))
        last = picture.resize((left, height), box=(right_edge, 0, right_edge, height))
        canvas.paste(first, box=(0, 0))
        canvas.paste(last, box=(left + right_edge, 0))


def _upscale(picture: Image.Image, scale: float, name: str) -> Image.Image:
    found = [item for item in shared.sd_upscalers if item.name == name]
    if not found:
        known = ", ".join(item.name for item in shared.sd_upscalers)
        msg = f"upscaler '{name}' is not known; expected one of: {known}"
        raise ValueError(msg)
    return found[0].scaler.upscale(picture, scale)


def flatten(img: Image.Image, bgcolor: str) -> Image.Image:
    """Composite a transparent picture over `bgcolor`; gives RGB."""
    if img.mode == "RGBA":
        background = Image.new("RGBA", img.size, bgcolor)
        background.paste(img, mask=img)
        img = background
    return img.convert("RGB")


def fix_image(image: Image.Image | None) -> Image.Image | None:
    """Apply the EXIF rotation and turn palette transparency into an alpha channel."""
    if image is None:
        return None
    image = ImageOps.exif_transpose(image)
    transparent = image.mode in ("RGB", "P") and "transparency" in image.info
    return image.convert("RGBA") if transparent else image


def read(fp: str | Path | io.IOBase) -> Image.Image:
    """Open a picture with `fix_image` applied."""
    return fix_image(Image.open(fp))


# ---- grids ---------------------------------------------------------------------------------


def image_grid(
    imgs: list[Image.Image], batch_size: int = 1, rows: int | None = None
) -> Image.Image:
    """One picture with all of `imgs` side by side, in as many rows as columns unless told."""
    del batch_size  # counts only under a setting that this host has not
    count = len(imgs)
    rows = max(1, min(math.floor(math.sqrt(count)) if rows is None else rows, count))
    columns = math.ceil(count / rows)
    width, height = max(img.width for img in imgs), max(img.height for img in imgs)
    grid = Image.new("RGB", (columns * width, rows * height), "#ffffff")
    for index, img in enumerate(imgs):
        left, top = index % columns * width, index // columns * height
        grid.paste(img, (left + (width - img.width) // 2, top + (height - img.height) // 2))
    return grid


# ---- saving and reading --------------------------------------------------------------------


def sanitize_filename_part(text: str | None, replace_spaces: bool = True) -> str | None:
    """Text that can be part of a file name on any system, at most 128 characters."""
    if text is None:
        return None
    text = text.replace(" ", "_") if replace_spaces else text
    return INVALID_NAME.sub("_", text).lstrip(" ")[:128].rstrip(" .")


def apply_filename_pattern(pattern: str, p: object, seed: object, prompt: str | None) -> str:
    """Replace `[seed]`, `[prompt]`, `[prompt_spaces]`, `[date]`, `[datetime]`, `[width]`, ..."""
    now = datetime.datetime.now()
    values = {
        "seed": "" if seed is None else str(seed),
        "prompt": sanitize_filename_part(prompt or ""),
        "prompt_spaces": sanitize_filename_part(prompt or "", replace_spaces=False),
        "date": now.strftime("%Y-%m-%d"),
        "datetime": now.strftime("%Y%m%d%H%M%S"),
        **{name: str(getattr(p, name, "")) for name in ("width", "height", "steps")},
    }

    def replacement(match: re.Match[str]) -> str:
        value = values.get(match.group(1).lower())
        return match.group(0) if value is None else value

    return re.sub(r"\[(\w+)\]", replacement, pattern)


def get_next_sequence_number(path: str | Path, basename: str) -> int:
    """Highest leading number among the files of `path` with the prefix, plus one; 0 if none."""
    prefix = f"{basename}-" if basename else ""
    highest = -1
    for entry in Path(path).iterdir():
        if entry.name.startswith(prefix):
            number = entry.stem[len(prefix) :].split("-")[0]
            highest = max(highest, int(number)) if number.isdigit() else highest
    return highest + 1


def save_image_with_geninfo(
    image: Image.Image,
    geninfo: str | None,
    filename: str | Path | io.IOBase,
    extension: str,
    existing_pnginfo: dict | None = None,
    pnginfo_section_name: str = "parameters",
) -> None:
    """Write a picture with its parameters: PNG text chunk, else EXIF user comment."""
    kind, options = Image.registered_extensions()[extension], {}
    if extension == ".png":
        info = options["pnginfo"] = PngImagePlugin.PngInfo()
        texts = {**(existing_pnginfo or {}), pnginfo_section_name: geninfo}
        for key, value in texts.items():
            if value is not None:
                info.add_text(key, str(value))
    elif geninfo:
        options["exif"] = _exif_with_comment(geninfo)
    if kind == "JPEG":
        image = image.convert("RGB")
    image.save(filename, format=kind, quality=shared.opts.jpeg_quality, **options)


def _exif_with_comment(text: str) -> bytes:
    exif = Image.Exif()
    exif[EXIF_IFD] = {USER_COMMENT: b"UNICODE\0" + text.encode("utf-16-be")}
    return exif.tobytes()


def _numbered(folder: Path, basename: str) -> str:
    """Start of the next file's name."""
    number = get_next_sequence_number(folder, basename)
    return f"{number:05}" if basename == "" else f"{basename}-{number:04}"


def save_image(
    image: Image.Image,
    path: str | Path,
    basename: str,
    seed: object = None,
    prompt: str | None = None,
    extension: str = "png",
    info: str | None = None,
    short_filename: bool = False,
    pnginfo_section_name: str = "parameters",
    p: object = None,
    forced_filename: str | None = None,
    save_to_dirs: bool | None = None,
) -> tuple[str, str | None]:
    """Save a picture under the naming rules of the settings.

    Returns:
        (path of the picture, None: a text file beside it is not written).
    """
    if save_to_dirs is None:
        save_to_dirs = shared.opts.save_to_dirs
    folder = Path(path)
    if save_to_dirs:
        folder = folder / apply_filename_pattern("[date]", p, seed, prompt)
    folder.mkdir(parents=True, exist_ok=True)
    name = forced_filename
    if name is None:
        decoration = ""
        if not (short_filename or seed is None):
            default = "[seed]" if save_to_dirs else "[seed]-[prompt_spaces]"
            pattern = shared.opts.samples_filename_pattern or default
            decoration = "-" + apply_filename_pattern(pattern, p, seed, prompt)
        name = _numbered(folder, basename) + decoration

    pnginfo = {} if info is None else {pnginfo_section_name: info}
    params = script_callbacks.ImageSaveParams(
        image, p, str(folder / f"{name}.{extension}"), pnginfo
    )
    script_callbacks.before_image_saved_callback(params)
    geninfo = params.pnginfo.get(pnginfo_section_name)
    target = Path(params.filename)
    # Written beside its place and moved, so that a folder watcher never sees half a picture.
    partial = target.with_name(target.stem + ".tmp")
    save_image_with_geninfo(
        params.image, geninfo, partial, target.suffix, params.pnginfo, pnginfo_section_name
    )
    partial.replace(target)
    script_callbacks.image_saved_callback(params)
    return str(target), None


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict]:
    """Generation parameters of a picture, and its other text entries."""
    items = {key: text for key, text in image.info.items() if isinstance(text, str)}
    geninfo = items.pop("parameters", None)
    if "exif" in image.info:
        comment = _read_user_comment(image.info["exif"])
        items["exif comment"] = comment
        geninfo = geninfo or comment or None
    return geninfo, items


def _read_user_comment(data: bytes) -> str:
    exif = Image.Exif()
    exif.load(data)
    raw = exif.get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
    return raw.removeprefix(b"UNICODE\0").decode("utf-16-be", errors="ignore")
