"""Real handwritten digits as an image folder: the data of the demo, in no need of a download."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from vitune._extras import require
from vitune.errors import RunError

TRAIN, VALIDATION = 400, 200
_BRIGHTEST = 16  # of the 8 x 8 pixels that scikit-learn has


def write_digits(folder: Path, seed: int) -> None:
    """Write scikit-learn's 1,797 digits as `train/`, `val/` and `test/` folders of class folders.

    Args:
        folder: Folder to make; it appears when it is complete.
        seed: Of the stratified split into 400, 200 and the rest.

    Raises:
        ConfigError: If scikit-learn is not installed.
        RunError: If the folder cannot be written.
    """
    digits = require("sklearn.datasets", "demo", "the demo").load_digits()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            for split, chosen in _splits(digits.target, seed).items():
                for index in chosen:
                    place = partial / split / str(digits.target[index])
                    place.mkdir(parents=True, exist_ok=True)
                    pixels = (digits.images[index] * (255 / _BRIGHTEST)).round().astype(np.uint8)
                    Image.fromarray(pixels).save(place / f"{index:04d}.png")
            partial.chmod(0o755)  # mkdtemp makes a private one
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # gone already where all went well
    except OSError as error:
        raise RunError(
            f"the digits cannot be written to '{folder}': {error.strerror}; choose another --out."
        ) from None


def _splits(labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    split = require("sklearn.model_selection", "demo", "the demo").train_test_split
    train, rest = split(np.arange(len(labels)), train_size=TRAIN, stratify=labels, random_state=seed)
    val, test = split(rest, train_size=VALIDATION, stratify=labels[rest], random_state=seed)
    return {"train": train, "val": val, "test": test}
