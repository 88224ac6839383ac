"""Evaluate a run on labelled images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from vitune.data import Pipeline, Samples, build_transform, open_samples
from vitune.data.corruptions import parts_of
from vitune.data.imagenet import in_imagenet_order
from vitune.errors import ConfigError, DataError
from vitune.measure import wilson
from vitune.tasks.request import DataSettings
from vitune.tasks.robustness import Competing, CorruptionError, Part, by_part, only, restriction
from vitune.tasks.run_directory import CONFIG_FILE, SPLIT_FILE, read_config, read_json
from vitune.tasks.skipping import SkippingMeasured, skipping_on
from vitune.tasks.trained import Trained, open_run
from vitune.training import evaluate as measuring
from vitune.training.batches import evaluation_batches, make_loader
from vitune.training.config import Device, Precision
from vitune.training.evaluate import Evaluation

_MEASURED_IMAGES = 256  # by which a model that skips tokens is measured


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
        protocol: Which of ImageNet's sets they are, where that decides how they are tested: "imagenet-a", "imagenet-r",
            "imagenet-c"; None otherwise.
        classes: How many classes competed; None is all that the run knows.
        parts: Accuracies by corruption and severity, of data in the layout of ImageNet-C.
        corruption: Errors by corruption, of such data.
        skipping: What a model that skips tokens saves, measured on some of the images; None for any other.
    """

    split: str
    class_names: tuple[str, ...]
    evaluation: Evaluation
    low: float
    high: float
    samples: Samples
    skipped: tuple[str, ...]
    protocol: str | None = None
    classes: int | None = None
    parts: tuple[Part, ...] = ()
    corruption: CorruptionError | None = None
    skipping: SkippingMeasured | None = None


def evaluate(
    run: Path,
    data: Path | DataSettings | None = None,
    *,
    split: Literal["train", "val", "test"] = "test",
    classes: Competing = "auto",
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
        classes: Which logits compete: "all", those of classes that are "present" among the images, or "auto": all but
            for ImageNet-A and -R, which are tested with their 200 classes.
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
        _refuse_training_images(run, settings)
    samples = open_samples(settings.path, trained.class_names, split=split, **settings.opening())
    pipeline = Pipeline(samples, build_transform(trained.preprocessing, train=False), seed=0, cache=False)
    accelerator = trained.accelerator
    protocol, kept = restriction(samples, classes)
    forward = trained.tuned if kept is None else only(trained.tuned, kept)
    keys = evaluation_batches(len(samples), batch_size, accelerator.process_index, accelerator.num_processes)
    loader = make_loader(pipeline, keys, workers)
    found = measuring.evaluate(trained.tuned.model, forward, loader, accelerator)
    low, high = wilson(found.correct, found.count)
    result = EvaluateResult(
        split,
        trained.class_names,
        found,
        low,
        high,
        samples,
        samples.skipped,
        protocol,
        None if kept is None else len(kept),
        skipping=_skipping(trained, samples, batch_size),
    )
    if not (settings.path.is_dir() and parts_of(settings.path)):
        return result
    parts, corruption = by_part(samples, found)
    name = "imagenet-c" if in_imagenet_order(trained.class_names) is not None else None
    return replace(result, protocol=name, parts=parts, corruption=corruption)


def _skipping(trained: Trained, samples: Samples, batch_size: int) -> SkippingMeasured | None:
    with trained.accelerator.autocast():
        return skipping_on(
            trained.tuned, samples, trained.preprocessing, most=_MEASURED_IMAGES, batch_size=batch_size
        )


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


def _refuse_training_images(run: Path, settings: DataSettings) -> None:
    """Data without splits are a test split as a whole, but not where the run was trained on them."""
    split_file = run / SPLIT_FILE
    if not split_file.is_file() or not (run / CONFIG_FILE).is_file():
        return
    own, described = read_config(run).data.path.resolve(), read_json(split_file)
    data = settings.path.resolve()
    if own == data and described["sizes"].get("test") is None:
        raise DataError(
            f"'{settings.path}' has no test split, and its images were trained on; evaluate with --split val, "
            "or on other images."
        )
    rule = described["split"]
    domain = data.name if data.parent == own else settings.test_domain if data == own else None
    if domain is not None and domain in rule.get("train_domains", ()):
        raise DataError(
            f"the run was trained on the domain '{domain}'; test on '{rule['test_domain']}' or another domain, "
            "or evaluate with --split val."
        )


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}.")
