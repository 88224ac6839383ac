from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitune.errors import RunError
from vitune.report.predictions_reading import read_predictions


def arrays(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "index": np.array([10, 20, 30]),
        "label": np.array([0, 1, 2]),
        "predicted": np.array([0, 2, 2]),
        "confidence": np.array([0.9, 0.8, 0.7], np.float32),
        "split": np.array("test"),
        "name": np.array(["a.jpg", "b.jpg", "c.jpg"]),
        "thumbnails": np.zeros((1, 64, 64, 3), np.uint8),
        "thumbnail_index": np.array([20]),
    }
    values |= changes
    return {key: value for key, value in values.items() if value is not None}


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "predictions.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_everything(tmp_path: Path) -> None:
    found = read_predictions(write(tmp_path))
    assert found.label.tolist() == [0, 1, 2]
    assert found.predicted.tolist() == [0, 2, 2]
    assert found.split == "test"
    assert found.name == ("a.jpg", "b.jpg", "c.jpg")
    assert found.confidence is not None
    assert found.confidence.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert list(found.thumbnails) == [1], "thumbnails are found by the image's index"


def test_only_labels_and_predictions_are_needed(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("index", "confidence", "split", "name", "thumbnails", "thumbnail_index"))
    found = read_predictions(write(tmp_path, **nothing))
    assert (found.confidence, found.name, found.split, found.thumbnails) == (None, None, "val", {})


def test_without_index_thumbnails_name_rows(tmp_path: Path) -> None:
    assert list(read_predictions(write(tmp_path, index=None, thumbnail_index=np.array([2]))).thumbnails) == [
        2
    ]


def test_no_mistake_no_thumbnail(tmp_path: Path) -> None:
    nothing = {"thumbnails": np.zeros((0, 64, 64, 3), np.uint8), "thumbnail_index": np.zeros(0, np.int64)}
    assert read_predictions(write(tmp_path, **nothing)).thumbnails == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "the array 'label' is missing"),
        ({"predicted": np.array([1])}, "'label' has 3 rows but 'predicted' has 1"),
        ({"label": np.array([0.5, 1, 2])}, r"'label' should hold one class number .* of float64"),
        ({"label": np.array([-1, 1, 2])}, r"'label' should hold one class number \(at least 0\)"),
        ({"predicted": np.zeros((3, 2), int)}, r"'predicted' should hold one class number .*shape \(3, 2\)"),
        ({"confidence": np.zeros(2)}, r"'confidence' should have 3 rows like 'label', found shape \(2,\)"),
        ({"name": np.array([1, 2, 3])}, "'name' should have 3 rows like 'label'"),
        ({"thumbnails": np.zeros((1, 64, 64), np.uint8)}, r"'thumbnails' should be pictures .*\(1, 64, 64\)"),
        ({"thumbnails": np.zeros((1, 64, 64, 3))}, "'thumbnails' should be pictures .* of float64"),
        (
            {"thumbnail_index": np.array([10, 20])},
            "'thumbnail_index' should name one image for each of the 1",
        ),
        ({"thumbnail_index": np.array([7])}, "'thumbnail_index' names image 7, which is not in 'index'"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        read_predictions(write(tmp_path, **changes))
    assert "predictions.npz" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04cut"])
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "predictions.npz"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"predictions\.npz cannot be read as predictions"):
        read_predictions(path)


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RunError, match="cannot be read as predictions"):
        read_predictions(path)


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, name=np.array([{}, 1, "c"], dtype=object))
    with pytest.raises(RunError, match="cannot be read as predictions"):
        read_predictions(path)
