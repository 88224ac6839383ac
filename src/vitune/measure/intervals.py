"""Intervals for accuracies and for means over seeds, in plain Python."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from vitune.errors import ConfigError


@dataclass(frozen=True)
class MeanInterval:
    """A mean and its two-sided t-interval.

    Attributes:
        mean: The mean of the values.
        low: Lower end; None for a single value, which says nothing about its spread.
        high: Upper end; None for a single value.
        n: Number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def wilson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share, for the accuracy of one run.

    Args:
        correct: Number of successes.
        n: Number of trials.
        level: Confidence, between 0 and 1.

    Raises:
        ConfigError: If the counts or the level are out of range.
    """
    _check_level(level)
    if n < 1 or not 0 <= correct <= n:
        raise ConfigError(f"wilson: needs 0 <= correct <= n and n >= 1, got correct={correct}, n={n}.")
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    share = correct / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the bound is exactly 0 or 1; rounding must not move it past.
    low = 0.0 if correct == 0 else centre - half
    high = 1.0 if correct == n else centre + half
    return low, high


def paired_interval(only_first: int, only_second: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of the difference of two accuracies on the same images (Bonett and Price 2012, adjusted Wald).

    Args:
        only_first: Images that only the first of the two got right.
        only_second: Images that only the second got right.
        n: All images.
        level: Confidence, between 0 and 1.

    Returns:
        The ends of the interval of (first - second).

    Raises:
        ConfigError: If the counts or the level are out of range.
    """
    _check_level(level)
    if n < 1 or only_first < 0 or only_second < 0 or only_first + only_second > n:
        raise ConfigError(
            "paired_interval: needs counts of at least 0 that together are no more than n >= 1, got "
            f"only_first={only_first}, only_second={only_second}, n={n}."
        )
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    half = z * math.sqrt((first + second - (first - second) ** 2) / (n + 2))
    return max(-1.0, first - second - half), min(1.0, first - second + half)


def mean_interval(values: Sequence[float], level: float = 0.95) -> MeanInterval:
    """The mean of a few runs and its t-interval.

    Args:
        values: One value a run; at least one.
        level: Confidence, between 0 and 1.

    Raises:
        ConfigError: If there is no value, one is not finite, or the level is out of range.
    """
    _check_level(level)
    n = len(values)
    if n == 0 or not all(math.isfinite(value) for value in values):
        raise ConfigError(f"mean_interval: needs at least one value, all finite, got {list(values)}.")
    mean = statistics.fmean(values)
    if n == 1:
        return MeanInterval(mean, None, None, 1)
    half = t_quantile(0.5 + level / 2, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return MeanInterval(mean, mean - half, mean + half, n)


def t_quantile(probability: float, degrees: int) -> float:
    """The quantile of Student's t distribution, to about 12 digits.

    Args:
        probability: Between 0 and 1.
        degrees: Degrees of freedom, at least 1.

    Raises:
        ConfigError: If an argument is out of range.
    """
    if not 0 < probability < 1 or degrees < 1:
        raise ConfigError(
            f"t_quantile: needs 0 < probability < 1 and degrees >= 1, got {probability} and {degrees}."
        )
    if probability < 0.5:
        return -t_quantile(1 - probability, degrees)
    low, high = 0.0, 1.0
    while _t_cdf(high, degrees) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _t_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _t_cdf(t: float, degrees: int) -> float:
    """P(T <= t) for t >= 0, by the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4."""
    theta = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(theta)
    if degrees % 2:
        term, total = cosine, 0.0
        for k in range(1, degrees - 1, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        inside = 2 / math.pi * (theta + math.sin(theta) * total)
    else:
        term, total = 1.0, 0.0
        for k in range(0, degrees - 1, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        inside = math.sin(theta) * total
    return (1 + inside) / 2


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, got {level}; use 0.95 for a 95 % interval.")
