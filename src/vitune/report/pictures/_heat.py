"""A heat strip: rows (blocks, gates) by columns (steps, epochs), the shade telling the value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

from markupsafe import Markup

from vitune.report.pictures._picture import Drawing
from vitune.report.scales import whole_ticks

WIDTH, LEFT, RIGHT, TOP, AXIS, SCALE = 360, 46, 8, 22, 36, 10
MOST_COLUMNS, SHADES, FAINTEST = 96, 8, 0.08


def binned(
    columns: Sequence[int], values: Sequence[Sequence[float | None]], most: int = MOST_COLUMNS
) -> tuple[list[int], list[list[float | None]]]:
    """At most so many columns: means of neighbouring ones, named by the last of each.

    Args:
        columns: Numbers of the columns, ascending.
        values: For each of them one value per row.
        most: How many columns there may be.

    Returns:
        Numbers and values, as given.
    """
    size = -(-len(columns) // most)
    parts = [range(start, min(start + size, len(columns))) for start in range(0, len(columns), size)]
    means = [
        [_mean([values[column][row] for column in part]) for row in range(len(values[0]))] for part in parts
    ]
    return [columns[part[-1]] for part in parts], means


def heat_strip(
    title: str,
    rows: Sequence[str],
    columns: Sequence[int],
    values: Sequence[Sequence[float | None]],
    *,
    limits: tuple[float, float],
    show: Callable[[float], str],
    x_label: str,
    tone: int,
) -> Markup:
    """Draw values.

    Args:
        title: What they are, for screen readers.
        rows: Names of the rows, top to bottom.
        columns: Numbers of the columns, ascending.
        values: For each column one value per row; None is not drawn.
        limits: The values of the faintest and the fullest shade.
        show: A value in words.
        x_label: What the columns count.
        tone: Colour number.
    """
    columns, values = binned(columns, values)
    row_height = min(18.0, max(9.0, 190 / len(rows)))
    bottom = TOP + row_height * len(rows)
    drawing = Drawing(WIDTH, bottom + AXIS, f"{title}. {_description(rows, columns, values, show, x_label)}")
    cell = (WIDTH - LEFT - RIGHT) / len(columns)
    _scale(drawing, limits, show, tone)
    shapes: dict[int, list[str]] = {}
    for row in range(len(rows)):
        shades = [_shade(column[row], limits) for column in values]
        start = 0
        for shade, run in groupby(shades):
            length = len(list(run))
            if shade is not None:
                x, wide = LEFT + start * cell, length * cell
                y = TOP + row * row_height + 0.5
                shapes.setdefault(shade, []).append(
                    f"M{x:.2f} {y:.1f}h{wide:.2f}v{row_height - 1:.1f}h{-wide:.2f}z"
                )
            start += length
        if row_height >= 12 or row % 2 == 0:
            drawing.text(LEFT - 6, TOP + (row + 0.5) * row_height + 3.5, rows[row], anchor="end")
    for shade, paths in sorted(shapes.items()):
        drawing.add("path", d="".join(paths), class_=f"heat tone-{tone}", fill_opacity=_opacity(shade))
    drawing.add("path", d=f"M{LEFT} {bottom}H{WIDTH - RIGHT}", class_="axis")
    for tick in whole_ticks(columns[0], columns[-1]):
        place = _place(tick, columns, cell)
        drawing.text(place, bottom + 14, f"{tick:,}")
    drawing.text((LEFT + WIDTH - RIGHT) / 2, bottom + 29, x_label)
    for index, column in enumerate(columns):
        told = [f"{rows[row]}: {show(v)}" for row, v in enumerate(values[index]) if v is not None]
        group = drawing.tip("\n".join([f"{x_label} {column:,}", *told]))
        drawing.add(
            "rect", parent=group, x=LEFT + index * cell, y=TOP, width=cell, height=bottom - TOP, class_="hit"
        )
    return drawing.markup()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _shade(value: float | None, limits: tuple[float, float]) -> int | None:
    if value is None:
        return None
    low, high = limits
    share = (value - low) / (high - low) if high > low else 1.0
    return round(min(max(share, 0.0), 1.0) * (SHADES - 1))


def _opacity(shade: int) -> float:
    return round(FAINTEST + (1 - FAINTEST) * shade / (SHADES - 1), 3)


def _place(tick: int, columns: Sequence[int], cell: float) -> float:
    """The middle of the column that a tick is in."""
    index = next((i for i, column in enumerate(columns) if column >= tick), len(columns) - 1)
    return LEFT + (index + 0.5) * cell


def _scale(drawing: Drawing, limits: tuple[float, float], show: Callable[[float], str], tone: int) -> None:
    """What the shades mean, above the strip."""
    wide, start = 9, WIDTH - RIGHT - 9 * SHADES - 40
    drawing.text(start - 5, SCALE, show(limits[0]), anchor="end")
    for shade in range(SHADES):
        drawing.add(
            "rect",
            x=start + shade * wide,
            y=1,
            width=wide,
            height=11,
            class_=f"heat tone-{tone}",
            fill_opacity=_opacity(shade),
        )
    drawing.text(start + SHADES * wide + 5, SCALE, show(limits[1]), anchor="start")


def _description(
    rows: Sequence[str],
    columns: Sequence[int],
    values: Sequence[Sequence[float | None]],
    show: Callable[[float], str],
    x_label: str,
) -> str:
    def ends(row: int) -> str:
        first, last = values[0][row], values[-1][row]
        words = ["none" if value is None else show(value) for value in (first, last)]
        return f"{rows[row]} from {words[0]} to {words[1]}"

    told = "; ".join(ends(row) for row in range(len(rows)))
    return f"{len(rows)} rows, {x_label} {columns[0]:,} to {columns[-1]:,}: {told}."
