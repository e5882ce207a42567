"""Residual algebra and region masks."""

import pytest
import torch

from lib_controlnet.engine.injection import RegionMask, Residuals, add_rows, fit_to, sum_residuals


def some(rows=(0, 1), value=1.0):
    n = len(rows)
    return Residuals(rows, (torch.full((n, 2, 4, 4), value), None, torch.ones(n, 3, 2, 2)))


def test_sum_adds_layers_and_keeps_absent_ones():
    total = some() + some(value=2.0)
    assert torch.equal(total.layers[0], torch.full((2, 2, 4, 4), 3.0))
    assert total.layers[1] is None


def test_sum_of_different_rows_is_refused():
    with pytest.raises(ValueError, match="different rows"):
        some((0, 1)) + some((0,))


def test_sum_residuals_keeps_row_sets_apart():
    parts = sum_residuals([some((0,)), some((0, 1)), some((0,), 4.0)])
    assert [part.rows for part in parts] == [(0,), (0, 1)]
    assert parts[0].layers[0].max() == 5.0


def test_scaled_by_zero_removes_the_layer():
    scaled = some().scale((0.0, 1.0, 0.5))
    assert scaled.layers[0] is None
    assert scaled.layers[2].max() == 0.5


def test_pooled_is_the_mean_over_the_picture():
    layer = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert Residuals((0,), (layer,)).pool().layers[0].flatten().tolist() == [7.5]


@pytest.mark.parametrize("rows", [(0, 1, 2), (1, 2), (0, 2)], ids=["all", "run", "scattered"])
def test_add_rows_changes_only_those_rows_and_last_channels(rows):
    target = torch.zeros(3, 5, 4, 4)
    add_rows(target, torch.ones(len(rows), 2, 4, 4), rows)
    expected = torch.zeros(3, 5, 4, 4)
    expected[list(rows), 3:] = 1.0
    assert torch.equal(target, expected)


def test_add_rows_pooled_residual_is_broadcast():
    target = torch.zeros(1, 2, 3, 3)
    add_rows(target, torch.full((1, 2, 1, 1), 2.0), (0,))
    assert torch.equal(target, torch.full((1, 2, 3, 3), 2.0))


def test_fit_to_repairs_odd_sizes_and_precision():
    fitted = fit_to(torch.rand(1, 2, 4, 4), torch.zeros(1, 4, 5, 5, dtype=torch.float64))
    assert fitted.shape == (1, 2, 5, 5)
    assert fitted.dtype == torch.float64


def test_region_half_keeps_half():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    masked = Residuals((0,), (torch.ones(1, 2, 8, 8),)).mask(RegionMask(mask), [(8, 8)])
    assert torch.equal(masked.layers[0][..., :3], torch.ones(1, 2, 8, 3))
    assert not masked.layers[0][..., 5:].any()


def test_region_full_and_empty_are_recognised():
    assert RegionMask(torch.ones(1, 1, 8, 8)).is_full
    assert RegionMask(torch.zeros(1, 1, 8, 8)).is_empty
