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
        steps: Steps of the stage.
        warmup_steps: Steps of the warm-up; the first of them already has 1/warmup_steps of the peak.
        kind: "cosine" or "constant".
    """

    peak: float
    minimum: float
    steps: int
    warmup_steps: int
    kind: Literal["cosine", "constant"]

    def at(self, step: int) -> float:
        """Learning rate of a step.

        Args:
            step: Number of the step within the stage, from 0.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        # The last step is still above the minimum: it would be a wasted step at a minimum of zero.
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.minimum + (self.peak - self.minimum) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
