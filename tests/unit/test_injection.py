"""Residual algebra and region masks."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib_controlnet.engine.injection import (
    RegionMask,
    Residuals,
    add_rows,
    fit_to,
    sum_residuals,
    with_rows,
)


class Copies(TorchDispatchMode):
    """Names of the operations that copy what is there already."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        name = func._overloadpacket.__name__
        if name in ("clone", "copy_", "index", "index_put_", "cat", "_to_copy"):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class MadeTensors(TorchDispatchMode):
    """How many tensors are made that are no view, and not written over another."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        self.count += func._overloadpacket.__name__ == "add"
        return func(*args, **(kwargs or {}))


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


@pytest.mark.parametrize("rows", [(0, 1, 2), (1, 2), (0, 2)], ids=["all", "run", "scattered"])
@pytest.mark.parametrize("count", [1, 2])
def test_rows_are_added_without_a_copy_of_target_or_residual(rows, count):
    """And `with_rows` writes to a tensor of its own, once where all rows are told."""
    target = torch.rand(3, 5, 4, 4)
    residual = torch.rand(len(rows), 5, 4, 4)[:, -count * 2 :]
    expected = target.clone()
    expected[list(rows), -residual.shape[1] :] += residual
    with Copies() as seen:
        made = with_rows(target, residual, rows)
    is_whole = len(rows) == len(target) and residual.shape == target.shape
    assert seen.names == ([] if is_whole else ["clone"])
    with Copies() as seen:
        add_rows(target, residual, rows)
    assert not seen.names
    assert torch.equal(target, expected)
    assert torch.equal(made, expected)


def test_sums_are_written_over_themselves_and_over_nothing_else():
    layers = [torch.rand(2, 3, 4, 4) for _ in range(4)]
    given = [layer.clone() for layer in layers]
    with MadeTensors() as made:
        total = sum_residuals([Residuals((0, 1), (layer,)) for layer in layers])
    assert made.count == 1
    assert all(torch.equal(one, other) for one, other in zip(layers, given, strict=True))
    assert torch.equal(total[0].layers[0], given[0] + given[1] + given[2] + given[3])
    pooled = [torch.rand(2, 3, 1, 1), torch.rand(2, 3, 1, 1), layers[0]]
    total = sum_residuals([Residuals((0, 1), (layer,)) for layer in pooled])
    assert torch.equal(total[0].layers[0], pooled[0] + pooled[1] + pooled[2])


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
