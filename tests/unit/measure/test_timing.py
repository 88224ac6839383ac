import pytest

from vitune.errors import ConfigError
from vitune.measure import Timing, compare_seconds


def test_rounds_are_interleaved_and_turned_round():
    calls: list[str] = []
    synchronized: list[int] = []
    timings = compare_seconds(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=3,
        warmup=1,
        synchronize=lambda: synchronized.append(len(calls)),
    )
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert synchronized == [2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8]
    assert list(timings) == ["a", "b"]
    assert len(timings["a"].seconds) == len(timings["a"].cpu_seconds) == 3
    assert all(seconds >= 0 for seconds in timings["a"].seconds)


def test_medians_spread_and_ratios():
    ours, base = Timing((2.0, 9.0, 4.0), (1.0, 1.0, 1.0)), Timing((1.0, 3.0, 4.0), (2.0, 2.0, 4.0))
    assert (ours.median, ours.low, ours.high, ours.cpu_median) == (4.0, 2.0, 9.0, 1.0)
    ratio = ours.ratio_to(base)
    assert (ratio.median, ratio.low, ratio.high) == (4 / 3, 1.0, 3.0)
    assert ours.ratio_to(base, cpu=True).median == 0.5


def test_misuse():
    with pytest.raises(ConfigError, match="3 rounds against 1"):
        Timing((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)).ratio_to(Timing((1.0,), (1.0,)))
    with pytest.raises(ConfigError, match="got 0 functions, rounds=7, warmup=1"):
        compare_seconds({})
