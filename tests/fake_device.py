"""A device that lies in main memory: counts what is copied to it, and may be full."""

from __future__ import annotations

import weakref

import torch


class FakeDevice:
    """Gives the copies that `Residency` asks for.

    Args:
        room: bytes that it has.

    Attributes:
        copied: bytes that were copied to it.
        held: bytes that lie on it.
    """

    device = torch.device("cuda", 0)

    def __init__(self, room: int = 2**40) -> None:
        self.room = room
        self.copied = 0
        self.held = 0

    def copy(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """A copy of a tensor, "on" the device."""
        assert device == self.device, "nothing goes anywhere else"
        nbytes = tensor.nelement() * tensor.element_size()
        if self.held + nbytes > self.room:
            msg = f"{self.held} of {self.room} bytes are taken"
            raise torch.cuda.OutOfMemoryError(msg)
        self.copied += nbytes
        self.held += nbytes
        made = tensor.detach().clone()
        weakref.finalize(made.untyped_storage(), self._free, nbytes)
        return made

    def _free(self, nbytes: int) -> None:
        self.held -= nbytes
