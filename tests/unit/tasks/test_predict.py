from __future__ import annotations

from pathlib import Path

import pytest

from vitune.errors import ConfigError, DataError
from vitune.tasks.classification import RunResult, evaluate, predict

from .conftest import COLOURS


def test_agrees_with_evaluation_whatever_the_batch(run: RunResult, colours: Path) -> None:
    found = evaluate(run.directory, colours, workers=0, device="cpu")
    paths = [colours / found.samples.name(i) for i in range(len(found.samples))]
    for batch_size in (5, 32):
        predictions = predict(run.directory, paths, top_k=1, batch_size=batch_size, device="cpu")
        assert [prediction.path for prediction in predictions] == paths
        classes = [found.class_names.index(prediction.guesses[0].class_name) for prediction in predictions]
        assert classes == found.evaluation.predicted.tolist()
        sure = [prediction.guesses[0].probability for prediction in predictions]
        assert sure == pytest.approx(found.evaluation.confidence.tolist(), abs=1e-5)


def test_names_the_most_probable_classes_best_first(run: RunResult, colours: Path) -> None:
    (prediction,) = predict(run.directory, [colours / "test" / "red" / "0.png"], top_k=9, device="cpu")
    chances = [guess.probability for guess in prediction.guesses]
    assert {guess.class_name for guess in prediction.guesses} == set(COLOURS)
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1)


def test_reads_folders(run: RunResult, colours: Path) -> None:
    predictions = predict(run.directory, [colours / "test" / "red"], device="cpu")
    assert len(predictions) == 4


def test_bad_input(run: RunResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="top_k is 0; it must be at least 1"):
        predict(run.directory, [tmp_path], top_k=0)
    with pytest.raises(DataError, match="absent"):
        predict(run.directory, [tmp_path / "absent.jpg"], device="cpu")
    (tmp_path / "broken.jpg").write_text("text")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        predict(run.directory, [tmp_path / "broken.jpg"], device="cpu")
