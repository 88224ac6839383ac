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
from vitune.ops.attention_backward import FORWARD, float32_attention_gradients, without_output
from vitune.ops.recompute import Recomputing

CPU = torch.device("cpu")
NAME = "aten::_scaled_dot_product_flash_attention_for_cpu"
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


def made_again(
    dtype: torch.dtype, *, read_by_others: bool = False, context: Any = None, **options: Any
) -> tuple[list[Tensor], int]:
    """Gradients where attention's output is not kept, and how often attention ran."""
    inputs = [tensor.requires_grad_() for tensor in tensors(dtype)]
    with Recomputing(lambda operation, *_: operation is FORWARD, {FORWARD}):
        output = F.scaled_dot_product_attention(*inputs, **options)
        weights = torch.linspace(-1, 1, output.numel()).reshape(output.shape).to(torch.bfloat16).to(dtype)
        loss = (output * (weights.requires_grad_() if read_by_others else weights)).sum()
    with torch.autograd.profiler.profile() as profile, context or nullcontext():
        loss.backward()
    runs = sum(event.count for event in profile.key_averages() if event.key == NAME)
    return [tensor.grad for tensor in inputs if tensor.grad is not None], runs


@pytest.mark.parametrize("stepper", [False, True])
@pytest.mark.parametrize("read_by_others", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"scale": 0.7}, {"is_causal": True}, {"attn_mask": MASKS["forbidden"]}]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_output_that_nobody_else_reads_is_never_made(
    dtype: torch.dtype, options: dict[str, Any], read_by_others: bool, stepper: bool
) -> None:
    context = float32_attention_gradients(CPU) if stepper else nullcontext()
    found, runs = made_again(dtype, read_by_others=read_by_others, context=context, **options)
    exact = gradients(torch.float32, nullcontext(), **options)
    stock = gradients(dtype, nullcontext(), **options)
    assert off(found, exact) <= 1.01 * off(stock, exact)
    assert runs == (read_by_others or not {*options} <= {"scale"})


def test_float32_attention_runs_again() -> None:
    found, runs = made_again(torch.float32)
    assert runs == 1
    assert all(torch.equal(a, b) for a, b in zip(found, gradients(torch.float32, nullcontext()), strict=True))


def test_many_weights_are_left_to_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backward, "MOST_WEIGHTS", 3 * 5 * 7 - 1)
    assert made_again(torch.bfloat16)[1] == 1
    monkeypatch.setattr(attention_backward, "MOST_WEIGHTS", 3 * 5 * 7)
    assert made_again(torch.bfloat16)[1] == 0


def test_the_formula_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision, against autograd, two images at a time."""
    monkeypatch.setattr(attention_backward, "WEIGHTS", 2 * 3 * 5 * 7)
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    query, key, value = (tensor.requires_grad_() for tensor in tensors(torch.float64))
    scores = query @ key.mT * 0.7
    output = scores.softmax(-1) @ value
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
    exact = torch.autograd.grad((output * weights).sum(), (query, key, value))
    with torch.no_grad():
        found = without_output(weights, query, key, value, scores.logsumexp(-1), 0.7)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_a_retained_graph_goes_back_twice() -> None:
    inputs = [tensor.requires_grad_() for tensor in tensors(torch.bfloat16)]
    with Recomputing(lambda operation, *_: operation is FORWARD, {FORWARD}):
        loss = F.scaled_dot_product_attention(*inputs).square().sum()
    once = torch.autograd.grad(loss, inputs, retain_graph=True)
    twice = torch.autograd.grad(loss, inputs)
    assert off(list(twice), [tensor.float() for tensor in once]) < 0.01  # the first time its output was there
