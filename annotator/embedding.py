"""What a preprocessor gives in the place of a map: a picture as a network has understood it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_EMBEDS: Final = "image_embeds"
"""CLIP's projected class token, (1, width)."""
HIDDEN: Final = "hidden_states"
"""Output of CLIP's last block but one, class token first, no norm: (1, tokens, width)."""
LAST: Final = "last_hidden_state"
"""The same of its last block."""
UNCOND_HIDDEN: Final = "uncond_hidden_states"
"""`HIDDEN` for a picture whose normalised pixels are all zero: (1, tokens, width)."""
FACE: Final = "face_embeds"
"""A face as the recogniser of buffalo_l tells it from others, of length one: (1, width)."""
RAW_FACE: Final = "face_embeds_unnorm"
"""The same as the recogniser gives it."""
ANTELOPE: Final = "id_ante_embedding"
"""A face as the recogniser of antelopev2 gives it, (1, width)."""

ID_PICTURE: Final = "id_cond_vit"
"""A face's picture as EVA-CLIP sees it, (1, width)."""
ID_LEVELS: Final = tuple(f"id_vit_hidden_{level}" for level in range(5))
"""Its tokens of five levels, class token first: (1, tokens, width)."""

VECTORS: Final = frozenset({IMAGE_EMBEDS, FACE, RAW_FACE, ANTELOPE, ID_PICTURE})
"""Those that have no axis of tokens."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Named tensors that one picture has become; float32 on the CPU, never written.

    Attributes:
        tensors: by the names above; a preprocessor with needs of its own adds names.
        maker: the preprocessor, for messages; "" where a request brought the tensors.
    """

    tensors: Mapping[str, Tensor]
    maker: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nelement() * tensor.element_size() for tensor in self.tensors.values())

    @cached_property
    def digest(self) -> str:
        """Equal for equal tensors under equal names."""
        digest = hashlib.sha1(usedforsecurity=False)
        for part in self._parts():
            digest.update(part)
        return digest.hexdigest()

    def _parts(self) -> Iterator[bytes]:
        for name, tensor in sorted(self.tensors.items()):
            yield f"{name} {tuple(tensor.shape)} ".encode()
            yield tensor.contiguous().numpy().tobytes()
