"""Read `predictions.npz`: labels and predictions of one split, and pictures of the worst mistakes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from vitune.errors import RunError
from vitune.report.record import Predictions


def read_predictions(path: Path) -> Predictions:
    """Read the predictions of a run.

    Args:
        path: The file; must exist.

    Raises:
        RunError: If the file cannot be read, or an array is missing or has a wrong shape or type.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path} cannot be read as predictions ({error}); delete it or make the run again."
        ) from None
    label = _classes(path, arrays, "label")
    predicted = _classes(path, arrays, "predicted")
    if len(label) != len(predicted):
        raise RunError(
            f"{path}: 'label' has {len(label)} rows but 'predicted' has {len(predicted)}; make the run again."
        )
    confidence = _column(path, arrays, "confidence", "f", len(label))
    names = _column(path, arrays, "name", "US", len(label))
    split = arrays.get("split")
    return Predictions(
        label=label,
        predicted=predicted,
        confidence=confidence,
        name=None if names is None else tuple(str(name) for name in names),
        split="val" if split is None else str(split),
        thumbnails=_thumbnails(path, arrays, len(label)),
    )


def _classes(path: Path, arrays: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in arrays:
        raise RunError(f"{path}: the array '{key}' is missing; delete the file or make the run again.")
    values = arrays[key]
    if values.ndim != 1 or values.dtype.kind not in "iu" or (len(values) and values.min() < 0):
        raise RunError(
            f"{path}: '{key}' should hold one class number (at least 0) per image, "
            f"found shape {values.shape} of {values.dtype}; make the run again."
        )
    return values.astype(np.int64)


def _column(path: Path, arrays: dict[str, np.ndarray], key: str, kinds: str, rows: int) -> np.ndarray | None:
    values = arrays.get(key)
    if values is None:
        return None
    if values.shape != (rows,) or values.dtype.kind not in kinds:
        raise RunError(
            f"{path}: '{key}' should have {rows} rows like 'label', "
            f"found shape {values.shape} of {values.dtype}; make the run again."
        )
    return values


def _thumbnails(path: Path, arrays: dict[str, np.ndarray], rows: int) -> dict[int, np.ndarray]:
    pictures, chosen = arrays.get("thumbnails"), arrays.get("thumbnail_index")
    if pictures is None or chosen is None or not len(chosen):
        return {}
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise RunError(
            f"{path}: 'thumbnails' should be pictures (count, height, width, 3) of uint8, "
            f"found shape {pictures.shape} of {pictures.dtype}; make the run again."
        )
    if chosen.shape != (len(pictures),) or chosen.dtype.kind not in "iu":
        raise RunError(
            f"{path}: 'thumbnail_index' should name one image for each of the {len(pictures)} thumbnails, "
            f"found shape {chosen.shape} of {chosen.dtype}; make the run again."
        )
    index = _column(path, arrays, "index", "iu", rows)
    row_of = {int(value): row for row, value in enumerate(index if index is not None else range(rows))}
    unknown = [int(value) for value in chosen if int(value) not in row_of]
    if unknown:
        raise RunError(
            f"{path}: 'thumbnail_index' names image {unknown[0]}, which is not in 'index'; "
            "make the run again."
        )
    return {row_of[int(value)]: picture for value, picture in zip(chosen, pictures, strict=True)}
