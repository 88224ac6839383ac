from dataclasses import replace
from pathlib import Path

import numpy as np

from vitune.report.confusion import confusion, confusion_counts
from vitune.report.reading import read_run
from vitune.report.record import Predictions, RunRecord

from .fake_run import make_run


def run(label: list[int], predicted: list[int], names: tuple[str, ...] = ("a", "b", "c")) -> RunRecord:
    predictions = Predictions(np.array(label, int), np.array(predicted, int), None, None, "val")
    return RunRecord(Path("run"), "run", "ssf", class_names=names, predictions=predictions)


def test_counts() -> None:
    counts = confusion_counts(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_rows_are_shares_of_the_true_class() -> None:
    found = confusion(run([0, 0, 0, 0, 1], [0, 0, 0, 1, 1]))
    assert found is not None
    assert [cell.share for cell in found.matrix[0].cells] == [0.75, 0.25, 0.0]
    assert [row.recall for row in found.matrix] == [0.75, 1.0, None], "a class without images has no recall"
    assert (found.split, found.images, found.names) == ("validation", 5, ("a", "b", "c"))


def test_pairs_are_ordered_by_count_then_share() -> None:
    found = confusion(run([0, 0, 0, 1, 2, 2], [1, 1, 0, 0, 0, 2]))
    assert found is not None
    assert [(p.true, p.predicted, p.count) for p in found.pairs] == [
        ("a", "b", 2),
        ("b", "a", 1),
        ("c", "a", 1),
    ]
    assert found.pairs[2].share == 0.5


def test_hardest_classes_leave_out_the_perfect_and_the_empty() -> None:
    found = confusion(run([0, 0, 1], [0, 1, 1]))
    assert found is not None
    assert [(c.name, c.images, c.recall) for c in found.hardest] == [("a", 2, 0.5)]


def test_many_classes_have_no_matrix(tmp_path: Path) -> None:
    record = read_run(make_run(tmp_path / "a", classes=102, images=500, epochs=1))
    found = confusion(record)
    assert found is not None
    assert found.classes == 102
    assert found.matrix == ()
    assert 0 < len(found.pairs) <= 15


def test_predictions_beyond_the_known_names_get_numbers() -> None:
    found = confusion(run([0], [4], names=("a",)))
    assert found is not None
    assert found.names == ("a", "class 1", "class 2", "class 3", "class 4")


def test_no_predictions() -> None:
    assert confusion(run([], [])) is None
    assert confusion(replace(run([0], [0]), predictions=None)) is None
