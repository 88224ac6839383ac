"""The trial that trains: one run of `vitune.tasks` in the trial's folder."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from vitune.bench.sealed import TrialData
from vitune.bench.trial import Trial
from vitune.data import Source, open_source
from vitune.errors import ConfigError
from vitune.report.log_reading import read_log
from vitune.report.predictions_reading import read_predictions
from vitune.tasks.classification import DataSettings, ModelSettings, TrainRequest, resume, train
from vitune.tasks.run_directory import CONFIG_FILE, PREDICTIONS_FILE, SPLIT_FILE
from vitune.training.config import TrainConfig
from vitune.training.events import Event
from vitune.training.files import LOG_FILE

_KEPT = ("metrics", "costs", "full_finetuning", "memory_forecast_bytes", "model", "data", "lr", "best_epoch")
# Settings of a trial that are told to the reader of the data or to the maker of the backbone, not to training.
_OF_DATA = {field.name for field in dataclasses.fields(DataSettings)} - {"path", "train_split"}
_OF_MODEL = {field.name for field in dataclasses.fields(ModelSettings)} - {"name", "weights"}
_MODULES = "init_modules"


class OnTrialEvent(Protocol):
    """A function that is told what happens in a trial."""

    def __call__(self, trial: Trial, event: Event, /) -> None:
        """Take note of an event.

        Args:
            trial: Whose event it is.
            event: What happened.
        """


def ignore_events(trial: Trial, event: Event) -> None:
    """The listener that does nothing.

    Args:
        trial: Whose event it is.
        event: What happened.
    """


class TrainTrial:
    """What a `TrialRunner` needs to train: how to open the data of a trial, and how to run it.

    `TrialRunner(root, trials.run, trials.open_data)`. The settings of a trial are those of training, of the data
    (`shots`, `val_fraction`, ...) and of the backbone (`img_size`, `pretrained`).

    Args:
        paths: Where the data sets are, by the names that trials use for them.
        workers: Processes that read images; not part of a trial, since it does not change its result.
        weights: Weight file of the backbone; what it holds must be part of the trials' protocol.
        modules: Files of pre-trained modules, by the names that trials use for them in the setting `init_modules`; a
            name must change with what its file holds.
        on_event: Is told what happens in the trials that this process runs.
    """

    KIND = "train"

    def __init__(
        self,
        paths: Mapping[str, Path],
        *,
        workers: int = 0,
        weights: Path | None = None,
        modules: Mapping[str, Path] | None = None,
        on_event: OnTrialEvent = ignore_events,
    ) -> None:
        self._paths, self._workers = dict(paths), workers
        self._modules = dict(modules or {})
        self._weights, self._on_event = weights, on_event

    def portable(self) -> TrainTrial:
        """The same for another process: paths that do not depend on the folder it works in, and no listener."""
        paths = {name: path.resolve() for name, path in self._paths.items()}
        weights = None if self._weights is None else self._weights.resolve()
        modules = {name: path.resolve() for name, path in self._modules.items()}
        return TrainTrial(paths, workers=self._workers, weights=weights, modules=modules)

    def as_order(self) -> dict[str, Any]:
        """What another process needs to run the same trials, as JSON values; `from_order` takes it."""
        paths = {name: str(path) for name, path in self._paths.items()}
        weights = None if self._weights is None else str(self._weights)
        return {"kind": self.KIND, "paths": paths, "workers": self._workers, "weights": weights}

    @classmethod
    def from_order(cls, order: Mapping[str, Any]) -> TrainTrial:
        """What `as_order` told of.

        Args:
            order: Its values; others are passed over.
        """
        paths = {name: Path(path) for name, path in order["paths"].items()}
        weights = None if order["weights"] is None else Path(order["weights"])
        return cls(paths, workers=order["workers"], weights=weights)

    def needed_paths(self) -> list[Path]:
        """What must be there to run a trial: the data, and the files of modules and weights if there are any."""
        weights = [] if self._weights is None else [self._weights]
        return [*self._paths.values(), *self._modules.values(), *weights]

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
            Metrics and costs, as `result.json` of the run has them; `train_seconds`, from the finished model to the end
            of the last epoch, features that are computed once and validation included, but of a run that was stopped
            and resumed the epochs alone; `test_correct`, a bit for each test image in hexadecimal, by which trials can
            be compared image by image.

        Raises:
            KeyboardInterrupt: If Ctrl-C ended the run; the trial stays open.
            VituneError: As `vitune.tasks.train`.
        """
        directory = folder / "run"
        source = cast(Source, data)  # a guarded source answers all that a source is asked

        clock: dict[str, float] = {}

        def listener(event: Event) -> None:
            clock[event.kind] = time.perf_counter()
            self._on_event(trial, event)

        resumed = (directory / CONFIG_FILE).is_file() and (directory / SPLIT_FILE).is_file()
        if resumed:
            result = resume(directory, source=source, on_event=listener)
        else:
            # An attempt that was killed before its run began may have left half of what a run begins with.
            shutil.rmtree(directory, ignore_errors=True)
            result = train(self._request(trial, directory), source=source, on_event=listener)
        if result.status != "finished":
            raise KeyboardInterrupt
        return {
            **{key: result.result[key] for key in _KEPT},
            "train_seconds": read_log(directory / LOG_FILE)[0].seconds
            if resumed
            else clock["epoch"] - clock["plan"],
            "test_correct": _correct(directory) if trial.stage == "final" else None,
        }

    def _request(self, trial: Trial, directory: Path) -> TrainRequest:
        own = _OF_DATA | _OF_MODEL | {_MODULES}
        settings = {name: value for name, value in trial.settings.items() if name not in own}
        training = TrainConfig.from_dict({**settings, "seed": trial.seed, "workers": self._workers})
        model = {name: value for name, value in trial.settings.items() if name in _OF_MODEL}
        return TrainRequest(
            data=self._settings(trial),
            model=ModelSettings(name=trial.model, weights=self._weights, **model),
            method=trial.methods,
            training=training,
            init_modules=self._modules_file(trial),
            out=directory,
            final_test=trial.stage == "final",
        )

    def _settings(self, trial: Trial) -> DataSettings:
        chosen = {name: value for name, value in trial.settings.items() if name in _OF_DATA}
        return DataSettings(path=self._path(trial), train_split=trial.train_split, **chosen)

    def _modules_file(self, trial: Trial) -> Path | None:
        name = trial.settings.get(_MODULES)
        if name is not None and name not in self._modules:
            known = ", ".join(sorted(self._modules)) or "none"
            raise ConfigError(f"trial {trial.id}: no modules are called '{name}'; known: {known}.")
        return None if name is None else self._modules[name]

    def _path(self, trial: Trial) -> Path:
        if trial.data not in self._paths:
            known = ", ".join(sorted(self._paths))
            raise ConfigError(f"trial {trial.id}: no data set is called '{trial.data}'; known: {known}.")
        return self._paths[trial.data]


def _correct(directory: Path) -> str:
    """Whether each test image was recognised, in the order of the list of images, eight to a byte."""
    found = read_predictions(directory / PREDICTIONS_FILE)
    return np.packbits(found.label == found.predicted).tobytes().hex()
