"""Trials as a Parquet table: one row each, everything their files hold, in columns that have a type."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

from vitune._extras import require
from vitune.bench.trials import TrialOutcome
from vitune.durable import replace_file
from vitune.errors import ConfigError, RunError
from vitune.training.config import TrainConfig

RESULTS_FILE = "results.parquet"
# Parts of a result file that become columns of their own, `costs.flops_per_image`; `metrics` holds one more level.
_NESTED = ("metrics", "costs", "full_finetuning", "memory_forecast_bytes", "versions", "machine")
# The types that a setting of training may have: (float, NoneType).
_SETTINGS = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(TrainConfig).items()}
_PLAIN = ("lr", "best_epoch", "train_seconds", "seconds", "attempts", "test_correct")


def write_trials(
    path: Path, outcomes: Iterable[TrialOutcome], *, more: Mapping[str, Mapping[str, Any]] | None = None
) -> bool:
    """Write trials as a table, replaced in one step.

    Args:
        path: The file to write.
        outcomes: Finished and failed trials.
        more: Further columns of a trial, by its id.

    Returns:
        Whether it was written: it is left out where pyarrow, the extra `parquet`, is not installed.

    Raises:
        RunError: If the file cannot be written.
    """
    try:
        arrow = require("pyarrow", "parquet", "Writing Parquet files")
        parquet = require("pyarrow.parquet", "parquet", "Writing Parquet files")
    except ConfigError:
        return False
    further = more or {}
    rows = [{**trial_row(o, path.parent), **further.get(o.trial.id, {})} for o in outcomes]
    table = _table(arrow, rows)
    try:
        replace_file(path, lambda temporary: parquet.write_table(table, temporary))
    except OSError as error:
        raise RunError(f"'{path}' cannot be written: {error.strerror or error}; free the place.") from None
    return True


def trial_row(outcome: TrialOutcome, folder: Path) -> dict[str, Any]:
    """One trial as column names to values.

    Shares are from 0 to 1, memory in bytes, times in seconds. Settings are `settings.NAME`, the validation accuracy is
    `val.accuracy`; what was not measured is None.

    Args:
        outcome: The trial.
        folder: Where the table will lie; `file` is relative to it if it lies below.
    """
    trial, result = outcome.trial, outcome.result or {}
    row: dict[str, Any] = {"trial": trial.id}
    row |= {name: value for name, value in trial.as_dict().items() if name != "settings"}
    row["status"] = "finished" if outcome.error is None else "failed"
    for part in ("type", "message"):
        row[f"error.{part}"] = None if outcome.error is None else outcome.error.get(part)
    row |= {name: result.get(name) for name in _PLAIN}
    if outcome.error is not None:
        row["seconds"] = outcome.error.get("seconds")
    for name in _NESTED:
        values = result.get(name) or {}
        if name == "metrics":
            values = {f"{s}.{key}": v for s, metrics in values.items() for key, v in (metrics or {}).items()}
        row |= {key if name == "metrics" else f"{name}.{key}": value for key, value in values.items()}
    row |= {f"settings.{name}": value for name, value in trial.settings.items()}
    below = outcome.path.is_relative_to(folder)
    row["file"] = (outcome.path.relative_to(folder) if below else outcome.path).as_posix()
    return row


def _table(arrow: ModuleType, rows: list[dict[str, Any]]) -> Any:
    """Columns in the order in which they first come, each of the narrowest type that holds all its values."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        found = {type(value) for value in values if value is not None} or _kinds_of_empty(name)
        if found == {bool}:
            columns[name] = arrow.array(values, arrow.bool_())
        elif found == {int} and not _is_fraction(name) and all(abs(v or 0) < 2**63 for v in values):
            columns[name] = arrow.array(values, arrow.int64())
        elif found <= {int, float}:
            # A trial writes 1.0 as 1, and 1e38 as a whole number that no column of whole numbers holds.
            columns[name] = arrow.array([None if v is None else float(v) for v in values], arrow.float64())
        else:  # text, a list, or words and numbers in one column
            columns[name] = arrow.array([_words(value) for value in values], arrow.string())
    return arrow.table(columns)


def _kinds_of_empty(name: str) -> set[type]:
    """What a column without a value would hold: by the settings' own types, else by what its group holds."""
    group, _, own = name.partition(".")
    if group == "settings" and own in _SETTINGS:
        return {kind for kind in (bool, int, float, str) if kind in _SETTINGS[own]} or {str}
    return {str} if group in ("error", "versions", "machine", "test_correct") else {float}


def _is_fraction(name: str) -> bool:
    """Whether whole numbers in it are chance."""
    group, _, own = name.partition(".")
    return group == "settings" and float in _SETTINGS.get(own, ())


def _words(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
