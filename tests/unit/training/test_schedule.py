from __future__ import annotations

import pytest

from vitune.training.schedule import LearningRate


def test_warms_up_linearly_and_then_follows_the_cosine_to_the_minimum() -> None:
    rate = LearningRate(peak=1.0, minimum=0.2, steps=12, warmup_steps=2, kind="cosine")
    assert [rate.at(step) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert rate.at(7) == pytest.approx(0.6)  # half-way between peak and minimum
    assert rate.at(12) == pytest.approx(0.2)
    falling = [rate.at(step) for step in range(2, 12)]
    assert falling == sorted(falling, reverse=True)
    assert min(falling) > 0.2


def test_constant_stays_at_the_peak() -> None:
    rate = LearningRate(peak=0.3, minimum=0.0, steps=10, warmup_steps=0, kind="constant")
    assert {rate.at(step) for step in range(10)} == {0.3}


def test_a_stage_that_is_all_warm_up_never_reaches_the_cosine() -> None:
    rate = LearningRate(peak=1.0, minimum=0.0, steps=4, warmup_steps=4, kind="cosine")
    assert [rate.at(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_a_warm_up_may_start_at_a_given_rate() -> None:
    rate = LearningRate(peak=1.0, minimum=0.0, steps=10, warmup_steps=4, kind="constant", warmup_from=0.2)
    assert [rate.at(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_cosine_from_the_start_goes_on_below_the_warm_up() -> None:
    rate = LearningRate(
        peak=1.0, minimum=0.2, steps=8, warmup_steps=2, kind="cosine", warmup_from=0.0, cosine_from="start"
    )
    assert [rate.at(step) for step in (0, 1)] == [0.0, 0.5]
    assert rate.at(2) == pytest.approx(0.2 + 0.4 * (1 + 0.5**0.5))
    assert rate.at(4) == pytest.approx(0.6)
    assert [rate.at(step) for step in (8, 9, 20)] == pytest.approx([0.2] * 3)


def test_steps_of_an_epoch_may_share_a_rate() -> None:
    rate = LearningRate(peak=1.0, minimum=0.0, steps=12, warmup_steps=6, kind="constant", every=3)
    assert [rate.at(step) for step in range(7)] == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]
    late = LearningRate(
        peak=1.0, minimum=0.0, steps=12, warmup_steps=6, kind="constant", every=3, late=True, warmup_from=0.0
    )
    assert [late.at(step) for step in (0, 3, 6, 8, 9)] == [0.0, 0.0, 0.5, 0.5, 1.0]
