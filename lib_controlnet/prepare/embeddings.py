"""Embeddings that a unit brings along, from what JSON and Python callers write.

Nothing is ever unpickled: text is base64 of a safetensors file, as `/controlnet/detect` gives it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import torch

from lib_controlnet.errors import UnitError, quote
from lib_controlnet.gate import own_module
from lib_controlnet.limits import MAX_EMBEDDED, MAX_MERGED
from lib_controlnet.pictures.transport import bytes_of_text

if TYPE_CHECKING:
    from torch import Tensor

    from annotator.embedding import Embedding

embedding: Final = own_module("embedding")

MOST_NAMES: Final = 32
"""Tensors of one embedding."""
MOST_AXES: Final = 3
PICKLES: Final = (b"PK\x03\x04", b"\x80")
"""How files of torch begin."""

BYTES: Final = 4
"""Of a number."""


def read_embeddings(given: Any, where: str) -> tuple[Embedding, ...]:
    """The embeddings that a unit brings along, one for each picture.

    Args:
        given: base64 of a safetensors file; an object with tensors, or lists of numbers, by the
            names of `annotator.embedding`; one such tensor or list, for networks that read a
            single one; or a list of these.
        where: for messages, such as `unit 0: ipadapter_input`.

    Raises:
        UnitError: it is none of these, or larger than an embedding can be.
    """
    is_list = isinstance(given, (list, tuple)) and not _is_number(given[:1])
    items = list(given) if is_list else [given]
    if len(items) > MAX_MERGED:
        msg = f"{where} has {len(items)} embeddings, at most {MAX_MERGED} can be used; send fewer"
        raise UnitError(msg)
    if not items:
        msg = f"{where} is an empty list; this input cannot be empty"
        raise UnitError(msg)
    named = len(items) > 1
    return tuple(_read(item, f"{where}[{i}]" if named else where) for i, item in enumerate(items))


def _read(item: Any, where: str) -> Embedding:
    if isinstance(item, (str, bytes)):
        tensors = _from_text(item, where)
    elif isinstance(item, Mapping):
        if not 0 < len(item) <= MOST_NAMES or not all(isinstance(name, str) for name in item):
            msg = (
                f"{where} has the keys {quote(list(item)[:MOST_NAMES])}, must have names of tensors"
            )
            raise UnitError(msg)
        tensors = {name: _tensor(value, f"{where}: {name[:60]}") for name, value in item.items()}
    else:
        tensors = _name(_tensor(item, where), where)
    for name, tensor in tensors.items():
        _check(tensor, f"{where}: {name[:60]}")
    return embedding.Embedding({name: _shape(name, tensor) for name, tensor in tensors.items()})


def _from_text(text: str | bytes, where: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    _limit(len(text) * 3 // 4 // BYTES, where)
    data = text if isinstance(text, bytes) else bytes_of_text(text)
    if data is not None and data.startswith(PICKLES):
        msg = (
            f"{where} is a file of torch (a pickle), which can run code and is never opened; send "
            "the safetensors text that /controlnet/detect gives now, or lists of numbers"
        )
        raise UnitError(msg)
    try:
        tensors = load(data or b"")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        msg = (
            f"{where} is no embedding: expected base64 of a safetensors file, as "
            f"/controlnet/detect gives it ({quote(str(error))[1:-1]})"
        )
        raise UnitError(msg) from error
    if not 0 < len(tensors) <= MOST_NAMES:
        msg = f"{where} holds {len(tensors)} tensors, must hold 1 to {MOST_NAMES}"
        raise UnitError(msg)
    return {name: tensor.float() for name, tensor in tensors.items()}


def _tensor(value: Any, where: str) -> Tensor:
    """Numbers as a float32 tensor on the CPU.

    Raises:
        UnitError: they are no numbers, or too many.
    """
    shape = getattr(value, "shape", None)
    if shape is not None:  # torch or numpy, which only Python callers have
        _limit(_count(shape), where)
        return torch.as_tensor(value).detach().float().cpu().clone()
    if not isinstance(value, (list, tuple)):
        msg = f"{where} is {quote(value)}, must be base64 text, or lists of numbers"
        raise UnitError(msg)
    _limit(sum(1 for _ in itertools.islice(_numbers(value), MAX_EMBEDDED + 1)), where)
    try:
        return torch.tensor(value, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        msg = f"{where} is no tensor: {str(error).strip()[:200]}"
        raise UnitError(msg) from error


def _count(shape: Iterable[int]) -> int:
    total = 1
    for side in shape:
        total *= int(side)
    return total


def _numbers(value: Any, depth: int = 0) -> Iterator[Any]:
    if isinstance(value, (list, tuple)) and depth <= MOST_AXES:
        for item in value:
            yield from _numbers(item, depth + 1)
    else:
        yield value


def _is_number(first: Any) -> bool:
    """Whether a list begins with a number."""
    return bool(first) and isinstance(first[0], (int, float)) and not isinstance(first[0], bool)


def _limit(count: int, where: str) -> None:
    if count > MAX_EMBEDDED:
        msg = f"{where} has more than {MAX_EMBEDDED} numbers, an embedding has fewer"
        raise UnitError(msg)


def _check(tensor: Tensor, where: str) -> None:
    if not tensor.numel() or tensor.dim() > MOST_AXES or not bool(torch.isfinite(tensor).all()):
        shape = tuple(tensor.shape)
        msg = f"{where} has the shape {shape} or numbers that are not finite, which is no embedding"
        raise UnitError(msg)


def _shape(name: str, tensor: Tensor) -> Tensor:
    """A tensor with all its axes: a vector is (1, width), tokens are (1, tokens, width)."""
    axes = 2 if name in embedding.VECTORS else MOST_AXES
    while tensor.dim() < axes:
        tensor = tensor[None]
    return tensor.contiguous()


def _name(tensor: Tensor, where: str) -> dict[str, Tensor]:
    """A tensor that came without a name; its axes tell what it can be.

    Raises:
        UnitError: it is a single number.
    """
    if tensor.dim() == 0:
        msg = f"{where} is a single number, which is no embedding"
        raise UnitError(msg)
    is_vector = tensor.dim() == 1 or (tensor.dim() == 2 and tensor.shape[0] == 1)
    names = sorted(embedding.VECTORS) if is_vector else (embedding.HIDDEN, embedding.LAST)
    return dict.fromkeys(names, tensor)
