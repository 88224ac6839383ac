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
from vitune.bench.engines import make_runner
from vitune.bench.evaluate_trial import EvaluateTrial
from vitune.bench.suite_summary import MeasuredRow
from vitune.bench.summary import Score
from vitune.bench.train_trial import OnTrialEvent
from vitune.bench.trials import TrialOutcome
from vitune.suites import EvaluationSet

EVALUATIONS = "evaluations"


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
        on_event: Is told when a test begins, or a cluster is given it.
        on_outcome: Is told of every test, as soon as it is seen to have ended, whoever ran it.
        poll_seconds: How often to look whether other processes have finished what this one waits for.
        wait: Whether to wait for them at all.

    Raises:
        StillRunning: If all that is left is being run by other processes, and `wait` is off.
    """
    request = result.plan.request
    finals = [
        (case.case.methods, outcome) for case in result.cases for outcome in case.final if outcome.result
    ]
    trials = {
        (of.name, methods, outcome.trial.seed): EvaluateTrial.trial(of, outcome.trial)
        for of, _ in sets
        for methods, outcome in finals
    }
    outcomes: list[TrialOutcome] = []
    if trials:
        tests = EvaluateTrial(
            request.out / TRIALS,
            {of.name: path for of, path in sets},
            weights=request.model.weights,
            workers=request.workers,
            on_event=on_event,
        )
        folder = request.out / EVALUATIONS
        runner = make_runner(
            request, folder, tests, on_event=on_event, on_outcome=on_outcome, poll_seconds=poll_seconds
        )
        outcomes = runner.finish(trials.values(), retry_failed=request.retry_failed, wait=wait)
    found = {outcome.trial: outcome for outcome in outcomes}
    return tuple(
        _gather(of, task, {key[1:]: found[trial] for key, trial in trials.items() if key[0] == of.name})
        for of, _ in sets
    )


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
