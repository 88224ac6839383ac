"""How DyT trains: a complete pass, then a dynamic one, each with a backward pass of its own.

`L = CE(y_dyn) + CE(y_full) + KL(softmax(y_full) || softmax(y_dyn)) + w (mean(M) - r)^2` (section 3.3; Dynamic-Tuning
@ d1744f0, `engine_finetune_dynamic.py`). The teacher's logits carry no gradient, so that the complete pass, whose loss
is CE(y_full), can go backward before the dynamic pass runs: the same gradients, one graph alive at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vitune.methods._base import Criterion, Policy, Run
from vitune.methods.dyt.dispatch import Dispatch, nothing_skipped, recorded


@dataclass(frozen=True)
class TrainingTerms:
    """What the loss is made of; the settings of the same names of `DyT`."""

    target_rate: float
    rate_weight: float
    complete_pass: str
    temperature: float
    final_temperature: float | None


class DyTPolicy(Policy):
    """The passes, the losses and the temperature.

    Attributes:
        passes: Forward and backward passes of a step.
        terms: The latest value of every term of the loss, scalars without gradients: `dynamic`, `complete`,
            `distillation`, and `rate`, the share of active patch tokens.
    """

    def __init__(self, layers: Sequence[Dispatch], terms: TrainingTerms) -> None:
        self._layers, self._settings = list(layers), terms
        self.passes = 1 if terms.complete_pass == "none" else 2
        self.terms: dict[str, Tensor] = {}
        self._rates: Tensor | None = None
        self._steps = 1

    def begin(self, run: Run) -> None:
        """Learn how many steps the temperature has to fall."""
        self._steps = run.steps

    def log(self) -> dict[str, Any]:
        """The terms of the last step's loss, and the share of patch tokens that every gate kept in it."""
        found: dict[str, Any] = {name: float(value) for name, value in self.terms.items()}
        if self._rates is not None:
            found["dyt_rates"] = [round(rate, 4) for rate in self._rates.tolist()]
        return found

    def before_step(self, step: int) -> None:
        """Set the temperature of the step."""
        start, end = self._settings.temperature, self._settings.final_temperature
        if end is None:
            return
        done = min(1.0, step / self._steps)
        for layer in self._layers:
            layer.temperature = start + done * (end - start)

    def losses(
        self, forward: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, criterion: Criterion
    ) -> Iterator[Tensor]:
        """The loss of the complete pass, if there is one, then that of the dynamic pass."""
        teacher: Tensor | None = None
        terms: dict[str, Tensor] = {}
        if self.passes == 2:
            # The backward pass comes while the generator waits: recomputed blocks must skip nothing either.
            with nothing_skipped(self._layers):
                logits = forward(images)
                teacher = logits.detach()
                loss = criterion(logits, targets)
                terms["complete"] = loss.detach()
                yield loss
                del logits, loss
        with recorded(self._layers) as notes:
            logits = forward(images)
        loss = criterion(logits, targets)
        terms["dynamic"] = loss.detach()
        if teacher is not None and self._settings.complete_pass == "distil":
            distance = distillation(teacher, logits)
            terms["distillation"] = distance.detach()
            loss = loss + distance
        masks = [note[-1].mask for note in notes]
        self._rates = torch.stack([mask.detach().mean() for mask in masks])
        rate = active_share(masks)
        terms["rate"] = rate.detach()
        self.terms = terms
        yield loss + self._settings.rate_weight * (rate - self._settings.target_rate) ** 2

    def pass_settings(self) -> list[AbstractContextManager[None]]:
        """Nothing is skipped in the complete pass."""
        complete = [nothing_skipped(self._layers)] if self.passes == 2 else []
        return [*complete, nullcontext()]


def distillation(teacher: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(logits)) of logits (B, C), summed over classes, the mean over the batch."""
    target = teacher.detach().float().log_softmax(-1)
    return F.kl_div(logits.float().log_softmax(-1), target, reduction="batchmean", log_target=True)


def active_share(masks: Sequence[Tensor]) -> Tensor:
    """Mean over images, layers and patch tokens of masks (B, N), which may differ in N."""
    return torch.stack([mask.sum() for mask in masks]).sum() / sum(mask.numel() for mask in masks)
