"""One training step, and all that it leaves behind, to be compared with another's."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import vitune
from tests.contract.cases import labels
from vitune.lean import Level
from vitune.training import moments


@dataclass(frozen=True)
class Step:
    """A step's loss and gradients, the buffers after it, and where it left the random generator."""

    loss: float
    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    generator: Tensor

    @classmethod
    def of(cls, tuned: vitune.Tuned, batch: Tensor, level: Level) -> Step:
        """A step at a memory level; a handle serves for one."""
        tuned.memory = level
        torch.manual_seed(7)
        total, targets = 0.0, labels(len(batch))
        for loss in moments.losses(tuned.policies, tuned, batch, targets, nn.functional.cross_entropy):
            loss.backward()
            total += loss.item()
        return cls(
            total,
            {name: p.grad for name, p in tuned.trainable().items() if p.grad is not None},
            dict(tuned.model.named_buffers()),
            torch.get_rng_state(),
        )

    def assert_like(self, other: Step) -> None:
        """Equal but for the order of sums."""
        assert self.loss == pytest.approx(other.loss, rel=1e-5)
        assert self.gradients.keys() == other.gradients.keys()
        largest = max(gradient.abs().max().item() for gradient in other.gradients.values())
        for name, gradient in other.gradients.items():
            # Gradients that are zero but for rounding (of the keys' bias) are held to the largest of all.
            atol = 1e-5 * gradient.abs().max().item() + 1e-6 * largest
            torch.testing.assert_close(self.gradients[name], gradient, rtol=0, atol=atol, msg=name)
        for name, buffer in other.buffers.items():
            torch.testing.assert_close(self.buffers[name], buffer, msg=name)
