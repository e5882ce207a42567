"""What a run writes down: CSV files of losses and adherence, TensorBoard where it is installed."""

from __future__ import annotations

import contextlib
import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .errors import MissingPackageError
from .packages import need

log = logging.getLogger(__name__)

LOSSES: Final = ("step", "loss", "lr", "seconds")
ADHERENCE: Final = ("step", "with_prompt", "without_prompt")


class Table:
    """A CSV file of numbers by step, which a continued run takes up where its state is.

    Args:
        path: the file.
        columns: their names, the step first.
        done: steps that the run continues from; rows after them are dropped.
    """

    def __init__(self, path: Path, columns: Sequence[str], done: int) -> None:
        self.path = path
        kept = [row for row in read_rows(path) if row[0] <= done]
        lines = [",".join(columns), *(",".join(_text(value) for value in row) for row in kept)]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(path)
        self.rows = kept

    def add(self, *values: float) -> None:
        """Add a row; it is in the file when this returns."""
        self.rows.append(list(values))
        with self.path.open("a", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerow([_text(value) for value in values])


def _text(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.8g}"


def read_rows(path: Path) -> list[list[float]]:
    """Numbers of a CSV file with a heading; a row that was cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    width = len(lines[0].split(",")) if lines else 0
    rows = []
    for line in lines[1:]:
        with contextlib.suppress(ValueError):
            values = [float(value) for value in line.split(",")]
            if len(values) == width:
                rows.append(values)
    return rows


class Board:
    """TensorBoard's files, where the package is installed; nothing otherwise."""

    def __init__(self, folder: Path) -> None:
        self._writer: Any = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder))

    def add(self, name: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(name, value, step)


def plot(run: Path) -> Path | None:
    """Draw loss and adherence over steps into `curves.png`; None without matplotlib."""
    try:
        need("matplotlib").use("Agg")
        from matplotlib import pyplot
    except MissingPackageError as error:
        log.info("no curves are drawn: %s", error)
        return None
    figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(7, 6), sharex=True)
    losses = read_rows(run / "loss.csv")
    steps = [row[0] for row in losses]
    upper.plot(steps, [row[1] for row in losses], color="#c8d4e6", linewidth=0.7)
    upper.plot(steps, smooth([row[1] for row in losses]), color="#1f4e9c")
    upper.set_ylabel("loss")
    followed = read_rows(run / "adherence.csv")
    for column, label in ((1, "with prompt"), (2, "without prompt")):
        values = [row[column] for row in followed]
        lower.plot([row[0] for row in followed], values, marker="o", markersize=3, label=label)
    lower.set(ylabel="adherence", xlabel="step", ylim=(0, 1))
    lower.legend()
    figure.tight_layout()
    path = run / "curves.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def smooth(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Moving average from the start of a curve."""
    smoothed: list[float] = []
    for value in values:
        before = smoothed[-1] if smoothed else value
        smoothed.append(before + max(share, 1 / (len(smoothed) + 1)) * (value - before))
    return smoothed
