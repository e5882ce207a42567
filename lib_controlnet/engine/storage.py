"""Whether a network's weights are stored in 8 bits: decided when it is loaded, or before a pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lib_controlnet.enums import Storage
from lib_controlnet.nets.eight_bit import store_in_8_bits

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from lib_controlnet.engine.network import ControlNetwork

EIGHT_BIT: Final = "8 bit"
"""What is said of such a network in generation parameters."""

TIMES: Final = 2
"""Memory is short where less than so many times the network's size is free."""


def settle_storage(
    network: ControlNetwork,
    storage: Storage,
    device: torch.device,
    measure: Callable[[torch.device], int | None],
) -> None:
    """Store a network that was just loaded as the user wants it, and note what became of it.

    Where it is to be so when memory is short, a device that is not the main memory is asked before
    each pass, see `engine.memory_plan`.

    Args:
        network: on the CPU.
        storage: the user's choice.
        device: where the network will compute.
        measure: gives the bytes that are free on a device, or None.
    """
    if storage is Storage.NEVER:
        return
    why = "as the settings ask for"
    if storage is Storage.SHORT:
        room = measure(device)
        if room is None:
            _note(network, f"{device.type} does not tell how much memory is free, so it is stored"
                           " exactly")  # fmt: skip
            return
        if device.type != "cpu":
            network.may_shrink = True
            return
        if network.nbytes * TIMES <= room:
            return
        why = f"since {room / 1e6:.0f} MB would be free for it on {device.type}"
    shrink(network, why)


def shrink(network: ControlNetwork, why: str) -> None:
    """Store a network in 8 bits, if there is anything to store so, and note it."""
    size = network.nbytes
    network.may_shrink = False
    if not store_in_8_bits(network.module):
        _note(network, "it has no weights that are stored in 8 bits, so it is stored exactly")
        return
    network.stored = EIGHT_BIT
    _note(network, f"stored in 8 bits, {network.nbytes / 1e6:.0f} of {size / 1e6:.0f} MB, {why}")


def _note(network: ControlNetwork, text: str) -> None:
    network.notes = (*network.notes, f"control model {network.name}: {text}")
