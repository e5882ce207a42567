"""CLIP text encoder of SD1.x, wrapped so that its keys are those of the checkpoint.

The weights lie under `cond_stage_model.transformer.text_model.*`; the tokenizer is a folder
of files, because a checkpoint does not hold it.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer  # noqa: E402

MAX_LENGTH = 77


class TextEncoder(nn.Module):
    """Captions to context tokens, as the prompt encoder of SD1.x does."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.transformer = CLIPTextModel(config)

    @property
    def width(self) -> int:
        """Channels of a context token."""
        return self.transformer.config.hidden_size

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map token ids (b, n) to the last hidden state after the final norm (b, n, width)."""
        return self.transformer(input_ids=input_ids).last_hidden_state


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer whose vocab.json and merges.txt lie in the folder."""
    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


def load_text_config(folder: Path) -> CLIPTextConfig:
    """The encoder's sizes from the folder's config.json."""
    return CLIPTextConfig.from_pretrained(str(folder), local_files_only=True)


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """Token ids (b, 77): start, words, end, padding; longer prompts are cut."""
    return tokenizer(
        prompts,
        truncation=True,
        max_length=MAX_LENGTH,
        padding="max_length",
        return_tensors="pt",
    )["input_ids"]
