"""Whether a network's weights are stored in 8 bits, which is decided when it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lib_controlnet.enums import Storage
from lib_controlnet.nets.eight_bit import store_in_8_bits

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from lib_controlnet.engine.network import ControlNetwork
    from lib_controlnet.engine.unet import BaseUNet

EIGHT_BIT: Final = "8 bit"
"""What is said of such a network in generation parameters."""

TIMES: Final = 2
"""Memory is short where less than so many times the network's size is free."""


def settle_storage(
    network: ControlNetwork,
    storage: Storage,
    base: BaseUNet,
    device: torch.device,
    measure: Callable[[torch.device], int | None],
) -> None:
    """Store a network that was just loaded as the user wants it, and note what became of it.

    Args:
        network: on the CPU.
        storage: the user's choice.
        base: the U-Net it works with; what of it is not on the device yet will take room there.
        device: where the network will compute.
        measure: gives the bytes that are free on a device, or None.
    """
    if storage is Storage.NEVER:
        return
    why, size = "as the settings ask for", network.nbytes
    if storage is Storage.SHORT:
        room = measure(device)
        if room is None:
            _note(network, f"{device.type} does not tell how much memory is free, so it is stored"
                           " exactly")  # fmt: skip
            return
        room = max(0, room - _size_elsewhere(base, device))
        if size * TIMES <= room:
            return
        why = f"since {room / 1e6:.0f} MB would be free for it on {device.type}"
    if not store_in_8_bits(network.module):
        _note(network, "it has no weights that are stored in 8 bits, so it is stored exactly")
        return
    network.stored = EIGHT_BIT
    _note(network, f"stored in 8 bits, {network.nbytes / 1e6:.0f} of {size / 1e6:.0f} MB, {why}")


def _size_elsewhere(base: BaseUNet, device: torch.device) -> int:
    """Bytes of the U-Net that wait in main memory; it does not come where `device` is the CPU."""
    held = base.module.parameters()
    waiting = (one for one in held if one.device.type == "cpu" != device.type)
    return sum(one.nelement() * one.element_size() for one in waiting)


def _note(network: ControlNetwork, text: str) -> None:
    network.notes = (*network.notes, f"control model {network.name}: {text}")
