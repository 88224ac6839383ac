"""What `suggest` answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vitune.tasks.suggest.evidence import Standing


@dataclass(frozen=True)
class Costs:
    """Forecast costs of one method. Bytes are bytes, times seconds.

    Attributes:
        memory: Memory level of training.
        accumulate: Parts that a batch is cut into.
        step_bytes: The most that a training step holds, the framework itself not counted.
        step_seconds: Of a step of the whole batch.
        train_seconds: Of the whole training, reading of images and validation included.
        trained_parameters: The head's included.
        adapter_bytes: Of the file, without names.
        inference_overhead: How much longer a prediction takes than with the plain backbone: 0.1 is 10 %; 0 where the
            method merges.
        timed: Whether steps of this method were timed; else its time comes of the cost model.
    """

    memory: str
    accumulate: int
    step_bytes: int
    step_seconds: float
    train_seconds: float
    trained_parameters: int
    adapter_bytes: int
    inference_overhead: float
    timed: bool


@dataclass(frozen=True)
class Ranked:
    """A method that fits.

    Attributes:
        rank: From 1.
        method: As the command line writes it.
        costs: What it costs.
        standing: What is known of its accuracy.
        lr: Learning rate of the command.
        lr_from: Where that rate comes from.
        reason: Why it stands there.
        command: What to run.
    """

    rank: int
    method: str
    costs: Costs
    standing: Standing
    lr: float
    lr_from: str
    reason: str
    command: str


@dataclass(frozen=True)
class Excluded:
    """A method that breaks a limit.

    Attributes:
        method: As the command line writes it.
        costs: What it costs.
        breaks: Which limits, each with the forecast beside it.
        nearest: The nearest setting that fits, in words; None where none was found.
        command: What to run for that.
    """

    method: str
    costs: Costs
    breaks: tuple[str, ...]
    nearest: str | None
    command: str | None


@dataclass(frozen=True)
class Suggestion:
    """The answer.

    Attributes:
        data: Path, and images and classes of the data.
        model: Name of the backbone.
        ranked: What fits, best first.
        excluded: What does not.
        unsuited: Methods that cannot work on this backbone, and why.
        sure: How sure the forecasts are, and what they rest on.
        not_measured: What nobody measured.
        environment: Machine and versions.
    """

    data: dict[str, Any]
    model: str
    ranked: tuple[Ranked, ...]
    excluded: tuple[Excluded, ...]
    unsuited: dict[str, str]
    sure: tuple[str, ...]
    not_measured: tuple[str, ...]
    environment: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)
