"""The batches that policies look at before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitune.training.batches import StepSampler, make_loader, steps_per_epoch
from vitune.training.data import FitData

if TYPE_CHECKING:
    from vitune.training.config import TrainConfig


class PreparationBatches:
    """The batches of the first epoch, read anew each time they are iterated over; every process sees all of
    them.

    Args:
        data: Images to train on.
        config: Settings of the run.
        device: Where the batches go.
        augment: Whether the images are augmented as in training.
    """

    def __init__(
        self, data: FitData, config: TrainConfig, device: torch.device, *, augment: bool = True
    ) -> None:
        self._data, self._config, self._device, self._augment = data, config, device, augment

    @property
    def unaugmented(self) -> PreparationBatches:
        """The same batches of the images as evaluation sees them."""
        return PreparationBatches(self._data, self._config, self._device, augment=False)

    def __len__(self) -> int:
        config = self._config
        return steps_per_epoch(self._data.train_images, config.batch_size, drop_last=config.drop_last)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        config = self._config
        keys = StepSampler(
            self._data.train_images, config.batch_size, config.seed, 0, len(self), drop_last=config.drop_last
        )
        plain = self._data.unaugmented
        images_of = self._data.train if self._augment or plain is None else plain
        for images, labels, _ in make_loader(images_of, keys, config.workers):
            yield images.to(self._device), labels.to(self._device)
