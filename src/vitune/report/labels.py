"""Where the labels of marks stand: beside their marks, off other marks and labels; geometry only.

Every label has places to choose from around its mark. They are taken in turn, each as the one that costs least beside
what stands already, and then a few rounds more, since a label that came first may be in the way of a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LETTER_WIDTH, LINE_HEIGHT = 6.2, 12.0
_ASCENT, _DESCENT = 9.0, 3.0
_ROUNDS = 4
# What is worse than what: words on words, a mark on words, words over the edge, a line through words, a way off.
_ON_WORDS, _ON_MARK, _OVER_EDGE, _ON_LINE, _ON_OWN_LINE = 1000.0, 500.0, 4000.0, 6.0, 5.0
_NEAR = 8.0  # a label further from its mark than this needs a line to it

Anchor = Literal["start", "middle", "end"]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Mark:
    """A mark in a chart.

    Attributes:
        label: Its words.
        x: Its middle.
        y: Its middle, downwards.
        radius: Half of the room that it takes.
        low: One end of the upright line through it, if it has one.
        high: The other end.
    """

    label: str
    x: float
    y: float
    radius: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Label:
    """Where the words of a mark stand.

    Attributes:
        x: Where they are anchored.
        y: Their base line.
        anchor: Which end of them `x` is.
        leader: Path of a line from the mark to words that stand off; empty where none is needed.
    """

    x: float
    y: float
    anchor: Anchor
    leader: str = ""


def place_labels(marks: Sequence[Mark], frame: Box) -> list[Label]:
    """Find a place for every label.

    Args:
        marks: The marks, each of which is labelled.
        frame: What the words should stay in.

    Returns:
        One per mark, in their order.
    """
    choices = [_places(mark) for mark in marks]
    alone = [[_alone(i, label, marks, frame) for label in places] for i, places in enumerate(choices)]
    chosen: list[int | None] = [None] * len(marks)
    for _ in range(_ROUNDS):
        before = list(chosen)
        for i, places in enumerate(choices):
            words = [
                _box(choices[j][other], marks[j].label)
                for j, other in enumerate(chosen)
                if other is not None and j != i
            ]
            costs = [
                alone[i][number]
                + _ON_WORDS * sum(_overlap(_box(label, marks[i].label), box) for box in words)
                for number, label in enumerate(places)
            ]
            chosen[i] = costs.index(min(costs))
        if chosen == before:
            break
    return [
        _with_leader(places[number or 0], mark)
        for places, number, mark in zip(choices, chosen, marks, strict=True)
    ]


def label_box(label: Label, text: str) -> Box:
    """The room that a label takes.

    Args:
        label: Where it stands.
        text: Its words.
    """
    return _box(label, text)


def _places(mark: Mark) -> list[Label]:
    gap = mark.radius + 3
    found = []
    for off in (0.0, 14.0, 28.0):
        for drop in sorted(range(-72, 73, 6), key=abs):
            found.append(Label(mark.x + gap + off, mark.y + 4 + drop, "start"))
            found.append(Label(mark.x - gap - off, mark.y + 4 + drop, "end"))
    for drop in range(0, 61, 6):
        found.append(Label(mark.x, mark.y - mark.radius - _DESCENT - drop, "middle"))
        found.append(Label(mark.x, mark.y + mark.radius + _ASCENT + drop, "middle"))
    return found


def _alone(number: int, label: Label, marks: Sequence[Mark], frame: Box) -> float:
    """What a place costs, whatever the other labels do."""
    own, box = marks[number], _box(label, marks[number].label)
    left, top, right, bottom = frame
    cost = _distance(box, own)
    # Right of its mark is where words are looked for.
    cost += {"start": 0.0, "end": 1.0, "middle": 3.0}[label.anchor]
    if box[0] < left or box[1] < top or box[2] > right or box[3] > bottom:
        cost += _OVER_EDGE + max(left - box[0], 0.0) + max(box[2] - right, 0.0)
    for i, mark in enumerate(marks):
        room = (mark.x - mark.radius, mark.y - mark.radius, mark.x + mark.radius, mark.y + mark.radius)
        cost += _ON_MARK * _overlap(box, room)
        if mark.low is not None and mark.high is not None:
            line = (mark.x, min(mark.low, mark.high), mark.x, max(mark.low, mark.high))
            cost += (_ON_OWN_LINE if i == number else _ON_LINE) * _overlap(box, line)
    return cost


def _box(label: Label, text: str) -> Box:
    length = LETTER_WIDTH * len(text)
    left = {"start": label.x, "middle": label.x - length / 2, "end": label.x - length}[label.anchor]
    return left, label.y - _ASCENT, left + length, label.y + _DESCENT


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _distance(box: Box, mark: Mark) -> float:
    """From the rim of a mark to the nearest point of its words, so that words beside it are at a gap's distance."""
    x, y = _nearest(box, mark)
    return max(0.0, ((x - mark.x) ** 2 + (y - mark.y) ** 2) ** 0.5 - mark.radius)


def _nearest(box: Box, mark: Mark) -> tuple[float, float]:
    return min(max(mark.x, box[0]), box[2]), min(max(mark.y, box[1]), box[3])


def _with_leader(label: Label, mark: Mark) -> Label:
    rounded = Label(round(label.x, 1), round(label.y, 1), label.anchor)
    box = _box(label, mark.label)
    distance = _distance(box, mark)
    if distance <= _NEAR:
        return rounded
    x, y = _nearest(box, mark)
    share = mark.radius / (distance + mark.radius)
    start = (mark.x + share * (x - mark.x), mark.y + share * (y - mark.y))
    path = f"M{start[0]:.1f} {start[1]:.1f}L{x:.1f} {y:.1f}"
    return Label(rounded.x, rounded.y, label.anchor, path)
