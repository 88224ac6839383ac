"""Evaluate a run on labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitune.data import Pipeline, Samples, build_transform, open_samples
from vitune.errors import ConfigError, DataError
from vitune.measure import wilson
from vitune.tasks.request import DataSettings
from vitune.tasks.run_directory import CONFIG_FILE, SPLIT_FILE, read_config, read_json
from vitune.tasks.trained import open_run
from vitune.training import evaluate as measuring
from vitune.training.batches import evaluation_batches, make_loader
from vitune.training.config import Device, Precision
from vitune.training.evaluate import Evaluation


@dataclass(frozen=True)
class EvaluateResult:
    """How good a run is on a split.

    Attributes:
        split: The split.
        class_names: Names of the classes.
        evaluation: Predictions, accuracy, loss and confusion.
        low: Lower end of the accuracy's 95 % interval (Wilson).
        high: Upper end.
        samples: The images.
        skipped: Names of images that could not be read and are not counted.
    """

    split: str
    class_names: tuple[str, ...]
    evaluation: Evaluation
    low: float
    high: float
    samples: Samples
    skipped: tuple[str, ...]


def evaluate(
    run: Path,
    data: Path | DataSettings | None = None,
    *,
    split: Literal["train", "val", "test"] = "test",
    weights: Path | None = None,
    batch_size: int = 64,
    workers: int = 2,
    device: Device = "auto",
    precision: Precision = "fp32",
) -> EvaluateResult:
    """Evaluate a run.

    Args:
        run: The run directory.
        data: The data, split as the run's data are; None is the data of the run itself.
        split: Which split of them.
        weights: File with the backbone's weights, if they are no longer where they were.
        batch_size: Images at a time.
        workers: Processes that read images.
        device: Where to compute.
        precision: In which precision.

    Raises:
        ConfigError: If a setting is out of range.
        DataError: If the data cannot be read, have no such split, or a class that the run does not know, or if the
            "test" images are those the run was trained on.
        AdapterError: If the adapter cannot be loaded.
    """
    _check_at_least(1, batch_size=batch_size)
    _check_at_least(0, workers=workers)
    trained = open_run(run, weights=weights, device=device, precision=precision)
    settings = _data_settings(run, data)
    if split == "test":
        _refuse_training_images(run, settings.path)
    samples = open_samples(settings.path, trained.class_names, split=split, **settings.opening())
    pipeline = Pipeline(samples, build_transform(trained.preprocessing, train=False), seed=0, cache=False)
    accelerator = trained.accelerator
    keys = evaluation_batches(len(samples), batch_size, accelerator.process_index, accelerator.num_processes)
    loader = make_loader(pipeline, keys, workers)
    found = measuring.evaluate(trained.tuned.model, trained.tuned, loader, accelerator)
    low, high = wilson(found.correct, found.count)
    return EvaluateResult(split, trained.class_names, found, low, high, samples, samples.skipped)


def _data_settings(run: Path, data: Path | DataSettings | None) -> DataSettings:
    """The data to evaluate on; how they are split is as in the run, where that is known."""
    if isinstance(data, DataSettings):
        return data
    own = read_config(run).data if (run / CONFIG_FILE).is_file() else None
    if data is None:
        if own is None:
            raise ConfigError(
                f"'{run}' does not say what data it was trained on; name the data to evaluate on."
            )
        return own
    if own is not None and own.path.resolve() == data.resolve():
        return own
    return DataSettings(path=data)


def _refuse_training_images(run: Path, data: Path) -> None:
    """Data without splits are a test split as a whole, but not where the run was trained on them."""
    split_file = run / SPLIT_FILE
    if not split_file.is_file() or not (run / CONFIG_FILE).is_file():
        return
    own = read_config(run).data.path
    if own.resolve() == data.resolve() and read_json(split_file)["sizes"].get("test") is None:
        raise DataError(
            f"'{data}' has no test split, and its images were trained on; evaluate with --split val, "
            "or on other images."
        )


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}.")
