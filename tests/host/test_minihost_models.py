"""What the embedded host makes of a checkpoint: wrappers, conditioning, change of weights."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import stub_model
import torch
from PIL import Image

SIZE = 64


@pytest.fixture
def unet(host: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[stub_model.StubUNet]:
    """The loaded checkpoint with stand-ins for U-Net and VAE; nothing is written to disk."""
    from modules import shared

    for name, value in {"samples_save": False, "grid_save": False}.items():
        monkeypatch.setitem(shared.opts.data, name, value)
    with stub_model.stand_in(shared.sd_model) as stub:
        shared.state.begin("test")
        yield stub
        shared.state.end()


COMMON = {
    "prompt": "a red circle",
    "width": SIZE,
    "height": SIZE,
    "steps": 3,
    "seed": 7,
    "sampler_name": "Euler",
    "scheduler": "Automatic",
}


# ---- predictions ---------------------------------------------------------------------------


def toy(sigma_index: int, kind: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """(model that predicts exactly, noisy latent at unit data scale, clean latent)."""
    from modules import shared

    alphas = shared.sd_model.alphas_cumprod
    alpha = alphas[sigma_index]
    clean, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    answer = noise if kind == "eps" else alpha.sqrt() * noise - (1 - alpha).sqrt() * clean

    class Model(torch.nn.Module):
        alphas_cumprod = alphas
        asked: torch.Tensor | None = None

        def apply_model(self, x: torch.Tensor, t: torch.Tensor, cond: Any = None) -> torch.Tensor:
            self.asked = x
            assert t.item() == pytest.approx(sigma_index, abs=1e-2)
            return answer

    return Model(), clean + noise * ((1 - alpha) / alpha).sqrt(), clean


@pytest.mark.parametrize("index", [10, 500, 999])
@pytest.mark.parametrize("kind", ["eps", "v"])
def test_exact_prediction_denoises_exactly(host: Any, kind: str, index: int) -> None:
    from modules import k_denoiser

    model, noisy, clean = toy(index, kind)
    wrapper = {"eps": k_denoiser.CompVisDenoiser, "v": k_denoiser.CompVisVDenoiser}[kind](model)
    got = wrapper(noisy, wrapper.sigmas[index][None], cond={})
    assert torch.allclose(got, clean, atol=2e-4)
    scale = model.alphas_cumprod[index].sqrt()
    assert torch.allclose(model.asked, noisy * scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("index", [10, 500, 999])
def test_v_becomes_noise_for_timestep_samplers(host: Any, index: int) -> None:
    from modules.sd_samplers_timesteps import CompVisTimestepsVDenoiser

    model, noisy, clean = toy(index, "v")
    alpha = model.alphas_cumprod[index]
    x = noisy * alpha.sqrt()
    noise = CompVisTimestepsVDenoiser(model)(x, torch.tensor([float(index)]), cond={})
    assert torch.allclose((x - (1 - alpha).sqrt() * noise) / alpha.sqrt(), clean, atol=2e-3)


def test_parameterization_chooses_the_wrapper(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from modules import k_denoiser, sd_samplers, shared

    model = shared.sd_model
    kinds = []
    for parameterization in ("eps", "v"):
        monkeypatch.setattr(model, "parameterization", parameterization)
        kinds.append(type(sd_samplers.create_sampler("Euler", model).model_wrap))
    assert kinds == [k_denoiser.CompVisDenoiser, k_denoiser.CompVisVDenoiser]


def test_schedule_table_round_trip(host: Any) -> None:
    from modules import k_denoiser, shared

    table = k_denoiser.CompVisDenoiser(shared.sd_model)
    times = torch.tensor([0.0, 0.25, 17.6, 998.9, 999.0])
    assert torch.allclose(table.sigma_to_t(table.t_to_sigma(times)), times, atol=1e-2)
    rounded = k_denoiser.CompVisDenoiser(shared.sd_model, quantize=True)
    assert rounded.sigma_to_t(table.t_to_sigma(times)).tolist() == [0, 0, 18, 999, 999]


# ---- inpainting checkpoints ----------------------------------------------------------------


@pytest.fixture
def hybrid(unet: Any) -> Iterator[stub_model.StubUNet]:
    """The stand-in as a U-Net with nine input channels."""
    from modules import shared

    wrapper = shared.sd_model.model
    kept, wrapper.conditioning_key = wrapper.conditioning_key, "hybrid"
    yield unet
    wrapper.conditioning_key = kept


def test_plain_checkpoint_gets_four_channels(unet: Any) -> None:
    from modules import processing

    processing.process_images(processing.StableDiffusionProcessingTxt2Img(**COMMON))
    assert unet.log.calls[0].x.shape[1] == 4


def test_inpainting_checkpoint_gets_mask_and_masked_picture(hybrid: Any) -> None:
    from modules import processing

    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(255, (0, 0, SIZE // 2, SIZE))
    p = processing.StableDiffusionProcessingImg2Img(
        **COMMON,
        init_images=[Image.new("RGB", (SIZE, SIZE), (255, 255, 255))],
        mask=mask,
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=False,
        denoising_strength=1.0,
    )
    processed = processing.process_images(p)
    x = hybrid.log.calls[0].x
    assert x.shape[1] == 9
    assert x[0, 4, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    factor = p.sd_model.scale_factor
    assert x[0, 5, 0].tolist() == pytest.approx([0] * 4 + [factor] * 4, abs=1e-6)
    assert "Conditional mask weight: 1.0" in processed.info


def test_txt2img_with_an_inpainting_checkpoint_masks_everything(hybrid: Any) -> None:
    from modules import processing

    processing.process_images(processing.StableDiffusionProcessingTxt2Img(**COMMON))
    x = hybrid.log.calls[0].x
    assert x.shape[1] == 9
    assert x[0, 4].unique().tolist() == [1]


# ---- files ---------------------------------------------------------------------------------


def test_checkpoint_is_found_by_all_its_names(host: Any) -> None:
    from modules import sd_models, shared

    info = shared.sd_model.sd_checkpoint_info
    names = (info.title, info.name, info.name_for_extra, info.shorthash, info.sha256, info.hash)
    # Listing again makes new objects for the files, so the loaded one is told by its file.
    found = [sd_models.get_closet_checkpoint_match(name) for name in names]
    assert {match.filename for match in found} == {info.filename}
    assert sd_models.get_closet_checkpoint_match("no such checkpoint") is None
    assert info.title.endswith(f"[{info.shorthash}]")


def test_control_models_are_not_offered_as_checkpoints(host: Any) -> None:
    from modules import sd_models

    assert not [title for title in sd_models.checkpoints_list if title.startswith("control")]


def test_loading_again_keeps_the_objects_and_their_hooks(host: Any) -> None:
    from modules import sd_models, shared

    model = shared.sd_model
    network = model.model.diffusion_model
    weight = next(network.parameters())
    original = weight.detach().clone()
    calls: list[int] = []
    handle = network.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        weight.data.add_(1)
        sd_models.reload_model_weights(forced_reload=True)
        assert shared.sd_model is model
        assert model.model.diffusion_model is network
        assert torch.equal(weight, original)
        with torch.no_grad():
            model.apply_model(
                torch.zeros(1, 4, 8, 8),
                torch.zeros(1),
                {"c_crossattn": [model.cond_stage_model_empty_prompt], "c_concat": []},
            )
        assert calls == [1]
    finally:
        handle.remove()


def test_missing_checkpoints_are_named_with_the_folders(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import sd_models

    monkeypatch.setattr(sd_models, "checkpoints_list", {})
    monkeypatch.setattr(sd_models, "checkpoint_aliases", {})
    with pytest.raises(FileNotFoundError, match="no checkpoint .* put one there"):
        sd_models.select_checkpoint()


def test_active_sd_unet_takes_the_place_of_the_network(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modules import sd_unet, shared

    answer = torch.full((1, 4, 8, 8), 3.0)
    engine = SimpleNamespace(forward=lambda *_, **__: answer)
    monkeypatch.setattr(sd_unet, "current_unet", engine)
    model = shared.sd_model
    condition = {"c_crossattn": [model.cond_stage_model_empty_prompt], "c_concat": []}
    assert model.apply_model(torch.zeros(1, 4, 8, 8), torch.zeros(1), condition) is answer


# ---- previews ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Full", "Approx cheap", "Approx NN"])
def test_live_preview_has_the_pictures_size(
    unet: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from modules import processing, shared

    monkeypatch.setitem(shared.opts.data, "show_progress_type", method)
    monkeypatch.setitem(shared.opts.data, "show_progress_every_n_steps", 1)
    previews = []

    def look(calls: int) -> None:
        shared.state.current_image_sampling_step = -1
        shared.state.set_current_image()
        previews.append(shared.state.current_image)

    unet.on_call = look
    processing.process_images(processing.StableDiffusionProcessingTxt2Img(**COMMON, batch_size=2))
    assert previews[0] is None
    assert [image.size for image in previews[1:]] == [(2 * SIZE, SIZE)] * 2
