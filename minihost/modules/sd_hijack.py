"""What the host changes on a loaded model, and the comments a prompt gives rise to."""

from __future__ import annotations

from modules import patches, sd_unet
from torch import nn


class StableDiffusionModelHijack:
    """Per-process holder of the changes made to the current model."""

    def __init__(self) -> None:
        self.clip: nn.Module | None = None
        self.comments: list[str] = []

    def hijack(self, m: nn.Module) -> None:
        """Prepare a freshly loaded model."""
        self.clip = m.cond_stage_model
        _install_dispatcher(type(m.model.diffusion_model))

    def undo_hijack(self, m: nn.Module) -> None:
        """Forget a model that is leaving memory."""
        del m
        self.clip = None

    def clear_comments(self) -> None:
        """Forget what the last prompts gave rise to."""
        self.comments = []


def _install_dispatcher(unet_class: type) -> None:
    """Replace `forward` on the class once, so that an `SdUnet` can take over."""
    if patches.original(__name__, unet_class, "forward") is None:
        forward = sd_unet.create_unet_forward(unet_class.forward)
        patches.patch(__name__, unet_class, "forward", forward)


model_hijack = StableDiffusionModelHijack()
