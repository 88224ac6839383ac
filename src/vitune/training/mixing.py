"""Mixup and cutmix by timm, drawn from (seed, step)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from vitune.randomness import derive_seed, seeded

if TYPE_CHECKING:
    from vitune.training.config import TrainConfig


class Mixing:
    """Mixes every image of a batch with the one at the mirrored place.

    Args:
        config: Alphas, label smoothing and seed.
        num_classes: Classes of the targets.
    """

    def __init__(self, config: TrainConfig, num_classes: int) -> None:
        self._seed = config.seed
        self._smoothing = config.label_smoothing
        self._num_classes = num_classes
        self._mixup = Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            label_smoothing=config.label_smoothing,
            num_classes=num_classes,
        )

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        All processes draw the same numbers for a step, and each has whole mirrored pairs, so that the mixture
        does not depend on how many processes there are.

        Args:
            images: (B, 3, height, width); changed in place.
            labels: (B,).
            step: The step, from 0.

        Returns:
            The images, and class probabilities (B, C).
        """
        count = len(images)
        targets = mixup_target(labels, self._num_classes, smoothing=self._smoothing)
        # The middle image of an odd batch has no partner and stays as it is.
        paired = torch.tensor([i for i in range(count) if 2 * i + 1 != count], device=images.device)
        if len(paired) == 0:
            return images, targets
        with seeded(derive_seed(self._seed, "mix", step)):
            if len(paired) == count:
                return self._mixup(images, labels)
            images[paired], targets[paired] = self._mixup(images[paired], labels[paired])
        return images, targets
