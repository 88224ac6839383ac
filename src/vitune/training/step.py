"""One optimizer step, from a batch on the device to updated weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.errors import TrainingError
from vitune.ops.attention_backward import float32_attention_gradients
from vitune.randomness import derive_seed
from vitune.training import moments
from vitune.training.mixing import Mixing
from vitune.training.optimizer import set_learning_rate
from vitune.training.watch import LossWatch

if TYPE_CHECKING:
    from vitune.training.config import TrainConfig
    from vitune.tuned import Tuned


class Stepper:
    """Makes the steps of one stage.

    Args:
        tuned: The model and what of it trains.
        forward: Module that gives logits, prepared by the accelerator.
        optimizer: The optimizer, prepared by the accelerator.
        accelerator: Device, precision and processes.
        config: Settings of the run.
        num_classes: Classes of the targets.
        watch: Is shown every loss.
    """

    def __init__(
        self,
        tuned: Tuned,
        forward: nn.Module,
        optimizer: Any,
        accelerator: Accelerator,
        config: TrainConfig,
        num_classes: int,
        watch: LossWatch,
    ) -> None:
        self._tuned = tuned
        self._forward = forward
        self._optimizer = optimizer
        self._accelerator = accelerator
        self._config = config
        self._watch = watch
        self._mixing = Mixing(config, num_classes) if config.mixup or config.cutmix else None
        self._parameters = list(tuned.trainable().values())
        self._gradients_checked = False

    def step(
        self, images: Tensor, labels: Tensor, indices: list[int], *, step: int, lr: float, weight: float
    ) -> Tensor:
        """Train on one batch.

        Args:
            images: (B, 3, height, width), this process's part of the batch.
            labels: (B,).
            indices: The images of this part.
            step: The step, from 0, counted through all stages.
            lr: Learning rate of the step.
            weight: What this part's mean loss counts for in the mean over processes.

        Returns:
            The mean loss of this part, a scalar on the device.

        Raises:
            TrainingError: If the loss is not finite, or a trainable parameter gets no gradient.
        """
        policies = self._tuned.policies
        images = images.to(self._accelerator.device, non_blocking=True)
        targets = labels.to(self._accelerator.device, non_blocking=True)
        if self._mixing is not None:
            images, targets = self._mixing(images, targets, step)
        seed_everything(derive_seed(self._config.seed, "step", step, self._accelerator.process_index))
        set_learning_rate(self._optimizer, lr)
        moments.before_step(policies, step)
        total = self._backward(images, targets, indices, step, lr, weight)
        moments.after_backward(policies)
        if not self._gradients_checked:
            check_gradients(self._tuned)
            self._gradients_checked = True
        if self._config.clip_norm is not None:
            self._accelerator.clip_grad_norm_(self._parameters, self._config.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        moments.after_step(policies)
        return total

    def _backward(
        self, images: Tensor, targets: Tensor, indices: list[int], step: int, lr: float, weight: float
    ) -> Tensor:
        """Gradients of the batch, part by part and pass by pass; processes exchange them once, in the last."""
        policies = self._tuned.policies
        parts = min(self._config.accumulate, len(images))
        passes = moments.passes(policies)
        backwards = parts * passes
        total = images.new_zeros((), dtype=torch.float32)
        for inputs, wanted in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
            share = len(inputs) / len(images)
            losses = moments.losses(policies, self._forward, inputs, wanted, self._criterion)
            for _ in range(passes):
                backwards -= 1
                with self._accelerator.no_sync(self._forward) if backwards else nullcontext():
                    loss = next(losses)
                    total += loss.detach() * share
                    if not backwards:
                        # Before the last backward, so that on a CPU the weights are still those of the step before.
                        self._watch.add(step, lr, indices, total)
                    with float32_attention_gradients(self._accelerator.device):
                        self._accelerator.backward(loss * (share * weight))
            losses.close()
        return total

    def _criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        # Mixed targets are smoothed already.
        smoothing = 0.0 if targets.is_floating_point() else self._config.label_smoothing
        return F.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


class Logits(nn.Module):
    """A tuned model as a module whose forward gives logits, for data parallel and autocast to wrap.

    Args:
        tuned: The model.
    """

    def __init__(self, tuned: Tuned) -> None:
        super().__init__()
        self.model = tuned.model
        self._call: Callable[[Tensor], Tensor] = tuned

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, height, width)."""
        return self._call(images)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on all devices, so that a step's dropout needs no saved random state.

    Args:
        seed: A seed of at most 63 bits.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def check_gradients(tuned: Tuned) -> None:
    """Make sure that everything that trains got a gradient; zero is fine, none at all is not.

    Parameters that a policy froze for this step are left out.

    Args:
        tuned: The model, after a backward pass.

    Raises:
        TrainingError: If a parameter has no gradient; names it.
    """
    missing = [name for name, p in tuned.trainable().items() if p.requires_grad and p.grad is None]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TrainingError(
            f"The trainable parameter '{missing[0]}'{more} got no gradient in the first step: "
            "the model's output does not depend on it. Freeze it, or choose other places for the method."
        )
