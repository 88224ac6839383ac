"""One method on one backbone, ready to be counted or run: what `profile` and `suggest` measure with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune import backbones
from vitune.anatomy import logits
from vitune.lean import Level
from vitune.measure import Work, count_work, forecast_peak, return_freed_memory, weightless_copy
from vitune.methods import parse
from vitune.ops.attention_backward import float32_attention_gradients
from vitune.training import moments
from vitune.tuned import Tuned, apply

STOCK: Level = "stock"
Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Subject:
    """What costs are asked of.

    Attributes:
        model: Backbone; None for the built-in one.
        classes: Classes of the head.
        image_size: Height and width, where they differ from the architecture's.
        precision: `fp32`, or `bf16` / `fp16` for autocast.
        device: `cpu` or `cuda`.
    """

    model: str | None
    classes: int
    image_size: int | None = None
    precision: Precision = "fp32"
    device: str = "cpu"

    def tuned(self, method: str, level: Level, *, weights: bool) -> Tuned:
        """The backbone with a method and a memory level.

        Args:
            method: Methods as the command line writes them.
            level: The memory level.
            weights: Whether it can run. Its weights are random, since costs do not depend on values; without, it
                takes no memory. Nor are there data, so that a method is taken as it is `countable` without.

        Raises:
            VituneError: If the method does not fit the backbone.
        """
        with torch.device("cpu" if weights else "meta"):
            model = backbones.create(
                self.model, num_classes=self.classes, pretrained=False, img_size=self.image_size
            )
        tuned = apply(model, [one.countable() for one in parse(method)], check=weights)
        tuned.memory = level
        return tuned

    def deployed(self, method: str, *, weights: bool) -> nn.Module:
        """The model as it is used after training: a plain one where the method merges."""
        tuned = self.tuned(method, STOCK, weights=weights)
        merges = all(one.merges for one in tuned.methods)
        return (tuned.merge() if merges else tuned.model).eval()

    def step_work(self, tuned: Tuned, images: int) -> Work:
        """Counts of forward and backward of so many images; of all passes, where a method makes several."""
        total = Work(0, 0, 0)
        for setting in moments.pass_settings(tuned.policies):
            with setting, weightless_copy(tuned.model, device=self.device) as twin:
                batch, labels = self._blank(tuned, images)
                total += count_work(partial(_step, twin.train(), batch, labels))
        return total

    def mean_step_work(self, tuned: Tuned, images: int) -> Work:
        """The same of the mean step, where a method draws what a step trains."""
        total = Work(0, 0, 0)
        for share, setting in moments.kinds(tuned.policies):
            with setting:
                total += self.step_work(tuned, images).times(share)
        return total

    def step_peak(self, tuned: Tuned, images: int) -> int:
        """Forecast of the bytes that a step of so many images holds; of the largest pass."""
        shape, found = (images, *tuned.anatomy.input_size), []
        for setting in moments.pass_settings(tuned.policies):
            with setting:
                found.append(forecast_peak(tuned.model, shape, precision=self.precision, device=self.device))
        return max(found)

    def inference_work(self, model: nn.Module, input_size: tuple[int, ...], images: int) -> Work:
        """Counts of a forward pass of so many images in evaluation mode.

        Args:
            model: What `deployed` gives, without weights.
            input_size: Channels, height, width.
            images: How many.
        """
        with weightless_copy(model, device=self.device) as twin, torch.no_grad():
            batch = torch.zeros(images, *input_size).to(self.device)
            return count_work(lambda: twin(batch))

    def _blank(self, tuned: Tuned, images: int) -> tuple[Tensor, Tensor]:
        batch = torch.zeros(images, *tuned.anatomy.input_size)
        return batch.to(self.device), torch.zeros(images, dtype=torch.long).to(self.device)


class RealStep:
    """Forward and backward of one batch of noise on a model with weights.

    Args:
        subject: Precision, device and classes.
        tuned: The model; moved to the device.
        images: Images of the batch.
        optimizer: Whether a call makes AdamW's step too.
    """

    def __init__(self, subject: Subject, tuned: Tuned, images: int, *, optimizer: bool = False) -> None:
        self.subject, self.tuned = subject, tuned
        self.tuned.model.to(subject.device)
        generator = torch.Generator().manual_seed(0)
        batch = torch.randn(images, *tuned.anatomy.input_size, generator=generator)
        self.images = batch.to(subject.device)
        self.labels = (torch.arange(images) % subject.classes).to(subject.device)
        self._optimizer = torch.optim.AdamW(tuned.parameters()) if optimizer else None

    def autocast(self) -> torch.autocast:
        """The precision that was asked for."""
        dtype = DTYPES.get(self.subject.precision)
        return torch.autocast(self.subject.device, dtype=dtype, enabled=dtype is not None)

    def __call__(self) -> None:
        """Make the step; gradients are cleared at its end."""
        model = self.tuned.model.train()
        # A method that makes several passes frees each before the next, as training does.
        for setting in moments.pass_settings(self.tuned.policies):
            with setting:
                with self.autocast():
                    loss = _loss(model, self.images, self.labels)
                with float32_attention_gradients(self.images.device):
                    loss.backward()
        if self._optimizer is not None:
            self._optimizer.step()
        model.zero_grad(set_to_none=True)


def hold_a_step(subject: Subject, method: str, level: Level, images: int) -> None:
    """Make two training steps, for a process of its own whose memory is measured.

    Args:
        subject: The backbone, precision and device.
        method: Methods as the command line writes them.
        level: Memory level.
        images: Images of the batch.
    """
    return_freed_memory()
    step = RealStep(subject, subject.tuned(method, level, weights=True), images, optimizer=True)
    for _ in range(2):  # the optimizer's state is there from the second step on
        step()


def load_framework(precision: Precision = "fp32") -> None:
    """Run tiny models once, so that the code and threads of the framework do not count as memory of a step.

    Args:
        precision: Of the step.
    """
    hold_a_step(Subject("vit_tiny_patch16_224", 2, image_size=32, precision=precision), "full", "fast", 2)
    hold_a_step(Subject("resnet18", 2, precision=precision), "full", "stock", 1)


def _step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    _loss(model, images, labels).backward()


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits(model, images).float(), labels)
