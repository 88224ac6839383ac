"""The data of a fit: what to train on, what to choose by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset


@dataclass(frozen=True)
class FitData:
    """Images as data sets that give (image, label, index) for an (epoch, index) pair.

    Args:
        train: Training images; must have a length.
        validation: Images that choose the epoch, without augmentation; None keeps the last epoch.
        num_classes: Number of classes.
        name_of: Name (a path) of a training image from its index, for messages.
        unaugmented: The training images as evaluation sees them, for policies that measure; `train` if not given.
    """

    train: Dataset[Any]
    validation: Dataset[Any] | None
    num_classes: int
    name_of: Callable[[int], str] = str
    unaugmented: Dataset[Any] | None = None

    @property
    def train_images(self) -> int:
        """Number of training images."""
        return len(self.train)  # pyright: ignore[reportArgumentType]

    @property
    def validation_images(self) -> int:
        """Number of validation images, 0 without a validation split."""
        return 0 if self.validation is None else len(self.validation)  # pyright: ignore[reportArgumentType]
