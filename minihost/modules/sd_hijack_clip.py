"""Prompts of any length for a CLIP text encoder: chunks of 75 tokens, weights per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from modules import devices, prompt_parser, shared
from torch import Tensor, nn

CHUNK_LENGTH = 75
COMMA_BACKTRACK = 20
"""A chunk ends after a comma that is at most so many tokens before its end."""


@dataclass
class PromptChunk:
    """One window of the encoder: 77 tokens with start and end, and a weight for each."""

    tokens: list[int] = field(default_factory=list)
    multipliers: list[float] = field(default_factory=list)


class FrozenCLIPEmbedderWithCustomWords(nn.Module):
    """Text to context, under the WebUI's name.

    Args:
        wrapped: the encoder; has `.transformer` (a `transformers` CLIPTextModel).
        tokenizer: its tokenizer.
    """

    def __init__(self, wrapped: nn.Module, tokenizer: object) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.tokenizer = tokenizer
        self.chunk_length = CHUNK_LENGTH
        self.id_start = tokenizer.bos_token_id
        self.id_end = tokenizer.eos_token_id
        self.id_pad = tokenizer.eos_token_id
        self.comma_token = self._comma_token()

    @property
    def transformer(self) -> nn.Module:
        """The encoder network."""
        return self.wrapped.transformer

    def _comma_token(self) -> int | None:
        vocabulary = self.tokenizer.get_vocab()
        return vocabulary.get(",</w>")

    # ---- text to chunks ----

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without start and end."""
        if not texts:
            return []
        # verbose=False: texts longer than the window are cut into chunks here.
        return self.tokenizer(
            list(texts), truncation=False, add_special_tokens=False, verbose=False
        )["input_ids"]

    def empty_chunk(self) -> PromptChunk:
        """Start, end, padding."""
        return self._closed([], [])

    def _closed(self, tokens: list[int], weights: list[float]) -> PromptChunk:
        free = self.chunk_length - len(tokens)
        ids = [self.id_start, *tokens, *[self.id_end] * free, self.id_end]
        return PromptChunk(ids, [1.0, *weights, *[1.0] * free, 1.0])

    def tokenize_line(self, line: str) -> tuple[list[PromptChunk], int]:
        """Chunks of one prompt and its number of tokens."""
        parsed = prompt_parser.parse_prompt_attention(line)
        ids_of = iter(self.tokenize([text for text, weight in parsed if weight != -1]))
        builder = _ChunkBuilder(self)
        for text, weight in parsed:
            if text == "BREAK" and weight == -1:
                builder.close()
                continue
            for token in next(ids_of):
                builder.add(token, weight)
        return builder.finish()

    def process_texts(self, texts: Sequence[str]) -> tuple[list[list[PromptChunk]], int]:
        """Chunks of every text and the largest number of tokens."""
        cache: dict[str, list[PromptChunk]] = {}
        longest = 0
        for line in texts:
            if line not in cache:
                cache[line], count = self.tokenize_line(line)
                longest = max(longest, count)
        return [cache[line] for line in texts], longest

    # ---- chunks to context ----

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Context (len(texts), 77 * chunks, width) on `devices.device`, float32 or half."""
        batch, _ = self.process_texts(texts)
        count = max(len(chunks) for chunks in batch)
        encoded = []
        for index in range(count):
            window = [
                chunks[index] if index < len(chunks) else self.empty_chunk() for chunks in batch
            ]
            tokens = [chunk.tokens for chunk in window]
            encoded.append(self.process_tokens(tokens, [chunk.multipliers for chunk in window]))
        return torch.cat(encoded, dim=1)

    def process_tokens(self, tokens: list[list[int]], multipliers: list[list[float]]) -> Tensor:
        """Encode one window of every text (rows, 77) and weigh its tokens."""
        z = self.encode_with_transformers(torch.asarray(tokens).to(self.device))
        weights = torch.asarray(multipliers).to(z)
        # Equal weights change nothing, but the mean of an untrained encoder can be exactly 0.
        if bool((weights == 1).all()):
            return z
        mean = z.mean()
        z = z * weights.unsqueeze(-1)
        return z * (mean / z.mean())

    def encode_with_transformers(self, tokens: Tensor) -> Tensor:
        """Context (rows, 77, width) of token ids (rows, 77), clip skip applied."""
        skip = shared.opts.CLIP_stop_at_last_layers
        outputs = self.transformer(input_ids=tokens, output_hidden_states=skip > 1)
        if skip <= 1:
            return outputs.last_hidden_state
        text_model = getattr(self.transformer, "text_model", self.transformer)
        layers = outputs.hidden_states
        return text_model.final_layer_norm(layers[-min(skip, len(layers))])

    @property
    def device(self) -> torch.device:
        """Where the encoder's weights are."""
        parameter = next(self.wrapped.parameters(), None)
        return devices.device if parameter is None else parameter.device

    def get_target_prompt_token_count(self, token_count: int) -> int:
        """Tokens that fit into the chunks needed for `token_count`."""
        return -(-max(token_count, 1) // self.chunk_length) * self.chunk_length


class FrozenCLIPEmbedderForSDXLWithCustomWords(FrozenCLIPEmbedderWithCustomWords):
    """SDXL's first encoder: tokens before the last layer, unnormed."""

    def encode_with_transformers(self, tokens: Tensor) -> Tensor:
        """Context (rows, 77, width) of token ids (rows, 77)."""
        return self.transformer(input_ids=tokens, output_hidden_states=True).hidden_states[-2]


class FrozenOpenCLIPEmbedder2WithCustomWords(FrozenCLIPEmbedderWithCustomWords):
    """SDXL's second encoder, which pools the first window too; pads with token 0."""

    def __init__(self, wrapped: nn.Module, tokenizer: object) -> None:
        super().__init__(wrapped, tokenizer)
        self.id_pad = 0
        self.pooled: list[Tensor] = []

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Context (len(texts), 77 * chunks, width) and pooled text (len(texts), projection)."""
        self.pooled = []
        tokens = super().forward(texts)
        return tokens, self.pooled[0]

    def encode_with_transformers(self, tokens: Tensor) -> Tensor:
        """Context (rows, 77, width) of token ids (rows, 77)."""
        after_end = (tokens == self.id_end).cumsum(1) > (tokens == self.id_end).int()
        context, pooled = self.wrapped(tokens.masked_fill(after_end, self.id_pad))
        self.pooled.append(pooled)
        return context


class _ChunkBuilder:
    """Fills chunks token by token; wraps at a comma when one was near."""

    def __init__(self, encoder: FrozenCLIPEmbedderWithCustomWords) -> None:
        self.encoder = encoder
        self.chunks: list[PromptChunk] = []
        self.tokens: list[int] = []
        self.weights: list[float] = []
        self.last_comma = -1
        self.count = 0

    def add(self, token: int, weight: float) -> None:
        length = self.encoder.chunk_length
        if token == self.encoder.comma_token:
            self.last_comma = len(self.tokens)
        elif len(self.tokens) == length:
            is_near = self.last_comma != -1 and length - self.last_comma <= COMMA_BACKTRACK
            cut = self.last_comma + 1 if is_near else length
            moved, moved_weights = self.tokens[cut:], self.weights[cut:]
            self.tokens, self.weights = self.tokens[:cut], self.weights[:cut]
            self.close()
            self.tokens, self.weights = moved, moved_weights
        if len(self.tokens) == length:
            self.close()
        self.tokens.append(token)
        self.weights.append(weight)

    def close(self) -> None:
        self.count += len(self.tokens)
        self.chunks.append(self.encoder._closed(self.tokens, self.weights))
        self.tokens, self.weights, self.last_comma = [], [], -1

    def finish(self) -> tuple[list[PromptChunk], int]:
        if self.tokens or not self.chunks:
            self.close()
        return self.chunks, self.count
