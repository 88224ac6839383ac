"""What one finished run has to tell, as plain data; a number that is None was not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitune.report.fields import Fields


@dataclass(frozen=True)
class Metric:
    """Accuracy on one split, as shares between 0 and 1, with the bounds of its interval."""

    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    loss: float | None = None
    interval: str | None = None


@dataclass(frozen=True)
class Costs:
    """What a method needs; bytes, seconds per step or image, and floating point operations per image."""

    trained_parameters: int | None = None
    head_parameters: int | None = None
    total_parameters: int | None = None
    adapter_bytes: int | None = None
    saved_activation_bytes: int | None = None
    flops_per_image: float | None = None
    step_seconds: float | None = None
    inference_seconds: float | None = None


@dataclass(frozen=True)
class EditLine:
    """One edit: the role it was made at, its name, and how many parameters it trains."""

    role: str
    edit: str
    parameters: int


@dataclass(frozen=True)
class Epoch:
    """One epoch line of the log."""

    epoch: int
    step: int | None = None
    lr: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Step:
    """One step line of the log; `values` is the whole line, with what policies said."""

    step: int
    loss: float | None = None
    lr: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """The lines of a run's log that the report draws."""

    epochs: tuple[Epoch, ...] = ()
    steps: tuple[Step, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Predictions:
    """One row per image of a split.

    Attributes:
        label: True classes, (n,).
        predicted: Predicted classes, (n,).
        confidence: Probability of the predicted class, (n,), or None.
        name: File names, or None.
        split: Which split was predicted.
        thumbnails: Row in the arrays above -> picture (height, width, 3) of uint8.
    """

    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray | None
    name: tuple[str, ...] | None
    split: str
    thumbnails: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownImage:
    """One of the images that pictures are drawn on, as the model saw it."""

    name: str | None
    label: int
    predicted: int | None
    data_uri: str


@dataclass(frozen=True)
class PicturesFile:
    """What pictures.json holds.

    Attributes:
        split: Which split the images are from.
        images: The images.
        entries: Kind of picture and its values.
    """

    split: str
    images: tuple[ShownImage, ...]
    entries: tuple[tuple[str, Fields], ...]

    def values_of(self, kind: str) -> tuple[Fields, ...]:
        """The values of all pictures of a kind."""
        return tuple(values for name, values in self.entries if name == kind)


@dataclass(frozen=True)
class RunRecord:
    """A run directory, read.

    Attributes:
        directory: Where it was read from.
        name: The run's name, by default that of its directory.
        method: The methods in the spelling of the command line.
        methods: Method names with their settings.
        model: Name, family and input size of the backbone.
        data: Path, kind and sizes of the data.
        protocol: How the reported model was chosen.
        lr: The learning rate that was used, given or by default.
        metrics: Split name -> metric, only for splits that were evaluated.
        costs: Costs of this run.
        full_finetuning: Costs of training everything, for comparison.
        memory_forecast_bytes: Part of the training memory -> bytes.
        edits: What was tuned where.
        blocks: Number of transformer blocks.
        best_epoch: The epoch that was kept.
        seed: Seed of the run.
        command: Command line that made the run.
        environment: Versions and machine.
        config: The resolved settings, or None where config.json is missing.
        log: Curves and warnings, or None where log.jsonl is missing.
        predictions: Predictions of one split, or None where predictions.npz is missing.
        skipping: What a model that skips tokens saves, or None where it does not skip.
        pictures: What methods show of a few images, or None where they show nothing.
        class_names: Names of the classes, in the order of their numbers; empty where unknown.
        notes: Sentences about files that are missing or cut short.
    """

    directory: Path
    name: str
    method: str
    methods: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    protocol: str | None = None
    lr: float | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    full_finetuning: Costs = field(default_factory=Costs)
    memory_forecast_bytes: Mapping[str, int | None] = field(default_factory=dict)
    edits: tuple[EditLine, ...] = ()
    blocks: int | None = None
    best_epoch: int | None = None
    seed: int | None = None
    command: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    log: Log | None = None
    predictions: Predictions | None = None
    skipping: Mapping[str, Any] | None = None
    pictures: PicturesFile | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def class_name(self, index: int) -> str:
        """The name of a class, or its number where the run holds no name for it."""
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def headline(self) -> tuple[str, Metric] | None:
        """The split and metric to show first: test where it was opened, else validation; None if neither."""
        for split in ("test", "val", *self.metrics):
            if split in self.metrics:
                return split, self.metrics[split]
        return None
