"""Counts, row order and blending of the embedded host's samplers, against the host contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import stub_model
import torch
from PIL import Image

SIZE = 64
FIRST_ORDER = ("Euler", "Euler a", "DPM++ 2M", "LCM")
SECOND_ORDER = ("Heun", "DPM2", "DPM++ SDE")


@pytest.fixture
def unet(host: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[stub_model.StubUNet]:
    """The loaded checkpoint with stand-ins for U-Net and VAE."""
    from modules import shared

    for name, value in {"samples_save": False, "grid_save": False}.items():
        monkeypatch.setitem(shared.opts.data, name, value)
    with stub_model.stand_in(shared.sd_model) as stub:
        shared.state.begin("test")
        yield stub
        shared.state.end()


def option(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    from modules import shared

    for name, value in values.items():
        monkeypatch.setitem(shared.opts.data, name, value)


def txt2img(**fields: Any) -> Any:
    from modules import processing

    p = processing.StableDiffusionProcessingTxt2Img(
        **{
            "prompt": "a red circle",
            "width": SIZE,
            "height": SIZE,
            "steps": 20,
            "seed": 7,
            "cfg_scale": 3.0,
            "sampler_name": "Euler",
            "scheduler": "Automatic",
            **fields,
        }
    )
    return p, processing.process_images(p)


def img2img(**fields: Any) -> Any:
    from modules import processing

    picture = Image.linear_gradient("L").resize((SIZE, SIZE)).convert("RGB")
    p = processing.StableDiffusionProcessingImg2Img(
        **{
            "init_images": [picture],
            "prompt": "a red circle",
            "width": SIZE,
            "height": SIZE,
            "steps": 20,
            "seed": 7,
            "cfg_scale": 3.0,
            "sampler_name": "Euler",
            "scheduler": "Automatic",
            "denoising_strength": 0.5,
            **fields,
        }
    )
    return p, processing.process_images(p)


# ---- number of evaluations -----------------------------------------------------------------

TXT2IMG_EVALUATIONS = [
    *[(name, 20, 20, 20) for name in FIRST_ORDER],
    *[(name, 20, 39, 40) for name in SECOND_ORDER],
    ("DDIM", 20, 19, 20),
    ("DDIM", 15, 15, 15),
    ("DDIM", 60, 62, 60),
    ("UniPC", 20, 20, 20),
    ("UniPC", 30, 31, 30),
]


@pytest.mark.parametrize(("sampler", "steps", "evaluations", "total"), TXT2IMG_EVALUATIONS)
def test_txt2img_evaluations(
    unet: Any, sampler: str, steps: int, evaluations: int, total: int
) -> None:
    p, _ = txt2img(sampler_name=sampler, steps=steps)
    assert len(unet.log.calls) == evaluations
    assert p.sampler.model_wrap_cfg.total_steps == total
    assert p.sampler.model_wrap_cfg.step == evaluations


IMG2IMG_EVALUATIONS = [
    # strength 0.5 of 20 steps: t_enc is 10, the run has 11 steps
    *[(name, 11) for name in FIRST_ORDER],
    *[(name, 21) for name in SECOND_ORDER],
    ("DDIM", 9),
    ("UniPC", 10),
]


@pytest.mark.parametrize(("sampler", "evaluations"), IMG2IMG_EVALUATIONS)
def test_img2img_evaluations(unet: Any, sampler: str, evaluations: int) -> None:
    p, _ = img2img(sampler_name=sampler)
    assert len(unet.log.calls) == evaluations
    assert p.sampler.model_wrap_cfg.steps == 11


FIXED_EVALUATIONS = [
    *[(name, 10) for name in FIRST_ORDER],
    *[(name, 19) for name in SECOND_ORDER],
    ("DDIM", 8),
    ("UniPC", 9),
]


@pytest.mark.parametrize(("sampler", "evaluations"), FIXED_EVALUATIONS)
def test_hires_evaluations_with_explicit_steps(unet: Any, sampler: str, evaluations: int) -> None:
    txt2img(
        steps=2,
        enable_hr=True,
        hr_scale=1.5,
        hr_upscaler="Latent",
        hr_second_pass_steps=10,
        hr_sampler_name=sampler,
        denoising_strength=0.5,
    )
    first_pass, second_pass = unet.log.calls[:2], unet.log.calls[2:]
    assert {tuple(call.x.shape[-2:]) for call in first_pass} == {(8, 8)}
    assert {tuple(call.x.shape[-2:]) for call in second_pass} == {(12, 12)}
    assert len(second_pass) == evaluations


def test_img2img_fix_steps_does_all_steps(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    option(monkeypatch, img2img_fix_steps=True)
    img2img(steps=10, denoising_strength=0.5)
    assert len(unet.log.calls) == 10


SAMPLING_STEPS = [
    ("Euler", [0, 0, 1, 2, 3]),
    ("Heun", [0, 0, 0, 1, 1, 2, 2, 3, 3]),
    ("UniPC", [0, 0, 0, 1, 2]),
]


@pytest.mark.parametrize(("sampler", "seen"), SAMPLING_STEPS)
def test_state_lags_behind_the_evaluation(unet: Any, sampler: str, seen: list[int]) -> None:
    txt2img(sampler_name=sampler, steps=5)
    assert [call.sampling_step for call in unet.log.calls] == seen


# ---- what the U-Net sees -------------------------------------------------------------------


def test_first_timestep_is_noise_and_input_has_unit_scale(unet: Any) -> None:
    txt2img(sampler_name="Euler", steps=4, width=256, height=256)
    first = unet.log.calls[0]
    assert first.timesteps.tolist() == pytest.approx([999.0, 999.0], abs=1e-3)
    assert first.x.std().item() == pytest.approx(1.0, abs=0.05)


def test_karras_is_the_automatic_schedule_of_dpmpp(unet: Any) -> None:
    times = {}
    for scheduler in ("Automatic", "Karras", "Uniform", "Exponential"):
        unet.log.clear()
        txt2img(sampler_name="DPM++ 2M", scheduler=scheduler, steps=6)
        times[scheduler] = [round(call.timesteps[0].item(), 3) for call in unet.log.calls]
    assert times["Automatic"] == times["Karras"]
    assert times["Uniform"] == pytest.approx([999, 799.2, 599.4, 399.6, 199.8, 0], abs=0.01)
    assert times["Exponential"] not in (times["Karras"], times["Uniform"])


def test_timestep_samplers_pass_whole_timesteps(unet: Any) -> None:
    txt2img(sampler_name="DDIM", steps=5)
    assert [call.timesteps[0].item() for call in unet.log.calls] == [801, 601, 401, 201]


# ---- rows ----------------------------------------------------------------------------------


@pytest.fixture
def tables(host: Any) -> Iterator[list[Any]]:
    """What every `on_cfg_denoiser` callback got."""
    from modules import script_callbacks

    seen: list[Any] = []

    def note(params: Any) -> None:
        seen.append(
            {
                "rows": params.x.shape[0],
                "sigma": params.sigma.shape[0],
                "cond": tuple(params.text_cond.shape[:2]),
                "uncond": tuple(params.text_uncond.shape[:2]),
                "denoiser": params.denoiser,
            }
        )

    script_callbacks.on_cfg_denoiser(note)
    yield seen
    script_callbacks.remove_callbacks_for_function(note)


LONG = " ".join(["circle"] * 80)


def contexts(prompts: list[str]) -> list[torch.Tensor]:
    from modules import shared

    with torch.no_grad():
        return [shared.sd_model.get_learned_conditioning([text])[0] for text in prompts]


def test_rows_are_subprompts_of_each_picture_then_uncond(unet: Any, tables: list[Any]) -> None:
    txt2img(
        prompt=["red circle AND blue square :0.5", "green star"],
        negative_prompt="yellow",
        batch_size=2,
        steps=1,
    )
    assert unet.log.rows == [5]
    assert tables[0]["cond"] == (3, 77)
    assert tables[0]["uncond"] == (2, 77)
    wanted = contexts(["red circle ", " blue square", "green star", "yellow", "yellow"])
    call = unet.log.calls[0]
    for row, context in enumerate(wanted):
        assert torch.allclose(call.context[row], context, atol=1e-5), f"row {row}"
    assert torch.equal(call.x[0], call.x[1])
    assert torch.equal(call.x[0], call.x[3])
    assert torch.equal(call.x[2], call.x[4])
    assert not torch.equal(call.x[0], call.x[2])


def test_guidance_sums_subprompts_with_weights(unet: Any) -> None:
    """One DDIM-like step by hand: the combination of the rows the U-Net gave."""
    p, _ = txt2img(prompt="red circle AND blue square :0.5", steps=1, cfg_scale=2.0)
    call = unet.log.calls[0]
    sigma = p.sampler.model_wrap.sigmas[-1]
    x = call.x * (sigma**2 + 1).sqrt()
    with torch.no_grad():
        eps = unet(call.x, call.timesteps, call.context)
    denoised = x - sigma * eps
    guided = denoised[2] + 2.0 * (denoised[0] - denoised[2]) + 1.0 * (denoised[1] - denoised[2])
    got = p.sampler.model_wrap_cfg.combine_denoised(denoised, [[(0, 1.0), (1, 0.5)]], x[:1], 2.0)
    assert torch.allclose(got[0], guided, rtol=1e-5, atol=1e-4)


ROW_CALLS = [
    # (prompts, negative, batch together, rows of the calls)
    ("equal, together", ["a"] * 2, "b", True, [4]),
    ("equal, apart", ["a"] * 2, "b", False, [2, 2]),
    ("AND, apart: chunks straddle", ["a AND b", "c"], "d", False, [2, 2, 1]),
    ("longer prompt, together", [LONG] * 2, "b", True, [2, 2]),
    ("longer prompt, AND, together", [f"{LONG} AND b AND c", "d"], "e", True, [4, 2]),
    ("longer prompt, AND, apart", [f"{LONG} AND b AND c", "d"], "e", False, [2, 2, 2]),
    ("longer prompt, three parts, one picture", [f"{LONG} AND b AND c"], "e", True, [2, 1, 1]),
    ("longer negative", ["a"] * 2, LONG, True, [2, 2]),
]


@pytest.mark.parametrize(
    ("prompts", "negative", "together", "rows"),
    [case[1:] for case in ROW_CALLS],
    ids=[case[0] for case in ROW_CALLS],
)
def test_rows_of_each_call(
    unet: Any,
    monkeypatch: pytest.MonkeyPatch,
    prompts: list[str],
    negative: str,
    together: bool,
    rows: list[int],
) -> None:
    option(monkeypatch, batch_cond_uncond=together)
    txt2img(prompt=prompts, negative_prompt=negative, batch_size=len(prompts), steps=1)
    assert unet.log.rows == rows


def test_batching_changes_no_pixel(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"prompt": ["a AND b", "c"], "negative_prompt": "d", "batch_size": 2, "steps": 3}
    _, together = txt2img(**fields)
    option(monkeypatch, batch_cond_uncond=False)
    _, apart = txt2img(**fields)
    assert [image.tobytes() for image in together.images] == [
        image.tobytes() for image in apart.images
    ]


def test_short_prompts_can_be_padded(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    option(monkeypatch, pad_cond_uncond=True)
    p, _ = txt2img(prompt=LONG, negative_prompt="b", steps=1)
    assert unet.log.rows == [2]
    assert unet.log.calls[0].context.shape[1] == 154
    assert p.extra_generation_params["Pad conds"] is True


def test_low_noise_leaves_uncond_out_every_second_step(unet: Any, tables: list[Any]) -> None:
    p, _ = txt2img(steps=6, s_min_uncond=1000.0, batch_size=2)
    assert unet.log.rows == [4, 2, 4, 2, 4, 2]
    assert [table["rows"] for table in tables] == [4] * 6  # decided after the callback
    assert p.extra_generation_params["NGMS"] == 1000.0


def test_early_steps_can_leave_uncond_out(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    option(monkeypatch, skip_early_cond=0.5)
    txt2img(steps=6)
    assert unet.log.rows == [1, 1, 1, 1, 2, 2]


def test_skipped_uncond_means_no_guidance(unet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    option(monkeypatch, skip_early_cond=1.0)
    _, high = txt2img(steps=3, cfg_scale=9.0, negative_prompt="b")
    _, low = txt2img(steps=3, cfg_scale=1.0, negative_prompt="c")
    assert high.images[0].tobytes() == low.images[0].tobytes()


# ---- callbacks -----------------------------------------------------------------------------


def test_callbacks_run_in_order_and_may_replace_the_latent(unet: Any) -> None:
    from modules import script_callbacks

    order: list[str] = []

    def before(params: Any) -> None:
        order.append("denoiser")
        assert params.denoiser.p is not None

    def between(params: Any) -> None:
        order.append("denoised")

    def after(params: Any) -> None:
        order.append("after")
        params.x = torch.zeros_like(params.x)

    script_callbacks.on_cfg_denoiser(before)
    script_callbacks.on_cfg_denoised(between)
    script_callbacks.on_cfg_after_cfg(after)
    try:
        _, processed = txt2img(steps=2)
    finally:
        for callback in (before, between, after):
            script_callbacks.remove_callbacks_for_function(callback)
    assert order == ["denoiser", "denoised", "after"] * 2
    assert processed.images[0].getextrema() == ((127, 127),) * 3  # the picture of latent 0


# ---- masks ---------------------------------------------------------------------------------


def half_mask() -> Image.Image:
    mask = Image.new("L", (SIZE, SIZE), 0)
    mask.paste(255, (SIZE // 2, 0, SIZE, SIZE))
    return mask


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_unmasked_latent_is_kept(unet: Any, sampler: str) -> None:
    p, processed = img2img(
        mask=half_mask(),
        mask_blur=0,
        inpainting_fill=1,
        inpaint_full_res=False,
        sampler_name=sampler,
    )
    left = processed.images[0].crop((0, 0, SIZE // 2, SIZE))
    assert left.tobytes() == p.init_images[0].crop((0, 0, SIZE // 2, SIZE)).tobytes()
    last = unet.log.calls[-1].x
    alpha = p.sd_model.alphas_cumprod[int(unet.log.calls[-1].timesteps[0])]
    difference = (last[0, :, :, :4] - p.init_latent[0, :, :, :4]).abs().max()
    if sampler == "DDIM":  # blended before the evaluation, without noise
        assert difference < 1e-6
    else:
        assert difference < 6 * (1 - alpha).sqrt()


def test_blend_before_or_after_decides_the_input(unet: Any) -> None:
    """First evaluation: DDIM sees the clean latent where nothing is repainted, Euler noise."""
    seen = {}
    for sampler in ("Euler", "DDIM"):
        unet.log.clear()
        p, _ = img2img(
            mask=half_mask(),
            mask_blur=0,
            inpainting_fill=1,
            inpaint_full_res=False,
            sampler_name=sampler,
        )
        first = unet.log.calls[0].x[0, :, :, :4]
        seen[sampler] = torch.equal(first, p.init_latent[0, :, :, :4])
    assert seen == {"Euler": False, "DDIM": True}


# ---- stopping ------------------------------------------------------------------------------


def test_interrupt_ends_sampling_and_keeps_the_last_latent(unet: Any) -> None:
    from modules import shared

    def stop(calls: int) -> None:
        if calls == 3:
            shared.state.interrupt()

    unet.on_call = stop
    _, processed = txt2img(steps=10, n_iter=3)
    assert len(unet.log.calls) == 3
    assert len(processed.images) == 1


def test_skip_goes_to_the_next_batch(unet: Any) -> None:
    from modules import shared

    def skip(calls: int) -> None:
        if calls == 3:
            shared.state.skip()

    unet.on_call = skip
    _, processed = txt2img(steps=5, n_iter=2)
    assert len(unet.log.calls) == 3 + 5
    assert len(processed.images) == 3  # two pictures and their grid


def test_stopping_finishes_the_picture(unet: Any) -> None:
    from modules import shared

    unet.on_call = lambda calls: shared.state.stop_generating()
    _, processed = txt2img(steps=5, n_iter=2)
    assert len(unet.log.calls) == 5
    assert len(processed.images) == 1


def test_interrupted_exception_from_the_unet_ends_the_pass(unet: Any) -> None:
    from modules.sd_samplers_common import InterruptedException

    def stop(calls: int) -> None:
        if calls == 2:
            raise InterruptedException

    unet.on_call = stop
    _, processed = txt2img(steps=5)
    assert len(unet.log.calls) == 2
    assert len(processed.images) == 1


def test_other_exceptions_from_the_unet_reach_the_caller(unet: Any) -> None:
    def fail(calls: int) -> None:
        msg = "the control picture is missing"
        raise ValueError(msg)

    unet.on_call = fail
    with pytest.raises(ValueError, match="the control picture is missing"):
        txt2img(steps=5)


def test_unipc_with_too_few_steps_says_so(unet: Any) -> None:
    with pytest.raises(ValueError, match="UniPC of order 3 needs at least 3 steps and has 2"):
        txt2img(sampler_name="UniPC", steps=2)
