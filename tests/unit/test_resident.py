"""The weights of one module on a device."""

from __future__ import annotations

import torch
from fake_device import FakeDevice

from lib_controlnet.engine.resident import Resident


def test_any_module_may_be_resident() -> None:
    """Buffers, tied weights, whole numbers; and a module without anything."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Module())
    module[1].weight = module[0].weight
    module[2].register_buffer("steps", torch.arange(3))
    module[2].register_buffer("scratch", torch.zeros(1), persistent=False)
    module.requires_grad_(False)
    device, before = FakeDevice(), tensors_by_name(module)
    resident = Resident(module, device.copy)
    assert resident.nbytes == 4 * (4 + 2 + 2) + 8 * 3 + 4
    resident.place(FakeDevice.device)
    assert device.held == device.copied == resident.nbytes // 2
    placed = tensors_by_name(module)
    assert list(placed) == list(before)
    assert all(type(placed[name]) is type(before[name]) for name in before)
    assert all(placed[name] is not before[name] for name in before)
    assert all(torch.equal(placed[name], before[name]) for name in before)
    assert module[1].weight is module[0].weight
    assert not any(parameter.requires_grad for parameter in module.parameters())
    del placed
    assert resident.park()
    assert not resident.park()
    assert all(one is before[name] for name, one in tensors_by_name(module).items())
    assert device.held == 0
    empty = Resident(torch.nn.Module(), device.copy)
    empty.place(FakeDevice.device)
    assert (empty.nbytes, empty.park()) == (0, False)


def tensors_by_name(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
