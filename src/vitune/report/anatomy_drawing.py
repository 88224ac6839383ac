"""The drawing of what was tuned where: the backbone from image to classes, coloured by the method's edits.

Every block is a row, every part of a block a column. An edit fills the columns its role covers (`attn.qkv`
fills q, k and v); edits that share a column of a block lie above each other in lanes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vitune.report.anatomy_columns import (
    BARS_AFTER,
    BARS_ALWAYS,
    BARS_BEFORE,
    LABELS,
    Item,
    bar_of,
    columns_for,
    items_of,
    lanes_of,
    merged,
    overlap,
    place_of,
)
from vitune.report.charts import TONES
from vitune.report.record import EditLine
from vitune.report.units import count, short_count

WIDTH, GUTTER, TOTALS = 360, 26, 40
BAR, ARROW, HEADS = 26, 14, 32
EDIT_WORDS = {"train": "trained in place"}
HEAD_WORDS = "trained head"


@dataclass(frozen=True)
class Cell:
    """A rectangle of the drawing; `tone` is None where nothing was tuned."""

    x: float
    y: float
    width: float
    height: float
    text: str
    tip: str
    tone: int | None = None


@dataclass(frozen=True)
class Label:
    """Words at a place of the drawing."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Bracket:
    """A group of columns with a name."""

    x: float
    y: float
    width: float
    text: str


@dataclass(frozen=True)
class PartRow:
    """One line of the table beside the drawing: a part, which tensors of it, and in how many places."""

    part: str
    tensors: str
    edit: str
    tone: int
    places: int
    parameters: int


@dataclass(frozen=True)
class AnatomyDrawing:
    """The drawing, its legend (edit and colour number), and the same facts as a table."""

    height: float
    description: str
    cells: tuple[Cell, ...]
    labels: tuple[Label, ...]
    brackets: tuple[Bracket, ...]
    totals: tuple[Label, ...]
    arrows: tuple[tuple[float, float, float], ...]
    legend: tuple[tuple[str, int], ...]
    table: tuple[PartRow, ...]
    width: int = WIDTH


def anatomy_drawing(
    edits: Sequence[EditLine], blocks: int | None, head_parameters: int | None
) -> AnatomyDrawing | None:
    """Draw the backbone with its edits.

    Args:
        edits: What was tuned where.
        blocks: Number of blocks; where None, as many as the edits name.
        head_parameters: Trained parameters of the head, drawn where no edit names the head.

    Returns:
        The drawing, or None where nothing is known.
    """
    edits = [replace(edit, edit=EDIT_WORDS.get(edit.edit, edit.edit)) for edit in edits]
    if head_parameters and not any(bar_of(edit.role) == "head" for edit in edits):
        edits.append(EditLine("head", HEAD_WORDS, head_parameters))
    if not edits:
        return None
    named = [block for edit in edits if (block := place_of(edit.role).block) is not None]
    blocks = max([blocks or 0, *(block + 1 for block in named)])
    tones = {name: index % TONES for index, name in enumerate(dict.fromkeys(edit.edit for edit in edits))}
    return _Drawing(edits, blocks, tones).draw()


class _Drawing:
    """Collects the pieces from top to bottom; `y` is where the next one starts."""

    def __init__(self, edits: Sequence[EditLine], blocks: int, tones: dict[str, int]) -> None:
        self.edits = edits
        self.blocks = blocks
        self.tones = tones
        self.columns = columns_for(edits)
        weights = [0.72 if column.startswith("norm") else 1.0 for column in self.columns]
        unit = (WIDTH - GUTTER - TOTALS) / sum(weights)
        self.edges = [GUTTER + unit * sum(weights[:index]) for index in range(len(weights) + 1)]
        self.middle = (GUTTER + WIDTH - TOTALS) / 2
        self.cells: list[Cell] = []
        self.labels: list[Label] = []
        self.brackets: list[Bracket] = []
        self.totals: list[Label] = []
        self.arrows: list[tuple[float, float, float]] = []
        self.y = 18.0

    def draw(self) -> AnatomyDrawing:
        self._words(self.middle, 12, "image")
        self._bars(BARS_BEFORE)
        self._column_heads()
        self._rows()
        self._bars(BARS_AFTER)
        self._arrow()
        self._words(self.middle, self.y + 10, "classes")
        table = _table(self.edits, self.tones)
        return AnatomyDrawing(
            height=round(self.y + 16, 1),
            description=f"{self.blocks} blocks. " + " ".join(_sentence(row) for row in table),
            cells=tuple(self.cells),
            labels=tuple(self.labels),
            brackets=tuple(self.brackets),
            totals=tuple(self.totals),
            arrows=tuple(self.arrows),
            legend=tuple(self.tones.items()),
            table=table,
        )

    def _words(self, x: float, y: float, text: str) -> None:
        self.labels.append(Label(round(x, 1), round(y, 1), text))

    def _arrow(self) -> None:
        self.arrows.append((round(self.middle, 1), round(self.y, 1), round(self.y + ARROW - 3, 1)))
        self.y += ARROW

    def _column_heads(self) -> None:
        self._arrow()
        self.y += HEADS
        for index, column in enumerate(self.columns):
            middle = (self.edges[index] + self.edges[index + 1]) / 2
            self._words(middle, self.y - 5, LABELS.get(column, column.rpartition(".")[2]))
        for group, words in (("attn.", "attention"), ("mlp.", "MLP")):
            inside = [index for index, column in enumerate(self.columns) if column.startswith(group)]
            first, last = self.edges[inside[0]], self.edges[inside[-1] + 1]
            self.brackets.append(
                Bracket(round(first + 2, 1), round(self.y - 18, 1), round(last - first - 4, 1), words)
            )

    def _rows(self) -> None:
        rows = [items_of(block, self.edits, self.columns) for block in range(self.blocks)]
        lanes = 1 + max((lane for items in rows for lane in lanes_of(items)), default=0)
        height = max(22.0 if self.blocks <= 16 else 17.0, 14.0 * lanes)
        for block, items in enumerate(rows):
            self._words(GUTTER / 2 - 1, self.y + height / 2 + 3.5, str(block))
            for index, column in enumerate(self.columns):
                self._cell(index, index, self.y, height, "", f"block {block}: {column} is frozen", None)
            for item, lane in zip(items, lanes_of(items), strict=True):
                alone = sum(overlap(item, other) for other in items) == 1
                part = height if alone else height / lanes
                text = short_count(item.parameters)
                self._tuned(item, self.y + (0 if alone else lane * part), part, text)
            self._total(items, height)
            self.y += height

    def _bars(self, names: Iterable[str]) -> None:
        last = len(self.columns) - 1
        for name in names:
            edits = [edit for edit in self.edits if bar_of(edit.role) == name]
            if not edits and name not in BARS_ALWAYS:
                continue
            self._arrow()
            words = name.replace("_", " ")
            items = merged(Item(0, last, edit.role, edit.edit, edit.parameters) for edit in edits)
            if not items:
                self._cell(0, last, self.y, BAR, words, f"{words} is frozen", None)
            for lane, item in enumerate(items):
                part = BAR / len(items)
                self._tuned(item, self.y + lane * part, part, words if lane == 0 else "")
            self._total(items, BAR)
            self.y += BAR

    def _total(self, items: Sequence[Item], height: float) -> None:
        if items:
            total = short_count(sum(item.parameters for item in items))
            self.totals.append(Label(WIDTH - 2, round(self.y + height / 2 + 3.5, 1), total))

    def _tuned(self, item: Item, y: float, height: float, text: str) -> None:
        tip = f"{item.role}\n{item.edit}, {count(item.parameters)} parameters"
        self._cell(item.first, item.last, y, height, text, tip, self.tones[item.edit])

    def _cell(
        self, first: int, last: int, y: float, height: float, text: str, tip: str, tone: int | None
    ) -> None:
        left, right = self.edges[first] + 1, self.edges[last + 1] - 1
        self.cells.append(
            Cell(
                round(left, 1), round(y + 1, 1), round(right - left, 1), round(height - 2, 1), text, tip, tone
            )
        )


def _table(edits: Sequence[EditLine], tones: dict[str, int]) -> tuple[PartRow, ...]:
    rows: dict[tuple[str, str], list[EditLine]] = {}
    for edit in edits:
        rows.setdefault((place_of(edit.role).part, edit.edit), []).append(edit)
    return tuple(
        PartRow(
            part=part,
            tensors=", ".join(dict.fromkeys(t for e in group if (t := place_of(e.role).tensor))),
            edit=edit,
            tone=tones[edit],
            places=len({place_of(e.role).block for e in group}),
            parameters=sum(e.parameters for e in group),
        )
        for (part, edit), group in rows.items()
    )


def _sentence(row: PartRow) -> str:
    places = "one place" if row.places == 1 else f"{row.places} places"
    return f"{row.edit} on {row.part} in {places}, {count(row.parameters)} parameters."
