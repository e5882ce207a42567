"""`python dev.py demo`: pictures that obey their controls, on one contact sheet.

Everything goes through the embedded host and the extension exactly as a user's request would: the
same routes, the same script, the same models. The models are the small ones of `minihost/assets`;
they know coloured shapes, textures and mosaics drawn in ink, nothing else.
"""

from __future__ import annotations

import argparse
import atexit
import base64
import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import embedded
import numpy as np
import photographs
from adherence import edge_f1
from contact_sheet import Row, Tile, sheet
from PIL import Image
from training.scenes import Scene, make_scene

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "minihost/assets"
FIRST_UNSEEN = 9_000_000  # training never comes near this seed
SCENE_SIZE = 128  # the size that most of the training had
PAGE_SIZE = 256
LINES = {"weight": 1.5, "threshold_a": 150, "threshold_b": 200}  # for photographs: fewer, firmer
COMMON = {
    "cfg_scale": 4.0,
    "sampler_name": "DPM++ 2M",
    "scheduler": "Automatic",
    "save_images": False,
}
WAYS = {
    "control_demo_canny": "ControlNet",
    "control_lora_demo_canny": "Control-LoRA",
    "t2iadapter_demo_canny": "T2I-Adapter",
    "t2iadapter_demo_canny_light": "T2I-Adapter, light",
    "lllite_demo_canny": "ControlNet-LLLite",
    "union_demo": "ControlNet Union",
}
"""Models that follow edges, a kind of file each."""
PROMPTS = (
    "an ink drawing in yellow",
    "an ink drawing in white",
    "a mosaic of orange and blue",
    "an ink drawing in pink and white",
    "a mosaic of blue",
)


def encode(picture: np.ndarray) -> str:
    """uint8 (H, W[, 3]) -> base64 PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decode(text: str) -> np.ndarray:
    """base64 picture -> uint8 (H, W, 3)."""
    data = base64.b64decode(text.rsplit(",", maxsplit=1)[-1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@dataclass
class Studio:
    """The embedded host in this process, asked through its HTTP routes."""

    size: int
    output: Path
    steps: int
    models: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        # A folder of its own: settings and pictures of the user's embedded host stay untouched.
        folder = tempfile.mkdtemp(prefix="controlnet-demo-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.host = embedded.start(folder, ["--disable-console-progressbars"])
        names = self.host.get("/controlnet/model_list").json()["model_list"]
        for name in names:
            stem = name.split(" [")[0]
            self.models[stem.removeprefix("control_demo_")] = name
            self.models[stem] = name

    def unit(self, kind: str, picture: np.ndarray, module: str = "none", **more: object) -> dict:
        """A ControlNet unit for the demo model of one kind."""
        base = {"enabled": True, "image": encode(picture), "module": module}
        return {**base, "model": self.models[kind], "pixel_perfect": True, **more}

    def generate(self, label: str, units: Sequence[dict] = (), **payload: object) -> list:
        """Ask for one picture, save it, say so.

        Args:
            label: name of the file and of the line in the log.
            units: ControlNet units.
            payload: fields of the txt2img or, with `init_images`, img2img request.

        Returns:
            The picture, then the detected maps, each uint8 (H, W, 3).

        Raises:
            RuntimeError: the host refused; the message is its sentence.
        """
        started = time.perf_counter()
        route = "img2img" if "init_images" in payload else "txt2img"
        size = {"width": self.size, "height": self.size}
        body = {**COMMON, "steps": self.steps, **size, **payload}
        if units:
            body["alwayson_scripts"] = {"controlnet": {"args": list(units)}}
        answer = self.host.post(f"/sdapi/v1/{route}", body)
        if answer.status_code != 200:
            msg = f"{label}: {answer.status_code} {answer.text}"
            raise RuntimeError(msg)
        pictures = [decode(text) for text in answer.json()["images"]]
        self.save(label, pictures[0])
        print(f"  {label:<42} {time.perf_counter() - started:5.1f} s", flush=True)
        return pictures

    def save(self, label: str, picture: np.ndarray) -> None:
        """Write a numbered single file."""
        self.count += 1
        name = f"{self.count:02d}-{label.replace(' ', '-').replace(',', '')}.png"
        Image.fromarray(picture).save(self.output / name)


def grey(values: np.ndarray) -> np.ndarray:
    """float (H, W) in 0..1 -> uint8 (H, W, 3)."""
    return np.repeat((np.clip(values, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=2)


def photograph_row(studio: Studio, name: str, prompt: str, seed: int) -> Row:
    """Photograph, its edges, without control, one unit, two units."""
    photo = photographs.square(photographs.load(name), studio.size)
    ask = {"prompt": prompt, "seed": seed}
    free = studio.generate(f"{name} without control", **ask)[0]
    canny = studio.unit("canny", photo, "canny", **LINES)
    one, edge_map, *_ = studio.generate(f"{name} canny", [canny], **ask)
    studio.save(f"{name} edges", edge_map)
    tiles = [
        Tile(photo, "photograph", "the only input"),
        Tile(edge_map, "canny map", "detected from the photograph"),
        Tile(free, "without control", note(prompt, free, edge_map)),
        Tile(one, "one unit: canny", note(prompt, one, edge_map)),
    ]
    if "scribble" in studio.models:
        scribble = studio.unit("scribble", photo, "scribble_xdog", weight=0.6)
        two = studio.generate(f"{name} canny and scribble", [canny, scribble], **ask)[0]
        tiles.append(Tile(two, "two units: canny, scribble", note(prompt, two, edge_map)))
    return Row(f"{name}: the picture follows the edges", tuple(tiles))


def note(prompt: str, picture: np.ndarray, edge_map: np.ndarray) -> str:
    """Caption of a generated picture: the prompt and how well it follows the edges."""
    return f"\u201c{prompt}\u201d, edge F1 {edge_f1(picture, edge_map):.2f}"


def prompts_row(studio: Studio, name: str, seed: int) -> Row:
    """One control, several prompts."""
    photo = photographs.square(photographs.load(name), studio.size)
    tiles = []
    for number, prompt in enumerate(PROMPTS, 1):
        unit = studio.unit("canny", photo, "canny", **LINES)
        label = f"{name} prompt {number}"
        picture, edge_map, *_ = studio.generate(label, [unit], prompt=prompt, seed=seed + number)
        tiles.append(Tile(picture, f"prompt {number}", note(prompt, picture, edge_map)))
    return Row("Same edges, other prompts", tuple(tiles))


def scene_row(studio: Studio, seed: int) -> Row:
    """A scene that training never saw: exact edges and depth, with one unit and with two."""
    scene = shapes_scene(seed, PAGE_SIZE)
    ask = {"prompt": scene.caption, "seed": seed, "width": PAGE_SIZE, "height": PAGE_SIZE}
    free = studio.generate("scene without control", **ask)[0]
    canny = studio.unit("canny", scene.picture, "canny")
    one, edge_map, *_ = studio.generate("scene canny", [canny], **ask)
    tiles = [
        Tile(scene.picture, "unseen scene", f"\u201c{scene.caption}\u201d"),
        Tile(edge_map, "canny map"),
        Tile(free, "without control", f"edge F1 {edge_f1(free, edge_map):.2f}"),
        Tile(one, "one unit: canny", f"edge F1 {edge_f1(one, edge_map):.2f}"),
    ]
    if "depth" in studio.models:
        depth = studio.unit("depth", grey(scene.depth))
        two = studio.generate("scene canny and depth", [canny, depth], **ask)[0]
        words = f"edge F1 {edge_f1(two, edge_map):.2f}"
        tiles.append(Tile(two, "two units: canny, depth", words))
    return Row("A scene that training never saw", tuple(tiles))


def ways_row(studio: Studio, seed: int) -> Row:
    """The same edges, followed by a model of each kind; the scene of `scene_row`."""
    scene = shapes_scene(seed, PAGE_SIZE)
    ask = {"prompt": scene.caption, "seed": seed, "width": PAGE_SIZE, "height": PAGE_SIZE}
    tiles = []
    for stem, kind in ways(studio).items():
        unit = studio.unit(stem, scene.picture, "canny")
        picture, edge_map, *_ = studio.generate(f"scene {kind}", [unit], **ask)
        size = (ASSETS / f"{stem}.safetensors").stat().st_size / 1e6
        note = f"edge F1 {edge_f1(picture, edge_map):.2f}, file of {size:.1f} MB"
        tiles.append(Tile(picture, kind, note))
    return Row("The same edges, six ways: another kind of model each", tuple(tiles))


def ways(studio: Studio) -> dict[str, str]:
    """Those of the models that are there, by name, with their kinds."""
    return {stem: kind for stem, kind in WAYS.items() if stem in studio.models}


def shapes_scene(seed: int, size: int) -> Scene:
    """A scene of named shapes with its exact edges, depth and caption."""
    return make_scene(seed, size, mosaic_share=0.0)


def inpaint_row(studio: Studio, seed: int) -> Row:
    """Replace a part of a scene, without and with the inpaint model."""
    scene = shapes_scene(seed, PAGE_SIZE)
    size = PAGE_SIZE
    mask = np.zeros((size, size), np.uint8)
    cv2.circle(mask, (size // 2, size // 2), size // 3, 255, -1)
    hole = scene.picture.copy()
    hole[mask > 0] = 128
    prompt = f"a white star on {scene.caption.rpartition(' on ')[2]}"
    ask = {
        "prompt": prompt,
        "seed": seed,
        "width": size,
        "height": size,
        "init_images": [encode(scene.picture)],
        "mask": encode(mask),
        "denoising_strength": 1.0,
        "inpainting_fill": 2,
        "mask_blur": 2,
    }
    tiles = [
        Tile(scene.picture, "picture", f"\u201c{scene.caption}\u201d"),
        Tile(hole, "mask", "grey is drawn anew"),
        Tile(studio.generate("inpaint without control", **ask)[0], "without control"),
    ]
    if "inpaint" in studio.models:
        fill = studio.unit("inpaint", scene.picture, "inpaint_only")
        fill.pop("image")  # the unit takes the picture and the mask of img2img
        picture = studio.generate("inpaint one unit", [fill], **ask)[0]
        tiles.append(Tile(picture, "one unit: inpaint", f"\u201c{prompt}\u201d"))
    canny = studio.unit("canny", scene.picture, "canny")
    units = [fill, canny] if "inpaint" in studio.models else [canny]
    picture = studio.generate("inpaint with canny", units, **ask)[0]
    tiles.append(Tile(picture, "and canny of the picture", "new colours inside the old lines"))
    return Row("Inpaint", tuple(tiles))


def measure(studio: Studio, count: int) -> str:
    """Edge F1 of every kind and without control over unseen scenes, as a sentence."""
    found: dict[str, list[float]] = {}
    for number in range(count):
        scene = shapes_scene(FIRST_UNSEEN + 100 + number, SCENE_SIZE)
        ask = {"prompt": scene.caption, "seed": number, "width": SCENE_SIZE, "height": SCENE_SIZE}
        for stem, kind in ways(studio).items():
            unit = studio.unit(stem, scene.picture, "canny")
            label = f"measure {number} {kind}"
            picture, edge_map, *_ = studio.generate(label, [unit], **ask)
            found.setdefault(kind, []).append(edge_f1(picture, edge_map))
        free = studio.generate(f"measure {number} free", **ask)[0]
        found.setdefault("no control", []).append(edge_f1(free, edge_map))
    figures = "; ".join(f"{statistics.mean(one):.2f} {kind}" for kind, one in found.items())
    return f"Edge F1 within 2 px over {count} unseen scenes: {figures}"


def main() -> None:
    """Command line entry."""
    reader = argparse.ArgumentParser(prog="dev.py demo", description=__doc__.split("\n")[0])
    reader.add_argument("--output", type=Path, default=ROOT / "demo-output", help="folder")
    reader.add_argument(
        "--size", type=int, default=384, help="edge of the pictures from photographs"
    )
    reader.add_argument("--seed", type=int, default=1, help="first seed")
    reader.add_argument("--steps", type=int, default=16, help="sampling steps")
    reader.add_argument("--scenes", type=int, default=8, help="unseen scenes to measure on")
    options = reader.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for old in options.output.glob("[0-9][0-9]-*.png"):
        old.unlink()
    started = time.perf_counter()
    studio = Studio(options.size, options.output, options.steps)
    print(f"embedded host ready in {time.perf_counter() - started:.0f} s", flush=True)
    rows = [
        photograph_row(studio, "coffee", PROMPTS[0], options.seed),
        photograph_row(studio, "astronaut", PROMPTS[1], options.seed),
        prompts_row(studio, "coffee", options.seed + 10),
        scene_row(studio, FIRST_UNSEEN + options.seed),
        ways_row(studio, FIRST_UNSEEN + options.seed),
        inpaint_row(studio, FIRST_UNSEEN + options.seed + 1),
    ]
    verdict = measure(studio, options.scenes) if options.scenes else ""
    page = sheet("ControlNet, embedded host, demo models", verdict, rows)
    place = options.output / "contact-sheet.png"
    page.save(place)
    print(f"{verdict}\nContact sheet: {place}\n{time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
