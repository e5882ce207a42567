"""Settings of a training: one table for the command line, the configuration file and the record."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lib_controlnet.errors import quote

from .errors import TrainError
from .reading import read_content


def setting(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    """A field with its help; `choices` are the words that it may take."""
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """Everything that decides a training. Defaults are the paper's recipe."""

    base: str = setting("", "checkpoint file or diffusers folder to train for")
    control: str = setting("", "ControlNet to start from, made by init")
    data: str = setting("", "data set, made by annotate or fill50k")
    out: str = setting("", "folder of the run; a run that is there is continued")
    steps: int = setting(10000, "steps of the optimiser in all")
    batch: int = setting(4, "examples a step, over all processes and accumulation")
    accumulation: int = setting(1, "parts in which a process computes its share of a batch")
    lr: float = setting(1e-5, "learning rate")
    warmup: int = setting(0, "steps over which the learning rate rises from zero")
    decay: float = setting(0.0, "share of the steps, the last ones, over which it falls to zero")
    weight_decay: float = setting(1e-2, "weight decay of AdamW")
    clip: float = setting(1.0, "largest norm of the gradient")
    empty_prompts: float = setting(0.5, "share of examples whose prompt is emptied")
    objective: str = setting("auto", "what the base predicts", ("auto", "eps", "v"))
    timesteps: str = setting(
        "uniform", "noise levels: alike, or more of the noisy ones", ("uniform", "noisy")
    )
    weighting: str = setting(
        "alike",
        "errors of all noise levels count alike, or as if velocity were predicted",
        ("alike", "velocity"),
    )
    only_middle: bool = setting(False, "control the middle block only")
    unlock_decoder: bool = setting(False, "train the base's decoder too")
    precision: str = setting("no", "mixed precision", ("no", "fp16", "bf16"))
    checkpointing: bool = setting(False, "compute activations twice and keep few of them")
    average: float = setting(0.999, "decay of the averaged weights; 0 for none")
    seed: int = setting(0, "order, noise, timesteps and emptied prompts follow from it")
    save_every: int = setting(500, "steps between states to continue from")
    keep: int = setting(2, "states that are kept")
    sample_every: int = setting(500, "steps between sample pictures; 0 for none")
    samples: int = setting(4, "examples at the end of the data that are drawn, never trained on")
    sample_steps: int = setting(20, "steps of a sample picture")
    cfg: float = setting(4.0, "guidance scale of sample pictures")
    preprocessor: str = setting("", "measures how samples follow; default: the data set's")
    tokenizer: str = setting("", "tokenizer folder or hub name, two with a comma for SDXL")
    cache: str = setting("", "folder of latents and text embeddings; default: in the data set")

    def __post_init__(self) -> None:
        for name in ("base", "control", "data", "out"):
            if not getattr(self, name):
                msg = f"--{name} is missing"
                raise TrainError(msg)
        for name in ("steps", "batch", "accumulation", "save_every", "keep", "sample_steps"):
            if getattr(self, name) < 1:
                msg = f"--{name.replace('_', '-')} is {getattr(self, name)}, must be 1 or more"
                raise TrainError(msg)
        for name in ("empty_prompts", "average", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                msg = f"--{name.replace('_', '-')} is {getattr(self, name)}, must be 0 to 1"
                raise TrainError(msg)
        for entry in dataclasses.fields(self):
            choices, value = entry.metadata["choices"], getattr(self, entry.name)
            if choices and value not in choices:
                msg = f"--{entry.name} is {value!r}, must be one of {', '.join(choices)}"
                raise TrainError(msg)

    @property
    def tokenizers(self) -> list[str]:
        return [name for name in self.tokenizer.split(",") if name]


FREE: Final = frozenset(
    {
        *("steps", "save_every", "keep", "sample_every", "sample_steps", "cfg", "preprocessor"),
        *("cache", "tokenizer", "out", "base", "control", "data"),
        *("checkpointing", "accumulation"),
    }
)
"""Settings that may change when a run is continued; all others decide its numbers.

Places may change because files move; what lies there is compared by content. A batch in other parts
is the same batch, for machines with more or with less memory. The number of steps is not free where
the learning rate falls towards the last one.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for each setting."""
    for entry in dataclasses.fields(Settings):
        name = f"--{entry.name.replace('_', '-')}"
        text = entry.metadata["help"]
        if isinstance(entry.default, bool):
            parser.add_argument(
                name, action=argparse.BooleanOptionalAction, default=None, help=text
            )
            continue
        shown = "" if entry.default == "" else f" (default: {entry.default})"
        parser.add_argument(
            name,
            type=type(entry.default),
            choices=entry.metadata["choices"],
            help=text + shown,
        )


def from_arguments(arguments: argparse.Namespace) -> Settings:
    """Settings of a configuration file, if one is given, and of options, which count before it.

    Raises:
        TrainError: the file cannot be read, or a value cannot be used.
    """
    values = read_file(Path(arguments.config)) if arguments.config else {}
    for entry in dataclasses.fields(Settings):
        given = getattr(arguments, entry.name)
        if given is not None:
            values[entry.name] = given
    return Settings(**values)


def read_file(path: Path) -> dict[str, Any]:
    """The settings in a JSON or YAML file.

    Raises:
        TrainError: no such file, not readable, or it holds names and values that no setting has.
    """
    if not path.is_file():
        msg = f"the configuration {path} does not exist"
        raise TrainError(msg)
    content = read_content(path)
    if not isinstance(content, Mapping):
        msg = f"the configuration {path} must be a mapping of settings"
        raise TrainError(msg)
    kinds = {entry.name: type(entry.default) for entry in dataclasses.fields(Settings)}
    values = {str(key).replace("-", "_"): value for key, value in content.items()}
    for name, value in values.items():
        if name not in kinds:
            msg = f"the configuration {path} has {name[:80]}, which is no setting of a training"
            raise TrainError(msg)
        values[name] = _of_kind(value, kinds[name])
        if values[name] is None:
            expected = kinds[name].__name__
            msg = f"the configuration {path} has {name} = {quote(value)}, expected {expected}"
            raise TrainError(msg)
    return values


def _of_kind(value: object, kind: type) -> Any:
    """A value as its setting has it, None for what is none.

    YAML reads `no` as False and 1e-5, which has no point, as text.
    """
    if kind is str and value is False:
        return "no"
    if kind is float and isinstance(value, (str, int)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
        return None
    if isinstance(value, bool) and kind is not bool:
        return None
    return kind(value) if isinstance(value, (int, float) if kind is float else kind) else None


def refuse_changes(
    old: Mapping[str, Any], new: Settings, contents: Mapping[str, str] | None = None
) -> None:
    """Stop if a run is continued with what would make other numbers.

    Args:
        old: what the run has recorded.
        contents: what tells whether base, start and data are the recorded ones.

    Raises:
        TrainError: names what differs.
    """
    now = dataclasses.asdict(new)
    free = FREE - {"steps"} if new.decay else FREE  # when it falls depends on the last step
    different = [
        f"{name} {old[name]!r} -> {now[name]!r}"
        for name in now
        if name in old and name not in free and old[name] != now[name]
    ]
    before = old.get("contents", {})
    different += [
        f"another {name}: {now[name]}"
        for name, mark in (contents or {}).items()
        if name in before and before[name] != mark
    ]
    if different:
        msg = (
            f"the run {new.out} was begun with other settings ({'; '.join(different)}); continue "
            "it with the same ones, or give another --out"
        )
        raise TrainError(msg)
