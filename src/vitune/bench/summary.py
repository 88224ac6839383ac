"""What several seeds say about methods: means with intervals, paired differences, ranks, and which one is best.

Differences are paired: seed by seed, on the same splits. An interval is Student's over the seeds. One seed, or seeds
that all give the same number, say nothing about their spread; there the test images take their place: Wilson's interval
for an accuracy, and an interval of paired shares for a difference.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vitune.bench.protocol import CaseResult
from vitune.measure.intervals import mean_interval, paired_interval


@dataclass(frozen=True)
class Estimate:
    """A mean, as a share from -1 to 1, with its 95 % interval.

    Attributes:
        mean: Mean over the seeds.
        low: Lower end; None where nothing tells it.
        high: Upper end.
        over: What the interval is over: "seeds", or "images" where seeds cannot tell.
        seeds: Number of seeds.
    """

    mean: float
    low: float | None
    high: float | None
    over: Literal["seeds", "images"] | None
    seeds: int


@dataclass(frozen=True)
class MethodSummary:
    """One method of a comparison.

    Attributes:
        result: What the protocol found.
        accuracy: Test accuracy; None if no seed finished.
        difference: To the baseline, on the seeds that both finished; None for the baseline itself.
        rank: Mean over the seeds of the place by accuracy, 1 the highest, equals sharing the mean of their places.
        best: Whether its mean is the highest and its paired difference to the runner-up is above 0 by its interval.
        costs: Mean over the seeds of every number among the costs; `peak_bytes` is the forecast of a training step.
    """

    result: CaseResult
    accuracy: Estimate | None
    difference: Estimate | None
    rank: float | None
    best: bool
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Score:
    """The test accuracy of one seed.

    Attributes:
        accuracy: Share of the test images.
        low: Lower end of its 95 % interval over the images (Wilson); None where unknown.
        high: Upper end.
        n: Number of test images.
        correct: A bit for each test image, in hexadecimal.
    """

    accuracy: float
    low: float | None
    high: float | None
    n: int | None
    correct: str | None


def summarise(results: Sequence[CaseResult], baseline: str) -> tuple[MethodSummary, ...]:
    """Compare the methods of one data set and backbone.

    Args:
        results: One per method.
        baseline: The method that the others are compared with, as its case spells it.
    """
    scores = {result.case.methods: final_scores(result) for result in results}
    ranks = mean_ranks(scores)
    best = separable_best(scores)
    return tuple(
        MethodSummary(
            result=result,
            accuracy=accuracy_estimate(scores[result.case.methods]),
            difference=None
            if result.case.methods == baseline
            else paired_difference(scores[result.case.methods], scores.get(baseline, {})),
            rank=ranks.get(result.case.methods),
            best=result.case.methods == best,
            costs=mean_costs([outcome.result for outcome in result.final if outcome.result]),
        )
        for result in results
    )


def final_scores(result: CaseResult) -> dict[int, Score]:
    """The final trials that finished, by seed.

    Args:
        result: What the protocol found for a method.
    """
    found = {}
    for outcome in result.final:
        if outcome.result is None:
            continue
        found[outcome.trial.seed] = score_of(outcome.result)
    return found


def score_of(result: Mapping[str, Any]) -> Score:
    """The test accuracy in the result of a final trial.

    Args:
        result: The content of its JSON file.
    """
    test = result["metrics"]["test"]
    return Score(
        test["accuracy"], test.get("low"), test.get("high"), test.get("n"), result.get("test_correct")
    )


def accuracy_estimate(scores: Mapping[int, Score]) -> Estimate | None:
    """Mean test accuracy with its interval; None without any seed.

    Args:
        scores: By seed.
    """
    if not scores:
        return None
    values = [score.accuracy for score in scores.values()]
    if len(set(values)) > 1:
        over_seeds = mean_interval(values)
        ends = (over_seeds.low, over_seeds.high)
        # A few seeds give a wide interval, which may reach where no accuracy can be.
        low, high = (None if end is None else min(1.0, max(0.0, end)) for end in ends)
        return Estimate(over_seeds.mean, low, high, "seeds", len(values))
    first = next(iter(scores.values()))
    known = first.low is not None and first.high is not None
    return Estimate(values[0], first.low, first.high, "images" if known else None, len(values))


def paired_difference(first: Mapping[int, Score], second: Mapping[int, Score]) -> Estimate | None:
    """First minus second, on the seeds that both have; None where there is none.

    Args:
        first: By seed.
        second: By seed.
    """
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    values = [first[seed].accuracy - second[seed].accuracy for seed in seeds]
    if len(seeds) > 1 and max(values) - min(values) > 1e-12:
        over_seeds = mean_interval(values)
        return Estimate(over_seeds.mean, over_seeds.low, over_seeds.high, "seeds", len(seeds))
    ends = image_interval(first[seeds[0]], second[seeds[0]])
    low, high = ends or (None, None)
    return Estimate(values[0], low, high, "images" if ends else None, len(seeds))


def image_interval(first: Score, second: Score) -> tuple[float, float] | None:
    """Interval of (first - second) paired by image; None where the images are not known to be the same.

    Args:
        first: One seed of a method.
        second: One seed of another.
    """
    if first.correct is None or second.correct is None or not first.n or first.n != second.n:
        return None
    one, other = int(first.correct or "0", 16), int(second.correct or "0", 16)
    return paired_interval((one & ~other).bit_count(), (other & ~one).bit_count(), first.n)


def mean_ranks(scores: Mapping[str, Mapping[int, Score]]) -> dict[str, float]:
    """Mean places over the seeds that every method with a result has.

    Args:
        scores: By method and seed.
    """
    running = {method: of_seed for method, of_seed in scores.items() if of_seed}
    if not running:
        return {}
    common = set.intersection(*(set(of_seed) for of_seed in running.values()))
    places: dict[str, list[float]] = {method: [] for method in running}
    for seed in common:
        values = [of_seed[seed].accuracy for of_seed in running.values()]
        for method, of_seed in running.items():
            own = of_seed[seed].accuracy
            higher, equal = sum(v > own for v in values), sum(v == own for v in values)
            places[method].append(higher + (equal + 1) / 2)
    return {method: statistics.fmean(found) for method, found in places.items() if found}


def separable_best(scores: Mapping[str, Mapping[int, Score]]) -> str | None:
    """The method of the highest mean, if it can be told from the one of the second highest.

    Args:
        scores: By method and seed.
    """
    means = {
        method: statistics.fmean(score.accuracy for score in of_seed.values())
        for method, of_seed in scores.items()
        if of_seed
    }
    if len(means) < 2:
        return None
    first, second = sorted(means, key=lambda method: -means[method])[:2]
    lead = paired_difference(scores[first], scores[second])
    return first if lead is not None and lead.low is not None and lead.low > 0 else None


def mean_costs(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean over the seeds of every number among the costs.

    Args:
        results: The contents of JSON files of final trials.
    """
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in _cost_values(result).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, []).append(value)
    # Counts are the same for every seed and stay whole numbers.
    return {name: of[0] if len(set(of)) == 1 else statistics.fmean(of) for name, of in values.items()}


def _cost_values(result: Mapping[str, Any]) -> dict[str, Any]:
    parts = (result.get("memory_forecast_bytes") or {}).values()
    known = [part for part in parts if part is not None]
    peak = {"peak_bytes": sum(known)} if known else {}
    return {**(result.get("costs") or {}), **peak, "train_seconds": result.get("train_seconds")}
