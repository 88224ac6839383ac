import statistics

import pytest

from vitune.bench.suite_summary import OF_GROUPS, OVER_TASKS, MeasuredRow, mean_weights, summarise_suite
from vitune.bench.summary import Score
from vitune.measure.intervals import mean_interval, paired_interval, wilson

N = 200


def score(right: int, first: int = 0) -> Score:
    """`right` of 200 images recognised, beginning with the one of the given number."""
    low, high = wilson(right, N)
    bits = ((1 << right) - 1) << first
    return Score(right / N, low, high, N, f"{bits:050x}")


def row(name: str, group: str, **scores: list[int]) -> MeasuredRow:
    found = {method: {seed: score(right) for seed, right in enumerate(of)} for method, of in scores.items()}
    return MeasuredRow(name, group, name, found, {})


ROWS = (
    row("a", "easy", linear=[100, 102, 104], ssf=[120, 123, 124]),
    row("b", "easy", linear=[110, 111, 112], ssf=[130, 133, 132]),
    row("c", "hard", linear=[60, 64, 62], ssf=[58, 66, 62]),
)


def summary(rows=ROWS, methods=("linear", "ssf")):
    return summarise_suite(methods, "linear", rows, {"ssf": [{"p": 1.0, "q": 2.0}, {"p": 3.0}]})


def test_the_mean_of_groups_is_not_the_mean_over_tasks():
    weights = dict(mean_weights(ROWS))
    assert weights[OVER_TASKS] == {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert weights[OF_GROUPS] == {"a": 1 / 4, "b": 1 / 4, "c": 1 / 2}
    assert weights["easy"] == {"a": 1 / 2, "b": 1 / 2}
    assert weights["hard"] == {"c": 1}
    assert list(dict(mean_weights(ROWS[:2]))) == [OVER_TASKS], "one group is none"


def test_a_mean_is_taken_seed_by_seed_and_its_interval_is_over_the_seeds():
    means = {mean.name: mean for mean in summary().means}
    sums = [statistics.fmean(values) / N for values in ((120, 130, 58), (123, 133, 66), (124, 132, 62))]
    expected = mean_interval(sums)
    found = means[OVER_TASKS].accuracy["ssf"]
    assert found is not None
    assert found.mean == pytest.approx(expected.mean)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.over, found.seeds) == ("seeds", 3)
    groups = means[OF_GROUPS].accuracy["ssf"]
    assert groups is not None
    assert groups.mean == pytest.approx(
        (((372 + 0) / 3 / N + 395 / 3 / N - 5 / 3 / N) / 2 + 186 / 3 / N) / 2, abs=0.01
    )


def test_best_is_marked_only_where_the_paired_difference_is_above_zero():
    found = summary()
    assert [entry.best for entry in found.rows] == ["ssf", "ssf", None]
    assert {mean.name: mean.best for mean in found.means}["hard"] is None
    over = found.beside["ssf"]
    assert over is not None
    assert (over.above, over.open, over.below) == (2, 1, 0)
    assert over.interval is not None
    assert over.interval[1] < 0 < over.interval[2], "three tasks say little of others"
    assert found.beside["linear"] is None
    assert found.rank == {"linear": pytest.approx((2 + 2 + 1.5) / 3), "ssf": pytest.approx((1 + 1 + 1.5) / 3)}


def test_one_seed_takes_its_intervals_from_the_images_of_all_tasks():
    rows = (row("a", "", linear=[100], ssf=[120]), row("b", "", linear=[90], ssf=[100]))
    (mean,) = summary(rows).means
    found = mean.accuracy["ssf"]
    assert found is not None
    down = [(p / N - wilson(p, N)[0]) / 2 for p in (120, 100)]
    assert found.low == pytest.approx(220 / 2 / N - (down[0] ** 2 + down[1] ** 2) ** 0.5)
    assert (found.over, found.seeds) == ("images", 1)
    difference = mean.difference["ssf"]
    assert difference is not None
    gaps = [(20, 0), (10, 0)]
    down = [(gap[0] / N - paired_interval(*gap, N)[0]) / 2 for gap in gaps]
    assert difference.low == pytest.approx(30 / 2 / N - (down[0] ** 2 + down[1] ** 2) ** 0.5)
    assert mean.best == "ssf"


def test_a_method_without_a_task_has_no_mean_no_rank_and_is_not_best():
    rows = (ROWS[0], row("b", "easy", linear=[110, 111, 112]))
    found = summary(rows)
    (mean,) = found.means
    assert (mean.accuracy["ssf"], mean.difference["ssf"], mean.best) == (None, None, None)
    assert found.rank["ssf"] is None
    assert found.rank["linear"] == 1.5, "second where both finished, alone and so first elsewhere"
    over = found.beside["ssf"]
    assert over is not None
    assert over.interval is None, "one task has no spread"


def test_costs_are_means_over_the_tasks_that_all_have():
    assert summary().costs == {"linear": {}, "ssf": {"p": 2.0}}
