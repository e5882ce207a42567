"""The small vocabulary of the demo models and the tokenizer files that hold it.

The files have the form of CLIP's byte pair encoding (Sennrich et al., arXiv 1508.07909): every
word below is one token, every other word falls apart into letters and pieces.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Final

from transformers import CLIPTextConfig
from transformers.models.clip.tokenization_clip import bytes_to_unicode

END: Final = "</w>"
START_TOKEN: Final = "<|startoftext|>"
END_TOKEN: Final = "<|endoftext|>"
COLOURS: Final = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES: Final = ("circle", "square", "triangle", "star", "heart", "ring")
TEXTURES: Final = ("solid", "striped", "dotted")
OTHER_WORDS: Final = [
    "a",
    "an",
    "the",
    "of",
    "on",
    "in",
    "with",
    "and",
    "behind",
    "before",
    "front",
    "background",
    "gradient",
    "from",
    "to",
    "stripes",
    "checker",
    "plain",
    "drawing",
    "cartoon",
    "picture",
    "ink",
    "mosaic",
    "pattern",
    "lines",
    "big",
    "small",
    "one",
    "two",
    "three",
    "colour",
    "color",
    "colours",
    "colors",
    "black",
    "shapes",
    "scene",
    "image",
]
WORDS: Final = (*COLOURS, *SHAPES, *TEXTURES, *OTHER_WORDS)


def learn_merges(words: tuple[str, ...] = WORDS) -> list[tuple[str, str]]:
    """Merge the most frequent neighbours until every word is one symbol."""
    pieces = {w: [*w[:-1], w[-1] + END] for w in words}
    merges: list[tuple[str, str]] = []
    while any(len(p) > 1 for p in pieces.values()):
        pairs = Counter(pair for p in pieces.values() for pair in zip(p[:-1], p[1:], strict=True))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = {w: _merge(p, best) for w, p in pieces.items()}
    return merges


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(pieces):
        if tuple(pieces[i : i + 2]) == pair:
            merged.append(pieces[i] + pieces[i + 1])
            i += 2
        else:
            merged.append(pieces[i])
            i += 1
    return merged


def write_text_folder(folder: Path, width: int, layers: int = 2, heads: int = 4) -> None:
    """Write the tokenizer files and the text encoder's config.json.

    Args:
        folder: created if needed.
        width: channels of a context token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges()
    letters = list(bytes_to_unicode().values())
    symbols = [*letters, *(c + END for c in letters), *(a + b for a, b in merges)]
    vocab = {s: i for i, s in enumerate([*dict.fromkeys(symbols), START_TOKEN, END_TOKEN])}
    _write_json(folder / "vocab.json", vocab)
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {
        "bos_token": START_TOKEN,
        "eos_token": END_TOKEN,
        "pad_token": END_TOKEN,
        "unk_token": END_TOKEN,
    }
    _write_json(folder / "special_tokens_map.json", special)
    settings = {"model_max_length": 77, "do_lower_case": True, "errors": "replace"}
    names = {"tokenizer_class": "CLIPTokenizer", "add_prefix_space": False}
    _write_json(folder / "tokenizer_config.json", {**special, **settings, **names})
    config = CLIPTextConfig(
        vocab_size=len(vocab),
        hidden_size=width,
        intermediate_size=width * 4,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        bos_token_id=vocab[START_TOKEN],
        eos_token_id=vocab[END_TOKEN],
        pad_token_id=vocab[END_TOKEN],
        architectures=["CLIPTextModel"],
    ).to_dict()
    config.pop("transformers_version", None)
    _write_json(folder / "config.json", config)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
