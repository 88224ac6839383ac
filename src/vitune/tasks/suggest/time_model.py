"""The time of a step from its counts: a price for arithmetic, memory traffic and operations, fitted to timed steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitune.measure import Work

# What AdamW does for every trained tensor and byte: about ten passes of an operation over weights and moments.
_OPTIMIZER_OPERATIONS, _OPTIMIZER_TRAFFIC = 10, 24


@dataclass(frozen=True)
class Load:
    """What a step's time is forecast from.

    Attributes:
        work: Forward and backward.
        recomputing: Whether operations pass a memory level, which costs some Python each.
        trained_bytes: Of the parameters that the optimizer steps.
        trained_tensors: How many these are.
    """

    work: Work
    recomputing: bool = False
    trained_bytes: int = 0
    trained_tensors: int = 0

    def features(self) -> tuple[float, ...]:
        """Arithmetic in TFLOPs, traffic in GB, operations in thousands, those under a memory level in thousands."""
        operations = self.work.operations + _OPTIMIZER_OPERATIONS * self.trained_tensors
        traffic = self.work.traffic_bytes + _OPTIMIZER_TRAFFIC * self.trained_bytes
        inside = self.work.operations if self.recomputing else 0
        return (self.work.flops / 1e12, traffic / 1e9, operations / 1e3, inside / 1e3)


@dataclass(frozen=True)
class TimeModel:
    """Prices of the features of a load.

    Attributes:
        prices: Seconds for one unit of each.
        worst: Largest relative deviation from a timed step that it was fitted to.
    """

    prices: tuple[float, ...]
    worst: float

    def seconds(self, load: Load) -> float:
        """Forecast of a step."""
        return float(np.dot(load.features(), self.prices))


def fit_time(timed: Sequence[tuple[Load, float]]) -> TimeModel:
    """Find prices, none below zero, with the least squared relative deviation from timed steps.

    Args:
        timed: Loads and the seconds that they took; at least one.
    """
    rows = np.array([load.features() for load, _ in timed])
    seconds = np.array([taken for _, taken in timed])
    relative = rows / seconds[:, None]
    best, least = np.zeros(rows.shape[1]), np.inf
    for size in range(1, min(rows.shape[1], len(timed)) + 1):
        for chosen in itertools.combinations(range(rows.shape[1]), size):
            found = np.linalg.lstsq(relative[:, chosen], np.ones(len(timed)), rcond=None)[0]
            if (found < 0).any():
                continue
            left = float(((relative[:, chosen] @ found - 1) ** 2).sum())
            # One more price must earn its keep: fitted to as many steps as prices, it would explain noise.
            if left < 0.9 * least:
                best, least = np.zeros(rows.shape[1]), left
                best[list(chosen)] = found
    return TimeModel(tuple(best.tolist()), float(np.abs(rows @ best / seconds - 1).max()))
