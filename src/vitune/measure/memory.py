"""The memory of training, forecast before the first step on the user's own model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.errors import ConfigError
from vitune.measure.activations import saved_activation_bytes
from vitune.measure.kernels import KernelCount
from vitune.measure.live import live_bytes
from vitune.measure.outputs import logits_of
from vitune.measure.parameters import count_parameters
from vitune.measure.weightless import weightless_copy

Optimizer = Literal["adamw", "sgd"]
Precision = Literal["fp32", "bf16", "fp16"]
Loss = Callable[[Tensor, Tensor], Tensor]

# Values an optimizer keeps per trained value: AdamW two moments, SGD its momentum.
_STATES: dict[Optimizer, int] = {"adamw": 2, "sgd": 1}
_AUTOCAST: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class MemoryForecast:
    """What one training step needs, in bytes.

    Attributes:
        weights: Parameters and buffers.
        gradients: Of the parameters that train.
        optimizer: The optimizer's state.
        saved_activations: What autograd keeps between forward and backward.
    """

    weights: int
    gradients: int
    optimizer: int
    saved_activations: int

    @property
    def total(self) -> int:
        """The four parts together. Temporaries of single operations and the framework itself come on top."""
        return self.weights + self.gradients + self.optimizer + self.saved_activations

    def as_dict(self) -> dict[str, int]:
        """The four parts by name, as a result file holds them."""
        return asdict(self)


def forecast_peak(
    model: nn.Module,
    batch_shape: Sequence[int],
    *,
    optimizer: Optimizer = "adamw",
    precision: Precision = "fp32",
    device: str | torch.device | None = None,
) -> int:
    """Forecast the most memory that a training step holds at any moment, in bytes.

    Weights, optimizer state and, counted operation by operation on a weightless copy, the most that is alive within a
    forward and backward: the batch, activations, temporaries and gradients; and the kernels that half precision keeps
    on a CPU, one for every shape of a product. What the framework itself takes comes on top.

    Args:
        model: As in `forecast_memory`, and the others too.
        batch_shape: Images, channels, height, width of one micro-batch.
        optimizer: `adamw` or `sgd`.
        precision: `fp32`, or `bf16` / `fp16` for autocast.
        device: Where training will run, if not where the model is now.

    Raises:
        UnsupportedBackboneError: If the model computes with values of tensors.
    """
    parameters = count_parameters(model)
    with weightless_copy(model, device=device) as twin:
        place = next(twin.parameters()).device
        # Made before anything is watched: whoever trains holds the batch from the first operation to the last.
        images = torch.zeros(*batch_shape, device=place)
        targets = torch.zeros(batch_shape[0], dtype=torch.long, device=place)

        def forward_loss(trained: nn.Module) -> Tensor:
            with torch.autocast(place.type, _AUTOCAST[precision]) if precision != "fp32" else nullcontext():
                logits = logits_of(trained(images))
            return F.cross_entropy(logits.float(), targets)

        with KernelCount() as kernels:
            step = live_bytes(twin.train(), forward_loss, ignore=[images, targets]).peak
    held = parameters.bytes + parameters.buffer_bytes + _STATES[optimizer] * parameters.trained_bytes
    return held + images.nbytes + targets.nbytes + kernels.bytes + step


def forecast_memory(
    model: nn.Module,
    batch_shape: Sequence[int],
    *,
    optimizer: Optimizer = "adamw",
    precision: Precision = "fp32",
    loss: Loss | None = None,
    device: str | torch.device | None = None,
) -> MemoryForecast:
    """Forecast the memory of training a classifier, without using that memory.

    The activations are counted on a weightless copy of this very model, so every edit, frozen part and
    checkpointed block is taken as it is; the model itself is not touched.

    Args:
        model: A classifier that takes images; what has `requires_grad` trains.
        batch_shape: Images, channels, height, width of one micro-batch.
        optimizer: `adamw` or `sgd` (with momentum).
        precision: `fp32`, or `bf16` / `fp16` for autocast with weights kept in their own type.
        loss: Gets logits (B, C) and class numbers (B,); cross-entropy if not given.
        device: Where training will run, if not where the model is now: kernels and autocast differ.

    Raises:
        ConfigError: If optimizer, precision or shape are not among those above, or the device is not there.
        UnsupportedBackboneError: If the model computes with values of tensors, or returns no logits.
    """
    if optimizer not in _STATES:
        raise ConfigError(
            f"forecast_memory: unknown optimizer '{optimizer}'; use one of {', '.join(_STATES)}."
        )
    if precision not in get_args(Precision):
        raise ConfigError(
            f"forecast_memory: unknown precision '{precision}'; use one of {', '.join(get_args(Precision))}."
        )
    if len(batch_shape) != 4 or min(batch_shape) < 1:
        raise ConfigError(
            "forecast_memory: batch_shape must be (images, channels, height, width), "
            f"got {tuple(batch_shape)}."
        )
    parameters = count_parameters(model)
    criterion = loss or F.cross_entropy

    with weightless_copy(model, device=device) as twin:
        place = next(twin.parameters()).device

        def forward_loss(trained: nn.Module) -> Tensor:
            images = torch.zeros(*batch_shape, device=place)
            targets = torch.zeros(batch_shape[0], dtype=torch.long, device=place)
            autocast = (
                torch.autocast(place.type, _AUTOCAST[precision]) if precision != "fp32" else nullcontext()
            )
            with autocast:
                logits = logits_of(trained(images))
            # As training does it: the loss in full precision, outside autocast.
            return criterion(logits.float(), targets)

        saved = saved_activation_bytes(twin.train(), forward_loss)

    return MemoryForecast(
        weights=parameters.bytes + parameters.buffer_bytes,
        gradients=parameters.trained_bytes,
        optimizer=_STATES[optimizer] * parameters.trained_bytes,
        saved_activations=saved.bytes,
    )
