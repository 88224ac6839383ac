"""Averaged weights, of the trained tensors only.

timm's ModelEmaV3 keeps a second copy of the whole model; with a frozen backbone nearly all of it would never
change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vitune.tuned import Tuned


class Ema:
    """Exponential moving average of what training changes.

    Args:
        tuned: The model; the average starts at its present state.
        decay: Share of the old average that stays at every step.
    """

    def __init__(self, tuned: Tuned, decay: float) -> None:
        self._tuned = tuned
        self._decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in tuned.state().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the state after a step into the average; whole-number buffers are copied."""
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for name, current in self._tuned.state().items():
            if current.is_floating_point():
                averages.append(self.tensors[name])
                currents.append(current.detach())
            else:
                self.tensors[name].copy_(current)
        torch._foreach_lerp_(averages, currents, 1 - self._decay)  # pyright: ignore[reportPrivateImportUsage]

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from an average that was saved.

        Args:
            tensors: The `tensors` of an average of the same model.
        """
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While entered, the model has the averaged weights; afterwards exactly its own again."""
        own = {name: tensor.detach().clone() for name, tensor in self._tuned.state().items()}
        self._tuned.load_state(self.tensors)
        try:
            yield
        finally:
            self._tuned.load_state(own)
