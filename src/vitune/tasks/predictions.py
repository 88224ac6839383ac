"""The file of predictions that a report is drawn from, with small pictures of the worst mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vitune.data import Samples
from vitune.durable import replace_file
from vitune.errors import RunError
from vitune.training.evaluate import Evaluation

THUMBNAIL_SIZE = 64
_MOST_MISTAKES = 24


def write_predictions(path: Path, evaluation: Evaluation, samples: Samples) -> None:
    """Write what a model says about each image of a split.

    Args:
        path: The `.npz` file.
        evaluation: What it says.
        samples: The images.

    Raises:
        RunError: If the file cannot be written.
    """
    worst = worst_mistakes(evaluation)
    thumbnails = [_thumbnail(samples.image(index)) for index in worst]
    shape = (0, THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)
    arrays = {
        "index": evaluation.index,
        "label": evaluation.label,
        "predicted": evaluation.predicted,
        "confidence": evaluation.confidence,
        "split": np.array(samples.split),
        "name": np.array([samples.name(int(index)) for index in evaluation.index], dtype=np.str_),
        "thumbnails": np.stack(thumbnails) if thumbnails else np.empty(shape, np.uint8),
        "thumbnail_index": np.array(worst, dtype=np.int64),
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # an open file, since numpy adds a suffix to names
            np.savez_compressed(file, allow_pickle=False, **arrays)

    try:
        replace_file(path, write)
    except OSError as error:
        raise RunError(f"The file {path} cannot be written: {error.strerror}.") from None


def worst_mistakes(evaluation: Evaluation) -> list[int]:
    """Indices of the images that the model was most sure of and wrong about, worst first.

    Args:
        evaluation: What the model says.
    """
    wrong = np.flatnonzero(evaluation.predicted != evaluation.label)
    order = np.argsort(-evaluation.confidence[wrong], kind="stable")
    return [int(evaluation.index[row]) for row in wrong[order][:_MOST_MISTAKES]]


def _thumbnail(image: Image.Image) -> np.ndarray:
    """The whole picture in a square of uint8 (size, size, 3), with bands where it is not square."""
    return np.asarray(ImageOps.pad(image, (THUMBNAIL_SIZE, THUMBNAIL_SIZE)))
