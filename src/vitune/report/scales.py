"""Axes: from values to positions, and where the ticks go."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A line of positions from `start` to `end` that stands for the values from `low` to `high`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of a value, rounded to a tenth so that the page stays small."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def nice_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round values (1, 2, 2.5 or 5 times a power of ten apart) of which the first and last enclose the data.

    Args:
        low: Smallest value.
        high: Largest value; may equal `low`.
        wanted: About how many ticks.
    """
    # Also where the extent is so small that a fraction of it is no longer a number.
    if high - low <= max(1e-6 * max(abs(low), abs(high)), 1e-300):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def whole_ticks(low: int, high: int, wanted: int = 6) -> list[int]:
    """Whole numbers within the data, for counts such as epochs and steps."""
    step = 1
    for factor in itertools.cycle((2, 2.5, 2)):  # 1, 2, 5, 10, 20, 50 ...
        if (high - low) / step <= wanted:
            break
        step = int(step * factor)
    return list(range(-(-low // step) * step, high + 1, step)) or [low]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose positive values; at least two."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def tick_labels(ticks: list[float], percent: bool = False) -> list[str]:
    """The shortest labels that tell the ticks apart."""
    if percent:
        ticks = [tick * 100 for tick in ticks]
    gap = min((b - a for a, b in itertools.pairwise(ticks)), default=1.0)
    largest = max(abs(tick) for tick in ticks)
    if largest < 1e-3 or largest >= 1e6:
        return [f"{tick:.3g}" for tick in ticks]
    digits = max(0, -math.floor(math.log10(gap) + 1e-9))
    if abs(gap * 10**digits - round(gap * 10**digits)) > 1e-6:
        digits += 1
    return [(f"{tick:.{digits}f}" if tick else "0") + (" %" if percent else "") for tick in ticks]
