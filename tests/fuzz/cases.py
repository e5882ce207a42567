"""Malformed requests: good ones with something broken, and bodies that are no requests at all.

A case starts from a request that works and breaks one to three places of it, so that most reach
deep into the code instead of failing at the door.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from PIL import Image

DETECT: Final = "/controlnet/detect"
RENDER: Final = "/controlnet/render_openpose_json"
GETS: Final = ("version", "model_list", "module_list", "control_types", "settings")
MODEL: Final = "control_demo_canny"
MODULES: Final = ("none", "canny", "inpaint", "inpaint_only", "scribble_xdog", "shuffle", "color")
FEW: Final = {
    **{"prompt": "a red circle", "steps": 1, "width": 64, "height": 64, "seed": 7},
    **{"cfg_scale": 4, "sampler_name": "Euler"},
}


@dataclass(frozen=True)
class Case:
    """A request as it goes over the wire."""

    method: str
    path: str
    content: bytes = b""
    kind: str = "application/json"

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.kind} {self.content[:300]!r}"

    def naming(self, model: str) -> Case:
        """The same request for another control model."""
        return replace(self, content=self.content.replace(MODEL.encode(), model.encode()))


def file(image: Image.Image, form: str = "PNG", **options: Any) -> str:
    """Base64 of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return base64.b64encode(buffer.getvalue()).decode()


NOISE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8))
GOOD = file(NOISE)
PICTURES = (
    GOOD,
    *(file(NOISE.convert(mode)) for mode in ("L", "LA", "RGBA", "P", "1", "I")),
    *(file(NOISE, form) for form in ("JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "ICO")),
    file(NOISE.convert("CMYK"), "TIFF"),
    file(NOISE.convert("F"), "TIFF"),
    *(file(Image.new("L", size)) for size in ((1, 1), (1, 300), (300, 1), (3000, 2))),
    file(Image.new("1", (16384, 16384)), optimize=True),
    file(Image.new("1", (16385, 1))),
    f"data:image/png;base64,{GOOD}",
)
"""Files of every kind, some of them bombs."""
NO_PICTURES = (
    *("", " ", "?", "AAAA", "none", "None", "data:,", "data:image/png;base64,", "data:image/png"),
    *("/etc/passwd", "../../x.png", "~", "C:\\x.png", "file:///etc/passwd", "\x00.png"),
    *("http://127.0.0.1:1/x.png", "https://", "http://[::1", "HTTP://localhost/x.png"),
    *(GOOD[:60], GOOD[:-40], GOOD[:200] + "A" * 400 + GOOD[600:], "=" * 50, "\ud800", "é" * 40),
    base64.b64encode(pickle.dumps({"a": 1})).decode(),
    base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode(),
    base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode(),
    base64.b64encode(bytes(range(256)) * 40).decode(),
)


def deep(levels: int, kind: type = list) -> Any:
    """Something nested."""
    value: Any = 1
    for _ in range(levels):
        value = [value] if kind is list else {"a": value}
    return value


ODD = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 0.5, 1.5, 512.5, 64, 65, 2048, 2049, 1e9, 1e300),
    *(float("nan"), float("inf"), float("-inf"), 10**400, -(10**30), 2**31, 2**63),
    *("x" * 70_000, "9" * 400, "1e999", "-0", "0x10", "true", "False", "½", "\u202e", "\U0001f642"),
    *("canny", "Canny", "CANNY", "xx", MODEL, f"{MODEL} [00000000]", "[", "Balanced", "Both"),
    *([], {}, [[]], [{}], {"": ""}, {"image": GOOD}, {"image": GOOD, "mask": GOOD}, [GOOD, GOOD]),
    *([1, 2, 3], [0.0] * 13, [GOOD] * 3, {"enabled": True}, deep(40), deep(300, dict)),
    deep(20),
)
VALUES = (*ODD, *PICTURES, *NO_PICTURES)
KEYS = (
    *("image", "mask", "mask_image", "input_image", "image_fg", "enabled", "module", "model"),
    *("weight", "guidance", "guidance_start", "guidance_end", "guessmode", "control_mode"),
    *("resize_mode", "processor_res", "threshold_a", "advanced_weighting", "region", "index"),
    *("effective_region_mask", "batch_images", "batch_option", "region_feather", "notes", "self"),
    *("style_align", "region_colour", "region_map", "weight_curve"),
    *("hr_option", "input_mode", "ipadapter_input", "loopback", "output_dir", "x", "", "\ud800"),
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to everything inside a JSON value, itself first; long lists in part."""
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:8]):
            found += places(item, (*path, index))
    return found


def put(root: Any, path: tuple, value: Any) -> Any:
    """The root with a value in another place; `...` takes the place away."""
    if not path:
        return root if value is ... else value
    inner = root
    for step in path[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return root


def at(root: Any, path: tuple) -> Any:
    """What lies at a path."""
    for step in path:
        root = root[step]
    return root


@st.composite
def broken(draw: st.DrawFn, good: Any, most: int = 100) -> Any:
    """A copy of something good with one to three places broken; lists `most` times as long."""
    body = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(body)[:60]))
        here = at(body, path)
        ways = ["replace", "replace", "delete", "wrap"]
        ways += ["add", "add", "rename"] if isinstance(here, dict) else []
        ways += ["repeat"] if isinstance(here, list) and here else []
        way = draw(st.sampled_from(ways))
        odd = copy.deepcopy(draw(st.sampled_from(VALUES)))
        if way == "replace":
            body = put(body, path, odd)
        elif way == "delete":
            body = put(body, path, ...)
        elif way == "wrap":
            body = put(body, path, draw(st.sampled_from(([here], {"args": here}, [[here]]))))
        elif way == "add":
            here[draw(st.sampled_from(KEYS))] = odd
        elif way == "rename" and here:
            here[draw(st.sampled_from(KEYS))] = here.pop(draw(st.sampled_from(list(here))))
        elif way == "repeat":
            here.extend(here[:3] * draw(st.sampled_from((1, 3, most))))
    return body


def sent(body: Any) -> bytes:
    """JSON with everything that lenient writers put into it."""
    return json.dumps(body).encode()


DETECT_BODY = {
    "controlnet_module": "canny",
    "controlnet_input_images": [GOOD],
    "controlnet_processor_res": 64,
    "controlnet_threshold_a": 100,
    "controlnet_threshold_b": 200,
    "controlnet_masks": [GOOD],
    "low_vram": False,
}
PERSON = {
    "pose_keypoints_2d": [0.5, 0.25, 1.0] * 18,
    "hand_left_keypoints_2d": [0.5, 0.25, 1.0] * 21,
    "hand_right_keypoints_2d": None,
    "face_keypoints_2d": [0.5, 0.25, 1.0] * 70,
}
POSES = [
    {
        "people": [PERSON, PERSON],
        "animals": [[5.0, 9.0, 1.0] * 17],
        "canvas_width": 64,
        "canvas_height": 48,
    }
]
UNIT = {
    **{"enabled": True, "module": "canny", "model": MODEL, "image": GOOD, "weight": 1.0},
    **{"resize_mode": "Crop and Resize", "processor_res": 64, "threshold_a": 100},
    **{"threshold_b": 200, "guidance_start": 0.0, "guidance_end": 1.0, "pixel_perfect": False},
    **{"control_mode": "Balanced", "hr_option": "Both", "mask": None, "advanced_weighting": None},
    **{"effective_region_mask": None, "region": "Whole picture", "save_detected_map": True},
}


def detects() -> st.SearchStrategy[Case]:
    """Pictures through preprocessors."""
    bodies = st.sampled_from([{**DETECT_BODY, "controlnet_module": name} for name in MODULES])
    return bodies.flatmap(broken).map(lambda body: Case("POST", DETECT, sent(body)))


def renders() -> st.SearchStrategy[Case]:
    """Poses to pictures."""
    return broken(POSES).map(lambda body: Case("POST", RENDER, sent(body)))


@st.composite
def generations(draw: st.DrawFn) -> Case:
    """Units of a generation; the host's own fields stay good."""
    units: list[dict[str, Any]] = [{**UNIT, "module": draw(st.sampled_from(MODULES))}]
    mode = draw(st.sampled_from(("simple", "simple", "batch", "merge")))
    if mode != "simple":
        pictures = draw(st.sampled_from(([GOOD, GOOD], "/etc", "/", "relative", [{"image": GOOD}])))
        units[0] |= {"input_mode": mode, "batch_images": pictures, "output_dir": "", "image": None}
    if draw(st.booleans()):
        units.append({**UNIT, "region": "Own mask", "effective_region_mask": GOOD})
    given = draw(broken({"args": units}, most=5))
    body = {**FEW, "alwayson_scripts": {"ControlNet": given}}
    if draw(st.booleans()):
        body["override_settings"] = {"control_net_on_error": "skip"}
    route = draw(st.sampled_from(("txt2img", "img2img", "hires")))
    if route == "img2img":
        body |= {"init_images": [GOOD], "denoising_strength": 1.0}
        if draw(st.booleans()):
            body |= {"mask": file(NOISE.convert("L")), "inpaint_full_res": draw(st.booleans())}
    if route == "hires":
        body |= {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 1.0}
    tab = "img2img" if route == "img2img" else "txt2img"
    return Case("POST", f"/sdapi/v1/{tab}", sent(body))


@st.composite
def queries(draw: st.DrawFn) -> Case:
    """Lists with odd queries, methods and paths."""
    odd = st.sampled_from(("", "1", "yes", "perhaps", "%00", "%ff", "a" * 3000, "true&update=x"))
    name = draw(st.sampled_from((*GETS, "detect", "txt2img", "", "..%2f", "version/x")))
    key = draw(st.sampled_from(("update", "alias_names", "x", "")))
    method = draw(st.sampled_from(("GET", "GET", "GET", "POST", "PUT", "DELETE", "HEAD", "PATCH")))
    return Case(method, f"/controlnet/{name}?{key}={draw(odd)}")


@st.composite
def raw_bodies(draw: st.DrawFn) -> Case:
    """Bytes that are no good JSON, or not said to be."""
    good = draw(st.sampled_from((sent(DETECT_BODY), sent(POSES))))
    cut = draw(st.integers(0, len(good)))
    content = draw(
        st.one_of(
            st.binary(max_size=200),
            st.just(good[:cut]),
            st.just(good[:cut] + b"\xff" + good[cut:]),
            st.just(good.replace(b'"', b"'")),
            st.just(good + good),
            st.sampled_from((b"[" * 200_000, b'{"a":' * 50_000, b"1" * 100_000, b"\xef\xbb\xbf{}")),
            st.sampled_from((b'{"a":1,"a":2}', b"[1e999,-1e999,NaN]", b"[" + b"0," * 200_000)),
        )
    )
    kinds = ("application/json", "text/plain", "multipart/form-data", "application/x+json", "\x01")
    path = draw(st.sampled_from((DETECT, RENDER)))
    return Case("POST", path, content, draw(st.sampled_from(kinds)))


KINDS: Final = {
    "detect": detects(),
    "render": renders(),
    "units": generations(),
    "queries": queries(),
    "raw": raw_bodies(),
}
