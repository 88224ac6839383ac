"""Choosing settings from validation metrics, the only ones that exist here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitune.bench.trial import Trial
from vitune.bench.trials import TrialOutcome
from vitune.errors import ConfigError, RunError


@dataclass(frozen=True)
class ValidationResult:
    """What selection sees of a finished trial: nothing that comes from the test split.

    Attributes:
        trial: What was tried; its stage is `select`.
        metrics: Validation metrics, for instance `accuracy` and `loss`.
        path: The result file.
    """

    trial: Trial
    metrics: Mapping[str, Any]
    path: Path

    @classmethod
    def of(cls, outcome: TrialOutcome) -> ValidationResult:
        """The part of a finished selection trial that may be looked at.

        Args:
            outcome: A finished trial.

        Raises:
            ConfigError: If it is a final trial, which must not decide anything.
            RunError: If it failed or has no validation metrics.
        """
        if outcome.trial.stage != "select":
            raise ConfigError(
                f"Trial {outcome.trial.id} is a final one; settings are chosen from 'select' trials."
            )
        if outcome.result is None:
            raise RunError(f"Trial {outcome.trial.id} failed, see '{outcome.path}'.")
        metrics = outcome.result["metrics"].get("val")
        if not isinstance(metrics, Mapping):
            raise RunError(
                f"'{outcome.path}' has no validation metrics; the trial must evaluate on the val split."
            )
        return cls(outcome.trial, dict(metrics), outcome.path)


def select(results: Sequence[ValidationResult], *, metric: str = "accuracy") -> ValidationResult:
    """The best trial on the validation split.

    Args:
        results: The candidates.
        metric: What is to be large. Among equals the smaller `loss` wins, then the earlier in the list.

    Raises:
        ConfigError: If there is no candidate.
        RunError: If one has no such metric.
    """
    if not results:
        raise ConfigError("select: there is no result to choose from.")
    for result in results:
        if not isinstance(result.metrics.get(metric), int | float):
            raise RunError(
                f"'{result.path}' has no number metrics.val.{metric}; found {sorted(result.metrics)}."
            )

    def rank(result: ValidationResult) -> tuple[float, float]:
        loss = result.metrics.get("loss")
        return result.metrics[metric], -loss if isinstance(loss, int | float) else float("-inf")

    # `max` keeps the first of equals.
    return max(results, key=rank)
