"""Scatters of one cost against another, both the better the smaller: geometry only, as `scatter`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitune.report.charts import BOTTOM, LEFT, RIGHT, TONES, TOP, WIDTH, Tick, second_mark
from vitune.report.labels import Mark, place_labels
from vitune.report.scales import Axis, nice_ticks
from vitune.report.scatter import BARE, FRAME, HEIGHT, RINGED, Dot, Scatter


@dataclass(frozen=True)
class CostPoint:
    """A setting: its name, the number of its colour, and two costs; `marked` is the baseline."""

    label: str
    tone: int
    across: float
    up: float
    marked: bool = False


def cost_scatter(
    title: str,
    points: Sequence[CostPoint],
    x_label: str,
    show: tuple[Callable[[float], str], Callable[[float], str]],
) -> Scatter | None:
    """Draw one cost against another, from zero, with the settings that none beats in both.

    Args:
        title: What the chart shows.
        points: One per setting.
        x_label: Words below the x axis.
        show: Words for a cost across, and for one upwards.

    Returns:
        The chart, or None for fewer than two points.
    """
    if len(points) < 2:
        return None
    x_values = nice_ticks(0.0, max(p.across for p in points))
    y_values = nice_ticks(0.0, max(p.up for p in points))
    across = Axis(x_values[0], x_values[-1], LEFT + 10, WIDTH - RIGHT - 10)
    up = Axis(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    front = cheapest(points)
    return Scatter(
        title=title,
        description=" ".join(f"{p.label}: {show[0](p.across)}, {show[1](p.up)}." for p in points),
        x_label=x_label,
        x_ticks=tuple(Tick(across(x), show[0](x)) for x in x_values[:: -(-len(x_values) // 6)]),
        y_ticks=tuple(Tick(up(y), show[1](y)) for y in y_values),
        dots=_dots(points, across, up, show, front),
        front=_steps([(across(p.across), up(p.up)) for p in front]),
    )


def cheapest(points: Sequence[CostPoint]) -> list[CostPoint]:
    """The points that no other beats in one cost without being dearer in the other, from left to right.

    Args:
        points: Any number; equals are all in it.
    """
    return sorted(
        (
            p
            for p in points
            if not any(
                o.across <= p.across and o.up <= p.up and (o.across, o.up) != (p.across, p.up) for o in points
            )
        ),
        key=lambda p: (p.across, -p.up),
    )


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """A path that goes right at the height of each point until it is over the next, and down to that."""
    if len(places) < 2:
        return ""
    (x, y), *rest = places
    return f"M{x} {y}" + "".join(f"H{x}V{y}" for x, y in rest)


def _dots(
    points: Sequence[CostPoint],
    across: Axis,
    up: Axis,
    show: tuple[Callable[[float], str], Callable[[float], str]],
    front: Sequence[CostPoint],
) -> tuple[Dot, ...]:
    ordered = sorted(points, key=lambda point: up(point.up))
    marks = [
        Mark(point.label, across(point.across), up(point.up), RINGED if point in front else BARE)
        for point in ordered
    ]
    return tuple(
        Dot(
            label=point.label,
            tone=point.tone % TONES,
            shape=3 if point.marked else second_mark(point.tone),
            x=mark.x,
            y=mark.y,
            low=None,
            high=None,
            words=words,
            tip="\n".join((point.label, show[0](point.across), show[1](point.up))),
            on_front=point in front,
        )
        for point, mark, words in zip(ordered, marks, place_labels(marks, FRAME), strict=True)
    )
