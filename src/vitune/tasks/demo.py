"""The demo: four methods side by side on real digits, on the built-in backbone, within three minutes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from vitune import backbones
from vitune.data.digits import TRAIN, write_digits
from vitune.methods import SSF
from vitune.report import write_report
from vitune.tasks.request import DataSettings, TrainRequest
from vitune.tasks.run_directory import check_free
from vitune.tasks.train import train
from vitune.training import TrainConfig
from vitune.training.events import Event
from vitune.tuned import apply

METHODS = ("linear", "ssf", "lora", "full")
EPOCHS, BATCH_SIZE, CLASSES = 6, 16, 10
# Of the three minutes, what the training steps and evaluations of ssf, lora and full may take together.
BUDGET_SECONDS = 130.0
# Forward passes of an epoch's validation (200 images) and of the final tests, counted in training images.
_EVALUATION_SHARE = 0.2
_TEST_IMAGES = 500
_PROBE_STEPS, _PROBE_SECONDS = 5, 3.0


class OnRunEvent(Protocol):
    """A function that is told which method an event belongs to."""

    def __call__(self, method: str, event: Event, /) -> None:
        """Take note of an event.

        Args:
            method: The method that is being trained.
            event: What happened.
        """


@dataclass(frozen=True)
class DemoRun:
    """One of the runs.

    Attributes:
        result: What its `result.json` holds.
        seconds: From the request to the report, all included.
    """

    result: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        runs: One for each of `METHODS`.
        data: The image folder.
        report: The page that compares the runs.
    """

    runs: tuple[DemoRun, ...]
    data: Path
    report: Path


def fitting_epochs(seconds_per_image: float) -> int:
    """How many epochs fit into the time of the demo, from 1 to 6.

    Args:
        seconds_per_image: Of a step of the slowest method on this machine.
    """
    tuned_methods = len(METHODS) - 1  # a linear probe on cached features takes next to nothing
    of_tests = tuned_methods * _TEST_IMAGES * seconds_per_image
    of_epoch = tuned_methods * TRAIN * (1 + _EVALUATION_SHARE) * seconds_per_image
    return max(1, min(EPOCHS, int((BUDGET_SECONDS - of_tests) / of_epoch)))


def seconds_per_training_image() -> float:
    """Seconds that a step of SSF, the slowest of the methods, takes per image: the fastest of a few steps."""
    tuned = apply(backbones.create(None, num_classes=CLASSES), SSF(), check=False)
    images = torch.zeros(BATCH_SIZE, *backbones.read_card().input["size"])
    labels = torch.zeros(BATCH_SIZE, dtype=torch.long)
    times: list[float] = []
    while len(times) < _PROBE_STEPS and sum(times) < _PROBE_SECONDS:
        start = time.perf_counter()
        F.cross_entropy(tuned(images), labels).backward()
        times.append(time.perf_counter() - start)
    return min(times) / BATCH_SIZE


def run_demo(out: Path, *, seed: int, epochs: int, on_event: OnRunEvent) -> DemoResult:
    """Train the four methods one after the other and compare them on one page.

    Args:
        out: Folder for the data, the runs and the page.
        seed: Of the split and of training.
        epochs: Passes over the 400 training images.
        on_event: Is told what happens.

    Raises:
        RunError: If the folder is taken or cannot be written.
        ConfigError: If scikit-learn is not installed, or a setting is out of range.
        KeyboardInterrupt: If Ctrl-C ended it.
    """
    requests = [_request(out, method, seed, epochs) for method in METHODS]
    check_free(out)
    write_digits(out / "digits", seed)
    runs = []
    for request in requests:
        start = time.perf_counter()
        outcome = train(request, on_event=lambda event, name=request.method: on_event(name, event))
        if outcome.status == "interrupted":
            raise KeyboardInterrupt
        runs.append(DemoRun(outcome.result, time.perf_counter() - start))
    folders = [out / method for method in METHODS]
    report = write_report(folders, out / "report.html", title="vitune demo: handwritten digits")
    return DemoResult(tuple(runs), out / "digits", report)


def _request(out: Path, method: str, seed: int, epochs: int) -> TrainRequest:
    training = TrainConfig(
        epochs=epochs,
        batch_size=BATCH_SIZE,
        warmup_epochs=min(1.0, epochs / 2),
        augment="none",  # a mirrored digit is another sign; and the linear probe's features can be cached
        seed=seed,
        workers=0,
        checkpoint_minutes=None,
    )
    data = DataSettings(path=out / "digits")
    command = (
        f"vitune train {data.path} --method {method} --epochs {epochs} --batch-size {BATCH_SIZE} "
        f"--seed {seed} --final-test --workers 0 --set augment=none --set warmup_epochs={training.warmup_epochs:g}"
    )
    return TrainRequest(
        data=data, method=method, training=training, out=out / method, final_test=True, command=command
    )
