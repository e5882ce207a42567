"""Tags such as `<lora:name:1>`: taken out of prompts and told to scripts; none has an effect."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

log = logging.getLogger(__name__)

Tags = dict[str, list[list[str]]]
"""For each kind its tags, each as its parts between colons."""

_TAG = re.compile(r"<(\w+):([^>]+)>")


def activate(p: object, extra_network_data: Tags | None) -> None:
    """Say that the tags are without effect, then run the scripts' hook."""
    for name in extra_network_data or {}:
        log.warning("no extension handles <%s:...>; the tag is ignored", name)
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p,
            batch_number=p.iteration,
            prompts=p.prompts,
            seeds=p.seeds,
            subseeds=p.subseeds,
            extra_network_data=extra_network_data,
        )


def parse_prompt(prompt: str) -> tuple[str, Tags]:
    """(prompt without tags, the tags)."""
    tags: Tags = {}

    def take(match: re.Match[str]) -> str:
        tags.setdefault(match.group(1), []).append(match.group(2).split(":"))
        return ""

    return _TAG.sub(take, prompt), tags


def parse_prompts(prompts: Sequence[str]) -> tuple[list[str], Tags | None]:
    """Prompts without tags, and the tags of the first one."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1] if parsed else None
