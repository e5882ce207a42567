"""Tags such as `<lora:name:1>` in prompts: parsing, and handing them to whoever registered."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence

from modules import errors

log = logging.getLogger(__name__)

extra_network_registry: dict[str, ExtraNetwork] = {}
extra_network_aliases: dict[str, ExtraNetwork] = {}

_TAG = re.compile(r"<(\w+):([^>]+)>")


class ExtraNetworkParams:
    """What stands in one tag: `items` in order, those with `=` also in `named`."""

    def __init__(self, items: Sequence[str] | None = None) -> None:
        self.items = list(items or [])
        self.positional: list[str] = []
        self.named: dict[str, str] = {}
        for item in self.items:
            key, separator, value = item.partition("=")
            if separator and "=" not in value:
                self.named[key] = value
            else:
                self.positional.append(item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExtraNetworkParams) and self.items == other.items

    def __hash__(self) -> int:
        return hash(tuple(self.items))


class ExtraNetwork:
    """One kind of tag; a subclass acts on it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def activate(self, p: object, params_list: list[ExtraNetworkParams]) -> None:
        """Called for each generation, with an empty list when no tag is present."""
        raise NotImplementedError

    def deactivate(self, p: object) -> None:
        """Called at the end of a generation."""
        raise NotImplementedError


def initialize() -> None:
    """Forget all registrations."""
    extra_network_registry.clear()
    extra_network_aliases.clear()


def register_extra_network(extra_network: ExtraNetwork) -> None:
    """Offer a kind of tag."""
    extra_network_registry[extra_network.name] = extra_network


def register_extra_network_alias(extra_network: ExtraNetwork, alias: str) -> None:
    """Offer it under another name."""
    extra_network_aliases[alias] = extra_network


def register_default_extra_networks() -> None:
    """This host brings no extra networks of its own."""


def lookup_extra_networks(
    extra_network_data: dict[str, list[ExtraNetworkParams]],
) -> dict[ExtraNetwork, list[ExtraNetworkParams]]:
    """Sort the tags by the network that handles them; unknown kinds are logged."""
    found: dict[ExtraNetwork, list[ExtraNetworkParams]] = {}
    for name, params in extra_network_data.items():
        network = extra_network_registry.get(name) or extra_network_aliases.get(name)
        if network is None:
            log.warning("no extension handles <%s:...>; the tag is ignored", name)
            continue
        found.setdefault(network, []).extend(params)
    return found


def activate(p: object, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    """Hand the tags to their networks, then run the scripts' hook."""
    wanted = lookup_extra_networks(extra_network_data or {})
    for network, params in wanted.items():
        try:
            network.activate(p, params)
        except Exception as error:
            errors.display(error, f"activating extra network {network.name} with {params}")
    for network in extra_network_registry.values():
        if network not in wanted:
            try:
                network.activate(p, [])
            except Exception as error:
                errors.display(error, f"activating extra network {network.name}")
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p,
            batch_number=p.iteration,
            prompts=p.prompts,
            seeds=p.seeds,
            subseeds=p.subseeds,
            extra_network_data=extra_network_data,
        )


def deactivate(p: object, extra_network_data: dict[str, list[ExtraNetworkParams]]) -> None:
    """Tell all networks that the generation is over."""
    del extra_network_data
    for network in extra_network_registry.values():
        try:
            network.deactivate(p)
        except Exception as error:
            errors.display(error, f"deactivating extra network {network.name}")


def parse_prompt(prompt: str) -> tuple[str, dict[str, list[ExtraNetworkParams]]]:
    """(prompt without tags, the tags by kind)."""
    tags: dict[str, list[ExtraNetworkParams]] = defaultdict(list)

    def take(match: re.Match[str]) -> str:
        tags[match.group(1)].append(ExtraNetworkParams(match.group(2).split(":")))
        return ""

    return _TAG.sub(take, prompt), tags


def parse_prompts(
    prompts: Sequence[str],
) -> tuple[list[str], dict[str, list[ExtraNetworkParams]] | None]:
    """Prompts without tags, and the tags of the first one."""
    cleaned, first = [], None
    for prompt in prompts:
        text, tags = parse_prompt(prompt)
        first = tags if first is None else first
        cleaned.append(text)
    return cleaned, first


def get_user_metadata(filename: str | None, lister: object = None) -> dict:
    """Notes that a user wrote beside a network's file; none here."""
    del filename, lister
    return {}
