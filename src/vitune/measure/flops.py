"""Counting floating-point operations with torch's own counter.

What the numbers hold: matrix products, convolutions and attention. Norms, softmax, GELU, gather and the
like count as nothing, so a method that skips tokens needs a latency beside its FLOPs, and one that masks
them shows, rightly, no saving.

Traps: the backward of fused attention computes the scores again and this is counted (ViT-Ti/16 at 224:
7.642 GFLOPs forward and backward, against 7.463 unfused); torch's table has no in-place products, and in some
releases not the CPU's fused attention; they are added here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitune.errors import ConfigError
from vitune.measure.outputs import logits_of
from vitune.measure.weightless import weightless_copy
from vitune.ops.low_rank import ADD_LOW_RANK

Convention = Literal["2xMAC", "MAC"]


def _in_place_product(_sum: Any, left: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of `sum.addmm_(left, right)` and its batched kin; shapes (..., n, k) and (..., k, m)."""
    return 2 * math.prod(left) * right[-1]


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Operations of fused attention; shapes (B, H, N, D), (B, H, M, D) and (B, H, M, E)."""
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


def _attention_backward(
    _gradient: Sequence[int],
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    *_: Any,
    **__: Any,
) -> int:
    """Operations of its backward pass, as torch counts other devices': three products with D inside, two with E."""
    return 2 * math.prod(query[:3]) * key[2] * (3 * query[3] + 2 * value[3])


def _low_rank(_y: Any, latent: Sequence[int], ups: Sequence[Sequence[int]], *_: Any, **__: Any) -> int:
    """Operations of `vitune.ops.low_rank`: one product per matrix (D, R)."""
    return 2 * math.prod(latent[:-1]) * sum(math.prod(up) for up in ups)


# What torch's own table lacks: products in place, in some releases the CPU's fused attention, and our own operation.
_aten = torch.ops.aten
_FURTHER = {
    _aten.addmm_: _in_place_product,
    _aten.baddbmm_: _in_place_product,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    ADD_LOW_RANK.overloadpacket: _low_rank,
}


@dataclass(frozen=True)
class FlopCount:
    """Floating-point operations per image.

    Attributes:
        forward: Of the forward.
        backward: Of the backward: gradients of whatever trains, and of all that lies above it.
        convention: `2xMAC` (a multiply-accumulate is two operations) or `MAC` (it is one).
    """

    forward: int
    backward: int
    convention: Convention

    @property
    def step(self) -> int:
        """Forward and backward together, without the optimizer."""
        return self.forward + self.backward


class _NoModules:
    """In place of torch's tracker of modules, whose hooks refuse a gradient that is taken within a backward pass."""

    parents = ("Global",)

    def __enter__(self) -> None:
        """Nothing to watch."""

    def __exit__(self, *exception: object) -> None:
        """Nothing was watched."""


def count_flops(fn: Callable[[], Any], *, convention: Convention = "2xMAC") -> int:
    """Count the operations of one call, its backward included if the function runs one.

    Args:
        fn: What is counted. On meta or fake tensors it costs no memory and hardly any time.
        convention: `2xMAC` or `MAC`.

    Raises:
        ConfigError: If the convention is unknown.
    """
    if convention not in get_args(Convention):
        raise ConfigError(f"count_flops: unknown convention '{convention}'; use '2xMAC' or 'MAC'.")
    counter = FlopCounterMode(display=False, custom_mapping=dict(_FURTHER))
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    with counter:
        fn()
    flops = counter.get_total_flops()
    return flops if convention == "2xMAC" else flops // 2


def count_model_flops(
    model: nn.Module, image_shape: Sequence[int], *, training: bool = True, convention: Convention = "2xMAC"
) -> FlopCount:
    """Count the operations of a model for one image, on a copy without memory.

    Args:
        model: A classifier that takes images (B, channels, height, width).
        image_shape: Channels, height, width.
        training: Count in `train()` mode and with the backward; otherwise in `eval()` mode without it.
        convention: `2xMAC` or `MAC`.

    Raises:
        ConfigError: If the convention is unknown.
        UnsupportedBackboneError: If the model computes with values of tensors.
    """
    with weightless_copy(model) as twin:
        twin.train(training)
        # Two images, halved: with one, batch norm in training refuses to work.
        images = torch.zeros(2, *image_shape, device=next(twin.parameters()).device)
        with torch.set_grad_enabled(training):
            outputs: list[torch.Tensor] = []
            forward = count_flops(lambda: outputs.append(logits_of(twin(images))), convention=convention)
            logits = outputs[0]
            backward = 0
            if training and logits.requires_grad:
                backward = count_flops(lambda: logits.sum().backward(), convention=convention)
    return FlopCount(forward // 2, backward // 2, convention)
