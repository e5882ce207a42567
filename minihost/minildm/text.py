"""The text encoders of SD1.x and SDXL, built so that their keys are those of the checkpoint.

SD1.x has CLIP's under `cond_stage_model.transformer.text_model.*`. SDXL has the same under
`conditioner.embedders.0` and OpenCLIP's under `conditioner.embedders.1.model.*`; its refiner has
only the second kind, at place 0. The tokenizer is a folder of files, because a checkpoint does
not hold it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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


class OpenClipBlock(nn.Module):
    """One layer of OpenCLIP's text transformer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        inner = (nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.mlp = nn.Sequential(OrderedDict(zip(("c_fc", "gelu", "c_proj"), inner, strict=True)))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map tokens (b, n, width); `mask` (n, n) is added to the attention's logits."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class OpenClip(nn.Module):
    """OpenCLIP's text transformer, which gives the tokens before its last layer, unnormed.

    Args:
        shapes: of its tensors by their names, from which every size is read.
        heads: attention heads; None makes them 64 channels wide, as the published ones are.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], heads: int | None = None) -> None:
        super().__init__()
        words, width = shapes["token_embedding.weight"]
        count = sum(name.endswith(".ln_1.weight") for name in shapes)
        heads = max(width // 64, 1) if heads is None else heads
        self.width = width
        self.token_embedding = nn.Embedding(words, width)
        self.positional_embedding = nn.Parameter(torch.empty(MAX_LENGTH, width))
        blocks = nn.ModuleList(OpenClipBlock(width, heads) for _ in range(count))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(*shapes["text_projection"]))

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Map token ids (b, n) to tokens (b, n, width) and the pooled text (b, projection)."""
        length = input_ids.shape[1]
        x = self.token_embedding(input_ids) + self.positional_embedding[:length]
        mask = torch.full((length, length), float("-inf"), device=x.device, dtype=x.dtype).triu(1)
        tokens = x
        for block in self.transformer["resblocks"]:
            tokens, x = x, block(x, mask)
        ends = input_ids.argmax(dim=1)  # the end token has the highest number
        rows = torch.arange(len(x), device=x.device)
        return tokens, self.ln_final(x)[rows, ends] @ self.text_projection


class OpenTextEncoder(nn.Module):
    """SDXL's second text encoder, and the only one of its refiner."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.model = OpenClip(shapes)

    @property
    def width(self) -> int:
        """Channels of a context token."""
        return self.model.width

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """See `OpenClip.forward`."""
        return self.model(input_ids)


class TextEncoders(nn.Module):
    """What lies under `conditioner.` in an SDXL checkpoint."""

    def __init__(self, embedders: Sequence[nn.Module]) -> None:
        super().__init__()
        self.embedders = nn.ModuleList(embedders)


def text_encoders(tensors: Mapping[str, Tensor], config: CLIPTextConfig) -> TextEncoders:
    """The encoders that an SDXL checkpoint has, without weights.

    Args:
        tensors: the checkpoint's, under their names without `conditioner.`.
        config: sizes of CLIP's.
    """
    found: list[nn.Module] = []
    while any(name.startswith(f"embedders.{len(found)}.") for name in tensors):
        head = f"embedders.{len(found)}.model."
        shapes = {k[len(head) :]: tuple(v.shape) for k, v in tensors.items() if k.startswith(head)}
        found.append(OpenTextEncoder(shapes) if shapes else TextEncoder(config))
    return TextEncoders(found)


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
