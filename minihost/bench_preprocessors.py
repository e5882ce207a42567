"""`python dev.py bench --preprocessors`: time and memory of every preprocessor that can run here.

Each one runs in a process of its own, on one thread, on a photograph. Weight files that the user
has are used; where one is missing, a file of random weights in the published layout stands for it
(the key tables of the tests), which takes the same time.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import photographs  # noqa: E402
from bench import resident_bytes, watching  # noqa: E402
from random_weights import NETWORKS, random_state, read_keys  # noqa: E402

from lib_controlnet.detect import preprocess  # noqa: E402
from lib_controlnet.pictures.maps import Size  # noqa: E402
from lib_controlnet.prepare.detection import detect_unit  # noqa: E402
from lib_controlnet.prepare.inputs import DecodedFiles, PictureSource, choose  # noqa: E402
from lib_controlnet.units.request import GenerationRequest  # noqa: E402
from lib_controlnet.units.unit import parse_unit  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from annotator.registry import Detector
    from annotator.weights import WeightFile

SIDES: Final = (512, 1024)
SLOW: Final = 30.0
"""Seconds at the smaller size from which on the larger one is not measured."""
TABLES: Final = {
    "250_16_swin_l_oneformer_ade20k_160k.pth": "oneformer_ade20k",
    "7_model.pth": "teed",
    "ControlNetHED.pth": "hed",
    "ControlNetLama.pth": "lama",
    "MTEED.pth": "teed",
    "UNet.pth": "anime_face",
    "ZoeD_M12_N.pt": "zoe",
    "body_pose_model.pth": "openpose_body",
    "detection_Resnet50_Final.pth": "retinaface",
    "depth_anything_v2_vits.pth": "depth_anything_vits",
    "depth_anything_vits14.pth": "depth_anything_vits",
    "dpt_hybrid-midas-501f0c75.pt": "midas",
    "dsine.pt": "dsine",
    "erika.pth": "manga_line",
    "facenet.pth": "openpose_face",
    "hand_pose_model.pth": "openpose_hand",
    "latest_net_G.pth": "leres_merge",
    "mlsd_large_512_fp32.pth": "mlsd",
    "mobile_sam.pt": "mobile_sam",
    "netG.pth": "lineart_anime",
    "parsing_bisenet.pth": "bisenet",
    "res101.pth": "leres",
    "scannet.pt": "normal_bae",
    "sk_model.pth": "lineart",
    "sk_model2.pth": "lineart",
    "table5_pidinet.pth": "pidinet",
    "upernet_global_small.pth": "uniformer",
}
"""Key table of each weight file."""
WRAPPED: Final = {
    "250_16_swin_l_oneformer_ade20k_160k.pth": "model",
    "ZoeD_M12_N.pt": "model",
    "dsine.pt": "model",
    "res101.pth": "depth_model",
    "scannet.pt": "model",
    "table5_pidinet.pth": "state_dict",
}
"""Files that keep their tensors under a name."""
LARGE: Final = 2048
THREE: Final = ("canny", "threshold", "blur_gaussian")
"""Preprocessors that take less time than a large file's decoding."""
CANNY_4K: Final = 1.2
"""How much longer than OpenCV alone canny may take on a picture of 3840 x 2160."""


def stand_in(weight: WeightFile, folder: Path) -> bool:
    """Write random weights in the place of a file; False where its layout is not known here."""
    table = TABLES.get(weight.name, "")
    if not (NETWORKS / f"{table}.json").exists():
        return False
    path = folder / weight.places[0]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        state: dict[str, object] = dict(random_state(read_keys(table)))
        for key, shape in read_keys(table).items():
            if key.endswith("position_index"):  # any place will do for the time it takes
                state[key] = torch.zeros(shape, dtype=torch.int64)
        torch.save({WRAPPED[weight.name]: state} if weight.name in WRAPPED else state, path)
    return True


def parameters(detector: Detector) -> str:
    """Parameters of a preprocessor's networks in millions, "" for none."""
    tables = [TABLES.get(weight.name, "") for weight in detector.weights]
    if not tables or not all((NETWORKS / f"{table}.json").exists() for table in tables):
        return ""
    shapes = [shape for table in tables for shape in read_keys(table).values()]
    return f"{sum(int(np.prod(shape)) for shape in shapes) / 1e6:.2f}"


def one(name: str, roots: list[str]) -> dict[str, float]:
    """Seconds of one preprocessor at each size and its memory, measured in this process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    preprocess.store.STORE.roots = [Path(root) for root in roots]
    photograph = photographs.load("astronaut")
    mask = np.zeros(photograph.shape[:2], np.uint8)
    mask[128:256, 128:256] = 255
    found: dict[str, float] = {}
    before = resident_bytes()
    for side in SIDES:
        picture, hole = (cv2.resize(x, (side, side)) for x in (photograph, mask))
        if side != SIDES[0] and found[str(SIDES[0])] > SLOW:
            break
        peaks: list[int] = []
        with watching(peaks):
            _run(name, picture, hole, side)  # loads the network
        started = time.thread_time()
        _run(name, picture, hole, side)
        found[str(side)] = time.thread_time() - started
        found[f"memory {side}"] = (peaks[0] - before) / 1e6
    return found


def _run(name: str, picture: np.ndarray, mask: np.ndarray, side: int) -> None:
    preprocess.run_preprocessor(name, picture, side, mask=mask)


def row(detector: Detector, folder: Path) -> str:
    """One line of the table."""
    store = preprocess.store.STORE
    ready = all(store.locate(weight) or stand_in(weight, folder) for weight in detector.weights)
    if detector.unavailable or not ready:
        return f"| `{detector.name}` | | not measured | | | |"
    command = [sys.executable, __file__, "--one", detector.name, *map(str, (*store.roots, folder))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = result.stderr.strip().splitlines()[-1][:80]
        return f"| `{detector.name}` | | failed: {reason} | | | |"
    found = json.loads(result.stdout.splitlines()[-1])
    times = [f"{found[str(s)] * 1e3:.0f}" if str(s) in found else "" for s in SIDES]
    memory = [f"{found[f'memory {s}']:.0f}" if str(s) in found else "" for s in SIDES]
    return f"| `{detector.name}` | {parameters(detector)} | {' | '.join(times + memory)} |"


def canny_4k() -> float:
    """Time of canny on a 4k picture at its own size, as a multiple of OpenCV's."""
    cv2.setNumThreads(1)
    picture = cv2.resize(photographs.load("astronaut"), (3840, 2160))

    def best(call: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            started = time.thread_time()
            call()
            times.append(time.thread_time() - started)
        return min(times)

    ours = best(
        lambda: preprocess.run_preprocessor("canny", picture, 2160, (100, 200), pixel_perfect=True)
    )
    return ours / best(lambda: cv2.Canny(picture, 100, 200))


def prepare_three() -> tuple[float, float]:
    """Milliseconds to prepare three units of one large picture, and to prepare them again."""
    cv2.setNumThreads(1)
    picture = Image.fromarray(cv2.resize(photographs.load("astronaut"), (LARGE, LARGE)))
    file = io.BytesIO()
    picture.save(file, "PNG")
    units = [parse_unit({"module": name, "image": file.getvalue(), "model": "m"}) for name in THREE]
    cache, source = preprocess.DetectionCache(), PictureSource(decoded=DecodedFiles())

    def spend() -> float:
        request = GenerationRequest(Size(512, 512))
        started = time.thread_time()
        for unit in units:
            detect_unit(choose(unit, request), source, cache)
        return (time.thread_time() - started) * 1e3

    return spend(), spend()


def main(names: list[str]) -> int:
    """Print the table.

    Returns:
        Exit status, 1 if canny misses its target.
    """
    detectors = [d for d in preprocess.all_detectors() if d.listed and not d.identity]
    chosen = [d for d in detectors if not names or d.name in names]
    print("| preprocessor | parameters, M | ms at 512 | ms at 1024 | MB at 512 | MB at 1024 |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for detector in chosen:
            if detector.requires or not detector.unavailable:
                print(row(detector, Path(folder)), flush=True)
    ratio = canny_4k()
    print(f"\ncanny at 3840 x 2160: {ratio:.2f} times OpenCV's own time (at most {CANNY_4K})")
    first, again = prepare_three()
    print(f"three units of a PNG of {LARGE} pixels: {first:.0f} ms, again {again:.0f} ms")
    return 0 if ratio <= CANNY_4K else 1


if __name__ == "__main__":
    reader = argparse.ArgumentParser()
    reader.add_argument("--one", nargs="+")
    options, rest = reader.parse_known_args()
    if options.one:
        print(json.dumps(one(options.one[0], options.one[1:])))
        sys.exit(0)
    sys.exit(main(rest))
