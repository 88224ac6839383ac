import pytest

from vitune.report import units
from vitune.report.scatter import ScatterPoint, accuracy_scatter, pareto_front

from .label_checks import check_labels


def point(label: str, cost: float, accuracy: float, tone: int = 0) -> ScatterPoint:
    return ScatterPoint(label, tone, cost, accuracy, accuracy - 0.02, accuracy + 0.02)


def scatter(*points: ScatterPoint):
    return accuracy_scatter("Accuracy against size", points, "size", units.size)


def test_fewer_than_two_points_draw_nothing() -> None:
    assert scatter(point("a", 10, 0.5)) is None
    assert scatter(point("a", 10, 0.5), point("b", 0, 0.5)) is None


def test_higher_accuracy_stands_higher_and_higher_cost_further_right() -> None:
    chart = scatter(point("cheap", 1000, 0.8), point("dear", 1_000_000, 0.9))
    assert chart is not None
    dots = {dot.label: dot for dot in chart.dots}
    assert dots["dear"].y < dots["cheap"].y
    assert dots["dear"].x > dots["cheap"].x
    low, high = dots["dear"].low, dots["dear"].high
    assert low is not None
    assert high is not None
    assert high < dots["dear"].y < low


def test_labels_do_not_cover_each_other() -> None:
    chart = scatter(
        *(point(f"method {i}", 1000 + i, 0.9 - i / 1e4, i) for i in range(6)), point("far", 1e6, 0.5)
    )
    assert chart is not None
    check_labels(chart)


@pytest.mark.parametrize("count", [3, 8, 17])
def test_labels_cover_neither_each_other_nor_marks(count: int) -> None:
    """As in a real comparison: methods of about the same accuracy, whose costs differ by little."""
    close = [point(f"method {i}", 20_000 * 1.15**i, 0.5 + 0.004 * (i * 7 % 5), i) for i in range(count - 1)]
    chart = scatter(*close, point("linear", 1300, 0.47))
    assert chart is not None
    check_labels(chart)


def test_a_label_that_stands_off_has_a_line_to_its_mark() -> None:
    chart = scatter(
        *(point(f"the method of number {i}", 1000, 0.9 - i / 1e4, i) for i in range(9)), point("a", 9e5, 0.5)
    )
    assert chart is not None
    check_labels(chart)
    led = [dot for dot in chart.dots if dot.words.leader]
    assert led
    assert all(abs(dot.words.y - 4 - dot.y) > 8 or abs(dot.words.x - dot.x) > 8 for dot in led)
    near = {dot.label: dot for dot in chart.dots}["a"]
    assert (near.words.leader, near.words.anchor) == ("", "start"), "it has room beside its mark"


def test_labels_at_the_right_edge_turn_left_and_long_ones_are_cut() -> None:
    chart = scatter(point("a", 1000, 0.5), point("n" * 60, 1e6, 0.6))
    assert chart is not None
    assert [dot.words.anchor for dot in chart.dots] == ["end", "start"]
    assert len(chart.dots[0].label) == 24
    assert chart.dots[0].tip.startswith("n" * 60 + "\n")


def test_the_description_tells_every_run() -> None:
    chart = scatter(point("a", 1000, 0.5), point("b", 2000, 0.6))
    assert chart is not None
    assert chart.description == "a: 50.0\u00a0%, 1 kB. b: 60.0\u00a0%, 2 kB."


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    points = [
        point("cheap", 10, 0.5),
        point("beaten", 20, 0.4),
        point("dear", 40, 0.9),
        point("waste", 50, 0.9),
    ]
    assert [p.label for p in pareto_front(points)] == ["cheap", "dear"]
    assert [p.label for p in pareto_front([point("a", 10, 0.5), point("b", 10, 0.5)])] == ["a", "b"]


def test_the_front_is_drawn_where_asked_for() -> None:
    points = [point("cheap", 10, 0.5), point("beaten", 20, 0.4), point("dear", 40, 0.9)]
    drawn = accuracy_scatter("t", points, "size", units.size, with_front=True)
    plain = accuracy_scatter("t", points, "size", units.size)
    assert drawn is not None
    assert plain is not None
    dots = {dot.label: dot for dot in drawn.dots}
    assert {label for label, dot in dots.items() if dot.on_front} == {"cheap", "dear"}
    cheap, dear = dots["cheap"], dots["dear"]
    assert drawn.front == f"M{cheap.x} {cheap.y}H{dear.x}V{dear.y}"
    assert plain.front == ""
    assert not any(dot.on_front for dot in plain.dots)
