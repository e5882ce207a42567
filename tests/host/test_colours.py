"""tile_colorfix and recolor end to end: colours and brightness of the control picture."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
import torch
from controls import STEPS, encoded, first, picture, request, unit
from PIL import Image

RADIUS = 4
SIZE = 96


@dataclass
class Seen:
    """What happened inside one generation.

    Attributes:
        rows: every row's clean latent after its colours were held, per evaluation.
        guided: clean latents after guidance, per evaluation.
        lows: the colours that were held.
        encoded: latents that control pictures were encoded to.
    """

    rows: list[torch.Tensor] = field(default_factory=list)
    guided: list[torch.Tensor] = field(default_factory=list)
    lows: list[torch.Tensor] = field(default_factory=list)
    encoded: list[torch.Tensor] = field(default_factory=list)


@pytest.fixture
def seen(webui, monkeypatch):
    from modules import shared

    from lib_controlnet.engine.effects.tile_colorfix import HoldColours
    from lib_controlnet.host import steps
    from lib_controlnet.host.runtime import runtime

    found = Seen()
    after_cfg, apply = steps.on_cfg_after_cfg, HoldColours.before_guidance
    host = type(runtime().host)
    encode = host.vae_encode

    def spy_guided(session, params):
        after_cfg(session, params)
        x0, noisy = params.x, session.noisy
        if noisy is not None:
            logs = shared.sd_model.alphas_cumprod.log()
            # Between two timesteps UniPC's schedule is linear in the logarithm.
            alpha = np.exp(np.interp(noisy.timesteps, np.arange(1000), logs))
            alpha = torch.from_numpy(alpha).float().view(-1, 1, 1, 1)
            x0 = (noisy.x - (1 - alpha).sqrt() * x0) / alpha.sqrt()
        found.guided.append(x0.cpu().clone())

    def spy_rows(self, x0, rows):
        held = apply(self, x0, rows)
        found.rows.append(held.cpu().clone())
        found.lows.append(self.low.cpu())
        return held

    def spy_encode(self, image):
        latent = encode(self, image)
        found.encoded.append(latent.cpu())
        return latent

    monkeypatch.setattr(steps, "on_cfg_after_cfg", spy_guided)
    monkeypatch.setattr(HoldColours, "before_guidance", spy_rows)
    monkeypatch.setattr(host, "vae_encode", spy_encode)
    return found


def soft(size=SIZE):
    """A smooth colourful picture, uint8."""
    small = Image.fromarray(picture(4, 4, seed=3))
    return np.asarray(small.resize((size, size), Image.BICUBIC))


def colorfix(module="tile_colorfix", **fields):
    own = {"module": module, "image": encoded(soft()), "threshold_a": RADIUS}
    return unit(**{**own, **fields})


def low(latent, radius=RADIUS):
    """Local means of a latent (b, 4, h, w) by OpenCV."""
    planes = latent.flatten(0, 1).numpy()
    side = (2 * radius + 1,) * 2
    out = [cv2.blur(plane, side, borderType=cv2.BORDER_REPLICATE) for plane in planes]
    return torch.from_numpy(np.stack(out)).view_as(latent)


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM", "UniPC"])
@pytest.mark.parametrize("module", ["tile_colorfix", "tile_colorfix+sharp"])
def test_guidance_works_on_rows_with_the_controls_colours(webui, seen, sampler, module):
    fields = {"width": SIZE, "height": SIZE, "sampler_name": sampler, "batch_size": 2}
    webui.txt2img(**request(colorfix(module), **fields))
    assert len(seen.rows) == len(seen.guided) >= STEPS - 1  # DDIM makes one less
    assert len(seen.encoded) == 1
    for rows, guided, held in zip(seen.rows, seen.guided, seen.lows, strict=True):
        torch.testing.assert_close(held, low(seen.encoded[0].float()), atol=1e-5, rtol=0)
        cond, uncond = rows[:2], rows[2:]
        expected = uncond + 4 * (cond - uncond)
        scale = float(expected.abs().max())
        torch.testing.assert_close(guided, expected, atol=1e-4 * scale, rtol=0)


def test_hires_pass_doubles_the_radius(webui, seen):
    fields = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "width": SIZE}
    webui.txt2img(**request(colorfix(), height=SIZE, denoising_strength=0.7, **fields))
    assert len(seen.encoded) == 2
    first_pass, second_pass = seen.encoded
    assert second_pass.shape[-1] == first_pass.shape[-1] * 3 // 2
    torch.testing.assert_close(seen.lows[0], low(first_pass.float()), atol=1e-5, rtol=0)
    expected = low(second_pass.float(), 2 * RADIUS)
    torch.testing.assert_close(seen.lows[-1], expected, atol=1e-5, rtol=0)


def test_closed_window_and_zero_weight_change_nothing(webui):
    plain = first(webui.txt2img(**request(width=SIZE, height=SIZE)))
    for off in ({"weight": 0.0}, {"guidance_start": 1.0, "guidance_end": 1.0}):
        answer = webui.txt2img(**request(colorfix(**off), width=SIZE, height=SIZE))
        assert np.array_equal(first(answer), plain)


@pytest.mark.parametrize("name", ["recolor_luminance", "recolor_intensity"])
@pytest.mark.parametrize("hires", [False, True])
def test_recolored_picture_has_the_controls_brightness(webui, name, hires):
    own = unit(module=name, image=encoded(soft()), weight=0.5)
    extra = {"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0.5} if hires else {}
    answer = webui.txt2img(**request(own, width=SIZE, height=SIZE, **extra))
    made, shown = first(answer), np.array(answer.images[-1])[:, :, 0]
    side = SIZE * 3 // 2 if hires else SIZE
    assert made.shape == (side, side, 3)
    if hires:
        shown = np.array(answer.images[1])[:, :, 0]
    assert shown.shape == (side, side)
    if name == "recolor_intensity":
        assert np.abs(made.max(axis=2).astype(int) - shown).max() <= 1
    else:
        # Colours that the lightness leaves no room for are clipped; the rest is exact.
        found = cv2.cvtColor(made, cv2.COLOR_RGB2LAB)[:, :, 0].astype(int)
        assert np.median(np.abs(found - shown)) <= 1


def test_recolor_does_not_touch_other_pictures(webui):
    plain = first(webui.txt2img(**request(width=SIZE, height=SIZE)))
    own = unit(module="recolor_intensity", image=encoded(soft()), guidance_start=1.0)
    assert np.array_equal(first(webui.txt2img(**request(own, width=SIZE, height=SIZE))), plain)
