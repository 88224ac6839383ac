"""One method of a comparison as JSON values: its numbers, what was tried for it, and how its trials went."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vitune.bench.summary import MethodSummary
from vitune.bench.trials import TrialOutcome
from vitune.errors import RunError
from vitune.report.log_reading import read_log
from vitune.training.files import LOG_FILE


def method_record(summary: MethodSummary, out: Path, trials: Path) -> dict[str, Any]:
    """What `comparison.json` holds of a method; paths are relative to its folder.

    Args:
        summary: The method.
        out: Folder of the comparison.
        trials: Folder of its trials, in which their logs lie.
    """
    result = summary.result
    searched = _searched(result.selection)
    winner = (result.methods, dict(result.chosen))
    return {
        "method": result.case.methods,
        "chosen_method": result.methods if result.final else None,
        "accuracy": None if summary.accuracy is None else asdict(summary.accuracy),
        "difference": None if summary.difference is None else asdict(summary.difference),
        "rank": summary.rank,
        "best": summary.best,
        "lr": result.chosen.get("lr"),
        "chosen": {name: result.chosen[name] for name in searched if name in result.chosen},
        "costs": dict(summary.costs),
        "candidates": [
            {
                "lr": outcome.trial.settings.get("lr"),
                "method": outcome.trial.methods,
                "settings": {name: outcome.trial.settings.get(name) for name in searched},
                "chosen": (outcome.trial.methods, dict(outcome.trial.settings)) == winner,
                **_outcome(outcome, "val", out, trials),
            }
            for outcome in result.selection
        ],
        "seeds": [
            {"seed": outcome.trial.seed, **_outcome(outcome, "test", out, trials)} for outcome in result.final
        ],
    }


def _searched(selection: Sequence[TrialOutcome]) -> list[str]:
    """Settings of training in which the candidates differ."""
    settings = [outcome.trial.settings for outcome in selection]
    names = dict.fromkeys(name for entry in settings for name in entry)
    found = [name for name in names if any(entry.get(name) != settings[0].get(name) for entry in settings)]
    return sorted(found, key=lambda name: name != "lr")


def _outcome(outcome: TrialOutcome, split: str, out: Path, trials: Path) -> dict[str, Any]:
    metrics: Mapping[str, Any] = ((outcome.result or {}).get("metrics") or {}).get(split) or {}
    return {
        "accuracy": metrics.get("accuracy"),
        "loss": metrics.get("loss"),
        "n": metrics.get("n"),
        "error": None if outcome.error is None else f"{outcome.error['type']}: {outcome.error['message']}",
        "file": Path(os.path.relpath(outcome.path, out)).as_posix(),
        "epochs": _epochs(trials / outcome.trial.id / "work" / "run" / LOG_FILE),
    }


def _epochs(log: Path) -> list[dict[str, Any]]:
    """The epochs that a trial logged; none where its run was not kept, or broke before the first."""
    try:
        epochs = read_log(log)[0].epochs if log.is_file() else ()
    except RunError:  # a trial that failed may have left half a log, and is shown all the same
        return []
    return [
        {name: getattr(epoch, name) for name in ("epoch", "train_loss", "val_loss", "val_accuracy")}
        for epoch in epochs
    ]
