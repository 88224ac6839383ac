"""What training and the trained model cost, beside full fine-tuning of the same backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from vitune.measure import (
    MemoryForecast,
    compare_seconds,
    count_model_flops,
    count_parameters,
    forecast_memory,
)
from vitune.methods import Policy
from vitune.training import moments
from vitune.training.config import TrainConfig
from vitune.training.modes import evaluation_mode
from vitune.tuned import Tuned

_TIMED_IMAGES = 8


@dataclass(frozen=True)
class ExactCosts:
    """Costs that are counted, not timed.

    Attributes:
        memory: What one training step needs.
        flops_per_image: Of forward and backward, a multiply-accumulate being two.
    """

    memory: MemoryForecast
    flops_per_image: int


def exact_costs(
    model: nn.Module,
    input_size: tuple[int, ...],
    config: TrainConfig,
    accelerator: Accelerator,
    policies: Sequence[Policy] = (),
) -> ExactCosts:
    """Count the costs of a training step on a copy of the model that needs no memory.

    Args:
        model: The model; what has `requires_grad` trains.
        input_size: Channels, height, width.
        config: Settings of the run.
        accelerator: Precision and processes.
        policies: Those of the tuned model; where one makes several passes, these come one after the other, so that
            the memory is that of the largest and the operations are those of all.
    """
    counted = []
    for setting in moments.pass_settings(policies):
        with setting:
            counted.append(_costs_of_a_pass(model, input_size, config, accelerator))
    memory = max((one.memory for one in counted), key=lambda one: one.total)
    return ExactCosts(memory, sum(one.flops_per_image for one in counted))


def _costs_of_a_pass(
    model: nn.Module, input_size: tuple[int, ...], config: TrainConfig, accelerator: Accelerator
) -> ExactCosts:
    part = -(-config.batch_size // (config.accumulate * accelerator.num_processes))
    precision = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)

    def loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=config.label_smoothing)

    memory = forecast_memory(
        model,
        (part, *input_size),
        optimizer=config.optimizer,
        precision=precision,  # pyright: ignore[reportArgumentType]
        loss=loss,
    )
    return ExactCosts(memory, count_model_flops(model, input_size).step)


def full_costs(model: nn.Module, exact: ExactCosts) -> dict[str, Any]:
    """The "full_finetuning" part of a result.

    Args:
        model: The backbone without methods, all of which trains.
        exact: Its costs.
    """
    parameters = count_parameters(model)
    return {
        "trained_parameters": parameters.total,
        "adapter_bytes": parameters.bytes + parameters.buffer_bytes,
        "saved_activation_bytes": exact.memory.saved_activations,
        "flops_per_image": exact.flops_per_image,
    }


def inference_seconds(tuned: Tuned, input_size: tuple[int, ...]) -> float:
    """Median time of the model for one image, in batches of a few.

    Args:
        tuned: The model, where it is to be timed.
        input_size: Channels, height, width.
    """
    device = next(tuned.model.parameters()).device
    images = torch.zeros(_TIMED_IMAGES, *input_size, device=device)
    with evaluation_mode(tuned.model), torch.no_grad():
        timing = compare_seconds(
            {"inference": lambda: tuned(images)},
            rounds=3,
            synchronize=torch.cuda.synchronize if device.type == "cuda" else None,
        )
    return timing["inference"].median / _TIMED_IMAGES
