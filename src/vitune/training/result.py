"""How a fit ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vitune.training.evaluate import Evaluation

Status = Literal["finished", "interrupted"]


@dataclass(frozen=True)
class FitResult:
    """How a fit ended.

    Attributes:
        status: "interrupted" if Ctrl-C ended it early, after a checkpoint where there is a directory for it.
        steps: Steps done.
        epochs: The "epoch" lines of the log.
        best_epoch: The epoch whose weights the model has now, from 1; None if interrupted.
        validation: The model as it is now on the validation images; None without them or if interrupted.
        protocol: How the weights were chosen.
        lr: Peak learning rate.
    """

    status: Status
    steps: int
    epochs: list[dict[str, Any]]
    best_epoch: int | None
    validation: Evaluation | None
    protocol: str
    lr: float
