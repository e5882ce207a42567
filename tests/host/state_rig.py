"""Generations under observation: what one leaves on the host, in memory, and in later pictures.

`Rig.check` is the sum of it. Run as a program, the file draws the reference pictures in a fresh
host: `python state_rig.py pictures.npz`.
"""

from __future__ import annotations

import base64
import gc
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import support
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.host import state_probe
from tests.host.state_memory import survivors, tensor_bytes

ROOT = Path(__file__).resolve().parents[2]
SIZE = 32
STEPS = 3
MODEL = "state_control"
COPY = "state_copy"
NARROW = "state_control_narrow"
DIFFERENCE = "state_control_difference"
PROCESSING = {
    "txt2img": "StableDiffusionProcessingTxt2Img",
    "img2img": "StableDiffusionProcessingImg2Img",
}
COMMON = {
    "prompt": "a red circle",
    "steps": STEPS,
    "width": SIZE,
    "height": SIZE,
    "seed": 5,
    "cfg_scale": 4.0,
    "sampler_name": "Euler",
    "scheduler": "Automatic",
    "do_not_save_samples": True,
    "do_not_save_grid": True,
}
HIRES = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}


def picture(width: int = SIZE, height: int = SIZE, seed: int = 0) -> np.ndarray:
    """Noise, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(array: np.ndarray) -> str:
    """uint8 (H, W[, C]) as base64 PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def unit(seed: int = 0, **fields: Any) -> dict[str, Any]:
    """A unit of the rig's control model with a picture of its own."""
    return {"module": "none", "model": MODEL, "image": encoded(picture(seed=seed)), **fields}


def masked_unit(**fields: Any) -> dict[str, Any]:
    """A unit of `inpaint_only` with a box in the middle."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[SIZE // 3 : -SIZE // 3, SIZE // 3 : -SIZE // 3] = 255
    image = {"image": unit()["image"], "mask": encoded(mask)}
    return unit(module="inpaint_only", image=image, **fields)


def two_units() -> tuple[dict[str, Any], dict[str, Any]]:
    """Units of one network that run as one batch."""
    return unit(weight=0.7), unit(seed=1, weight=0.5)


def array(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("RGB"))


class Rig:
    """The embedded host with a random control model.

    Args:
        host: the started `embedded.Host`.

    Attributes:
        references: pictures of a fresh host by name, uint8 (H, W, 3).
        strays: wrappers of ours found on samplers after their generation.
    """

    def __init__(self, host: Any) -> None:
        from modules import paths, shared

        self.host = host
        self.references: dict[str, np.ndarray] = {}
        self.strays: list[str] = []
        assert shared.sd_model is not None  # loads it
        self.models = Path(paths.models_path) / "ControlNet"
        self.models.mkdir(parents=True, exist_ok=True)
        network = support.tiny_controlnet("demo", seed=4, unet=self.unet)
        for name in (MODEL, COPY):
            support.save_controlnet(self.models / f"{name}.safetensors", network)
        self._state: dict[str, Any] = {}
        self._bytes = 0

    @property
    def hooks(self) -> dict[tuple[str, str], Callable[..., None]]:
        """What happens at the probes' events: {(place, event): function}."""
        return state_probe.hooks()

    @contextmanager
    def one_test(self) -> Iterator[None]:
        """Hooks of one test. Nothing is logged: kept log records keep tracebacks alive."""
        self.strays.clear()
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
            self.hooks.clear()

    # ---- generations ----

    def txt2img(self, *units: Any, **fields: Any) -> Any:
        """A processing object as the HTTP route makes it."""
        return self._processing("txt2img", units, fields)

    def img2img(self, *units: Any, **fields: Any) -> Any:
        """Likewise; without `init_images` it starts from noise pixels."""
        given = {"init_images": [Image.fromarray(picture(seed=7))], "denoising_strength": 0.7}
        return self._processing("img2img", units, {**given, **fields})

    def _processing(self, kind: str, units: tuple, fields: dict[str, Any]) -> Any:
        from modules import processing, scripts, shared

        cls = getattr(processing, PROCESSING[kind])
        p = cls(sd_model=shared.sd_model, **{**COMMON, **fields})
        p.is_api = True
        p.scripts = getattr(scripts, f"scripts_{kind}")
        p.script_args = self.arguments(kind, *units)
        return p

    def arguments(self, kind: str, *units: Any) -> tuple:
        """All script arguments of a tab, with these units in ControlNet's slots."""
        from modules import scripts

        values = list(getattr(self.host.api, f"default_script_arg_{kind}"))
        script = getattr(scripts, f"scripts_{kind}").script("ControlNet")
        slots = script.args_to - script.args_from
        values[script.args_from : script.args_to] = [*units, *[None] * (slots - len(units))]
        return tuple(values)

    @contextmanager
    def job(self, p: Any) -> Iterator[None]:
        """What the route does round `process_images`."""
        from modules import shared
        from modules.call_queue import queue_lock

        with queue_lock, closing(p):
            shared.state.begin(job="state test")
            try:
                yield
            finally:
                self.note_strays(p)
                shared.state.end()

    def run(self, p: Any) -> list[np.ndarray]:
        """The generated pictures, without detected maps."""
        with self.job(p):
            return self.images(p)

    def images(self, p: Any) -> list[np.ndarray]:
        """One `process_images` inside a `job`: its pictures."""
        return self.images_and_maps(p)[0]

    def images_and_maps(self, p: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """One `process_images` inside a `job`: its pictures, and the maps that wait for its end."""
        from modules.processing import process_images

        from lib_controlnet.host import shown_maps

        torch.manual_seed(0)  # the host's VAE draws from the global generator in img2img
        processed = process_images(p)
        self.note_strays(p)
        waiting = vars(p).pop(shown_maps.ATTRIBUTE, None)
        maps = [] if waiting is None else [array(image) for image, _ in waiting.waiting]
        return [array(image) for image in processed.images], maps

    def fails(self, p: Any, kind: type[BaseException] = RuntimeError) -> str:
        """The message with which the generation fails; nothing keeps the exception itself."""
        try:
            self.run(p)
        except kind as error:
            return str(error)
        msg = f"the generation did not raise {kind.__name__}"
        raise AssertionError(msg)

    def payload(self, *units: Any, **fields: Any) -> dict[str, Any]:
        """The body of a request to the HTTP route."""
        known = {k: v for k, v in COMMON.items() if not k.startswith("do_not")}
        scripts = {"alwayson_scripts": {"ControlNet": {"args": list(units)}}} if units else {}
        return {**known, **scripts, **fields}

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The routes over HTTP; gives their address."""
        url = self.host.serve()
        try:
            yield url
        finally:
            self.host.stop()

    def draw(self, name: str) -> np.ndarray:
        """One of the reference requests, drawn here and now."""
        return self.run(REQUESTS[name](self))[0]

    def write_checkpoints(self) -> None:
        """Copies of the demo checkpoint, and control models that go with them.

        `state_other` has other weights, `state_narrow` another structure, `state_v` the same
        structure but another prediction, so that the host builds a new model for it.
        """
        from modules import sd_models
        from modules.paths_internal import assets_path

        assets, folder = Path(assets_path), Path(sd_models.model_path)
        if not (folder / "demo-clip").exists():
            shutil.copytree(assets / "demo-clip", folder / "demo-clip")
        tensors = load_file(assets / "demo.safetensors")
        unet = {k: v for k, v in tensors.items() if k.startswith(sd_models.UNET_PREFIX)}
        narrow = support.tiny_unet("demo", seed=2, model_channels=32)
        weights = {sd_models.UNET_PREFIX + k: v.half() for k, v in narrow.state_dict().items()}
        rest = {k: v for k, v in tensors.items() if k not in unet}
        config = (assets / "demo.yaml").read_text(encoding="utf8")
        params = "    linear_start: 0.00085\n"
        for name, changed, text in (
            ("state_other", rest | {k: v * 1.02 for k, v in unet.items()}, config),
            ("state_narrow", rest | weights, config.replace("channels: 64", "channels: 32")),
            ("state_v", tensors, config.replace(params, params + "    parameterization: v\n")),
        ):
            save_file(changed, folder / f"{name}.safetensors")
            (folder / f"{name}.yaml").write_text(text, encoding="utf8")
        support.save_controlnet(
            self.models / f"{NARROW}.safetensors",
            support.tiny_controlnet("demo", seed=6, unet=narrow),
        )
        difference = support.tiny_controlnet("demo", seed=4, unet=self.unet)
        extra = {"difference": torch.zeros(1)}
        support.save_controlnet(self.models / f"{DIFFERENCE}.safetensors", difference, **extra)
        sd_models.list_models()

    @property
    def unet(self) -> torch.nn.Module:
        """The loaded checkpoint's."""
        from modules import shared

        return shared.sd_model.model.diffusion_model

    # ---- what must be as before ----

    def settle(self) -> None:
        """Take the present bytes, and the host's first state, as what to come back to."""
        self.draw("one")
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # collections and counts below see only what comes later
        for name in ("plain", "one"):
            self.draw(name)
        gc.collect()
        self._state = self._state or self.host_state()
        self._bytes = tensor_bytes()

    def note_strays(self, p: Any) -> None:
        """Remember functions of ours that sit on the sampler or its denoiser."""
        sampler = getattr(p, "sampler", None)
        for owner in (sampler, getattr(sampler, "model_wrap_cfg", None)):
            for name, value in vars(owner).items() if owner is not None else ():
                if str(getattr(value, "__module__", "")).startswith("lib_controlnet"):
                    self.strays.append(f"{type(owner).__name__}.{name}")

    def host_state(self) -> dict[str, Any]:
        """Everything on the host that a hook could hide in, by name."""
        from modules import processing, script_callbacks, scripts, sd_samplers_common, shared
        from modules import sd_samplers_cfg_denoiser as denoisers
        from modules import sd_samplers_kdiffusion as kdiffusion
        from modules import sd_samplers_timesteps as timesteps

        state: dict[str, Any] = {}
        for name, module in shared.sd_model.named_modules():
            hooks = {k: len(v) for k, v in vars(module).items() if k.endswith("hooks") and v}
            # The model itself gets attributes from the host at first use.
            state[f"module {name}"] = (hooks, sorted(vars(module)) if name else [])
        owners = [
            *(sd_samplers_common.Sampler, kdiffusion.KDiffusionSampler, timesteps.CompVisSampler),
            *(denoisers.CFGDenoiser, kdiffusion.CFGDenoiserKDiffusion),
            *(timesteps.CFGDenoiserTimesteps, processing.StableDiffusionProcessing),
            *(processing.StableDiffusionProcessingTxt2Img, processing, sd_samplers_common),
        ]
        for owner in owners:
            functions = {k: id(v) for k, v in vars(owner).items() if callable(v)}
            state[f"functions of {owner.__name__}"] = functions
        for name, callbacks in script_callbacks.callback_map.items():
            state[name] = sorted(callback.name for callback in callbacks)
        for kind in PROCESSING:
            script = getattr(scripts, f"scripts_{kind}").script("ControlNet")
            state[f"script of {kind}"] = {k: held_type(v) for k, v in vars(script).items()}
        state["runtime"] = runtime().sampling
        state["text beside the progress bar"] = shared.state.textinfo
        return state

    def nothing_left(self) -> None:
        """No hook, wrapper, callback or object of a generation is left."""
        assert self.strays == [], self.strays
        gc.collect()
        assert survivors() == [], survivors()
        now = self.host_state()
        changed = {k: (self._state.get(k), now.get(k)) for k in now | self._state}
        changed = {k: v for k, v in changed.items() if v[0] != v[1]}
        assert changed == {}, changed

    def check(self, *names: str, memory: bool = True) -> None:
        """Nothing is left, pictures are those of a fresh host, and memory is as it was.

        Args:
            names: further references to compare, beside one without and one with control.
            memory: whether tensors are counted; not after the host has replaced its model.
        """
        self.nothing_left()
        for name in (*names, "plain", "one"):
            drawn = self.draw(name)
            assert np.array_equal(drawn, self.references[name]), f"{name} differs"
        self.nothing_left()
        now = tensor_bytes()
        assert not memory or now == self._bytes, f"{now} bytes, before {self._bytes}"


REQUESTS: dict[str, Callable[[Rig], Any]] = {
    "plain": lambda rig: rig.txt2img(),
    "one": lambda rig: rig.txt2img(unit()),
    "two": lambda rig: rig.txt2img(*two_units()),
    "hires": lambda rig: rig.txt2img(unit(), **HIRES),
    "ddim": lambda rig: rig.txt2img(unit(), sampler_name="DDIM"),
    "img2img": lambda rig: rig.img2img(unit(image=None)),
    "img2img plain": lambda rig: rig.img2img(),
}


def on(checkpoint: str, *units: Any, **fields: Any) -> Callable[[Rig], Any]:
    """A txt2img request with a checkpoint of its own."""
    return lambda rig: rig.txt2img(
        *units, override_settings={"sd_model_checkpoint": checkpoint}, **fields
    )


REFINED = {"refiner_switch_at": 0.5, "steps": 4}
MODEL_REQUESTS: dict[str, Callable[[Rig], Any]] = {
    "other": on("state_other", unit()),
    "other plain": on("state_other"),
    "narrow": on("state_narrow", unit(model=NARROW)),
    "narrow plain": on("state_narrow"),
    "v": on("state_v", unit()),
    "difference": on("demo", unit(model=DIFFERENCE)),
    "other difference": on("state_other", unit(model=DIFFERENCE)),
    "refined other": lambda rig: rig.txt2img(unit(), refiner_checkpoint="state_other", **REFINED),
    "refined v": lambda rig: rig.txt2img(unit(), refiner_checkpoint="state_v", **REFINED),
    "refined narrow": lambda rig: rig.txt2img(unit(), refiner_checkpoint="state_narrow", **REFINED),
    "hires other": lambda rig: rig.txt2img(unit(), hr_checkpoint_name="state_other", **HIRES),
}


def held_type(value: Any) -> str:
    """The type of what an attribute keeps alive; a weak reference to something gone is None."""
    return type(value() if isinstance(value, weakref.ref) else value).__name__


def runtime() -> Any:
    from lib_controlnet.host.runtime import runtime as present

    return present()


@lru_cache(maxsize=1)
def fresh_pictures() -> dict[str, np.ndarray]:
    """The reference requests, drawn by a host in a process of its own."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("minihost", "tests", "."))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pictures.npz"
        done = subprocess.run(
            [sys.executable, __file__, str(file)],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        with np.load(file) as pictures:
            return {name: pictures[name] for name in pictures.files}


@contextmanager
def observed(host: Any) -> Iterator[Rig]:
    """The host with the two probes and the control model; reloaded without probes afterwards."""
    from modules import paths_internal

    folders = state_probe.write_probes(Path(paths_internal.extensions_dir))
    host.reload_ui()
    try:
        rig = Rig(host)
        rig.references = fresh_pictures()
        rig.settle()
        yield rig
    finally:
        gc.unfreeze()
        for folder in folders:
            shutil.rmtree(folder)
        host.reload_ui()


def main() -> None:
    import embedded

    rig = Rig(embedded.start(tempfile.mkdtemp(), ["--disable-console-progressbars"]))
    rig.write_checkpoints()
    requests = REQUESTS | MODEL_REQUESTS
    np.savez(sys.argv[1], **{name: rig.run(make(rig))[0] for name, make in requests.items()})


if __name__ == "__main__":
    main()
