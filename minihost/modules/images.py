"""Resizing, grids, and pictures on disk with their generation parameters."""

from __future__ import annotations

import datetime
import io
import json
import math
import re
from pathlib import Path

import numpy as np
from modules import script_callbacks, shared
from PIL import Image, ImageOps, PngImagePlugin

LANCZOS = Image.Resampling.LANCZOS
EXIF_IFD = 0x8769
USER_COMMENT = 0x9286
INVALID_NAME = re.compile(r'[#<>:"/\\|?*\n\r\t]')


def _option(name: str, default: object) -> object:
    return getattr(shared.opts, name, default)


# ---- resizing ------------------------------------------------------------------------------


def resize_image(  # noqa: PLR0913
    resize_mode: int,
    im: Image.Image,
    width: int,
    height: int,
    upscaler_name: str | None = None,
    force_RGBA: bool = False,  # noqa: N803 - the WebUI's argument name
) -> Image.Image:
    """Resize to exactly width x height.

    Args:
        resize_mode: 0 stretches; 1 covers and crops the centre; every other value fits the
            picture in and fills the borders by stretching its edge rows or columns.
        im: picture; mode `L` is always resized with Lanczos.
        width: pixels.
        height: pixels.
        upscaler_name: used for enlarging; None means the img2img upscaler of the settings.
        force_RGBA: give an RGBA result in modes other than 0.

    Returns:
        Mode 0 keeps the picture's mode, the others give RGB (RGBA).
    """
    name = upscaler_name or _option("upscaler_for_img2img", None)

    def resize(picture: Image.Image, w: int, h: int) -> Image.Image:
        scale = max(w / picture.width, h / picture.height)
        use_upscaler = name not in (None, "None") and picture.mode != "L" and not force_RGBA
        if use_upscaler and scale > 1.0:
            picture = _upscale(picture, scale, str(name))
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
    result = Image.new("RGBA" if force_RGBA else "RGB", (width, height))
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
    return found[0].scaler.upscale(picture, scale, found[0].data_path)


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
    return fix_png_transparency(image)


def fix_png_transparency(image: Image.Image) -> Image.Image:
    """RGBA for a palette or RGB picture whose transparency is in its metadata."""
    if image.mode not in ("RGB", "P") or "transparency" not in image.info:
        return image
    return image.convert("RGBA")


def read(fp: str | Path | io.IOBase) -> Image.Image:
    """Open a picture with `fix_image` applied."""
    return fix_image(Image.open(fp))


# ---- grids ---------------------------------------------------------------------------------


def get_grid_size(images: list[Image.Image], batch_size: int = 1, rows: int | None = None) -> tuple:
    """(columns, rows) of the grid of `images` under the settings `n_rows`, `grid_prevent_empty`."""
    count = len(images)
    if rows is None:
        wanted = int(_option("n_rows", -1))
        if wanted > 0:
            rows = wanted
        elif wanted == 0:
            rows = batch_size
        else:
            rows = math.floor(math.sqrt(count))
            while bool(_option("grid_prevent_empty_spots", False)) and count % rows != 0:
                rows -= 1
    rows = max(1, min(rows, count))
    return math.ceil(count / rows), rows


def image_grid(
    imgs: list[Image.Image], batch_size: int = 1, rows: int | None = None
) -> Image.Image:
    """One picture with all of `imgs` side by side; cells have the largest size."""
    cols, rows = get_grid_size(imgs, batch_size, rows)
    params = script_callbacks.ImageGridParams(imgs, cols, rows)
    script_callbacks.image_grid_callback(params)
    width = max(img.width for img in params.imgs)
    height = max(img.height for img in params.imgs)
    grid = Image.new(
        "RGB",
        size=(params.cols * width, params.rows * height),
        color=str(_option("grid_background_color", "#ffffff")),
    )
    for index, img in enumerate(params.imgs):
        img_x = (width - img.width) // 2
        img_y = (height - img.height) // 2
        column, row = index % params.cols, index // params.cols
        grid.paste(img, box=(column * width + img_x, row * height + img_y))
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
        "width": str(getattr(p, "width", "")),
        "height": str(getattr(p, "height", "")),
        "steps": str(getattr(p, "steps", "")),
        "cfg": str(getattr(p, "cfg_scale", "")),
        "sampler": sanitize_filename_part(str(getattr(p, "sampler_name", ""))),
        "model_name": sanitize_filename_part(str(getattr(p, "sd_model_name", ""))),
        "model_hash": str(getattr(p, "sd_model_hash", "")),
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
    filename: str | Path,
    extension: str | None = None,
    existing_pnginfo: dict | None = None,
    pnginfo_section_name: str = "parameters",
) -> None:
    """Write a picture with its parameters: PNG text chunk, EXIF user comment, GIF comment."""
    extension = (extension or Path(filename).suffix).lower()
    quality = int(_option("jpeg_quality", 80))
    enabled = bool(_option("enable_pnginfo", True))
    if extension == ".png":
        texts = dict(existing_pnginfo or {})
        texts[pnginfo_section_name] = geninfo
        info = PngImagePlugin.PngInfo()
        for key, value in texts.items():
            if value is not None:
                info.add_text(key, str(value))
        image.save(filename, format="PNG", pnginfo=info if enabled else None)
    elif extension in (".jpg", ".jpeg", ".webp", ".avif"):
        if image.mode in ("RGBA", "I;16") and extension in (".jpg", ".jpeg"):
            image = image.convert("RGB")
        extra = {"exif": _exif_with_comment(geninfo)} if enabled and geninfo else {}
        if extension == ".webp":
            extra["lossless"] = bool(_option("webp_lossless", False))
        image.save(
            filename, format=Image.registered_extensions()[extension], quality=quality, **extra
        )
    else:
        image.save(filename, format=Image.registered_extensions()[extension], quality=quality)


def _exif_with_comment(text: str) -> bytes:
    exif = Image.Exif()
    exif[EXIF_IFD] = {USER_COMMENT: b"UNICODE\0" + text.encode("utf-16-be")}
    return exif.tobytes()


def _numbered(folder: Path, basename: str) -> str:
    """Start of the next file's name."""
    number = get_next_sequence_number(folder, basename)
    return f"{number:05}" if basename == "" else f"{basename}-{number:04}"


def save_image(  # noqa: PLR0913
    image: Image.Image,
    path: str | Path,
    basename: str,
    seed: object = None,
    prompt: str | None = None,
    extension: str = "png",
    info: str | None = None,
    short_filename: bool = False,
    no_prompt: bool = False,
    grid: bool = False,
    pnginfo_section_name: str = "parameters",
    p: object = None,
    existing_info: dict | None = None,
    forced_filename: str | None = None,
    suffix: str = "",
    save_to_dirs: bool | None = None,
) -> tuple[str, str | None]:
    """Save a picture under the naming rules of the settings.

    Returns:
        (path of the picture, path of the text file or None).
    """
    del no_prompt
    if save_to_dirs is None:
        option = "grid_save_to_dirs" if grid else "save_to_dirs"
        save_to_dirs = bool(_option(option, False))
    folder = Path(path)
    if save_to_dirs:
        pattern = str(_option("directories_filename_pattern", "") or "[date]")
        folder = folder / apply_filename_pattern(pattern, p, seed, prompt).lstrip(" \\/")
    folder.mkdir(parents=True, exist_ok=True)
    name = forced_filename
    if name is None:
        decoration = ""
        if not (short_filename or seed is None):
            default = "[seed]" if save_to_dirs else "[seed]-[prompt_spaces]"
            pattern = str(_option("samples_filename_pattern", "") or default)
            decoration = "-" + apply_filename_pattern(pattern, p, seed, prompt)
        name = _numbered(folder, basename) + decoration + suffix

    pnginfo = dict(existing_info or {})
    if info is not None:
        pnginfo[pnginfo_section_name] = info
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
    image.already_saved_as = str(target)

    text_path = None
    if bool(_option("save_txt", False)) and geninfo is not None:
        text_path = str(target.with_suffix(".txt"))
        Path(text_path).write_text(f"{geninfo}\n", encoding="utf8")
    script_callbacks.image_saved_callback(params)
    return str(target), text_path


def read_info_from_image(image: Image.Image) -> tuple[str | None, dict]:
    """Generation parameters of a picture, and its other text entries."""
    items = dict(image.info or {})
    geninfo = items.pop("parameters", None)
    comment = None
    if "exif" in items:
        comment = _read_user_comment(items.pop("exif"))
    elif "comment" in items:  # GIF
        raw = items["comment"]
        comment = raw.decode("utf8", errors="ignore") if isinstance(raw, bytes) else str(raw)
    if comment:
        items["exif comment"] = comment
        geninfo = comment if geninfo is None else geninfo
    for field in (
        "jfif",
        "jfif_version",
        "jfif_unit",
        "jfif_density",
        "dpi",
        "loop",
        "background",
        "timestamp",
        "duration",
        "progressive",
        "progression",
        "icc_profile",
        "chromaticity",
        "photoshop",
    ):
        items.pop(field, None)
    return geninfo, items


def _read_user_comment(data: bytes) -> str:
    exif = Image.Exif()
    exif.load(data)
    raw = exif.get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
    if not isinstance(raw, bytes):
        return str(raw)
    if raw.startswith(b"UNICODE\0"):
        return raw[8:].decode("utf-16-be", errors="ignore")
    return raw[8:].decode("utf8", errors="ignore")


def image_data(data: bytes) -> tuple[str | None, dict]:
    """`read_info_from_image` for the bytes of a picture or of a text file."""
    try:
        image = read(io.BytesIO(data))
        return read_info_from_image(image)
    except OSError:
        pass
    try:
        text = data.decode("utf8")
        json.dumps(text)
    except UnicodeDecodeError:
        return "", {}
    return text, {}


def to_uint8(image: np.ndarray) -> Image.Image:
    """RGB picture from a float array (H, W, 3), 0 to 255; fractions are cut, as the WebUI does."""
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
