"""The trial that trains: one run of `vitune.tasks` in the trial's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from vitune.bench.sealed import TrialData
from vitune.bench.trial import Trial
from vitune.data import Source, open_source
from vitune.errors import ConfigError, RunError
from vitune.tasks.classification import DataSettings, ModelSettings, TrainRequest, resume, train
from vitune.tasks.run_directory import CONFIG_FILE
from vitune.training.config import TrainConfig

_KEPT = ("metrics", "costs", "full_finetuning", "memory_forecast_bytes", "model", "data", "lr", "best_epoch")


class TrainTrial:
    """What a `TrialRunner` needs to train: how to open the data of a trial, and how to run it.

    `TrialRunner(root, trials.run, trials.open_data)`.

    Args:
        paths: Where the data sets are, by the names that trials use for them.
        workers: Processes that read images; not part of a trial, since it does not change its result.
    """

    def __init__(self, paths: Mapping[str, Path], *, workers: int = 0) -> None:
        self._paths, self._workers = dict(paths), workers

    def open_data(self, trial: Trial) -> Source:
        """Open the data of a trial.

        Raises:
            ConfigError: If the name of the data set is unknown.
            DataError: If the data cannot be used.
        """
        return open_source(self._path(trial), **self._settings(trial).opening())

    def run(self, trial: Trial, folder: Path, data: TrialData) -> dict[str, Any]:
        """Train a trial, or go on where an earlier attempt was stopped.

        Args:
            trial: What to train.
            folder: The trial's own folder; the run goes below it.
            data: The data, with the test split sealed or to be opened once.

        Returns:
            Metrics and costs, as `result.json` of the run has them.

        Raises:
            RunError: If the run is interrupted.
            VituneError: As `vitune.tasks.train`.
        """
        directory = folder / "run"
        source = cast(Source, data)  # a guarded source answers all that a source is asked
        if (directory / CONFIG_FILE).is_file():
            result = resume(directory, source=source)
        else:
            result = train(self._request(trial, directory), source=source)
        if result.status != "finished":
            raise RunError(f"The run of trial {trial.id} was interrupted.")
        return {key: result.result[key] for key in _KEPT}

    def _request(self, trial: Trial, directory: Path) -> TrainRequest:
        training = TrainConfig.from_dict({**trial.settings, "seed": trial.seed, "workers": self._workers})
        return TrainRequest(
            data=self._settings(trial),
            model=ModelSettings(name=trial.model),
            method=trial.methods,
            training=training,
            out=directory,
            final_test=trial.stage == "final",
        )

    def _settings(self, trial: Trial) -> DataSettings:
        return DataSettings(path=self._path(trial), train_split=trial.train_split)

    def _path(self, trial: Trial) -> Path:
        if trial.data not in self._paths:
            known = ", ".join(sorted(self._paths))
            raise ConfigError(f"trial {trial.id}: no data set is called '{trial.data}'; known: {known}.")
        return self._paths[trial.data]
