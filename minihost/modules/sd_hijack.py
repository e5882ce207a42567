"""What the host changes on a loaded model, and the comments a prompt gives rise to."""

from __future__ import annotations

from collections.abc import Iterator

from modules import patches, sd_unet
from torch import nn


class EmbeddingDatabase:
    """Present for callers; this host has no textual inversion."""

    def __init__(self) -> None:
        self.word_embeddings: dict[str, object] = {}
        self.skipped_embeddings: dict[str, object] = {}

    def add_embedding_dir(self, path: str) -> None:
        """Accepted and ignored."""
        del path

    def load_textual_inversion_embeddings(
        self, force_reload: bool = False, sync_with_sd_model: bool = True
    ) -> None:
        """Nothing to load."""
        del force_reload, sync_with_sd_model


class StableDiffusionModelHijack:
    """Per-process holder of the changes made to the current model."""

    def __init__(self) -> None:
        self.fixes: object = None
        self.layers: list[nn.Module] = []
        self.circular_enabled = False
        self.clip: nn.Module | None = None
        self.optimization_method: str | None = None
        self.embedding_db = EmbeddingDatabase()
        self.extra_generation_params: dict[str, object] = {}
        self.comments: list[str] = []

    def hijack(self, m: nn.Module) -> None:
        """Prepare a freshly loaded model."""
        self.clip = m.cond_stage_model
        self.layers = list(_all_modules(m))
        _install_dispatcher(type(m.model.diffusion_model))
        circular, self.circular_enabled = self.circular_enabled, False
        self.apply_circular(circular)

    def undo_hijack(self, m: nn.Module) -> None:
        """Forget a model that is leaving memory."""
        del m
        self.apply_circular(False)
        self.layers = []
        self.clip = None

    def apply_circular(self, enable: bool) -> None:
        """Make convolutions wrap around the borders (tiling), or not."""
        if self.circular_enabled == enable:
            return
        self.circular_enabled = enable
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                layer.padding_mode = "circular" if enable else "zeros"

    def apply_optimizations(self, option: str | None = None) -> None:
        """Accepted and ignored: attention always uses torch's own fused kernel."""
        del option

    def clear_comments(self) -> None:
        """Forget what the last prompts gave rise to."""
        self.comments = []
        self.extra_generation_params = {}

    def get_prompt_lengths(self, text: str, cond_stage_model: nn.Module) -> tuple[int, int]:
        """(tokens of the text, tokens that fit into its chunks)."""
        if cond_stage_model is None:
            return 0, 0
        _, count = cond_stage_model.process_texts([text])
        return count, cond_stage_model.get_target_prompt_token_count(count)

    def redo_hijack(self, m: nn.Module) -> None:
        """Undo and prepare again."""
        self.undo_hijack(m)
        self.hijack(m)


def _all_modules(m: nn.Module) -> Iterator[nn.Module]:
    for part in (m.model, m.first_stage_model):
        yield from part.modules()


def _install_dispatcher(unet_class: type) -> None:
    """Replace `forward` on the class once, so that an `SdUnet` can take over."""
    if getattr(unet_class, "_host_dispatcher", None) is not None:
        return
    original = patches.patch(
        __name__, unet_class, "forward", sd_unet.create_unet_forward(unet_class.forward)
    )
    unet_class._host_dispatcher = original


def undo_dispatcher(unet_class: type) -> None:
    """Put the class's own `forward` back."""
    if getattr(unet_class, "_host_dispatcher", None) is not None:
        patches.undo(__name__, unet_class, "forward")
        unet_class._host_dispatcher = None


model_hijack = StableDiffusionModelHijack()
