"""What a suite says about methods: weighted means over its tasks, paired differences, ranks, what can be told apart.

A mean over tasks is a weighted sum of accuracies, computed seed by seed, so its interval is Student's over the seeds:
it speaks of these tasks. Where seeds cannot tell (one seed, or equal ones) the test images take their place: the
intervals of the tasks, which are independent, are put together by recovering their variances (Zou and Donner 2008,
doi:10.1002/sim.3095). How far a difference carries over to other tasks is said apart, by its interval over the tasks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitune.bench.summary import (
    Estimate,
    Score,
    accuracy_estimate,
    mean_ranks,
    paired_difference,
    separable_best,
)
from vitune.measure.intervals import mean_interval

OVER_TASKS, OF_GROUPS = "mean over tasks", "mean of groups"
Scores = Mapping[str, Mapping[int, Score]]
"""Method to seed to score."""


@dataclass(frozen=True)
class MeasuredRow:
    """What one task, or one further test set of it, says.

    Attributes:
        name: Of the task or the set.
        group: Its group; empty for none.
        task: The task whose runs were tested.
        scores: By method and seed.
        extra: By method, what else was measured; for instance the mean corruption error `mce`.
    """

    name: str
    group: str
    task: str
    scores: Scores
    extra: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class RowSummary:
    """One row of the table of tasks.

    Attributes:
        row: What was measured.
        accuracy: By method; None where no seed finished.
        difference: To the baseline, by method; None for the baseline itself.
        rank: By method.
        best: The method that can be told from the runner-up, if any.
    """

    row: MeasuredRow
    accuracy: Mapping[str, Estimate | None]
    difference: Mapping[str, Estimate | None]
    rank: Mapping[str, float]
    best: str | None


@dataclass(frozen=True)
class MeanSummary:
    """A mean over several rows.

    Attributes:
        name: What it is over.
        weights: Of each row, by name; they sum to 1.
        accuracy: By method; None where a row is missing.
        difference: To the baseline, by method.
        best: The method that can be told from the runner-up, if any.
    """

    name: str
    weights: Mapping[str, float]
    accuracy: Mapping[str, Estimate | None]
    difference: Mapping[str, Estimate | None]
    best: str | None


@dataclass(frozen=True)
class OverTasks:
    """How a method stands beside the baseline from task to task.

    Attributes:
        above: Tasks where the difference is above 0 by its interval.
        below: Tasks where it is below 0.
        open: Tasks where it can be either.
        interval: Mean difference over the tasks and its interval over them; None for fewer than two.
    """

    above: int
    below: int
    open: int
    interval: tuple[float, float, float] | None


@dataclass(frozen=True)
class SuiteSummary:
    """All that is said of a suite.

    Attributes:
        methods: In the order in which they were asked for.
        baseline: The method that the others are compared with.
        rows: The tasks and further test sets.
        means: Over the tasks, of the groups, and of each group.
        rank: Mean over the rows of each method's rank; None for a method that lacks a row.
        beside: By method, how it stands beside the baseline from task to task; None for the baseline itself.
        costs: By method, mean over the tasks of every cost.
    """

    methods: tuple[str, ...]
    baseline: str
    rows: tuple[RowSummary, ...]
    means: tuple[MeanSummary, ...]
    rank: Mapping[str, float | None]
    beside: Mapping[str, OverTasks | None]
    costs: Mapping[str, Mapping[str, float]]


def summarise_suite(
    methods: Sequence[str],
    baseline: str,
    rows: Sequence[MeasuredRow],
    costs: Mapping[str, Sequence[Mapping[str, float]]],
) -> SuiteSummary:
    """Put the tasks of a suite together.

    Args:
        methods: In the order of the tables.
        baseline: The method that the others are compared with.
        rows: What was measured, in the order of the suite.
        costs: By method, the costs of each task.
    """
    summaries = tuple(_row(row, methods, baseline) for row in rows)
    means = tuple(_mean(name, weights, rows, methods, baseline) for name, weights in mean_weights(rows))
    return SuiteSummary(
        methods=tuple(methods),
        baseline=baseline,
        rows=summaries,
        means=means,
        rank={method: _rank(method, summaries) for method in methods},
        beside={method: None if method == baseline else _over_tasks(method, summaries) for method in methods},
        costs={method: _mean_costs(costs.get(method, ())) for method in methods},
    )


def mean_weights(rows: Sequence[MeasuredRow]) -> list[tuple[str, dict[str, float]]]:
    """The means of a suite as weights of its rows: over the tasks, of the groups, and of each group.

    Args:
        rows: The rows; groups count where there are two or more and every row has one.
    """
    found = [(OVER_TASKS, {row.name: 1 / len(rows) for row in rows})]
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row.name)
    if len(groups) > 1 and "" not in groups:
        weights = {name: 1 / len(groups) / len(names) for names in groups.values() for name in names}
        found.append((OF_GROUPS, weights))
        found += [(group, {name: 1 / len(names) for name in names}) for group, names in groups.items()]
    return found


def _row(row: MeasuredRow, methods: Sequence[str], baseline: str) -> RowSummary:
    scores = {method: row.scores.get(method, {}) for method in methods}
    return RowSummary(
        row=row,
        accuracy={method: accuracy_estimate(scores[method]) for method in methods},
        difference={
            method: None if method == baseline else paired_difference(scores[method], scores[baseline])
            for method in methods
        },
        rank=mean_ranks(scores),
        best=separable_best(scores),
    )


def _mean(
    name: str,
    weights: Mapping[str, float],
    rows: Sequence[MeasuredRow],
    methods: Sequence[str],
    baseline: str,
) -> MeanSummary:
    inside = [(weights[row.name], row.scores) for row in rows if row.name in weights]

    def accuracy(method: str) -> Estimate | None:
        return _weighted(
            [(weight, scores.get(method, {})) for weight, scores in inside],
            lambda score: score.accuracy,
            accuracy_estimate,
        )

    def difference(first: str, second: str) -> Estimate | None:
        return _weighted(
            [(weight, _pairs(scores.get(first, {}), scores.get(second, {}))) for weight, scores in inside],
            lambda pair: pair[0].accuracy - pair[1].accuracy,
            lambda pairs: paired_difference(
                {seed: pair[0] for seed, pair in pairs.items()},
                {seed: pair[1] for seed, pair in pairs.items()},
            ),
        )

    found = {method: accuracy(method) for method in methods}
    ranked = sorted(
        ((estimate.mean, method) for method, estimate in found.items() if estimate is not None), reverse=True
    )
    best = None
    if len(ranked) > 1:
        lead = difference(ranked[0][1], ranked[1][1])
        best = ranked[0][1] if lead is not None and lead.low is not None and lead.low > 0 else None
    beside = {method: None if method == baseline else difference(method, baseline) for method in methods}
    return MeanSummary(name, dict(weights), found, beside, best)


def _pairs(first: Mapping[int, Score], second: Mapping[int, Score]) -> dict[int, tuple[Score, Score]]:
    return {seed: (score, second[seed]) for seed, score in first.items() if seed in second}


def _weighted(
    parts: Sequence[tuple[float, Mapping[int, Any]]],
    value: Callable[[Any], float],
    over_images: Callable[[Mapping[int, Any]], Estimate | None],
) -> Estimate | None:
    """A weighted sum over tasks with its interval, over the seeds if they tell, else over the images."""
    if not parts or not all(of_seed for _, of_seed in parts):
        return None
    seeds = sorted(set.intersection(*(set(of_seed) for _, of_seed in parts)))
    if not seeds:
        return None
    sums = [math.fsum(weight * value(of_seed[seed]) for weight, of_seed in parts) for seed in seeds]
    mean = statistics.fmean(sums)
    if len(seeds) > 1 and max(sums) - min(sums) > 1e-12:
        interval = mean_interval(sums)
        return Estimate(mean, interval.low, interval.high, "seeds", len(seeds))
    first = seeds[0]
    single = [(weight, over_images({first: of_seed[first]})) for weight, of_seed in parts]
    down, up = 0.0, 0.0
    for weight, estimate in single:
        if estimate is None or estimate.low is None or estimate.high is None:
            return Estimate(mean, None, None, None, len(seeds))
        down += (weight * (estimate.mean - estimate.low)) ** 2
        up += (weight * (estimate.high - estimate.mean)) ** 2
    return Estimate(mean, mean - math.sqrt(down), mean + math.sqrt(up), "images", len(seeds))


def _rank(method: str, rows: Sequence[RowSummary]) -> float | None:
    ranks = [row.rank.get(method) for row in rows]
    known = [rank for rank in ranks if rank is not None]
    return statistics.fmean(known) if known and len(known) == len(ranks) else None


def _over_tasks(method: str, rows: Sequence[RowSummary]) -> OverTasks:
    found = [d for row in rows if (d := row.difference[method]) is not None]
    above = sum(d.low is not None and d.low > 0 for d in found)
    below = sum(d.high is not None and d.high < 0 for d in found)
    interval = None
    if len(found) > 1:
        over = mean_interval([d.mean for d in found])
        assert over.low is not None  # two values or more
        assert over.high is not None
        interval = (over.mean, over.low, over.high)
    return OverTasks(above, below, len(found) - above - below, interval)


def _mean_costs(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for of_task in costs for name in of_task)
    return {
        name: statistics.fmean(values)
        for name in names
        if len(values := [of_task[name] for of_task in costs if name in of_task]) == len(costs)
    }
