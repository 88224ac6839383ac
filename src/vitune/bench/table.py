"""Tables of results in which every row links to the files that its numbers were made from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitune.bench.trial import Trial
from vitune.bench.trials import TrialOutcome
from vitune.errors import ConfigError, RunError
from vitune.measure.intervals import mean_interval


@dataclass(frozen=True)
class Column:
    """A number of the result files.

    Attributes:
        title: Head of the column, unit included.
        key: Where it stands in the file, for instance `metrics.test.accuracy`.
        scale: What it is multiplied with, for instance 100 for percent.
        digits: Digits after the point.
    """

    title: str
    key: str
    scale: float = 1.0
    digits: int = 2


@dataclass(frozen=True)
class Cell:
    """One number of a row: the mean over seeds, in the unit of the column.

    Attributes:
        mean: None if no file has it.
        low: Lower end of the 95 % t-interval; None for fewer than two values.
        high: Upper end.
        files: Seed and file of each value.
    """

    mean: float | None
    low: float | None
    high: float | None
    files: tuple[tuple[int, Path], ...]


@dataclass(frozen=True)
class Row:
    """The trials that differ in nothing but the seed.

    Attributes:
        trial: One of them; its seed means nothing.
        cells: By the title of the column.
        failed: Error files of those that failed.
    """

    trial: Trial
    cells: Mapping[str, Cell]
    failed: tuple[Path, ...]


def aggregate(outcomes: Sequence[TrialOutcome], columns: Sequence[Column]) -> list[Row]:
    """Gather trials that differ only in their seed into rows, in the order in which they come.

    Args:
        outcomes: Finished and failed trials.
        columns: Which numbers.

    Raises:
        ConfigError: If two columns have the same title.
        RunError: If a value is no number.
    """
    titles = [column.title for column in columns]
    if len(set(titles)) != len(titles):
        raise ConfigError(f"aggregate: every column needs its own title, got {titles}.")
    groups: dict[Trial, list[TrialOutcome]] = {}
    for outcome in outcomes:
        same = Trial.from_dict({**outcome.trial.as_dict(), "seed": 0})
        groups.setdefault(same, []).append(outcome)
    rows = []
    for group in groups.values():
        cells = {column.title: _cell(group, column) for column in columns}
        failed = tuple(outcome.path for outcome in group if outcome.result is None)
        rows.append(Row(group[0].trial, cells, failed))
    return rows


def markdown(
    rows: Sequence[Row],
    columns: Sequence[Column],
    folder: str | Path,
    *,
    heads: Sequence[str] = ("data", "model", "methods"),
) -> str:
    """The rows as a Markdown table; each cell holds mean and half width of the interval, the last a link per seed.

    Args:
        rows: From `aggregate`.
        columns: The same as there.
        folder: Where the page will lie; links are relative to it.
        heads: Fields of the trial that begin each line.
    """
    lines = [
        "| " + " | ".join([*heads, *(column.title for column in columns), "seeds"]) + " |",
        "|" + "---|" * len(heads) + "---:|" * len(columns) + "---|",
    ]
    for row in rows:
        words = [str(getattr(row.trial, head)).replace("|", "\\|") for head in heads]
        if row.failed:
            words[-1] += f" ({len(row.failed)} failed: {_links(list(enumerate(row.failed, 1)), folder)})"
        numbers = [_text(row.cells[column.title], column) for column in columns]
        seeds = sorted({entry for cell in row.cells.values() for entry in cell.files})
        lines.append("| " + " | ".join([*words, *numbers, _links(seeds, folder) or "-"]) + " |")
    return "\n".join(lines) + "\n"


def _cell(group: Sequence[TrialOutcome], column: Column) -> Cell:
    values: list[float] = []
    files: list[tuple[int, Path]] = []
    for outcome in group:
        value = _lookup(outcome, column.key)
        if value is not None:
            values.append(value * column.scale)
            files.append((outcome.trial.seed, outcome.path))
    if not values:
        return Cell(None, None, None, ())
    interval = mean_interval(values)
    return Cell(interval.mean, interval.low, interval.high, tuple(files))


def _lookup(outcome: TrialOutcome, key: str) -> float | None:
    """The number under a dotted key; None if the trial failed or the file has null or nothing there."""
    value: Any = outcome.result
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise RunError(f"'{outcome.path}' has no number under '{key}' but {value!r}.")
    return value


def _text(cell: Cell, column: Column) -> str:
    if cell.mean is None:
        return "-"
    text = f"{cell.mean:,.{column.digits}f}"
    # Counts that are the same for every seed have no spread to speak of.
    if cell.high is not None and cell.high > cell.mean:
        text += f" +- {cell.high - cell.mean:,.{column.digits}f}"
    return text


def _links(files: Sequence[tuple[int, Path]], folder: str | Path) -> str:
    """Links to files, each named by its number; relative, with forward slashes."""
    return " ".join(f"[{number}]({Path(os.path.relpath(path, folder)).as_posix()})" for number, path in files)
