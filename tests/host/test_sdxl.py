"""Controls on checkpoints of SDXL's kind: everything that acts on SD1 acts there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdxl_models
import torch
from controls import encoded, first, host_folder, picture, request, unet_hooks, unit
from random_weights import random_state
from weights import weights_folder

from annotator.lama import LAMA
from annotator.nets.lama import Lama, LamaParams

SIZE = 64
EFFECTS = ("inpaint_only", "inpaint_only+lama", "tile_colorfix", "tile_colorfix+sharp")
RUNS = [
    (sdxl_models.BASE, "Euler"),
    (sdxl_models.BASE, "DDIM"),
    (sdxl_models.V, "DDIM"),
    (sdxl_models.INPAINTING, "Euler"),
]


@pytest.fixture(autouse=True)
def _lama(tmp_path: Path) -> Iterator[None]:
    with torch.device("meta"):
        shapes = {k: t.shape for k, t in Lama(LamaParams(8, 1)).state_dict().items()}
    with weights_folder(tmp_path) as folder:
        (folder / LAMA.folder).mkdir()
        torch.save(random_state(shapes, 1), folder / LAMA.folder / LAMA.name)
        yield


def left_half() -> np.ndarray:
    """A mask over the left half."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 255
    return mask


def effect(module: str, **fields: Any) -> dict[str, Any]:
    """A unit with a preprocessor that acts on the latent."""
    image = encoded(picture())
    own = {"image": image, "mask": encoded(left_half())} if "inpaint" in module else {}
    return unit(model=sdxl_models.CONTROL, module=module, **own, **fields)


def asked(name: str, *units: dict, **fields: Any) -> dict[str, Any]:
    """A request on a checkpoint, which stays loaded for the next one."""
    override = {"sd_model_checkpoint": name}
    stays = {"override_settings": override, "override_settings_restore_afterwards": False}
    return request(*units, **{"steps": 2, **stays, **fields})


@pytest.mark.parametrize(("name", "sampler"), RUNS)
def test_effects_on_the_latent_act_and_repeat(sdxl: Any, name: str, sampler: str) -> None:
    def generated(*units: dict) -> np.ndarray:
        return first(sdxl.txt2img(**asked(name, *units, sampler_name=sampler)))

    plain = generated(unit(model=sdxl_models.CONTROL))
    for module in EFFECTS:
        one, two = generated(effect(module)), generated(effect(module))
        assert np.array_equal(one, two), module
        assert np.abs(one.astype(int) - plain).mean() > 1, module
        if "inpaint" in module:
            away = slice(SIZE // 2 + 8, None)
            assert np.array_equal(one[:, away], picture()[:, away]), module
    assert unet_hooks() == 0


@pytest.mark.parametrize("noise_schedule", ["Default", "Zero Terminal SNR"])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "UniPC"])
def test_v_prediction_holds_the_kept_part_for_the_sampler(
    sdxl: Any, monkeypatch: pytest.MonkeyPatch, sampler: str, noise_schedule: str
) -> None:
    from modules import sd_samplers_common, shared

    from lib_controlnet.host.runtime import runtime

    host, seen, latents = type(runtime().host), [], []
    encode, callback = host.vae_encode, sd_samplers_common.Sampler.callback_state

    def spy_encode(self: Any, image: torch.Tensor) -> torch.Tensor:
        latents.append(encode(self, image))
        return latents[-1]

    def spy_callback(self: Any, state: dict[str, Any]) -> None:
        seen.append(state["denoised"])
        callback(self, state)

    monkeypatch.setattr(host, "vae_encode", spy_encode)
    monkeypatch.setattr(sd_samplers_common.Sampler, "callback_state", spy_callback)
    monkeypatch.setitem(shared.opts.data, "sd_noise_schedule", noise_schedule)
    fields = {"sampler_name": sampler, "steps": 5}
    sdxl.txt2img(**asked(sdxl_models.V, effect("inpaint_only"), **fields))
    held = [x0 for x0 in seen if x0 is not None]  # UniPC's last step predicts nothing
    assert len(held) == {"Euler": 5, "DDIM": 4, "UniPC": 4}[sampler]
    kept = slice(SIZE // 16 + 1, None)
    for x0 in held:
        torch.testing.assert_close(x0[..., kept], latents[0][..., kept], atol=5e-3, rtol=0)


def test_control_model_for_sdxl_is_refused_on_a_refiner_alone(sdxl: Any) -> None:
    payload = asked(sdxl_models.REFINER, unit(model=sdxl_models.CONTROL))
    answer = sdxl.post("/sdapi/v1/txt2img", payload)
    assert answer.status_code == 422
    assert "made for SDXL (context 256), the loaded checkpoint sdxl-refiner" in answer.text
    assert unet_hooks() == 0


@pytest.mark.parametrize(("end", "told"), [(0.4, 0), (1.0, 1)])
def test_refiner_is_told_only_where_a_window_reaches_it(
    sdxl: Any, monkeypatch: pytest.MonkeyPatch, end: float, told: int
) -> None:
    from modules.processing import StableDiffusionProcessing

    said: list[str] = []
    monkeypatch.setattr(StableDiffusionProcessing, "comment", lambda _, text: said.append(text))
    refiner = {"refiner_checkpoint": sdxl_models.REFINER, "refiner_switch_at": 0.6}
    units = unit(model=sdxl_models.CONTROL, guidance_end=end)
    sdxl.txt2img(**asked(sdxl_models.BASE, units, steps=4, **refiner))
    assert sum("switched during sampling" in text for text in said) == told


@pytest.fixture
def fooocus(sdxl: Any) -> Iterator[str]:
    """Patch and head for the loaded checkpoint, in the published layout."""
    from lib_controlnet.host.runtime import runtime

    folder = host_folder() / "fooocus"
    folder.mkdir(exist_ok=True)
    sdxl.txt2img(**asked(sdxl_models.BASE))
    base, generator = runtime().base(), torch.Generator().manual_seed(3)
    patch = {}
    for name, tensor in base.module.named_parameters():
        if name.startswith(("input_blocks.4.", "middle_block.")) and tensor.dim() > 1:
            levels = torch.randint(0, 256, tensor.shape, generator=generator).to(torch.uint8)
            bound = torch.tensor(2.0 / tensor[0].numel() ** 0.5)
            patch[f"diffusion_model.{name}"] = (levels, -bound, bound)
    head = torch.randn(base.shape.model_channels, 5, 3, 3, generator=generator)
    torch.save(patch, folder / "inpaint_v26.fooocus.patch")
    torch.save({"head": head}, folder / "fooocus_inpaint_head.pth")
    yield "inpaint_v26.fooocus"
    for file in folder.iterdir():
        file.unlink()


def test_fooocus_inpaint_paints_the_mask_and_leaves_the_checkpoint(
    sdxl: Any, fooocus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import shared

    def painted(*units: dict) -> np.ndarray:
        image = {"init_images": [encoded(picture())], "mask": encoded(left_half())}
        full = {"inpaint_full_res": False, "denoising_strength": 0.9}
        return first(sdxl.img2img(**asked(sdxl_models.BASE, *units, **image, **full)))

    def own(**fields: Any) -> dict:
        made = unit(model=fooocus, module="inpaint_global_harmonious", **fields)
        return {key: value for key, value in made.items() if key != "image"}

    painted()  # the host samples the picture's latent by a generator that a generation leaves alike
    plain = painted()
    steered = painted(own())
    assert np.abs(steered.astype(int) - plain)[:, : SIZE // 2].mean() > 1
    assert np.array_equal(painted(own()), steered)
    assert np.array_equal(painted(own(weight=0.0)), plain)
    assert not np.array_equal(painted(own(weight=0.5)), steered)
    answer = sdxl.post("/sdapi/v1/txt2img", asked(sdxl_models.BASE, unit(model=fooocus)))
    assert answer.status_code == 422
    assert "paints what is masked, and none gives no mask" in answer.text
    info = shared.sd_model.sd_checkpoint_info
    drawn = {**own(), "image": encoded(picture()), "mask": encoded(left_half())}
    monkeypatch.setattr(info, "metadata", {"modelspec.title": "Quick SDXL Lightning"})
    answer = sdxl.post("/sdapi/v1/txt2img", asked(sdxl_models.BASE, drawn))
    assert answer.status_code == 422
    assert "a distilled one by its name (lightning)" in answer.text
    assert np.array_equal(painted(), plain)
    assert unet_hooks() == 0
