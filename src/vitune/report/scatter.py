"""Scatters of accuracy against a cost: geometry only, drawn by templates/charts.html.j2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitune.report import units
from vitune.report.charts import BOTTOM, LEFT, RIGHT, TONES, TOP, WIDTH, Tick, second_mark
from vitune.report.labels import Label, Mark, place_labels
from vitune.report.scales import Axis, log_ticks, nice_ticks, tick_labels

HEIGHT = 260
LONGEST_LABEL = 24
BARE, RINGED = 7.0, 10.0  # the room of a mark, and of one on the front
FRAME = (LEFT, TOP - 6, WIDTH, HEIGHT - BOTTOM)


@dataclass(frozen=True)
class ScatterPoint:
    """What the scatter needs of one run: name, colour number, cost, accuracy with its interval, and more to tell."""

    label: str
    tone: int
    cost: float
    accuracy: float
    low: float | None
    high: float | None
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dot:
    """One run in the scatter, with the ends of its interval and where its label stands."""

    label: str
    tone: int
    shape: int
    x: float
    y: float
    low: float | None
    high: float | None
    words: Label
    tip: str
    on_front: bool = False


@dataclass(frozen=True)
class Scatter:
    """Accuracy against a cost, the latter on a logarithmic axis; `front` is the path of the Pareto front."""

    title: str
    description: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    front: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def accuracy_scatter(
    title: str,
    points: Sequence[ScatterPoint],
    x_label: str,
    show: Callable[[float | None], str],
    *,
    with_front: bool = False,
) -> Scatter | None:
    """Draw accuracy against a cost.

    Args:
        title: What the chart shows.
        points: One per run; costs of zero have no place on a logarithmic axis and are left out.
        x_label: Words below the x axis.
        show: Words for a cost.
        with_front: Whether to mark the Pareto front.

    Returns:
        The chart, or None for fewer than two points.
    """
    points = [point for point in points if point.cost > 0]
    if len(points) < 2:
        return None
    x_values = log_ticks(min(p.cost for p in points), max(p.cost for p in points))
    bounds = [v for p in points for v in (p.accuracy, p.low, p.high) if v is not None]
    y_values = [tick for tick in nice_ticks(min(bounds), max(bounds)) if -1e-9 <= tick <= 1 + 1e-9]
    across = Axis(x_values[0], x_values[-1], LEFT + 10, WIDTH - RIGHT - 10, log=True)
    up = Axis(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    stride = -(-len(x_values) // 5)
    y_labels = tick_labels(y_values, percent=True)
    front = pareto_front(points) if with_front else []
    return Scatter(
        title=title,
        description=" ".join(f"{p.label}: {units.percent(p.accuracy)}, {show(p.cost)}." for p in points),
        x_label=f"{x_label}, logarithmic",
        x_ticks=tuple(Tick(across(x), show(x)) for x in x_values[::stride]),
        y_ticks=tuple(Tick(up(y), text) for y, text in zip(y_values, y_labels, strict=True)),
        dots=_dots(points, across, up, show, front),
        front=_steps([(across(p.cost), up(p.accuracy)) for p in front]),
    )


def pareto_front(points: Sequence[ScatterPoint]) -> list[ScatterPoint]:
    """The points that no other beats in accuracy without costing more, or in cost without being less accurate.

    Args:
        points: Any number.

    Returns:
        From the cheapest to the most accurate; equals are all in it.
    """
    return sorted(
        (
            p
            for p in points
            if not any(
                o.cost <= p.cost and o.accuracy >= p.accuracy and (o.cost, o.accuracy) != (p.cost, p.accuracy)
                for o in points
            )
        ),
        key=lambda p: p.cost,
    )


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """A path that goes right at the height of each point until it is over the next."""
    if len(places) < 2:
        return ""
    (x, y), *rest = places
    return f"M{x} {y}" + "".join(f"H{x}V{y}" for x, y in rest)


def _dots(
    points: Sequence[ScatterPoint],
    across: Axis,
    up: Axis,
    show: Callable[[float | None], str],
    front: Sequence[ScatterPoint],
) -> tuple[Dot, ...]:
    ordered = sorted(points, key=lambda p: -p.accuracy)
    marks = [
        Mark(
            _short(point.label),
            across(point.cost),
            up(point.accuracy),
            RINGED if point in front else BARE,
            None if point.low is None else up(point.low),
            None if point.high is None else up(point.high),
        )
        for point in ordered
    ]
    return tuple(
        Dot(
            label=mark.label,
            tone=point.tone % TONES,
            shape=second_mark(point.tone),
            x=mark.x,
            y=mark.y,
            low=mark.low,
            high=mark.high,
            words=words,
            tip="\n".join((point.label, units.percent(point.accuracy), show(point.cost), *point.more)),
            on_front=point in front,
        )
        for point, mark, words in zip(ordered, marks, place_labels(marks, FRAME), strict=True)
    )


def _short(label: str) -> str:
    return label[: LONGEST_LABEL - 1] + "\u2026" if len(label) > LONGEST_LABEL else label
