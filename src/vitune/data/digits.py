"""Real handwritten digits as an image folder, in no need of a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vitune._extras import require
from vitune.durable import new_folder
from vitune.errors import ConfigError, RunError

TRAIN, VALIDATION = 400, 200
_IMAGES, _CLASSES = 1797, 10
_BRIGHTEST = 16  # of the 8 x 8 pixels that scikit-learn has


def write_digits(folder: Path, seed: int = 0, *, train: int = TRAIN, validation: int = VALIDATION) -> None:
    """Write scikit-learn's 1,797 digits as `train/`, `val/` and `test/` folders of class folders.

    For few-shot use give `shots` where the folder is opened: they are drawn from the training images.

    Args:
        folder: Folder to make; it appears when it is complete, and serves all that make it at once.
        seed: Of the stratified split.
        train: Number of training images.
        validation: Number of validation images; the rest is the test split.

    Raises:
        ConfigError: If scikit-learn is not installed, or a split would not have an image of every class.
        RunError: If the folder is there already, or cannot be written.
    """
    for name, count in (("train", train), ("validation", validation), ("test", _IMAGES - train - validation)):
        if count < _CLASSES:
            raise ConfigError(
                f"the digits would have {count} {name} images; each split needs {_CLASSES} or more of {_IMAGES}."
            )
    if folder.exists():
        raise RunError(
            f"the digits cannot be written to '{folder}', which is there already; choose another --out."
        )
    digits = require("sklearn.datasets", "demo", "the digits").load_digits()
    try:
        with new_folder(folder) as partial:
            for split, chosen in _splits(digits.target, seed, train, validation).items():
                for index in chosen:
                    place = partial / split / str(digits.target[index])
                    place.mkdir(parents=True, exist_ok=True)
                    pixels = (digits.images[index] * (255 / _BRIGHTEST)).round().astype(np.uint8)
                    Image.fromarray(pixels).save(place / f"{index:04d}.png")
    except OSError as error:
        raise RunError(
            f"the digits cannot be written to '{folder}': {error.strerror}; choose another --out."
        ) from None


def _splits(labels: np.ndarray, seed: int, train: int, validation: int) -> dict[str, np.ndarray]:
    split = require("sklearn.model_selection", "demo", "the digits").train_test_split
    own, rest = split(np.arange(len(labels)), train_size=train, stratify=labels, random_state=seed)
    val, test = split(rest, train_size=validation, stratify=labels[rest], random_state=seed)
    return {"train": own, "val": val, "test": test}
