"""A training from settings to exported weights: check, cache, train, sample, save."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from tqdm import tqdm

from lib_controlnet.detect import preprocess
from lib_controlnet.errors import is_out_of_memory
from lib_controlnet.files.catalog import short_hash
from lib_controlnet.files.checkpoint import open_checkpoint

from . import control_file, state
from .base import Base, open_base
from .cache import Cache
from .config import Settings, refuse_changes
from .dataset import Item, about, check, first_size, read_items, refuse, write_text
from .errors import TrainError
from .kinds import kind_of_file
from .model import Average, Controlled
from .packages import need
from .reading import read_mapping
from .record import ADHERENCE, LOSSES, Board, Table, plot
from .sampling import Networks, Sampler
from .steps import Source, positions_of, prefetch

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

SETTINGS: Final = "settings.json"
DTYPES: Final = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WAIT_HOURS: Final = 12
"""How long processes wait for the first one to check the data and to draw."""


def choose_objective(settings: Settings, base: Base) -> str:
    """What the base predicts, `eps` or `v`.

    Raises:
        TrainError: it is an SD2 base of which nothing tells: both kinds are common.
    """
    if settings.objective != "auto":
        return settings.objective
    if base.objective is not None:
        return base.objective
    if base.shape.context_dim == 1024:
        msg = (
            f"{base.name} is an SD2 model, which may predict noise or velocity, and nothing beside "
            "it tells; add --objective v (768 pixel models) or --objective eps (base models)"
        )
        raise TrainError(msg)
    return "eps"


def contents_of(settings: Settings, base: Base, items: list[Item]) -> dict[str, str]:
    """What tells whether base, start and data are the same files as before, wherever they are."""
    digest = hashlib.sha256()
    for item in items:
        size = (Path(settings.data) / item.target).stat().st_size
        told = f"|{item.control_type}" if item.control_type else ""
        digest.update(f"{item.source}|{item.target}|{size}|{item.prompt}{told}\n".encode())
    control = Path(settings.control)
    return {
        "data": digest.hexdigest()[:16],
        "base": base.contents,
        "control": f"{short_hash(control)} {control.stat().st_size}",
    }


def check_data(settings: Settings, multiple: int, thorough: bool = True) -> list[Item]:
    """The examples of the data set; `thorough`: after every picture was decoded once.

    Raises:
        TrainError: lists everything that is wrong with them.
    """
    folder = Path(settings.data)
    items, faults = read_items(folder)
    if not items and not faults:
        msg = f"the data set {folder} is empty"
        raise TrainError(msg)
    size = first_size(folder, items, multiple) if items else None
    refuse(folder, faults + (check(folder, items, size) if size and thorough else []))
    if len(items) <= settings.samples:
        msg = (
            f"the data set {folder} has {len(items)} examples, {settings.samples} of them are held "
            "out for samples: nothing is left to train on"
        )
        raise TrainError(msg)
    return items


class Training:
    """One process of a training.

    Attributes:
        done: steps of the optimiser that are done.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.run = settings, Path(settings.out)
        self.base = open_base(settings.base, settings.tokenizers)
        self.objective = choose_objective(settings, self.base)
        levels = len(self.base.unet_arguments["block_out_channels"])
        self.kind = kind_of_file(Path(settings.control))
        self.kind.refuse_options(settings)
        control = self.kind.open(self.base, open_checkpoint(Path(settings.control)))
        self.accelerator = _accelerator(settings)
        self.device = self.accelerator.device
        self._refuse_uneven()
        items = check_data(settings, 8 * 2 ** (levels - 1), self.is_first)
        self.kind.refuse_data(control, Path(settings.data), items)
        measured_by = self._preprocessor() if self._samples else None
        self._take_up(items)
        self.cache = self._fill_cache(items)
        self.alphas = self.base.alphas()
        count = len(items) - settings.samples
        constants = (self.alphas, self.base.scale_factor, self.objective)
        self.source = Source(self.cache, settings, count, *constants)
        self._build(control)
        self.sampler = None
        if measured_by:
            self.sampler = Sampler(self.cache, settings, range(count, len(items)), measured_by)
        self.done = self._restore()
        if self.is_first:
            log.info(
                "%s: %d examples, %s objective, processes: %d",
                *(self.run, count, self.objective, self.accelerator.num_processes),
            )

    @property
    def is_first(self) -> bool:
        return self.accelerator.is_main_process

    def _refuse_uneven(self) -> None:
        parts = self.accelerator.num_processes * self.settings.accumulation
        if self.settings.batch % parts:
            msg = (
                f"--batch {self.settings.batch} cannot be shared by "
                f"{self.accelerator.num_processes} processes in {self.settings.accumulation} parts "
                f"each; it must be a multiple of {parts}"
            )
            raise TrainError(msg)

    def _take_up(self, items: list[Item]) -> None:
        """Compare with the run that is in the folder, or begin one."""
        path = self.run / SETTINGS
        contents = contents_of(self.settings, self.base, items)
        if path.is_file():
            known = read_mapping(path)
            refuse_changes(known, self.settings, contents)
        self.accelerator.wait_for_everyone()
        if self.is_first:
            record = {**dataclasses.asdict(self.settings), "contents": contents}
            write_text(path, json.dumps(record, indent=1))
            state.remove_partial(self.run)

    def _fill_cache(self, items: list[Item]) -> Cache:
        settings = self.settings
        folder = Path(settings.cache) if settings.cache else Path(settings.data) / ".cache"
        cache = Cache(folder, self.base, Path(settings.data), items)
        cache.compute(self.base, self.device, quiet=not self.is_first)
        self.accelerator.wait_for_everyone()
        return cache

    def _build(self, control: nn.Module) -> None:
        settings = self.settings
        dtype = None if settings.unlock_decoder else DTYPES[settings.precision]
        unet = self.base.unet().to(self.device, dtype)
        self.model = Controlled(unet, control.to(self.device), settings)
        self.trained = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.average = None
        if settings.average and self.is_first:
            self.average = Average(self.model.control, settings.average)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        self.vae = self.base.vae().to(self.device) if self._samples else None

    @property
    def _samples(self) -> bool:
        return bool(self.is_first and self.settings.sample_every and self.settings.samples)

    def _preprocessor(self) -> str:
        """What measures the samples; asked before anything is computed.

        Raises:
            TrainError: nothing names one.
        """
        known = about(Path(self.settings.data)).get("preprocessor")
        name = self.settings.preprocessor or known
        if not name:
            msg = (
                f"{self.settings.data} does not say which preprocessor made its controls; add "
                "--preprocessor, or --sample-every 0 for no samples"
            )
            raise TrainError(msg)
        preprocess.require(preprocess.get(name))
        return name

    def _parts(self) -> state.Parts:
        networks: dict[str, nn.Module] = {"control": self.model.control}
        if self.settings.unlock_decoder:
            networks["decoder"] = self.model.decoder
        if self.average is not None:
            networks["average"] = self.average.module
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        return state.Parts(networks, inner, self.trained, self.accelerator.scaler)

    def _restore(self) -> int:
        found = state.latest(self.run)
        if found is None:
            return 0
        done = state.load(found, self._parts())
        if self.is_first:
            log.info("continuing %s after step %d", self.run, done)
        return done

    def train(self) -> None:
        """Do the steps that are left."""
        tables = _Tables(self.run, self.done) if self.is_first else None
        if tables and self.sampler and self.done == 0:
            self._sample(self.sampler, tables, 0)
        if tables and self.done == self.settings.steps:
            self._write_weights()  # a kill may have come between the last state and them
        batches = prefetch(self.source, self._plan())
        bar = tqdm(
            range(self.done, self.settings.steps),
            initial=self.done,
            total=self.settings.steps,
            disable=not self.is_first,
            mininterval=1,
        )
        for step in bar:
            loss = self._step(step, batches)
            self.done = step + 1
            if tables:
                tables.loss(self.done, loss, self._rate(step))
                bar.set_postfix(loss=f"{loss:.4f}")
            self._milestones(tables)
        self.accelerator.wait_for_everyone()
        if tables:
            plot(self.run)

    def _plan(self) -> Iterator[range]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        for step in range(self.done, self.settings.steps):
            for part in range(self.settings.accumulation):
                yield positions_of(step, part, rank, world, self.settings)

    def _rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, cosine to zero."""
        settings = self.settings
        warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
        falling = settings.decay * settings.steps
        left = min(1.0, (settings.steps - step) / falling) if falling else 1.0
        return settings.lr * warm * 0.5 * (1 - math.cos(math.pi * left))

    def _step(self, step: int, batches: Iterator[Any]) -> float:
        """One step of the optimiser; the mean loss of the whole batch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        parts, total = self.settings.accumulation, torch.zeros((), device=self.device)
        for part in range(parts):
            batch = next(batches).to(self.device)
            more = part < parts - 1
            with self.accelerator.no_sync(self.wrapped) if more else nullcontext():
                seen = (batch.noisy, batch.timesteps, batch.context, batch.pooled)
                answer = self.wrapped(*seen, batch.hint, batch.types)
                errors = F.mse_loss(answer.float(), batch.wanted, reduction="none")
                loss = (errors.mean((1, 2, 3)) * batch.weight).mean() / parts
                self.accelerator.backward(loss)
            total += loss.detach()
        if self.settings.clip:
            self.accelerator.unscale_gradients(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained.values(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(self.model.control, step)
        value = float(self.accelerator.reduce(total, "mean"))
        if not math.isfinite(value):
            msg = (
                f"the loss is {value} at step {step + 1}; lower --lr, or use --precision bf16 or no"
            )
            raise TrainError(msg)
        return value

    def _milestones(self, tables: _Tables | None) -> None:
        settings, last = self.settings, self.done == self.settings.steps
        if tables and self.sampler and (self.done % settings.sample_every == 0 or last):
            self._sample(self.sampler, tables, self.done)
        if self.done % settings.save_every == 0 or last:
            if tables:
                state.save(self.run, self.done, self._parts(), settings.keep)
                self._write_weights()
            self.accelerator.wait_for_everyone()

    def _newest(self) -> nn.Module:
        """The control to use: the averaged one where there is one."""
        return self.average.module if self.average is not None else self.model.control

    def networks(self) -> Networks:
        """What draws samples, with the control as it is now."""
        assert self.vae is not None  # read where samples are drawn
        control, scale = self._newest().eval(), self.base.scale_factor
        return Networks(self.model.unet, control, self.vae, self.alphas, scale, self.objective)

    def _sample(self, sampler: Sampler, tables: _Tables, step: int) -> None:
        control = self._newest()
        was_training = control.training
        networks = self.networks()
        with self.accelerator.autocast():
            found = sampler.sample(networks, self.run / "samples" / f"{step:08d}.png")
        control.train(was_training)
        tables.adherence(step, *found)
        log.info("step %d: adherence %.3f with prompt, %.3f without", step, *found)
        plot(self.run)

    def _write_weights(self) -> None:
        """The weights as a file that export and the panel read, with everything known of them."""
        tensors = self.kind.tensors(self._newest().state_dict())
        path = self.run / "control.safetensors"
        control_file.write(tensors, path, metadata=self.facts(), force=True)

    def facts(self) -> dict[str, str]:
        """What the weights' file says of itself."""
        known = about(Path(self.settings.data))
        shown = {
            "control_type": known.get("control_type"),
            "preprocessor": known.get("preprocessor") or self.settings.preprocessor,
        }
        kept = ("batch", "lr", "empty_prompts", "only_middle", "unlock_decoder", "average")
        return control_file.facts(
            {
                "base": self.base.name,
                "base_family": str(self.base.shape.kind),
                "base_hash": short_hash(Path(self.settings.base))
                if Path(self.settings.base).is_file()
                else None,
                **(shown if self.kind.has_one_type else {}),
                "training": {
                    "steps": self.done,
                    "examples": self.source.count,
                    "objective": self.objective,
                    **{name: getattr(self.settings, name) for name in kept},
                },
            }
        )


class _Tables:
    """The CSV files of a run, and TensorBoard."""

    def __init__(self, run: Path, done: int) -> None:
        self._losses = Table(run / "loss.csv", LOSSES, done)
        self._adherence = Table(run / "adherence.csv", ADHERENCE, done if done else -1)
        self._board = Board(run / "board")
        before = self._losses.rows[-1][3] if self._losses.rows else 0.0
        self._start = time.monotonic() - before

    def loss(self, step: int, loss: float, rate: float) -> None:
        self._losses.add(step, loss, rate, round(time.monotonic() - self._start, 2))
        self._board.add("loss", loss, step)

    def adherence(self, step: int, prompted: float, promptless: float) -> None:
        self._adherence.add(step, prompted, promptless)
        self._board.add("adherence", prompted, step)


def _accelerator(settings: Settings) -> Any:
    """One of many processes where `accelerate launch` started them, else the only one."""
    from datetime import timedelta

    accelerate = need("accelerate")
    patience = accelerate.InitProcessGroupKwargs(timeout=timedelta(hours=WAIT_HOURS))
    return accelerate.Accelerator(
        mixed_precision=settings.precision,
        kwargs_handlers=[patience],
        step_scheduler_with_optimizer=False,
    )


def run(settings: Settings) -> None:
    """Train, or go on with what is in the run's folder.

    Raises:
        TrainError: something cannot be used, or the device has too little memory.
    """
    try:
        Training(settings).train()
    except Exception as error:  # each device has its own for this
        if not is_out_of_memory(error):
            raise
        msg = (
            "the device has too little memory; less is needed with more --accumulation, "
            f"--precision bf16 or fp16, --checkpointing, --average 0 ({error})"
        )
        raise TrainError(msg) from error
