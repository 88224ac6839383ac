import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitune.report.scales import Axis, log_ticks, nice_ticks, tick_labels, whole_ticks


def test_axis_maps_ends_to_ends() -> None:
    axis = Axis(0.0, 10.0, 100.0, 200.0)
    assert (axis(0.0), axis(5.0), axis(10.0)) == (100.0, 150.0, 200.0)


def test_log_axis_gives_every_decade_the_same_length() -> None:
    axis = Axis(10, 1000, 0.0, 100.0, log=True)
    assert (axis(10), axis(100), axis(1000)) == (0.0, 50.0, 100.0)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_nice_ticks_enclose_the_data(low: float, extent: float) -> None:
    ticks = nice_ticks(low, low + extent)
    assert 2 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * max(1.0, abs(low) + extent)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + extent - slack


def test_nice_ticks_are_round() -> None:
    assert nice_ticks(0.13, 1.94) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert nice_ticks(0.0, 0.0029) == [0.0, 0.001, 0.002, 0.003]


@given(st.integers(0, 5000), st.integers(0, 100_000))
def test_whole_ticks_lie_inside(low: int, extent: int) -> None:
    ticks = whole_ticks(low, low + extent)
    assert 1 <= len(ticks) <= 8
    assert all(low <= tick <= low + extent for tick in ticks)


def test_whole_ticks_are_round() -> None:
    assert whole_ticks(1, 20) == [5, 10, 15, 20]
    assert whole_ticks(1, 4) == [1, 2, 3, 4]
    assert whole_ticks(3, 3) == [3]


def test_log_ticks() -> None:
    assert log_ticks(1930, 5_380_000) == [1e3, 1e4, 1e5, 1e6, 1e7]
    assert log_ticks(1000, 1000) == [1e3, 1e4]


@pytest.mark.parametrize(
    ("ticks", "percent", "labels"),
    [
        ([0.0, 0.5, 1.0], False, ["0", "0.5", "1.0"]),
        ([0.0, 0.001, 0.002], False, ["0", "0.001", "0.002"]),
        ([0.0, 0.0001, 0.0002], False, ["0", "0.0001", "0.0002"]),
        ([0.875, 0.9, 0.925], True, ["87.5 %", "90.0 %", "92.5 %"]),
        ([0.2, 0.4], True, ["20 %", "40 %"]),
        ([0.0, 25.0, 50.0], False, ["0", "25", "50"]),
    ],
)
def test_tick_labels(ticks: list[float], percent: bool, labels: list[str]) -> None:
    assert tick_labels(ticks, percent) == labels
