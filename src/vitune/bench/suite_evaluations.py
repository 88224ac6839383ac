"""Testing the final runs of a task on further images, such as ImageNet under shift: trained once, tested on each.

Each test is a trial of its own beside the comparison's, so it runs once, may be killed, and is shared by processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitune.bench.compare import TRIALS, CompareResult
from vitune.bench.sealed import TrialData
from vitune.bench.suite_summary import MeasuredRow
from vitune.bench.summary import Score
from vitune.bench.train_trial import OnTrialEvent
from vitune.bench.trial import Trial
from vitune.bench.trials import TrialOutcome, TrialRunner
from vitune.errors import DataError
from vitune.suites import EvaluationSet
from vitune.tasks.evaluate import evaluate
from vitune.training.events import Event

EVALUATIONS = "evaluations"
_BATCH = 64


@dataclass(frozen=True)
class Evaluated:
    """What the runs of a task did on one further test set.

    Attributes:
        of: The set.
        row: Accuracies by method and seed.
        outcomes: Every test.
    """

    of: EvaluationSet
    row: MeasuredRow
    outcomes: tuple[TrialOutcome, ...]


def evaluate_finals(
    result: CompareResult,
    task: str,
    sets: Sequence[tuple[EvaluationSet, Path]],
    *,
    on_event: OnTrialEvent = lambda trial, event: None,
    on_outcome: Callable[[TrialOutcome], None] | None = None,
    poll_seconds: float = 1.0,
    wait: bool = True,
) -> tuple[Evaluated, ...]:
    """Test every finished final run of a comparison on further sets.

    Args:
        result: The comparison.
        task: Its name in the suite.
        sets: The sets and where their images are.
        on_event: Is told when this process begins a test.
        on_outcome: Is told of every test, as soon as it is seen to have ended, whoever ran it.
        poll_seconds: How often to look whether other processes have finished what this one waits for.
        wait: Whether to wait for them at all.

    Raises:
        StillRunning: If all that is left is being run by other processes, and `wait` is off.
    """
    request = result.plan.request
    places = {of.name: path for of, path in sets}
    finals = [
        (case.case.methods, outcome) for case in result.cases for outcome in case.final if outcome.result
    ]
    trials = {
        (of.name, methods, outcome.trial.seed): _trial(of, outcome.trial)
        for of, _ in sets
        for methods, outcome in finals
    }

    def run(trial: Trial, folder: Path, data: TrialData) -> dict[str, Any]:
        on_event(trial, Event("progress", {"step": 0, "steps": 1, "seconds_left": None}))
        trained = request.out / TRIALS / trial.settings["trained_as"] / "work" / "run"
        return _test(trained, places[trial.settings["evaluated_on"]], request.model.weights, request.workers)

    runner = TrialRunner(
        request.out / EVALUATIONS,
        run,
        lambda trial: _NoData(),
        poll_seconds=poll_seconds,
        on_outcome=on_outcome,
    )
    outcomes = runner.finish(trials.values(), retry_failed=request.retry_failed, wait=wait)
    found = {outcome.trial: outcome for outcome in outcomes}
    return tuple(
        _gather(of, task, {key[1:]: found[trial] for key, trial in trials.items() if key[0] == of.name})
        for of, _ in sets
    )


def _trial(of: EvaluationSet, trained: Trial) -> Trial:
    fields = trained.as_dict()
    settings = {"evaluated_on": of.name, "layout": of.layout, "trained_as": trained.id}
    return Trial.from_dict({**fields, "data": of.name, "settings": settings, "train_split": "none"})


def _test(run: Path, images: Path, weights: Path | None, workers: int) -> dict[str, Any]:
    result = evaluate(run, images, weights=weights, batch_size=_BATCH, workers=workers)
    found = result.evaluation
    metrics: dict[str, Any] = {
        "accuracy": found.accuracy,
        "loss": found.loss if np.isfinite(found.loss) else None,
        "n": found.count,
        "low": result.low,
        "high": result.high,
    }
    corruption = result.corruption
    if corruption is not None:
        metrics |= {"mean_corruption_error": corruption.mean_error, "mce": corruption.mce}
    correct = np.packbits(found.label == found.predicted).tobytes().hex()
    return {
        "metrics": {"val": None, "test": metrics},
        "test_correct": correct,
        "classes": result.classes,
        "parts": {part.name: part.accuracy for part in result.parts},
    }


def _gather(of: EvaluationSet, task: str, outcomes: dict[tuple[str, int], TrialOutcome]) -> Evaluated:
    scores: dict[str, dict[int, Score]] = {}
    extra: dict[str, dict[str, Any]] = {}
    for (methods, seed), outcome in outcomes.items():
        if outcome.result is None:
            continue
        test = outcome.result["metrics"]["test"]
        scores.setdefault(methods, {})[seed] = Score(
            test["accuracy"], test["low"], test["high"], test["n"], outcome.result["test_correct"]
        )
        if test.get("mce") is not None:
            extra.setdefault(methods, {}).setdefault("mce", []).append(test["mce"])
    means = {methods: {"mce": float(np.mean(values["mce"]))} for methods, values in extra.items()}
    row = MeasuredRow(of.name, of.group, task, scores, means)
    return Evaluated(of, row, tuple(outcomes.values()))


class _NoData:
    """The test opens its images itself: they are no split of the data that were trained on."""

    class_names: tuple[str, ...] = ()
    kind = "evaluation"
    has_test = False

    def split(self, name: Any) -> Any:
        raise DataError(f"an evaluation has no split '{name}'.")

    def open_test(self, reason: Any) -> Any:
        raise DataError("an evaluation opens its images itself.")

    def describe(self) -> dict[str, Any]:
        return {}
