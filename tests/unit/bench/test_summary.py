from pathlib import Path
from typing import Any

import pytest

from vitune.bench import Case, CaseResult, Trial, TrialOutcome
from vitune.bench.summary import MethodSummary, summarise
from vitune.measure import mean_interval, wilson

N = 80


def bits(right: int, shift: int = 0) -> str:
    """So many of 80 images right, from a place on."""
    return f"{((1 << right) - 1) << shift:020x}"


def result(method: str, right: dict[int, int | None], shift: int = 0, **costs: Any) -> CaseResult:
    """Seed to number of images that were right; None is a trial that failed."""
    outcomes = []
    for seed, count in right.items():
        trial = Trial(data="d", model="m", methods=method, seed=seed, protocol="p", stage="final")
        if count is None:
            outcomes.append(TrialOutcome(trial, Path("error.json"), None, {"type": "E", "message": "bad"}))
            continue
        low, high = wilson(count, N)
        test = {"accuracy": count / N, "low": low, "high": high, "n": N}
        found = {"metrics": {"test": test}, "test_correct": bits(count, shift), "costs": costs}
        outcomes.append(TrialOutcome(trial, Path("result.json"), found, None))
    case = Case(data="d", model="m", methods=method)
    return CaseResult(case, {"lr": 1}, (), tuple(outcomes))


def by_name(*results: CaseResult, baseline: str = "linear") -> dict[str, MethodSummary]:
    return {summary.result.case.methods: summary for summary in summarise(results, baseline)}


def test_means_and_paired_differences_are_over_seeds():
    found = by_name(result("linear", {0: 40, 1: 50, 2: 60}), result("ssf", {0: 44, 1: 55, 2: 63}))
    expected = mean_interval([44 / N, 55 / N, 63 / N])
    accuracy, difference = found["ssf"].accuracy, found["ssf"].difference
    assert accuracy is not None
    assert difference is not None
    assert (accuracy.mean, accuracy.low, accuracy.over) == (expected.mean, expected.low, "seeds")
    paired = mean_interval([4 / N, 5 / N, 3 / N])
    assert (difference.mean, difference.low, difference.high) == pytest.approx(
        (paired.mean, paired.low, paired.high)
    )
    assert found["linear"].difference is None


def test_a_lead_that_every_seed_shares_makes_a_best_though_the_intervals_overlap():
    found = by_name(result("linear", {0: 40, 1: 50, 2: 60}), result("ssf", {0: 44, 1: 55, 2: 63}))
    linear, ssf = found["linear"].accuracy, found["ssf"].accuracy
    assert linear is not None
    assert ssf is not None
    assert linear.high > ssf.low  # type: ignore[operator]
    assert (found["ssf"].best, found["linear"].best) == (True, False)


def test_nothing_is_best_where_the_paired_interval_holds_zero():
    found = by_name(result("linear", {0: 40, 1: 50, 2: 60}), result("ssf", {0: 60, 1: 48, 2: 61}))
    assert not any(summary.best for summary in found.values())
    assert not summarise([result("ssf", {0: 60, 1: 48})], "ssf")[0].best, "there is nothing to be better than"


def test_the_best_is_told_from_the_runner_up_not_from_the_baseline():
    low, near = result("linear", {0: 10, 1: 11, 2: 12}), result("lora", {0: 60, 1: 48, 2: 61})
    found = by_name(low, near, result("ssf", {0: 40, 1: 70, 2: 62}))
    assert found["ssf"].difference.low > 0  # type: ignore[union-attr,operator]
    assert not any(summary.best for summary in found.values())


def test_one_seed_takes_its_intervals_from_the_images():
    found = by_name(result("linear", {0: 30}), result("ssf", {0: 50}))
    accuracy, difference = found["ssf"].accuracy, found["ssf"].difference
    assert accuracy is not None
    assert difference is not None
    assert ((accuracy.low, accuracy.high), accuracy.over) == (wilson(50, N), "images")
    assert (difference.mean, difference.over) == (20 / N, "images")
    assert 0 < difference.low < 20 / N < difference.high  # type: ignore[operator]
    assert found["ssf"].best
    # The same accuracies of which other images were right are no clear difference.
    other = by_name(result("linear", {0: 30}), result("ssf", {0: 50}, shift=30))
    assert other["ssf"].difference.low < difference.low  # type: ignore[union-attr,operator]


def test_seeds_without_spread_do_not_make_certain():
    found = by_name(result("linear", {0: 40, 1: 40, 2: 40}), result("ssf", {0: 41, 1: 41, 2: 41}))
    accuracy, difference = found["ssf"].accuracy, found["ssf"].difference
    assert accuracy is not None
    assert difference is not None
    assert (accuracy.over, difference.over, difference.seeds) == ("images", "images", 3)
    assert difference.low < 0  # type: ignore[operator]
    assert not found["ssf"].best


def test_an_interval_stays_where_accuracies_are():
    accuracy = by_name(result("linear", {0: 1, 1: 79}), result("ssf", {0: 2, 1: 3}))["linear"].accuracy
    assert accuracy is not None
    assert (accuracy.low, accuracy.high) == (0.0, 1.0)


def test_average_ranks_share_equal_places():
    found = by_name(
        result("linear", {0: 10, 1: 30}), result("ssf", {0: 20, 1: 30}), result("lora", {0: 20, 1: 40})
    )
    assert {name: summary.rank for name, summary in found.items()} == {
        "linear": (3 + 2.5) / 2,
        "ssf": (1.5 + 2.5) / 2,
        "lora": (1.5 + 1) / 2,
    }


def test_failures_are_left_out_of_the_numbers():
    found = by_name(
        result("linear", {0: 40, 1: 50}), result("ssf", {0: None, 1: None}), result("lora", {0: 44, 1: None})
    )
    assert (found["ssf"].accuracy, found["ssf"].difference, found["ssf"].rank) == (None, None, None)
    difference = found["lora"].difference
    assert difference is not None
    assert (difference.seeds, difference.mean) == (1, pytest.approx(4 / N))
    assert (found["lora"].rank, found["linear"].rank) == (1, 2), "on the seed that both have"


def test_costs_are_means_and_counts_stay_whole():
    one = result("linear", {0: 10, 1: 20}, trained_parameters=1290, step_seconds=None)
    assert summarise([one], "linear")[0].costs == {"trained_parameters": 1290}
