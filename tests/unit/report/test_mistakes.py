import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from vitune.report.mistakes import data_uri, worst_mistakes
from vitune.report.record import Predictions, RunRecord

PICTURE = np.full((64, 64, 3), (200, 30, 90), np.uint8)


def record(confidence: np.ndarray | None, names: tuple[str, ...] | None = ("x", "y", "z")) -> RunRecord:
    predictions = Predictions(
        label=np.array([0, 1, 0]),
        predicted=np.array([1, 1, 1]),
        confidence=confidence,
        name=names,
        split="test",
        thumbnails={0: PICTURE, 1: PICTURE, 2: PICTURE},
    )
    return RunRecord(Path("run"), "run", "ssf", class_names=("cat", "dog"), predictions=predictions)


def test_surest_first_and_only_mistakes() -> None:
    found = worst_mistakes(record(np.array([0.6, 0.99, 0.8])))
    assert [(m.name, m.true, m.predicted, m.confidence) for m in found] == [
        ("z", "cat", "dog", 0.8),
        ("x", "cat", "dog", 0.6),
    ]


def test_at_most() -> None:
    assert len(worst_mistakes(record(np.array([0.6, 0.99, 0.8])), most=1)) == 1


def test_unknown_confidence_and_names() -> None:
    assert [(m.confidence, m.name) for m in worst_mistakes(record(None, None))] == [
        (None, None),
        (None, None),
    ]
    assert worst_mistakes(record(np.array([np.nan, 0.1, 0.2])))[1].confidence is None


def test_no_predictions() -> None:
    assert worst_mistakes(replace(record(None), predictions=None)) == ()


def test_the_picture_survives() -> None:
    kind, content = data_uri(PICTURE).split(",", 1)
    assert kind == "data:image/jpeg;base64"
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))), int)
    assert decoded.shape == (64, 64, 3)
    assert abs(decoded - PICTURE).max() <= 6
