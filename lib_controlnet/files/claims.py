"""Which checkpoint a control model was made on, as far as names claim it; no tensor tells.

What a Control-LoRA or a difference file adds belongs to that checkpoint. Added to another one of
the same structure it still controls, less exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from lib_controlnet.words import word

if TYPE_CHECKING:
    from lib_controlnet.files.checkpoint import Checkpoint

NAMED: Final[Mapping[str, str]] = {
    "animagine": "Animagine XL",
    "pony": "Pony Diffusion XL",
    "illustrious": "Illustrious XL",
    "noob": "NoobAI XL",
}
"""What names contain, and the checkpoint that it stands for."""

SHORT: Final[Mapping[str, str]] = {"am": "Animagine XL", "pn": "Pony Diffusion XL"}
"""Words of the CN-anytest files that stand for a checkpoint."""

SERIES: Final = "anytest"


def find_claims(name: str) -> frozenset[str]:
    """The checkpoints that a file's name speaks of."""
    text = name.lower()
    found = {title for part, title in NAMED.items() if part in text}
    if SERIES in text:
        found |= {SHORT[word] for word in re.findall(r"[a-z0-9]+", text) if word in SHORT}
    return frozenset(found)


def claim_of(ckpt: Checkpoint) -> str:
    """The checkpoint on which a file was made by its name; "" where that does not tell."""
    return " or ".join(sorted(frozenset().union(*map(find_claims, ckpt.told_names))))


def contradiction(name: str, claim: str, checkpoint: str) -> str:
    """A sentence where the names of a file and of the checkpoint that it changes contradict.

    Args:
        name: the control model.
        claim: see `claim_of`.
        checkpoint: the loaded one.
    """
    other = find_claims(checkpoint)
    if not claim or not other or any(title in claim for title in other):
        return ""
    instead = " or ".join(sorted(other))
    return word("made_on_other", model=name, base=claim, checkpoint=checkpoint, other_base=instead)
