"""The cost model: exact where times follow it, never with prices below zero."""

from __future__ import annotations

import pytest

from vitune.measure import Work
from vitune.tasks.suggest.time_model import Load, fit_time

SECONDS_PER_TFLOP, SECONDS_PER_GB = 20.0, 0.05
LOADS = [
    Load(Work(10**11, 4 * 10**9, 500)),
    Load(Work(3 * 10**10, 2 * 10**9, 300)),
    Load(Work(9 * 10**10, 9 * 10**9, 900)),
    Load(Work(2 * 10**10, 5 * 10**9, 400)),
]


def seconds(load: Load) -> float:
    return SECONDS_PER_TFLOP * load.work.flops / 1e12 + SECONDS_PER_GB * load.work.traffic_bytes / 1e9


def test_a_time_that_follows_the_model_is_forecast_exactly() -> None:
    model = fit_time([(load, seconds(load)) for load in LOADS[:3]])
    assert model.seconds(LOADS[3]) == pytest.approx(seconds(LOADS[3]), rel=1e-6)
    assert model.worst < 1e-6


def test_one_timed_step_gives_a_price_for_one_count() -> None:
    model = fit_time([(LOADS[0], 2.0)])
    assert sum(price > 0 for price in model.prices) == 1
    assert model.seconds(LOADS[0]) == pytest.approx(2.0)


def test_prices_are_not_negative_where_noise_would_make_them_so() -> None:
    model = fit_time([(LOADS[0], 1.0), (LOADS[1], 2.0), (LOADS[2], 0.5)])
    assert min(model.prices) >= 0
    assert model.worst > 0.1


def test_optimizer_and_recomputation_are_part_of_a_load() -> None:
    plain = Load(Work(10, 10**9, 1000)).features()
    trained = Load(Work(10, 10**9, 1000), trained_bytes=10**9, trained_tensors=100).features()
    inside = Load(Work(10, 10**9, 1000), recomputing=True).features()
    assert trained[1] > 20 * plain[1]
    assert trained[2] == 2 * plain[2]
    assert (plain[3], inside[3]) == (0, 1)
