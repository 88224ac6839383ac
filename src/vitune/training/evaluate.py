"""Accuracy, loss and predictions of a model on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.training.modes import evaluation_mode


@dataclass(frozen=True)
class Evaluation:
    """What a model says about n labelled images, in the order of their indices.

    Attributes:
        index: Index of each image in its split, (n,) int64.
        label: Its true class, (n,) int64.
        predicted: The most probable class, (n,) int64.
        confidence: Probability given to that class, (n,) float32.
        losses: Cross-entropy of each image, (n,) float32.
    """

    index: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    losses: np.ndarray

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self.index)

    @property
    def correct(self) -> int:
        """Number of images whose predicted class is the true one."""
        return int((self.predicted == self.label).sum())

    @property
    def accuracy(self) -> float:
        """Share of correct images, from 0 to 1."""
        return self.correct / self.count

    @property
    def loss(self) -> float:
        """Mean cross-entropy, without label smoothing."""
        return float(self.losses.mean(dtype=np.float64))

    def confusion(self, num_classes: int) -> np.ndarray:
        """Counts of images by true class (row) and predicted class (column), (C, C) int64.

        Args:
            num_classes: Number of classes.
        """
        cells = np.bincount(self.label * num_classes + self.predicted, minlength=num_classes**2)
        return cells.reshape(num_classes, num_classes)


def evaluate(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor, Tensor]],
    accelerator: Accelerator,
) -> Evaluation:
    """Evaluate a model; it is in evaluation mode meanwhile, and unchanged afterwards.

    With several processes, each gives its own share of the images and gets the result of all.

    Args:
        model: The model whose mode is switched.
        forward: Gives logits (B, C) for a batch of inputs.
        batches: Inputs, labels (B,) and indices (B,).
        accelerator: Knows the device, the precision and the other processes.
    """
    rows: list[tuple[Tensor, ...]] = []
    with evaluation_mode(model), torch.no_grad():
        for inputs, labels, indices in batches:
            labels = labels.to(accelerator.device, non_blocking=True)
            with accelerator.autocast():
                logits = forward(inputs.to(accelerator.device, non_blocking=True))
            logits = logits.float()
            confidence, predicted = logits.softmax(dim=1).max(dim=1)
            losses = F.cross_entropy(logits, labels, reduction="none")
            rows.append((indices, labels, predicted, confidence, losses))
    return _gathered(rows)


def _gathered(rows: list[tuple[Tensor, ...]]) -> Evaluation:
    """The rows of all processes as arrays, sorted by index."""
    kinds: tuple[Any, ...] = (np.int64, np.int64, np.int64, np.float32, np.float32)
    own = [
        torch.cat(column).cpu().numpy().astype(kind) if rows else np.empty(0, kind)
        for column, kind in zip(zip(*rows, strict=True) if rows else kinds, kinds, strict=True)
    ]
    parts = gather_object([own])
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return Evaluation(*(column[order] for column in columns))
