"""Learning rates as functions of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Learning rate of every step of one stage: linear warm-up, then cosine or constant.

    Args:
        peak: Learning rate after the warm-up.
        minimum: Learning rate that the cosine ends at.
        steps: Steps until the end of the cosine; later ones run at the minimum.
        warmup_steps: Steps of the warm-up.
        kind: "cosine" or "constant".
        warmup_from: Learning rate of the first step of the warm-up; None is 1/warmup_steps of the peak.
        cosine_from: Where the cosine begins: after the "warmup", or at the "start", below the warm-up.
        every: Steps (of an epoch) that share a learning rate, that of the first of them.
        late: Whether such a group takes the rate of the one before it, as in codes that step an epoch's scheduler
            at its end with its own number; the first two groups then share one.
    """

    peak: float
    minimum: float
    steps: int
    warmup_steps: int
    kind: Literal["cosine", "constant"]
    warmup_from: float | None = None
    cosine_from: Literal["warmup", "start"] = "warmup"
    every: int = 1
    late: bool = False

    def at(self, step: int) -> float:
        """Learning rate of a step.

        Args:
            step: Number of the step within the stage, from 0.
        """
        step -= step % self.every
        if self.late:
            step = max(0, step - self.every)
        if step < self.warmup_steps:
            return self._warming(step)
        if self.kind == "constant":
            return self.peak
        # The last step is still above the minimum: it would be a wasted step at a minimum of zero.
        begin = self.warmup_steps if self.cosine_from == "warmup" else 0
        done = (step - begin) / max(1, self.steps - begin)
        return self.minimum + (self.peak - self.minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def _warming(self, step: int) -> float:
        if self.warmup_from is None:
            return self.peak * min(1.0, (step + self.every) / self.warmup_steps)
        return self.warmup_from + (self.peak - self.warmup_from) * step / self.warmup_steps
