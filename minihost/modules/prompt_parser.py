"""Prompt syntax: schedules, alternation, attention weights, AND; and the conditions made of it.

`[a:b:0.5]` changes from a to b at half of the steps (a whole number: at that step), `[b:8]`
adds, `[a::8]` removes, `[a|b]` alternates every step. `(a)` weighs 1.1, `[a]` 1/1.1,
`(a:1.3)` 1.3; brackets are taken literally after a backslash. `a AND b :0.5` asks for two
conditions whose guidance is summed with weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# ---- schedules -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scheduled:
    before: list[_Node]
    after: list[_Node]
    when: str


@dataclass(frozen=True)
class _Alternate:
    options: list[list[_Node]]


_Node = str | _Scheduled | _Alternate
_PLAIN = re.compile(r"(?:[^\\\[\]():|]|\\.)+|\\", re.DOTALL)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


class _Reader:
    """Recursive descent over one prompt; anything malformed stays as literal text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def nodes(self, stops: str) -> list[_Node]:
        """Nodes up to one of `stops` (not consumed) or the end."""
        found: list[_Node] = []
        while self.at < len(self.text) and self.peek() not in stops:
            char = self.peek()
            plain = _PLAIN.match(self.text, self.at)
            if plain:
                self.at = plain.end()
                found.append(plain.group())
            elif char == "(":
                found += self._round(stops)
            elif char == "[":
                found += self._square()
            else:
                self.at += 1
                found.append(char)
        return found

    def _round(self, stops: str) -> list[_Node]:
        self.at += 1
        inner = self.nodes(")]" if "]" in stops else ")")
        if self.peek() != ")":
            return ["(", *inner]
        self.at += 1
        return ["(", *inner, ")"]

    def _square(self) -> list[_Node]:
        self.at += 1
        parts, separators = [self.nodes(":|]")], []
        while self.peek() in (":", "|") and self.peek():
            separators.append(self.peek())
            self.at += 1
            parts.append(self.nodes(":|]"))
        closed = self.peek() == "]"
        self.at += closed
        if closed and separators and set(separators) == {"|"}:
            return [_Alternate(parts)]
        when = "".join(parts[-1]).strip() if _is_text(parts[-1]) else ""
        if closed and separators in ([":"], [":", ":"]) and _NUMBER.fullmatch(when):
            before = parts[0] if len(parts) == 3 else []
            return [_Scheduled(before, parts[-2], when)]
        literal: list[_Node] = ["[", *parts[0]]
        for separator, part in zip(separators, parts[1:], strict=True):
            literal += [separator, *part]
        return [*literal, "]"] if closed else literal


def _is_text(nodes: list[_Node]) -> bool:
    return all(isinstance(node, str) for node in nodes)


def _when_step(when: str, steps: int, hires: bool, base_steps: int) -> int:
    """Last step of the first half of `[a:b:when]`, relative to this pass."""
    value = float(when)
    if "." in when:
        value = (value - (1.0 if hires else 0.0)) * steps
    else:
        value -= base_steps if hires else 0
    return min(steps, int(value))


def get_learned_conditioning_prompt_schedules(
    prompts: Sequence[str],
    base_steps: int,
    hires_steps: int | None = None,
) -> list[list[list]]:
    """For each prompt a list of `[last step, text]`, steps counted from 1.

    Args:
        prompts: texts.
        base_steps: steps of the first pass.
        hires_steps: steps of the hires pass, whose schedule is wanted; None for the first pass.

    >>> get_learned_conditioning_prompt_schedules(["a [b:c:0.5]"], 10)
    [[[5, 'a b'], [10, 'a c']]]
    """
    hires = hires_steps is not None
    steps = base_steps if hires_steps is None else hires_steps

    def ends(nodes: list[_Node]) -> Iterator[int]:
        for node in nodes:
            if isinstance(node, _Scheduled):
                yield step_of(node)
                yield from ends(node.before)
                yield from ends(node.after)
            elif isinstance(node, _Alternate):
                yield from range(1, steps + 1)
                for option in node.options:
                    yield from ends(option)

    def step_of(node: _Scheduled) -> int:
        return _when_step(node.when, steps, hires, base_steps)

    def text_at(nodes: list[_Node], step: int) -> str:
        text = ""
        for node in nodes:
            if isinstance(node, str):
                text += node
            elif isinstance(node, _Scheduled):
                text += text_at(node.before if step <= step_of(node) else node.after, step)
            else:
                text += text_at(node.options[(step - 1) % len(node.options)], step)
        return text

    parsed = {prompt: _Reader(prompt).nodes("") for prompt in set(prompts)}
    schedules = {
        prompt: [
            [step, text_at(nodes, step)]
            for step in sorted({steps, *(end for end in ends(nodes) if end >= 1)})
        ]
        for prompt, nodes in parsed.items()
    }
    return [schedules[prompt] for prompt in prompts]


# ---- attention weights ---------------------------------------------------------------------

_ATTENTION = re.compile(
    r"\\[()\[\]\\]|\\|[(\[]|:\s*[+-]?[.\d]+\s*\)|[)\]]|[^\\()\[\]:]+|:", re.DOTALL
)
_WEIGHT = re.compile(r":\s*([+-]?[.\d]+)\s*\)")
_BREAK = re.compile(r"\s*\bBREAK\b\s*", re.DOTALL)
_CLOSING = {")": ("(", 1.1), "]": ("[", 1 / 1.1)}


def parse_prompt_attention(text: str) -> list[list]:
    """Split a prompt into `[text, weight]`; `["BREAK", -1]` marks a forced new chunk.

    >>> parse_prompt_attention("a (b:1.5) [c]")
    [['a ', 1.0], ['b', 1.5], [' ', 1.0], ['c', 0.9090909090909091]]
    """
    parts: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def weigh(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor

    for token in _ATTENTION.findall(text):
        weight = _WEIGHT.fullmatch(token)
        closing = ")" if weight else token
        if token in opened:
            opened[token].append(len(parts))
        elif closing in _CLOSING and opened[_CLOSING[closing][0]]:
            bracket, factor = _CLOSING[closing]
            weigh(opened[bracket].pop(), float(weight.group(1)) if weight else factor)
        elif token.startswith("\\") and len(token) == 2:
            parts.append([token[1], 1.0])
        else:
            parts += _split_at_breaks(token)
    for bracket, factor in _CLOSING.values():
        for start in opened[bracket]:
            weigh(start, factor)
    return _merge(parts)


def _split_at_breaks(text: str) -> list[list]:
    parts: list[list] = []
    for index, piece in enumerate(_BREAK.split(text)):
        if index > 0:
            parts.append(["BREAK", -1])
        parts.append([piece, 1.0])
    return parts


def _merge(parts: list[list]) -> list[list]:
    merged: list[list] = []
    for text, weight in parts or [["", 1.0]]:
        if merged and merged[-1][1] == weight:
            merged[-1][0] += text
        else:
            merged.append([text, weight])
    return merged


# ---- conditions ----------------------------------------------------------------------------


class ScheduledPromptConditioning(NamedTuple):
    """`cond` holds until step `end_at_step` (0-based counting: inclusive)."""

    end_at_step: int
    cond: object


class SdConditioning(list):
    """Prompts together with the picture size that some text encoders want to know."""

    def __init__(
        self,
        prompts: Sequence[str],
        is_negative_prompt: bool = False,
        width: int | None = None,
        height: int | None = None,
        copy_from: object = None,
    ) -> None:
        super().__init__()
        self.extend(prompts)
        source = prompts if copy_from is None else copy_from
        self.is_negative_prompt = is_negative_prompt or getattr(source, "is_negative_prompt", False)
        self.width = width or getattr(source, "width", None)
        self.height = height or getattr(source, "height", None)


class DictWithShape(dict):
    """Condition of models with several parts; its shape is that of the token part."""

    @property
    def shape(self) -> torch.Size:
        """Shape of `crossattn`."""
        return self["crossattn"].shape

    def to(self, *args: object, **kwargs: object) -> DictWithShape:
        """Every tensor moved or cast, in place."""
        for key, value in self.items():
            if isinstance(value, Tensor):
                self[key] = value.to(*args, **kwargs)
        return self


class ComposableScheduledPromptConditioning:
    """One part of an AND prompt: its schedule and the weight of its guidance."""

    def __init__(self, schedules: list[ScheduledPromptConditioning], weight: float = 1.0) -> None:
        self.schedules = schedules
        self.weight = weight


class MulticondLearnedConditioning:
    """Conditions of a batch: for each picture the list of its AND parts."""

    def __init__(
        self, shape: tuple, batch: list[list[ComposableScheduledPromptConditioning]]
    ) -> None:
        self.shape = shape
        self.batch = batch


def get_learned_conditioning(
    model: object,
    prompts: Sequence[str],
    steps: int,
    hires_steps: int | None = None,
) -> list[list[ScheduledPromptConditioning]]:
    """Encode prompts with their schedules; equal prompts are encoded once."""
    schedules = get_learned_conditioning_prompt_schedules(prompts, steps, hires_steps)
    cache: dict[str, list[ScheduledPromptConditioning]] = {}
    result = []
    for prompt, schedule in zip(prompts, schedules, strict=True):
        if prompt not in cache:
            texts = SdConditioning([text for _, text in schedule], copy_from=prompts)
            conds = model.get_learned_conditioning(texts)
            cache[prompt] = [
                ScheduledPromptConditioning(end, _row(conds, index))
                for index, (end, _) in enumerate(schedule)
            ]
        result.append(cache[prompt])
    return result


def _row(conds: object, index: int) -> object:
    if isinstance(conds, dict):
        return {key: value[index] for key, value in conds.items()}
    return conds[index]


_AND = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r"^((?:\s|.)*?)(?:\s*:\s*([-+]?(?:\d+\.?|\d*\.\d+)))?\s*$", re.DOTALL)


def get_multicond_prompt_list(
    prompts: Sequence[str],
) -> tuple[list[list[tuple[int, float]]], SdConditioning, dict[str, int]]:
    """Split AND prompts.

    Returns:
        For each prompt its parts as (index, weight); the distinct texts; text to index.
    """
    flat = SdConditioning([], copy_from=prompts)
    indexes: dict[str, int] = {}
    result = []
    for prompt in prompts:
        parts = []
        for part in _AND.split(prompt):
            match = _AND_WEIGHT.match(part)
            text, weight = match.groups() if match else (part, None)
            if text not in indexes:
                indexes[text] = len(flat)
                flat.append(text)
            parts.append((indexes[text], 1.0 if weight is None else float(weight)))
        result.append(parts)
    return result, flat, indexes


def get_multicond_learned_conditioning(
    model: object,
    prompts: Sequence[str],
    steps: int,
    hires_steps: int | None = None,
) -> MulticondLearnedConditioning:
    """Encode prompts that may contain AND."""
    indexes, flat, _ = get_multicond_prompt_list(prompts)
    learned = get_learned_conditioning(model, flat, steps, hires_steps)
    batch = [
        [ComposableScheduledPromptConditioning(learned[i], weight) for i, weight in parts]
        for parts in indexes
    ]
    return MulticondLearnedConditioning(shape=(len(prompts),), batch=batch)


def _current(schedule: list[ScheduledPromptConditioning], step: int) -> object:
    for entry in schedule:
        if step <= entry.end_at_step:
            return entry.cond
    return schedule[0].cond


def stack_conds(tensors: list[Tensor]) -> Tensor:
    """(rows, tokens, width); shorter conditions repeat their last token."""
    longest = max(tensor.shape[0] for tensor in tensors)
    return torch.stack(
        [
            torch.cat([tensor, tensor[-1:].repeat(longest - tensor.shape[0], 1)])
            if tensor.shape[0] != longest
            else tensor
            for tensor in tensors
        ]
    )


def _stack(conds: list) -> Tensor | DictWithShape:
    if not isinstance(conds[0], dict):
        return stack_conds(conds)
    stacked = {
        key: stack_conds([cond[key] for cond in conds])
        if conds[0][key].ndim == 2
        else torch.stack([cond[key] for cond in conds])
        for key in conds[0]
    }
    return DictWithShape(stacked)


def reconstruct_cond_batch(
    c: list[list[ScheduledPromptConditioning]], current_step: int
) -> Tensor | DictWithShape:
    """The conditions in force at `current_step`, one row per prompt."""
    return _stack([_current(schedule, current_step) for schedule in c])


def reconstruct_multicond_batch(
    c: MulticondLearnedConditioning, current_step: int
) -> tuple[list[list[tuple[int, float]]], Tensor | DictWithShape]:
    """The conditions in force at `current_step`.

    Returns:
        For each picture its (row, weight) pairs, and the rows: all parts of picture 0, then
        those of picture 1, and so on.
    """
    rows: list = []
    conds_list = []
    for composables in c.batch:
        parts = []
        for part in composables:
            parts.append((len(rows), part.weight))
            rows.append(_current(part.schedules, current_step))
        conds_list.append(parts)
    return conds_list, _stack(rows)
