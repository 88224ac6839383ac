"""The order: by evidence where it tells methods apart, by time where it does not."""

from __future__ import annotations

from vitune.tasks.suggest.evidence import Published, Standing
from vitune.tasks.suggest.ranking import rank
from vitune.tasks.suggest.result import Costs


def costs(seconds: float) -> Costs:
    return Costs("stock", 1, 10**8, 1.0, seconds, 1000, 4000, 0.0, True)


def known(gain: float, half: float | None = 0.002) -> Standing:
    return Standing(gain=gain, half=half, groups=("a",))


def test_what_can_be_told_apart_is_ordered_by_gain() -> None:
    found = rank(
        [("a", costs(10), known(0.01)), ("b", costs(90), known(0.05)), ("c", costs(1), known(-0.02))]
    )
    assert [place.method for place in found] == ["b", "a", "c"]
    assert found[0].reason == "highest gain: +5.0 \u00b1 0.2 points over a linear probe in our trials"


def test_what_cannot_is_ordered_by_time_where_that_differs_by_a_quarter() -> None:
    slow, quick, near = ("slow", costs(100), known(0.05, 0.02)), ("quick", costs(40), known(0.04, 0.02)), None
    found = rank([slow, quick])
    assert [place.method for place in found] == ["quick", "slow"]
    assert "not to be told from slow, and quicker" in found[0].reason
    assert "not to be told from quick, 2.5 x its time" in found[1].reason
    near = ("near", costs(45), known(0.045, 0.02))
    assert [place.method for place in rank([slow, quick, near])] == ["near", "quick", "slow"]


def test_unknown_intervals_tell_nothing_apart() -> None:
    found = rank([("a", costs(100), known(0.5, None)), ("b", costs(10), known(0.0, None))])
    assert [place.method for place in found] == ["b", "a"]


def test_published_numbers_come_after_trials_and_before_nothing() -> None:
    paper = Standing(published=Published(0.9, "a paper"))
    less = Standing(published=Published(0.2, "a paper"))
    found = rank(
        [
            ("nothing", costs(1), Standing()),
            ("less", costs(1), less),
            ("paper", costs(50), paper),
            ("ours", costs(99), known(-0.1)),
        ]
    )
    assert [place.method for place in found] == ["ours", "paper", "less", "nothing"]
    assert found[1].reason == "no trials of ours; published +90.0 points over linear, a paper"
    assert found[3].reason == "nothing is known of its accuracy; by time alone"


def test_the_linear_probe_is_named_as_the_measure() -> None:
    (place,) = rank([("linear", costs(1), Standing(gain=0.0, half=0.0))])
    assert place.reason == "highest gain: +0.0, the linear probe itself"


def test_nothing_gives_nothing() -> None:
    assert rank([]) == []
