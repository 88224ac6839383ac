from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vitune.data import open_source
from vitune.errors import RunError
from vitune.tasks.predictions import THUMBNAIL_SIZE, worst_mistakes, write_predictions
from vitune.training.evaluate import Evaluation


def evaluation(predicted: list[int], confidence: list[float]) -> Evaluation:
    count = len(predicted)
    return Evaluation(
        index=np.arange(count),
        label=np.repeat([0, 1, 2], count // 3),
        predicted=np.array(predicted),
        confidence=np.array(confidence, np.float32),
        losses=np.zeros(count, np.float32),
    )


FOUND = evaluation(
    [0, 0, 1, 0, 1, 1, 1, 1, 0, 2, 2, 1], [0.9, 0.8, 0.7, 0.6] + [0.5] * 4 + [0.95, 1.0, 1.0, 0.4]
)


def test_the_worst_mistake_is_the_one_that_was_surest() -> None:
    assert worst_mistakes(FOUND) == [8, 2, 11]


def test_the_file_holds_what_the_report_needs(colours: Path, tmp_path: Path) -> None:
    samples = open_source(colours).split("val")
    assert samples is not None
    write_predictions(tmp_path / "predictions.npz", FOUND, samples)
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert str(arrays["split"]) == "val"
    assert arrays["name"].tolist() == [samples.name(i) for i in range(12)]
    assert arrays["thumbnail_index"].tolist() == [8, 2, 11]
    assert arrays["thumbnails"].shape == (3, THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)
    assert arrays["thumbnails"].dtype == np.uint8
    # Images 8 to 11 are red.
    assert arrays["thumbnails"][0].mean(axis=(0, 1)).argmax() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]


def test_without_mistakes_there_are_no_pictures(colours: Path, tmp_path: Path) -> None:
    samples = open_source(colours).split("val")
    assert samples is not None
    right = evaluation([0] * 4 + [1] * 4 + [2] * 4, [0.9] * 12)
    write_predictions(tmp_path / "predictions.npz", right, samples)
    with np.load(tmp_path / "predictions.npz") as file:
        assert file["thumbnails"].shape == (0, THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)


def test_a_file_that_cannot_be_written_is_one_sentence(colours: Path, tmp_path: Path) -> None:
    samples = open_source(colours).split("val")
    assert samples is not None
    with pytest.raises(RunError, match=r"predictions\.npz cannot be written: No such file"):
        write_predictions(tmp_path / "absent" / "predictions.npz", FOUND, samples)
