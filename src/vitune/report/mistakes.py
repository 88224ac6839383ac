"""The mistakes a run is surest of, as pictures inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from vitune.report.record import Predictions, RunRecord


@dataclass(frozen=True)
class Mistake:
    """One wrongly classified image; `picture` is a data URI."""

    picture: str
    true: str
    predicted: str
    confidence: float | None
    name: str | None


def worst_mistakes(run: RunRecord, most: int = 24) -> tuple[Mistake, ...]:
    """The mistakes with thumbnails, surest first.

    Args:
        run: The run.
        most: How many to return at most.
    """
    predictions = run.predictions
    if predictions is None:
        return ()
    rows = [row for row in predictions.thumbnails if predictions.label[row] != predictions.predicted[row]]
    rows.sort(key=lambda row: -(_confidence(predictions, row) or 0.0))
    return tuple(
        Mistake(
            picture=data_uri(predictions.thumbnails[row]),
            true=run.class_name(int(predictions.label[row])),
            predicted=run.class_name(int(predictions.predicted[row])),
            confidence=_confidence(predictions, row),
            name=predictions.name[row] if predictions.name else None,
        )
        for row in rows[:most]
    )


def data_uri(picture: np.ndarray) -> str:
    """A picture (height, width, 3) of uint8 as a JPEG data URI."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _confidence(predictions: Predictions, row: int) -> float | None:
    if predictions.confidence is None:
        return None
    value = float(predictions.confidence[row])
    return value if np.isfinite(value) else None
