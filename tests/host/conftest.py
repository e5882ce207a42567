"""The embedded host in this process: true callbacks and scripts, no network."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sdxl_models
import support
from controls import MODEL, Calls, first, host_folder, loaded_unet, request

from lib_controlnet.families.controlnet import ControlNetNetwork


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A started `embedded.Host` with this repository as its extension."""
    import embedded

    started = embedded.start(tmp_path_factory.mktemp("host"), ["--disable-console-progressbars"])
    gc.collect()
    gc.freeze()  # it stays to the end: collections, and counts of objects, see what comes later
    return started


@pytest.fixture(scope="module")
def webui(host):
    """The host with a random control model for its checkpoint."""
    network = support.tiny_controlnet("demo", seed=4, unet=loaded_unet())
    folder = host_folder()
    support.save_controlnet(folder / f"{MODEL}.safetensors", network)
    other = support.tiny_controlnet("SDXL")
    support.save_controlnet(folder / "other_base.safetensors", other)
    (folder / "damaged.safetensors").write_bytes(b"not a safetensors file at all")
    return host


@pytest.fixture(scope="session")
def sdxl_checkpoints(host) -> list[str]:
    """The names of all narrow SDXL checkpoints, which the host then knows."""
    from modules import sd_models

    sdxl_models.write(Path(sd_models.model_path), sdxl_models.NAMES)
    sdxl_models.write_control(host_folder())
    sd_models.list_models()
    return list(sdxl_models.NAMES)


@pytest.fixture(scope="module")
def sdxl(host, sdxl_checkpoints) -> Iterator[Any]:
    """The host with `sdxl` loaded; `sdxl_models.CONTROL` is a control model for it.

    Another of `sdxl_checkpoints` is loaded by `override_settings={"sd_model_checkpoint": name}`.
    """
    from modules import sd_models, shared

    before = shared.opts.sd_model_checkpoint
    shared.opts.set("sd_model_checkpoint", sdxl_checkpoints[0], run_callbacks=False)
    sd_models.reload_model_weights()
    yield host
    shared.opts.set("sd_model_checkpoint", before, run_callbacks=False)
    sd_models.reload_model_weights()


@pytest.fixture
def calls(monkeypatch):
    """Spies on the control network."""
    seen = Calls()
    evaluate, encode = ControlNetNetwork.evaluate, ControlNetNetwork.encode_hint

    def spy(self, x, *rest):
        seen.rows.append(x.shape[0])
        if seen.on_call:
            seen.on_call(len(seen.rows))
        if seen.fail_at == len(seen.rows):
            msg = "simulated failure"
            raise RuntimeError(msg)
        return evaluate(self, x, *rest)

    def spy_hint(self, hint, *more):
        seen.hints.append(tuple(hint.shape[-2:]))
        return encode(self, hint, *more)

    monkeypatch.setattr(ControlNetNetwork, "evaluate", spy)
    monkeypatch.setattr(ControlNetNetwork, "encode_hint", spy_hint)
    return seen


@pytest.fixture(scope="module")
def plain(webui):
    return first(webui.txt2img(**request()))
