"""The trial that tests a final run on further images, such as ImageNet under shift, without training anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vitune.bench.sealed import TrialData
from vitune.bench.train_trial import OnTrialEvent, ignore_events
from vitune.bench.trial import Trial
from vitune.errors import ConfigError, DataError
from vitune.suites import EvaluationSet
from vitune.tasks.evaluate import evaluate
from vitune.training.events import Event

_BATCH = 64


class EvaluateTrial:
    """What a `TrialRunner` needs to test the runs of a comparison: `TrialRunner(root, trials.run, trials.open_data)`.

    Args:
        runs: Folder of the comparison's trials.
        places: Where the images of each further set are.
        weights: Weight file of the backbone.
        workers: Processes that read images.
        on_event: Is told when this process begins a test.
    """

    KIND = "evaluate"

    def __init__(
        self,
        runs: Path,
        places: Mapping[str, Path],
        *,
        weights: Path | None = None,
        workers: int = 0,
        on_event: OnTrialEvent = ignore_events,
    ) -> None:
        self._runs, self._places = runs, dict(places)
        self._weights, self._workers, self._on_event = weights, workers, on_event

    @staticmethod
    def trial(of: EvaluationSet, trained: Trial) -> Trial:
        """The test of a final run on a further set.

        Args:
            of: The set.
            trained: The trial that trained what is tested.
        """
        settings = {"evaluated_on": of.name, "layout": of.layout, "trained_as": trained.id}
        changed = {"data": of.name, "settings": settings, "train_split": "none"}
        return Trial.from_dict({**trained.as_dict(), **changed})

    def portable(self) -> EvaluateTrial:
        """The same for another process: paths that do not depend on the folder it works in, and no listener."""
        weights = None if self._weights is None else self._weights.resolve()
        places = {name: path.resolve() for name, path in self._places.items()}
        return EvaluateTrial(self._runs.resolve(), places, weights=weights, workers=self._workers)

    def as_order(self) -> dict[str, Any]:
        """What another process needs to run the same tests, as JSON values; `from_order` takes it."""
        return {
            "kind": self.KIND,
            "runs": str(self._runs),
            "paths": {name: str(path) for name, path in self._places.items()},
            "weights": None if self._weights is None else str(self._weights),
            "workers": self._workers,
        }

    @classmethod
    def from_order(cls, order: Mapping[str, Any]) -> EvaluateTrial:
        """What `as_order` told of.

        Args:
            order: Its values; others are passed over.
        """
        return cls(
            Path(order["runs"]),
            {name: Path(path) for name, path in order["paths"].items()},
            weights=None if order["weights"] is None else Path(order["weights"]),
            workers=order["workers"],
        )

    def needed_paths(self) -> list[Path]:
        """What must be there to test: the trained runs, the images, and the file of weights if there is one."""
        return [self._runs, *self._places.values(), *([] if self._weights is None else [self._weights])]

    def open_data(self, trial: Trial) -> TrialData:
        """No data: the test opens its images itself, since they are no split of the data that were trained on.

        Args:
            trial: Any test.
        """
        return _NoData()

    def run(self, trial: Trial, folder: Path, data: TrialData) -> dict[str, Any]:
        """Test a run.

        Args:
            trial: Which run, and on what.
            folder: The trial's own folder; nothing is written to it.
            data: Is not used.

        Returns:
            Metrics, `test_correct` as of a trial that trains, and the accuracies of the set's parts.

        Raises:
            ConfigError: If the set is unknown.
            VituneError: As `vitune.tasks.evaluate`.
        """
        self._on_event(trial, Event("progress", {"step": 0, "steps": 1, "seconds_left": None}))
        name = trial.settings["evaluated_on"]
        if name not in self._places:
            known = ", ".join(sorted(self._places))
            raise ConfigError(f"trial {trial.id}: no further set is called '{name}'; known: {known}.")
        trained = self._runs / trial.settings["trained_as"] / "work" / "run"
        return _test(trained, self._places[name], self._weights, self._workers)


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


class _NoData:
    class_names: tuple[str, ...] = ()
    kind = "evaluation"
    has_test = False

    def split(self, name: Any) -> Any:
        raise DataError(f"an evaluation has no split '{name}'.")

    def open_test(self, reason: Any) -> Any:
        raise DataError("an evaluation opens its images itself.")

    def describe(self) -> dict[str, Any]:
        return {}
