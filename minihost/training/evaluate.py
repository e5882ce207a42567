"""Measure the shipped demo models and write the figures and the sheet of pictures.

Everything is measured on seeds that no training has seen, on the fp16 files that ship.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from minildm.checkpoint import LoadedCheckpoint, load_checkpoint
from safetensors.torch import load_file
from tqdm import tqdm

from . import measures
from .assets import ASSETS, CHECKPOINT
from .control import ControlNet, controlled, hint_tensor
from .data import class_map, segment_picture
from .hints import HINTS, Source, canny_edges
from .loop import to_pictures, to_tensor
from .sampling import decode, embed, sample, seeded_noise
from .scenes import Scene, boundary, make_scene
from .vocabulary import COLOURS, SHAPES

HOLD_OUT: Final = 1_000_000
BATCH: Final = 16
STEPS: Final = 15
CFG: Final = 3.5
FIGURES: Final = ASSETS / "figures.json"
_UNCONTROLLED: Final[dict[tuple[str, ...], np.ndarray]] = {}


@dataclass(frozen=True)
class Case:
    """One held-out scene with the hint made from it, (s, s, 3) float."""

    scene: Scene
    source: Source
    hint: np.ndarray


def source_of(scene: Scene) -> Source:
    """What hints of a scene are made of."""
    lines = scene.lines.astype(np.uint8) * 255
    return Source(
        picture=scene.picture,
        edges=canny_edges(scene.flat) | lines,
        borders=boundary(scene.labels).astype(np.uint8) * 255 | lines,
        depth=(scene.depth * 255).astype(np.uint8),
        segments=segment_picture(class_map(scene)),
    )


def cases(kind: str, count: int, size: int = 128) -> list[Case]:
    """Held-out scenes with clean hints; depth and segmentation only of scenes of shapes."""
    found: list[Case] = []
    seed = HOLD_OUT
    while len(found) < count:
        seed += 1
        scene = make_scene(seed, size)
        if kind in ("depth", "seg") and not scene.things:
            continue
        source = source_of(scene)
        rng = np.random.default_rng(seed)
        hint = _clean_hint(kind, source, rng)
        found.append(Case(scene, source, hint))
    return found


def _clean_hint(kind: str, source: Source, rng: np.random.Generator) -> np.ndarray:
    clean = {"canny": source.edges, "depth": source.depth}
    if kind in clean:
        return np.repeat(clean[kind][..., None].astype(np.float32) / 255, 3, axis=2)
    return HINTS[kind](source, rng)


def load_control(base: LoadedCheckpoint, kind: str) -> ControlNet:
    """A shipped ControlNet."""
    control = ControlNet(base.unet)
    tensors = load_file(ASSETS / f"control_demo_{kind}.safetensors")
    control.load_state_dict({k: v.float() for k, v in tensors.items()})
    return control.eval().requires_grad_(False)


@torch.no_grad()
def generate(
    base: LoadedCheckpoint,
    prompts: list[str],
    seeds: list[int],
    size: int = 128,
    control: ControlNet | None = None,
    hints: list[np.ndarray] | None = None,
) -> np.ndarray:
    """Pictures uint8 (b, s, s, 3) of prompts and seeds, under control if one is given."""
    empty = embed(base.text, base.tokenizer, [""])
    out = []
    for i in range(0, len(prompts), BATCH):
        context = embed(base.text, base.tokenizer, prompts[i : i + BATCH])
        predict: object = base.unet
        if control is not None:
            rows = torch.stack([hint_tensor(h) for h in hints[i : i + BATCH]])
            predict = controlled(base, control, rows)
        noise = seeded_noise(seeds[i : i + BATCH], size)
        latents = sample(predict, context, empty, noise, STEPS, CFG)
        out.append(to_pictures(decode(base.vae, latents)))
    return np.concatenate(out)


def score(kind: str, picture: np.ndarray, case: Case) -> dict[str, float]:
    """How well a picture obeys a case's hint; names say what is measured."""
    if kind == "canny":
        return {"edge_f1_2px": measures.edge_f1(picture, case.source.edges, 2)}
    if kind == "scribble":
        return {"edge_f1_4px": measures.edge_f1(picture, case.source.borders, 4)}
    if kind == "inpaint":
        original = case.scene.picture
        return {
            "kept_error": measures.kept_error(picture, case.hint),
            "seam_error": measures.seam_error(picture, original, case.hint),
        }
    wanted = case.source.borders
    return {"border_recall_2px": measures.edge_recall(picture, wanted, 2)}


def uncontrolled(base: LoadedCheckpoint, prompts: list[str]) -> np.ndarray:
    """Pictures of prompts without control, seeds from 0; made once for each list of prompts."""
    key = tuple(prompts)
    if key not in _UNCONTROLLED:
        _UNCONTROLLED[key] = generate(base, prompts, list(range(len(prompts))))
    return _UNCONTROLLED[key]


def measure_control(base: LoadedCheckpoint, kind: str, count: int) -> dict[str, dict[str, float]]:
    """Mean scores with control, without, with an empty prompt, and with another scene's hint.

    The last two on half as many seeds.
    """
    control = load_control(base, kind)
    held_out = cases(kind, count)
    prompts = [c.scene.caption for c in held_out]
    seeds = list(range(count))
    hints = [c.hint for c in held_out]
    half = count // 2
    others = hints[1:] + hints[:1]
    runs = {
        "controlled": generate(base, prompts, seeds, 128, control, hints),
        "not controlled": uncontrolled(base, prompts),
        "empty prompt": generate(base, [""] * half, seeds[:half], 128, control, hints[:half]),
        "another scene's hint": generate(
            base, prompts[:half], seeds[:half], 128, control, others[:half]
        ),
    }
    result: dict[str, dict[str, float]] = {}
    for name, pictures in runs.items():
        scores = [score(kind, p, c) for p, c in zip(pictures, held_out, strict=False)]
        result[name] = {k: round(float(np.mean([s[k] for s in scores])), 3) for k in scores[0]}
    return result


def measure_captions(base: LoadedCheckpoint, count: int, size: int = 128) -> dict[str, float]:
    """Share of one-thing captions whose shape, colour and background appear."""
    rng = np.random.default_rng(HOLD_OUT)
    wanted = []
    for _ in range(count):
        shape = str(rng.choice(SHAPES))
        colour, ground = (str(c) for c in rng.choice(COLOURS, 2, replace=False))
        wanted.append((shape, colour, ground))
    prompts = [f"a {colour} {shape} on a {ground} background" for shape, colour, ground in wanted]
    pictures = generate(base, prompts, list(range(count)), size)
    right = np.zeros(3)
    for picture, (shape, colour, ground) in zip(pictures, wanted, strict=True):
        found_shape, found_colour = measures.main_thing(picture)
        found = (found_shape, found_colour, measures.background_colour(picture))
        right += [a == b for a, b in zip(found, (shape, colour, ground), strict=True)]
    names = ("shape", "colour", "background")
    return {n: round(float(r / count), 3) for n, r in zip(names, right, strict=True)}


@torch.no_grad()
def measure_vae(base: LoadedCheckpoint, count: int) -> float:
    """Mean PSNR in dB of reconstructed held-out scenes."""
    values = []
    for i in range(count):
        picture = make_scene(HOLD_OUT + i).picture
        out = to_pictures(base.vae(to_tensor(picture[None])))[0]
        error = ((out.astype(np.float32) - picture) ** 2).mean()
        values.append(10 * np.log10(255**2 / error))
    return round(float(np.mean(values)), 2)


def shipped() -> list[str]:
    """The kinds whose ControlNets lie in the assets folder."""
    return [k for k in HINTS if (ASSETS / f"control_demo_{k}.safetensors").exists()]


def evaluate(count: int = 64) -> dict[str, object]:
    """Measure everything and write the figures."""
    base = load_checkpoint(CHECKPOINT)
    parts: dict[str, Callable[[], object]] = {
        "seeds": lambda: count,
        "vae_psnr_db": lambda: measure_vae(base, count),
        "captions_128": lambda: measure_captions(base, count),
        "captions_256": lambda: measure_captions(base, count // 2, 256),
    }
    for kind in shipped():
        parts[f"control_{kind}"] = lambda kind=kind: measure_control(base, kind, count)
    figures: dict[str, object] = {}
    for name, measure in tqdm(parts.items(), desc="measures"):
        figures[name] = measure()
        tqdm.write(f"{name}: {json.dumps(figures[name])}")
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


def write_sheet(columns: int = 6, size: int = 256) -> None:
    """Write assets/sheet.jpg: prompts alone, then each control's hints and results."""
    base = load_checkpoint(CHECKPOINT)
    rows = []
    for kind in shipped():
        control = load_control(base, kind)
        held_out = cases(kind, columns, size)
        hints = [c.hint for c in held_out]
        prompts = [c.scene.caption for c in held_out]
        shown = (np.clip(np.stack(hints), 0, 1) * 255).astype(np.uint8)
        rows.append(shown)
        rows.append(generate(base, prompts, list(range(columns)), size, control, hints))
    scenes = [make_scene(HOLD_OUT + 500 + i, size) for i in range(columns)]
    rows.insert(0, generate(base, [s.caption for s in scenes], list(range(columns)), size))
    grid = np.concatenate([np.concatenate(list(r), axis=1) for r in rows], axis=0)
    small = cv2.resize(grid, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    path = str(ASSETS / "sheet.jpg")
    cv2.imwrite(path, small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
