"""What holds of the labels of every scatter."""

from __future__ import annotations

import itertools

from vitune.report.labels import Box, label_box
from vitune.report.scatter import BARE, RINGED, Scatter


def check_labels(chart: Scatter) -> None:
    """No label covers another label or a mark, its own included, and all are inside the picture.

    Args:
        chart: The scatter.
    """
    words = {dot.label: label_box(dot.words, dot.label) for dot in chart.dots}
    for (one, first), (other, second) in itertools.combinations(words.items(), 2):
        assert not overlap(first, second), f"the labels '{one}' and '{other}' cover each other"
    for dot in chart.dots:
        radius = (RINGED if dot.on_front else BARE) - 1
        mark = (dot.x - radius, dot.y - radius, dot.x + radius, dot.y + radius)
        for label, box in words.items():
            assert not overlap(box, mark), f"the label '{label}' covers the mark of '{dot.label}'"
    for label, (left, top, right, bottom) in words.items():
        inside = left >= 0 and top >= 0 and right <= chart.width and bottom <= chart.height
        assert inside, f"the label '{label}' is cut"


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
