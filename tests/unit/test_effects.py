"""`inpaint_only`: what it holds during sampling and pastes back after decoding."""

import dataclasses

import numpy as np
import pytest
import torch

from lib_controlnet.engine.effects import Effect, discover
from lib_controlnet.engine.effects.inpaint_only import keep_unmasked, paste_back, soft_mask
from lib_controlnet.engine.effects.mask_channels import mask_channels
from lib_controlnet.engine.effects.start_picture import StartPicture
from lib_controlnet.engine.effects.x0 import epsilon_to_x0, x0_to_epsilon
from lib_controlnet.engine.step import Row
from lib_controlnet.engine.window import Window


def encode(pixels):
    return torch.nn.functional.avg_pool2d(pixels, 8)[:, [0, 1, 2, 0]]


def placed(width=64):
    pixels = torch.rand(1, 4, 64, width, generator=torch.Generator().manual_seed(0))
    pixels[:, 3] = 0.0
    pixels[:, 3, :, width // 2 :] = 1.0
    return pixels


def test_keep_unmasked_returns_the_encoded_picture_outside():
    pixels = placed()
    effect = keep_unmasked(pixels, encode, Window())
    out = effect.after_guidance(torch.full((2, 4, 8, 8), 9.0))
    assert torch.equal(out[..., :3], encode(pixels[:, :3])[..., :3].expand(2, -1, -1, -1))
    assert torch.equal(out[..., 4:], torch.full((2, 4, 8, 4), 9.0))


def test_keep_unmasked_grows_the_mask_by_the_pool():
    pixels = placed()
    pixels[:, 3] = 0.0
    pixels[:, 3, 31, 32] = 1.0  # one pixel, one row above cell 4
    cells = keep_unmasked(pixels, encode, Window()).mask[0, 0]
    assert cells[3, 4] == 1.0
    assert cells.sum() <= 4.0


def test_keep_unmasked_counts_a_mask_from_half_on():
    pixels = placed()
    pixels[:, 3] = 0.49
    pixels[:, 3, :8, :8] = 0.51
    cells = keep_unmasked(pixels, encode, Window()).mask[0, 0]
    assert cells[0, 0] == 1.0
    assert cells.sum() == 4.0


def test_keep_unmasked_full_mask_is_nothing():
    pixels = placed()
    pixels[:, 3] = 1.0
    assert keep_unmasked(pixels, encode, Window()) is None


def test_epsilon_and_x0_are_inverse():
    x, epsilon = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    alpha = torch.tensor([0.9, 0.05])[:, None, None, None]
    back = x0_to_epsilon(x, epsilon_to_x0(x, epsilon, alpha), alpha)
    torch.testing.assert_close(back, epsilon, atol=1e-4, rtol=1e-4)


def picture_and_mask():
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 256, (40, 40, 4), np.uint8)
    raw[:, :, 3] = 0
    raw[10:30, 10:30, 3] = 255
    return raw


def test_paste_back_far_from_the_mask_holds_the_very_pixels():
    raw = picture_and_mask()
    out = paste_back(torch.zeros(3, 40, 40), raw, 7)
    expected = torch.from_numpy(raw[:, :, :3]).permute(2, 0, 1).float() / 255.0
    assert torch.equal(out[:, :4], expected[:, :4])
    assert torch.equal(out[:, :, 36:], expected[:, :, 36:])
    assert torch.equal(out[:, 14:26, 14:26], torch.zeros(3, 12, 12))


def test_paste_back_without_blur_is_hard():
    raw = picture_and_mask()
    out = paste_back(torch.ones(3, 40, 40), raw, 0)
    inside = torch.from_numpy(raw[:, :, 3] > 127)
    assert torch.equal(out[:, inside], torch.ones(3, int(inside.sum())))
    expected = torch.from_numpy(raw[:, :, :3]).permute(2, 0, 1).float() / 255.0
    assert torch.equal(out[:, ~inside], expected[:, ~inside])


@pytest.mark.parametrize("sigma", [0, 1, 2, 3, 7, 8, 20, 63, 64])
def test_soft_mask_is_whole_inside_and_nothing_from_sigma_on(sigma):
    mask = np.zeros((200, 220), np.uint8)
    mask[90:110, 100:130] = 128
    weight = soft_mask(mask, sigma)
    assert (weight[90:110, 100:130] == 1.0).all()
    y, x = np.mgrid[:200, :220]
    beyond = np.maximum.reduce([90 - y, y - 109, 100 - x, x - 129])
    reach = max(sigma, 1)
    assert (weight[beyond >= reach] == 0.0).all()
    assert (weight[(beyond > 0) & (beyond < reach)] > 0.0).all()
    # The row through the middle: two boxes make a straight ramp.
    ramp = [1.0 - step / reach for step in range(1, reach)]
    np.testing.assert_allclose(weight[100, 130 : 130 + len(ramp)], ramp, atol=1e-5)


@pytest.mark.parametrize("sigma", [2, 7, 64])
def test_soft_mask_of_a_mirrored_mask_is_mirrored(sigma):
    rng = np.random.default_rng(1)
    mask = (rng.random((90, 70)) > 0.995).astype(np.uint8) * 255
    weight = soft_mask(mask, sigma)
    for axes in ((0,), (1,), (0, 1)):
        np.testing.assert_array_equal(
            np.flip(weight, axes), soft_mask(np.flip(mask, axes).copy(), sigma)
        )


def test_soft_mask_reaches_the_border_of_the_picture_undiminished():
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 40:] = 255
    weight = soft_mask(mask, 7)
    assert (weight[:, 40:] == 1.0).all()
    assert (weight == weight[:1]).all()


def test_paste_back_of_a_second_unit_leaves_what_the_first_pasted():
    """A mixture of two equal levels must be that level: no drift from rounding."""
    raw = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    raw[:, :, 3] = 0
    raw[20:40, 20:40, 3] = 255
    levels = torch.from_numpy(raw[:, :, :3]).permute(2, 0, 1).float() / 255.0
    again = paste_back(levels, raw, 15)
    assert torch.equal(again, levels)
    shown = (again.numpy() * 255.0).astype(np.uint8)  # as the host rounds
    assert np.array_equal(shown, raw[:, :, :3].transpose(2, 0, 1))


def test_paste_back_scales_to_the_picture_it_gets():
    raw = picture_and_mask()
    out = paste_back(torch.zeros(3, 80, 120), raw, 0)
    assert out.shape == (3, 80, 120)
    assert not out[:, 24:56, 36:84].any()
    assert out[:, :18].min(dim=0).values.max() > 0.3


def test_start_picture_is_the_last_step_of_diffusing_it():
    """Ho et al. 2020, equation 4, at the last timestep."""
    latent, noise = torch.randn(1, 4, 3, 5), torch.randn(2, 4, 3, 5)
    given = noise.clone()
    StartPicture(latent).under_noise(given, 0.0047)
    torch.testing.assert_close(given, 0.0047**0.5 * latent + 0.9953**0.5 * noise)


def test_start_picture_of_some_images_leaves_the_others():
    noise = torch.randn(3, 4, 3, 5)
    given = noise.clone()
    StartPicture(torch.ones(1, 4, 3, 5), frozenset({1})).under_noise(given, 0.25)
    assert torch.equal(given[[0, 2]], noise[[0, 2]])
    torch.testing.assert_close(given[1], 0.5 + 0.75**0.5 * noise[1])


def test_start_picture_of_another_size_or_without_a_trace_changes_nothing():
    noise = torch.randn(1, 4, 3, 5)
    given = noise.clone()
    StartPicture(torch.ones(1, 4, 5, 3)).under_noise(given, 0.25)
    StartPicture(torch.ones(1, 4, 3, 5)).under_noise(given, 0.0)  # zero terminal SNR
    assert torch.equal(given, noise)


@pytest.mark.parametrize("effect", discover(), ids=lambda effect: effect.__name__)
def test_no_field_of_an_effect_hides_a_moment(effect):
    moments = {name for name in vars(Effect) if not name.startswith("_")} - {"window", "images"}
    assert not moments & set(getattr(effect, "__dataclass_fields__", {}))


def test_mask_channels_tell_the_rows_of_their_pictures():
    pixels = placed()
    effect = mask_channels(pixels, encode, 1.0, Window())
    rows = [Row(0, True), Row(1, True), Row(0, False), Row(1, False)]
    told = effect.condition(torch.zeros(4, 5, 8, 8), rows)
    assert torch.equal(told[:, 0], (torch.arange(8) > 3).float().expand(4, 8, 8))
    assert torch.equal(told[0, 1:, :, :4], encode(pixels[:, :3])[0, :, :, :4])
    own = dataclasses.replace(effect, images=frozenset({1}))
    some = own.condition(torch.full((4, 5, 8, 8), 9.0), rows)
    assert torch.equal(some[[1, 3]], told[[1, 3]])
    assert (some[[0, 2]] == 9.0).all()
