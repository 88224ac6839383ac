"""Line charts over epochs or steps: geometry only, drawn by templates/charts.html.j2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vitune.report import units
from vitune.report.scales import Axis, nice_ticks, tick_labels, whole_ticks

WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40
TONES = 8
MOST_POINTS = 400


def second_mark(number: int) -> int:
    """The dash or shape number of a run: tells runs apart without colour, and those whose colours repeat."""
    return (number + number // TONES) % 4


@dataclass(frozen=True)
class Series:
    """One line: its name, its points (x, y or None if not measured), its colour and dash numbers."""

    label: str
    points: Sequence[tuple[int, float | None]]
    tone: int = 0
    dash: int = 0


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    position: float
    label: str


@dataclass(frozen=True)
class Line:
    """A drawn series: the path, and single points to mark."""

    label: str
    tone: int
    dash: int
    path: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Hit:
    """A vertical strip of the plot that tells the values at one x."""

    x: float
    width: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A drawn line chart.

    Attributes:
        title: What it shows.
        description: The same in a sentence with numbers, for those who do not see it.
        x_label: Words below the x axis.
        x_ticks: Ticks of the x axis.
        y_ticks: Ticks of the y axis.
        lines: The lines.
        hits: Strips with values.
        mark: Position and words of a vertical mark, or None.
        width: Width of the drawing.
        height: Height of the drawing.
    """

    title: str
    description: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    hits: tuple[Hit, ...]
    mark: Tick | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def line_count(self) -> int:
        """How many lines there are: where several charts share a legend, the longest serves all."""
        return len(self.lines)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "epoch",
    percent: bool = False,
    from_zero: bool = False,
    mark: tuple[int, str] | None = None,
) -> Chart | None:
    """Draw series over whole-numbered x.

    Args:
        title: What the chart shows.
        series: The lines; those without a measured point are left out.
        x_label: What x counts.
        percent: Whether y are shares to be shown in percent.
        from_zero: Whether the y axis starts at zero.
        mark: An x to mark and the words beside the mark.

    Returns:
        The chart, or None where nothing was measured.
    """
    series = [_thinned(line) for line in series if any(y is not None for _, y in line.points)]
    if not series:
        return None
    xs = sorted({x for line in series for x, _ in line.points})
    ys = [y for line in series for _, y in line.points if y is not None]
    y_values = nice_ticks(0.0 if from_zero else min(ys), max(ys))
    if percent:
        y_values = [tick for tick in y_values if -1e-9 <= tick <= 1 + 1e-9]
    across = Axis(xs[0] - (len(xs) == 1), xs[-1] + (len(xs) == 1), LEFT + 6, WIDTH - RIGHT - 6)
    up = Axis(y_values[0], y_values[-1], HEIGHT - BOTTOM, TOP)
    show: Callable[[float | None], str] = units.percent if percent else units.decimal
    return Chart(
        title=title,
        description=_description(series, x_label, show),
        x_label=x_label,
        x_ticks=tuple(Tick(across(x), f"{x:,}") for x in whole_ticks(xs[0], xs[-1])),
        y_ticks=tuple(
            Tick(up(y), label) for y, label in zip(y_values, tick_labels(y_values, percent), strict=True)
        ),
        lines=tuple(_line(line, across, up, dotted=len(series) <= 2) for line in series),
        hits=_hits(series, xs, across, x_label, show),
        mark=Tick(across(mark[0]), mark[1]) if mark and xs[0] <= mark[0] <= xs[-1] else None,
    )


def _thinned(series: Series) -> Series:
    """A drawing 300 units wide shows no more than some hundreds of points; the last one is always kept."""
    points = list(series.points)
    stride = -(-len(points) // MOST_POINTS)
    kept = points[::stride]
    return Series(
        series.label, kept if kept[-1] == points[-1] else [*kept, points[-1]], series.tone, series.dash
    )


def _line(series: Series, across: Axis, up: Axis, dotted: bool) -> Line:
    path: list[str] = []
    drawn: list[tuple[float, float]] = []
    pen_down = False
    for x, y in series.points:
        if y is None:
            pen_down = False
            continue
        drawn.append((across(x), up(y)))
        path.append(f"{'L' if pen_down else 'M'}{across(x)} {up(y)}")
        pen_down = True
    # One point makes no line, so it is always marked.
    dots = tuple(drawn) if (dotted and len(drawn) <= 24) or len(drawn) == 1 else ()
    return Line(series.label, series.tone % TONES, series.dash, "".join(path), dots)


def _hits(
    series: Sequence[Series],
    xs: Sequence[int],
    across: Axis,
    x_label: str,
    show: Callable[[float | None], str],
) -> tuple[Hit, ...]:
    values = [(line.label, dict(line.points)) for line in series]
    width = (across.end - across.start) / max(len(xs) - 1, 1)
    hits: list[Hit] = []
    for x in xs:
        told = [f"{label} {show(points[x])}" for label, points in values if points.get(x) is not None]
        if told:
            text = "\n".join([f"{x_label} {x:,}", *told])
            start, end = max(LEFT, across(x) - width / 2), min(WIDTH - RIGHT, across(x) + width / 2)
            hits.append(Hit(round(start, 1), round(end - start, 1), text))
    return tuple(hits)


def _description(series: Sequence[Series], x_label: str, show: Callable[[float | None], str]) -> str:
    sentences = []
    for line in series:
        points = [(x, y) for x, y in line.points if y is not None]
        (first_x, first), (last_x, last) = points[0], points[-1]
        sentences.append(
            f"{line.label}: {show(first)} at {x_label} {first_x:,}, {show(last)} at {x_label} {last_x:,}."
        )
    return " ".join(sentences)
