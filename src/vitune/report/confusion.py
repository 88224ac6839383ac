"""Which classes are taken for which: the whole matrix for few classes, the most confused pairs for many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vitune.report.record import RunRecord
from vitune.report.units import split_words

MOST_CLASSES = 40
MOST_PAIRS = 15
MOST_HARD = 15


@dataclass(frozen=True)
class MatrixCell:
    """Images of one class that were given another (or the same); `share` is of the true class, 0 to 1."""

    count: int
    share: float
    predicted: str


@dataclass(frozen=True)
class MatrixRow:
    """One true class."""

    name: str
    images: int
    recall: float | None
    cells: tuple[MatrixCell, ...]


@dataclass(frozen=True)
class Pair:
    """A true class taken for another; `share` is of the images of the true class."""

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class HardClass:
    """A class of which few images are recognised; `recall` is the share that is."""

    name: str
    images: int
    recall: float


@dataclass(frozen=True)
class Confusion:
    """What the section on confusions shows; `matrix` is empty for many classes."""

    split: str
    images: int
    classes: int
    names: tuple[str, ...]
    matrix: tuple[MatrixRow, ...]
    pairs: tuple[Pair, ...]
    hardest: tuple[HardClass, ...]


def confusion_counts(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Images per (true, predicted) class, (C, C) of int64."""
    return np.bincount(label * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def confusion(run: RunRecord) -> Confusion | None:
    """What is taken for what in a run's predictions.

    Args:
        run: The run.

    Returns:
        The section's content, or None where there are no predictions.
    """
    predictions = run.predictions
    if predictions is None or not len(predictions.label):
        return None
    highest = int(max(predictions.label.max(), predictions.predicted.max()))
    classes = max(highest + 1, len(run.class_names), run.data.get("classes") or 0)
    names = tuple(run.class_name(index) for index in range(classes))
    counts = confusion_counts(predictions.label, predictions.predicted, classes)
    images = counts.sum(axis=1)
    share = counts / np.maximum(images, 1)[:, None]
    return Confusion(
        split=split_words(predictions.split),
        images=len(predictions.label),
        classes=classes,
        names=names,
        matrix=_matrix(counts, share, images, names) if classes <= MOST_CLASSES else (),
        pairs=_pairs(counts, share, names),
        hardest=_hardest(share, images, names),
    )


def _matrix(
    counts: np.ndarray, share: np.ndarray, images: np.ndarray, names: tuple[str, ...]
) -> tuple[MatrixRow, ...]:
    return tuple(
        MatrixRow(
            name=name,
            images=int(images[row]),
            recall=float(share[row, row]) if images[row] else None,
            cells=tuple(
                MatrixCell(int(counts[row, column]), float(share[row, column]), names[column])
                for column in range(len(names))
            ),
        )
        for row, name in enumerate(names)
    )


def _pairs(counts: np.ndarray, share: np.ndarray, names: tuple[str, ...]) -> tuple[Pair, ...]:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    order = np.lexsort((-share[true, predicted], -wrong[true, predicted]))[:MOST_PAIRS]
    return tuple(
        Pair(names[t], names[p], int(counts[t, p]), float(share[t, p]))
        for t, p in zip(true[order], predicted[order], strict=True)
    )


def _hardest(share: np.ndarray, images: np.ndarray, names: tuple[str, ...]) -> tuple[HardClass, ...]:
    recall = np.diagonal(share)
    order = np.lexsort((-images, recall))
    chosen = [row for row in order if images[row] and recall[row] < 1][:MOST_HARD]
    return tuple(HardClass(names[row], int(images[row]), float(recall[row])) for row in chosen)
