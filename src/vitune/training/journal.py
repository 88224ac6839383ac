"""Where news of a run go: the log file and the listener, in the main process alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from vitune.training.config import TrainConfig
from vitune.training.data import FitData
from vitune.training.events import Event, EventKind, OnEvent
from vitune.training.log import RunLog
from vitune.training.meter import Meter


class Journal:
    """Writes lines to the log and tells the listener.

    Args:
        log: The log file; None where a run has no directory.
        on_event: The listener.
        silent: Whether to do neither, as all processes but the main one do.
    """

    def __init__(self, log: RunLog | None, on_event: OnEvent, *, silent: bool = False) -> None:
        self._log = log
        self._on_event = on_event
        self._silent = silent

    def note(self, kind: EventKind, values: Mapping[str, Any]) -> None:
        """Log a line, and tell of it.

        Args:
            kind: Kind of the line.
            values: JSON values.
        """
        if self._silent:
            return
        if self._log is not None:
            self._log.write(kind, values)
        self._on_event(Event(kind, dict(values)))

    def tell(self, kind: EventKind, values: Mapping[str, Any]) -> None:
        """Tell the listener of something that is not logged.

        Args:
            kind: What it is.
            values: JSON values.
        """
        if not self._silent:
            self._on_event(Event(kind, dict(values)))

    def offset(self) -> int:
        """Bytes of the log that are safely on the disk now, for a checkpoint to remember."""
        if self._log is None:
            return 0
        self._log.sync()
        return self._log.offset


def start_line(
    config: TrainConfig, data: FitData, accelerator: Accelerator, *, lr: float, trained: int
) -> dict[str, Any]:
    """The values of the "start" line.

    Args:
        config: Settings of the run.
        data: What it trains on and chooses by.
        accelerator: Device, precision and processes.
        lr: Peak learning rate.
        trained: Number of trained parameters.
    """
    return {
        "trained_parameters": trained,
        "epochs": config.epochs,
        "lr": lr,
        "train_images": data.train_images,
        "val_images": data.validation_images,
        "device": accelerator.device.type,
        "precision": accelerator.mixed_precision,
        "processes": accelerator.num_processes,
    }


def progress_values(meter: Meter, *, step: int, steps: int, epoch: int, epochs: int) -> dict[str, Any]:
    """The values of a "progress" event.

    Args:
        meter: The clocks of the epoch.
        step: Steps done.
        steps: Steps of the run, as far as is known.
        epoch: The epoch, from 1.
        epochs: Epochs of the run, as far as is known.
    """
    return {
        "step": step,
        "steps": steps,
        "epoch": epoch,
        "epochs": epochs,
        "images_per_second": meter.images_per_second,
        "data_wait_share": meter.data_wait_share,
        "seconds_left": meter.seconds_left(steps - step),
    }


def epoch_line(meter: Meter, *, epoch: int, step: int, lr: float, loss: float, images: int) -> dict[str, Any]:
    """The values of an "epoch" line, without an evaluation.

    Args:
        meter: The clocks of the epoch.
        epoch: The epoch, from 1.
        step: Steps done.
        lr: Learning rate of the last step.
        loss: Mean training loss of the epoch.
        images: Training images of the epoch.
    """
    return {
        "epoch": epoch,
        "step": step,
        "lr": lr,
        "train_loss": loss,
        "train_images": images,
        "val_loss": None,
        "val_accuracy": None,
        "seconds": meter.seconds,
        "images_per_second": meter.images_per_second,
        "data_wait_share": meter.data_wait_share,
    }
