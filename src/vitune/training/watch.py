"""Losses that are not finite: found without making a GPU wait at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitune.errors import TrainingError

_FILES_SHOWN = 8


@dataclass(frozen=True)
class _Seen:
    step: int
    lr: float
    indices: Sequence[int]
    loss: Tensor


class LossWatch:
    """Keeps the losses of the last steps and complains about one that is not finite.

    Args:
        name_of: The name (a path) of a training image, from its index.
    """

    def __init__(self, name_of: Callable[[int], str]) -> None:
        self._name_of = name_of
        self._seen: list[_Seen] = []

    def add(self, step: int, lr: float, indices: Sequence[int], loss: Tensor) -> None:
        """Take note of a loss; on a CPU, where it costs nothing, check it at once.

        Args:
            step: The step, from 0.
            lr: Its learning rate.
            indices: The images of the batch.
            loss: Its loss, a scalar.

        Raises:
            TrainingError: If the loss is not finite.
        """
        self._seen.append(_Seen(step, lr, indices, loss.detach()))
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Look at all losses noted since the last look.

        Raises:
            TrainingError: If one is not finite; names the step, the learning rate and the files of the batch.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return
        for one, value in zip(seen, torch.stack([one.loss for one in seen]).tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingError(self._message(one, value))

    def _message(self, seen: _Seen, value: float) -> str:
        names = [self._name_of(index) for index in seen.indices[:_FILES_SHOWN]]
        more = len(seen.indices) - len(names)
        files = ", ".join(names) + (f" and {more} more" if more else "")
        return (
            f"The loss is {value} at step {seen.step + 1} with lr {seen.lr:g}; the batch was: {files}. "
            "Use a smaller lr, clip_norm or fp32, or look at these images."
        )
