"""Half-precision attention on a CPU: its gradients computed in float32, closer than those of torch's own kernel."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vitune.ops import attention_backward
from vitune.ops.attention_backward import float32_attention_gradients

CPU = torch.device("cpu")
MASKS = {
    "none": None,
    "tokens": torch.linspace(-2, 2, 5 * 7).reshape(5, 7),
    "images": torch.linspace(-2, 2, 6 * 5 * 7).reshape(6, 1, 5, 7),
    "one for all": torch.linspace(-2, 2, 3 * 5 * 7).reshape(1, 3, 5, 7),
    "forbidden": torch.arange(6 * 7).reshape(6, 1, 1, 7) % 5 > 0,
}


def tensors(dtype: torch.dtype) -> list[Tensor]:
    """Query (6, 3, 5, 8), key and value (6, 3, 7, 8), heads behind tokens in memory, as a fused layer gives them."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(6, tokens, 3, 8, generator=generator).to(torch.bfloat16).to(dtype).transpose(1, 2)
        for tokens in (5, 7, 7)
    ]


def gradients(dtype: torch.dtype, context: Any, **options: Any) -> list[Tensor]:
    inputs = [tensor.requires_grad_() for tensor in tensors(dtype)]
    output = F.scaled_dot_product_attention(*inputs, **options)
    weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(torch.bfloat16).to(dtype)
    with context:
        (output * weights).sum().backward()
    return [tensor.grad for tensor in inputs if tensor.grad is not None]


def off(found: list[Tensor], exact: list[Tensor]) -> float:
    return max(
        float((a.double() - b.double()).norm() / b.double().norm()) for a, b in zip(found, exact, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MASKS)
def test_closer_than_the_half_precision_kernel(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_backward, "PIECE", 2 * 3 * 7 * 8)  # two images at a time
    mask = MASKS[name]
    halves = mask if mask is None or mask.dtype == torch.bool else mask.to(torch.bfloat16).to(dtype)
    wide = halves if halves is None or halves.dtype == torch.bool else halves.float()
    exact = gradients(torch.float32, nullcontext(), attn_mask=wide)
    found = gradients(dtype, float32_attention_gradients(CPU), attn_mask=halves)
    stock = gradients(dtype, nullcontext(), attn_mask=halves)
    assert [tensor.dtype for tensor in found] == [dtype] * 3
    assert [tensor.stride() for tensor in found] == [tensor.stride() for tensor in tensors(dtype)]
    assert 0 < off(found, exact) <= off(stock, exact)


def test_scale_and_causality_are_kept() -> None:
    options = {"scale": 0.7, "is_causal": True}
    found = gradients(torch.bfloat16, float32_attention_gradients(CPU), **options)
    assert off(found, gradients(torch.float32, nullcontext(), **options)) < 0.01


def test_float32_is_left_to_torch() -> None:
    found = gradients(torch.float32, float32_attention_gradients(CPU))
    assert all(torch.equal(a, b) for a, b in zip(found, gradients(torch.float32, nullcontext()), strict=True))


def test_an_empty_batch_passes() -> None:
    inputs = [torch.zeros(0, 2, 3, 8, dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    with float32_attention_gradients(CPU):
        F.scaled_dot_product_attention(*inputs).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.shape == tensor.shape for tensor in inputs)


def test_other_devices_are_left_alone() -> None:
    assert not isinstance(float32_attention_gradients(torch.device("meta")), TorchDispatchMode)
