"""A widening product whose gradients are taken the quick way: the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vitune.ops.narrow import NARROW, widen


def gradients(product: object, dtype: torch.dtype, rank: int, bias: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, rank), (30, rank), *([(30,)] if bias else [])]
    inputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]
    y = product(*inputs)  # type: ignore[operator]
    (y * torch.linspace(-1, 1, 30, dtype=dtype)).sum().backward()
    return [y.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rank", [1, 8, NARROW])
def test_it_is_a_linear_layer(rank: int, bias: bool) -> None:
    found = gradients(widen, torch.float64, rank, bias)
    stock = gradients(F.linear, torch.float64, rank, bias)
    assert len(found) == 3 + bias
    for one, other in zip(found, stock, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("product", [widen, F.linear])
def test_no_product_of_the_backward_pass_has_few_columns(product: object) -> None:
    class Products(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.narrow: list[tuple[int, ...]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.mm.default and result.shape == (30, 8):
                self.narrow.append(tuple(result.shape))
            return result

    with Products() as seen:
        gradients(product, torch.float32, 8, False)
    assert len(seen.narrow) == (product is F.linear)


def test_a_parameters_gradient_has_its_layout() -> None:
    up = torch.nn.Parameter(torch.randn(30, 4))
    widen(torch.randn(6, 4), up).sum().backward()
    assert up.grad is not None
    assert up.grad.stride() == up.stride()
