import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitune.errors import ConfigError
from vitune.measure import mean_interval, paired_interval, wilson
from vitune.measure.intervals import t_quantile


def test_wilson_against_known_values():
    assert wilson(90, 100) == pytest.approx((0.825634, 0.944771), abs=1e-6)
    assert wilson(1, 10) == pytest.approx((0.017876, 0.404150), abs=1e-6)
    assert wilson(90, 100, level=0.99) == pytest.approx((0.796249, 0.953974), abs=1e-6)


@given(st.integers(1, 5000), st.data())
def test_wilson_holds_the_share_and_stays_in_range(n, data):
    correct = data.draw(st.integers(0, n))
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1


@pytest.mark.parametrize(
    ("probability", "degrees", "expected"),
    [
        (0.975, 1, 12.706204736),
        (0.975, 2, 4.302652730),
        (0.975, 3, 3.182446305),
        (0.975, 4, 2.776445105),
        (0.975, 9, 2.262157163),
        (0.995, 5, 4.032142984),
        (0.95, 30, 1.697260887),
        (0.975, 1000, 1.962339081),
        (0.025, 2, -4.302652730),
        (0.5, 7, 0.0),
    ],
)
def test_t_quantiles_against_tables(probability, degrees, expected):
    assert t_quantile(probability, degrees) == pytest.approx(expected, abs=1e-8)


def test_mean_interval_of_three_seeds():
    interval = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652730 / 3**0.5
    assert (interval.mean, interval.n) == (2.0, 3)
    assert (interval.low, interval.high) == pytest.approx((2 - half, 2 + half), abs=1e-8)


def test_one_value_has_no_interval():
    interval = mean_interval([0.5])
    assert (interval.mean, interval.low, interval.high, interval.n) == (0.5, None, None, 1)


def test_bad_arguments():
    with pytest.raises(ConfigError, match="at least one value, all finite"):
        mean_interval([])
    with pytest.raises(ConfigError, match=r"at least one value, all finite, got .*nan"):
        mean_interval([1.0, float("nan")])
    with pytest.raises(ConfigError, match="got correct=3, n=2"):
        wilson(3, 2)
    with pytest.raises(ConfigError, match=r"level must lie between 0 and 1, got 95"):
        wilson(1, 2, level=95)
    with pytest.raises(ConfigError, match=r"degrees >= 1, got 0\.9 and 0"):
        t_quantile(0.9, 0)


def test_paired_interval_by_hand():
    # (6 - 2) / 52 of 50 images and their standard error, Bonett and Price 2012.
    low, high = paired_interval(5, 1, 50)
    half = 1.959963984540054 * math.sqrt((6 / 52 + 2 / 52 - (4 / 52) ** 2) / 52)
    assert (low, high) == pytest.approx((4 / 52 - half, 4 / 52 + half))
    assert paired_interval(1, 5, 50) == pytest.approx((-high, -low))


def test_paired_interval_of_many_clear_wins_excludes_zero():
    assert paired_interval(40, 5, 1000)[0] > 0
    low, high = paired_interval(20, 20, 1000)
    assert low < 0 < high


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 0, 5), (3, 3, 5)])
def test_paired_interval_of_impossible_counts(counts: tuple[int, int, int]):
    with pytest.raises(ConfigError, match="paired_interval: needs counts of at least 0"):
        paired_interval(*counts)
