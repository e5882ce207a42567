"""Writes docs/preprocessors.md and its pictures from the registry: run it after adding one.

python docs/make_gallery.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS.parent / "minihost")]

from lib_controlnet.detect.preprocess import all_detectors, run_preprocessor  # noqa: E402
from lib_controlnet.pictures.maps import resize_short_side  # noqa: E402

if TYPE_CHECKING:
    from annotator.registry import Detector, Slider

PAGE = DOCS / "preprocessors.md"
PICTURES = DOCS / "preprocessors"
RESOLUTION = 512
SHOWN = 256
QUALITY = 82
COLUMNS = 4

# Sliders other than the defaults where those would show nothing on this photograph.
EXAMPLES = {"tile_resample": (8,), "recolor_luminance": (1.5,)}

HEAD = """# Preprocessors

A preprocessor turns a picture into the control map that a control model was trained on. This
page is written by `docs/make_gallery.py` from the registry in `annotator/`; the pictures are real
outputs for one photograph (NASA, public domain) at resolution 512 with default sliders, unless
said otherwise. Preprocessors with a network need a weight file, which is downloaded when one
first runs; they follow in a table. [weight-files.md](weight-files.md) tells where the files lie
and how to get them otherwise, [networks.md](networks.md) what each network was compared with.

"""

WEIGHTS_HEAD = """
## With a network

| name | makes | weight files | size | licence of the weights | needs |
|---|---|---|---|---|---|
"""

ABSENT_HEAD = """
## Not available yet

Declared, so that programs and old settings find their names, and refused with the reason:

| name | reason |
|---|---|
"""

TABLE_HEAD = """
## Names, control types, sliders

The API and infotext take the name or the label in any letter case; a slider value out of range
(-1, for instance) means the default. *Resolution* is the length of the short side the
preprocessor works at; "Pixel Perfect" sets it to what the generation needs.

| name | label in the panel | control types | sliders: default (range) |
|---|---|---|---|
"""

PALETTES = """
## Palettes of segmentation maps

In a segmentation map a colour is the name of a class, so it must be exact.
`annotator/palettes.py` has the tables: ADE20K's 150 classes (`oneformer_ade20k`, `segmentation`;
the one that most control models were trained on), COCO panoptic's 133 (`oneformer_coco`) and
seven parts of drawn faces (`anime_face_segment`). Black is none of them: unlabeled. ADE20K's
"road" and "skyscraper" have one colour; no map can tell them apart, and the editor calls it by
both names.

`GET /controlnet/palettes` gives them to programs: `palettes`, by name `classes` (a list of
`[name, "#rrggbb"]` in the order of the class numbers), `most_used` (names of those to offer
first) and `preprocessors`; `unlabeled`; and `alike`, pairs of classes of ADE20K and COCO that
mean the same. Most used are ADE20K's first twenty, as its classes are in the order of their share
of all pixels (wall 15.8 %, chair 1.0 %); COCO's order tells nothing of that, so its twenty are
those that mean the same.

*Draw > Segmentation* of a unit paints such maps. It works on class numbers, so there is no colour
between two classes, and hands over a PNG with the palette's colours and no others. It begins from
the unit's map, or empty. A picture that was resized or saved as JPEG has in-between colours: one
within a distance of 12 (in RGB) of a class is taken for it, others for the nearest of the classes
beside them up to eight pixels away, and what is left is unlabeled; the editor says how many
pixels that were. From one palette to another areas go by meaning, what has none there becomes
unlabeled, and that is said, too.

A map of the size of the picture to be made reaches the control model as it is. Any other size is
fitted in by the unit's resize mode, as in a hires pass, by the nearest pixel: edges get steps,
but no colour changes.
"""

ENGINES = """
## What runs the networks

Networks of plain tensors run in torch, on the device that the WebUI gives them. ONNX files (poses
and faces) run in [onnxruntime](https://onnxruntime.ai) or OpenVINO where you have installed one of
them in the WebUI's environment, else in OpenCV, on the CPU. Nothing is installed for you, and
nothing of them is imported before such a file runs. onnxruntime computes where the other networks
do, if it was made for that (CUDA, ROCm, DirectML, CoreML, OpenVINO); OpenVINO runs on the CPU, on
Intel's GPUs where torch does. What cannot open or run a file leaves it to the next, and the log
says so. *Settings > ControlNet > What runs the ONNX files of preprocessors* chooses one: the three
agree within rounding on the small files of the tests (5e-7 of the largest number). Networks of
torch are not converted for OpenVINO.

A network that takes several pictures sees those of the next turns together with the present one,
where they are known: pictures of a batch, frames of a movie (m2m) and of an animation, up to eight
of one size and 2 million pixels, fewer after a failure. The maps are those of one by one (in the
tests at most one level of 255 apart). In the batch tab of img2img that goes for units with pictures
of their own; the tab's own files are handed over one at a time. On the CPU pictures are seen one by
one: four at once took 0.9 (Depth Anything), 1.0 (MiDaS), 1.1 (HED), 1.2 (line art) and 1.6 (TEED)
of the time there. A gain on a graphics card has not been measured.
"""

HOW_TO = '''
## Adding one

One file in `annotator/`, nothing else. It is found at the next start and appears in the panel,
in the API and here; `tests/unit/test_annotator.py` runs it on grey, transparent, one-pixel and
odd-sized pictures without being told.

```python
"""Soft edges by the Sobel operator."""

from __future__ import annotations

import cv2
import numpy as np

from .registry import Detector, Slider, register


@register
class SobelEdges(Detector):
    """Grey edges on black, brightness by contrast."""

    name = "softedge_sobel"  # id in the API and in infotext; never change it later
    tags = ("SoftEdge",)  # control types that list it
    sliders = (Slider("Gain", 0.1, 10, 1, 0.1),)  # at most three; they become arguments

    def detect(self, image: np.ndarray, gain: float) -> np.ndarray:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        edges = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
        return (edges * gain).clip(0, 255).astype(np.uint8)
```

`detect` gets uint8 RGB (H, W, 3), resized to the resolution and padded to multiples of 64, and
returns uint8 (H, W) or (H, W, 3); the padding is cut off afterwards. What else a preprocessor may
declare (another frame, a mask, a fixed resolution, random numbers from a seeded generator, an
effect during sampling) is described at `annotator.registry.Detector`. Rules:

- heavy packages are imported inside `detect`; where an optional one is missing, `unavailable` holds
  the sentence that says so, with the `pip` line;
- a file that fails to import is reported in the log, and the others load;
- only relative imports inside `annotator/`, and nothing from the rest of the extension;
- never change `image` in place, never use a global random generator;
- lines, edges and scribbles are white on black; near is white in depth maps.
'''


def main() -> None:
    """Write the pictures and the page."""
    import photographs

    PICTURES.mkdir(exist_ok=True)
    for old in PICTURES.glob("*.jpg"):
        old.unlink()
    photograph = photographs.load("astronaut")
    save("photograph", photograph)
    for detector in shown_detectors():
        save(detector.name, example(detector, photograph))
    PAGE.write_text(page(), encoding="utf-8", newline="\n")


def example(detector: Detector, photograph: np.ndarray) -> np.ndarray:
    """The map shown for a preprocessor, uint8 (H, W, 3)."""
    mask = np.zeros(photograph.shape[:2], np.uint8)
    cv2.ellipse(mask, (225, 115), (75, 95), 0, 0, 360, 255, -1)
    values = EXAMPLES.get(detector.name, ())
    shown = run_preprocessor(detector.name, photograph, RESOLUTION, values, mask=mask).display
    if shown.shape[2] == 3:
        return shown
    # Half transparent over a grey chequer board, as picture viewers show it.
    y, x = np.mgrid[: shown.shape[0], : shown.shape[1]]
    board = np.where((x // 16 + y // 16) % 2, 255, 160)[:, :, None]
    alpha = shown[:, :, 3:] / 255.0
    return (shown[:, :, :3] * alpha + board * (1 - alpha)).astype(np.uint8)


def save(name: str, picture: np.ndarray) -> None:
    small = resize_short_side(picture, SHOWN)
    Image.fromarray(small).save(PICTURES / f"{name}.jpg", quality=QUALITY, optimize=True)


def page() -> str:
    """The page's text."""
    rows = "".join(row(detector) for detector in all_detectors() if not never(detector))
    parts = [HEAD, gallery(), WEIGHTS_HEAD, *map(weights_row, with_network()), ABSENT_HEAD]
    parts += [f"| `{d.name}` | {never(d)} |\n" for d in all_detectors() if never(d)]
    return "".join([*parts, TABLE_HEAD, rows, PALETTES, ENGINES, HOW_TO])


def never(detector: Detector) -> str:
    """Why a preprocessor cannot run anywhere, "" for one that can."""
    return "" if detector.requires else detector.unavailable or ""


def with_network() -> list[Detector]:
    """Those that need a weight file or a package."""
    return [d for d in all_detectors() if (d.files or d.requires) and not never(d)]


def shown_detectors() -> list[Detector]:
    """Those that run everywhere, without any file."""
    return [d for d in all_detectors() if not (d.files or d.requires or never(d))]


def weights_row(detector: Detector) -> str:
    """One line about what a preprocessor needs; files that may stand for others in brackets."""
    files = [f"`{weight.name}`" for weight in detector.weights]
    files += [f"(`{weight.name}`)" for weight in detector.larger]
    sizes = [weight.size_text for weight in detector.files]
    licences = list(dict.fromkeys(weight.licence for weight in detector.files))
    packages = ", ".join(package.install or package.module for package in detector.requires)
    makes = " ".join((type(detector).__doc__ or "").split("\n\n")[0].split())
    cells = (f"`{detector.name}`", makes, *map("<br>".join, (files, sizes, licences)), packages)
    return f"| {' | '.join(cells)} |\n"


def gallery() -> str:
    """All pictures, `COLUMNS` to a row, the photograph first."""
    cells = [("photograph", "the photograph")]
    for detector in shown_detectors():
        values = ", ".join(
            f"{slider.label} {value}"
            for slider, value in zip(
                detector.sliders, EXAMPLES.get(detector.name, ()), strict=False
            )
        )
        cells.append((detector.name, f"`{detector.name}`" + (f" ({values})" if values else "")))
    lines = ["| " * (COLUMNS + 1), "|---" * COLUMNS + "|"]
    for start in range(0, len(cells), COLUMNS):
        part = cells[start : start + COLUMNS]
        shown = (f"![{name}](preprocessors/{name}.jpg)<br>{text}" for name, text in part)
        lines.append(f"| {' | '.join(shown)} |" + " |" * (COLUMNS - len(part)))
    return "\n".join(line.strip() for line in lines) + "\n"


def row(detector: Detector) -> str:
    """One line of the table."""
    label = "" if detector.title == detector.name else detector.title
    sliders = [detector.resolution, *detector.sliders]
    texts = "; ".join(described(slider) for slider in sliders if slider is not None)
    types = ", ".join(detector.tags) or "only under All"
    return f"| `{detector.name}` | {label} | {types} | {texts or 'none'} |\n"


def described(slider: Slider) -> str:
    return f"{slider.label} {slider.default} ({slider.minimum} to {slider.maximum})"


if __name__ == "__main__":
    main()
