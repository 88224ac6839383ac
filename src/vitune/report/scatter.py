"""Scatters of accuracy against a cost: geometry only, drawn by templates/charts.html.j2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitune.report import units
from vitune.report.charts import BOTTOM, LEFT, RIGHT, TONES, TOP, WIDTH, Tick, second_mark
from vitune.report.scales import Axis, log_ticks, nice_ticks, tick_labels

HEIGHT = 260
LETTER_WIDTH, LINE_HEIGHT = 6.2, 12
LONGEST_LABEL = 24


@dataclass(frozen=True)
class ScatterPoint:
    """What the scatter needs of one run: its name, colour number, cost, and accuracy with its interval."""

    label: str
    tone: int
    cost: float
    accuracy: float
    low: float | None
    high: float | None


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
    text_x: float
    text_y: float
    anchor: str
    tip: str


@dataclass(frozen=True)
class Scatter:
    """Accuracy against a cost, the latter on a logarithmic axis."""

    title: str
    description: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dots: tuple[Dot, ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def accuracy_scatter(
    title: str, points: Sequence[ScatterPoint], x_label: str, show: Callable[[float | None], str]
) -> Scatter | None:
    """Draw accuracy against a cost.

    Args:
        title: What the chart shows.
        points: One per run; costs of zero have no place on a logarithmic axis and are left out.
        x_label: Words below the x axis.
        show: Words for a cost.

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
    return Scatter(
        title=title,
        description=" ".join(f"{p.label}: {units.percent(p.accuracy)}, {show(p.cost)}." for p in points),
        x_label=f"{x_label}, logarithmic",
        x_ticks=tuple(Tick(across(x), show(x)) for x in x_values[::stride]),
        y_ticks=tuple(Tick(up(y), text) for y, text in zip(y_values, y_labels, strict=True)),
        dots=_dots(points, across, up, show),
    )


def _dots(
    points: Sequence[ScatterPoint], across: Axis, up: Axis, show: Callable[[float | None], str]
) -> tuple[Dot, ...]:
    taken: list[tuple[float, float, float]] = []
    dots: list[Dot] = []
    for point in sorted(points, key=lambda p: -p.accuracy):
        long = len(point.label) > LONGEST_LABEL
        label = point.label[: LONGEST_LABEL - 1] + "\u2026" if long else point.label
        x, y = across(point.cost), up(point.accuracy)
        length = LETTER_WIDTH * len(label)
        to_left = x + 10 + length > WIDTH
        start = x - 10 - length if to_left else x + 10
        text_y = _clear(start, start + length, y + 4, taken)
        taken.append((start, start + length, text_y))
        dots.append(
            Dot(
                label=label,
                tone=point.tone % TONES,
                shape=second_mark(point.tone),
                x=x,
                y=y,
                low=None if point.low is None else up(point.low),
                high=None if point.high is None else up(point.high),
                text_x=x - 10 if to_left else x + 10,
                text_y=round(text_y, 1),
                anchor="end" if to_left else "start",
                tip="\n".join((point.label, units.percent(point.accuracy), show(point.cost))),
            )
        )
    return tuple(dots)


def _clear(start: float, end: float, y: float, taken: Sequence[tuple[float, float, float]]) -> float:
    """The height nearest below `y` where words from `start` to `end` cover none that stand already."""
    blocked = sorted(other for begin, stop, other in taken if start < stop and begin < end)
    for other in blocked:
        if abs(y - other) < LINE_HEIGHT:
            y = other + LINE_HEIGHT
    return y
