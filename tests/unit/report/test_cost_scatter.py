"""One cost against another: what none beats, and labels that do not lie on each other."""

from __future__ import annotations

from vitune.report.cost_scatter import CostPoint, cheapest, cost_scatter

from .label_checks import check_labels

SHOW = (lambda value: f"{value:g} s", lambda value: f"{value:g} MiB")


def points(*places: tuple[float, float]) -> list[CostPoint]:
    return [CostPoint(f"p{i}", i, x, y, i == 0) for i, (x, y) in enumerate(places)]


def test_the_front_is_what_none_beats_in_both() -> None:
    found = cheapest(points((1.0, 10.0), (0.7, 5.0), (0.8, 4.0), (0.9, 4.5), (0.7, 5.0)))
    assert [p.label for p in found] == ["p1", "p4", "p2"]


def test_positions_grow_from_zero_and_the_front_is_drawn() -> None:
    chart = cost_scatter("t", points((1.0, 100.0), (0.5, 50.0), (0.6, 40.0)), "time", SHOW)
    assert chart is not None
    assert (chart.x_ticks[0].label, chart.y_ticks[0].label) == ("0 s", "0 MiB")
    places = {dot.label: (dot.x, dot.y) for dot in chart.dots}
    assert places["p1"][0] < places["p2"][0] < places["p0"][0]
    assert places["p2"][1] > places["p1"][1] > places["p0"][1]  # downwards is less
    assert chart.front == f"M{places['p1'][0]} {places['p1'][1]}H{places['p2'][0]}V{places['p2'][1]}"
    assert [dot.shape for dot in chart.dots if dot.label == "p0"] == [3]
    assert {dot.label for dot in chart.dots if dot.on_front} == {"p1", "p2"}


def test_labels_of_a_cluster_stand_apart() -> None:
    chart = cost_scatter("t", points(*((0.7 + 0.01 * i, 100.0 + i) for i in range(8))), "time", SHOW)
    assert chart is not None
    check_labels(chart)


def test_one_point_is_no_chart() -> None:
    assert cost_scatter("t", points((1.0, 1.0)), "time", SHOW) is None
