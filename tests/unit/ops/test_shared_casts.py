"""A weight is cast once for several parts, and gradients do not notice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from vitune.ops.shared_casts import SharedCasts


class Casts(TorchDispatchMode):
    """Counts casts of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._to_copy.default and args[0].shape == (8, 8)
        return func(*args, **(kwargs or {}))


def parts(layer: nn.Linear, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        return torch.cat([layer(part) for part in x.split(3)])


def test_cast_once_with_equal_gradients():
    torch.manual_seed(0)
    x = torch.randn(9, 8)
    for trains in (True, False):
        layer = nn.Linear(8, 8).requires_grad_(trains)
        inputs = [x.requires_grad_(), *([layer.weight, layer.bias] if trains else [])]
        with Casts() as each:
            plain = parts(layer, x)
        expected = torch.autograd.grad(plain.square().sum(), inputs)
        with Casts() as once, SharedCasts([layer.weight]):
            shared = parts(layer, x)
        found = torch.autograd.grad(shared.square().sum(), inputs)
        assert (each.number, once.number) == (3, 1)
        assert torch.equal(shared, plain)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_it_knows_what_a_cast_was_made_of_and_leaves_other_tensors_alone():
    weight, other = torch.randn(8, 8), torch.randn(8, 8)
    with SharedCasts([weight]) as casts:
        half, again, third = weight.bfloat16(), weight.bfloat16(), weight.double()
        others = other.bfloat16(), other.bfloat16()
    assert half.data_ptr() == again.data_ptr() != third.data_ptr()
    source = weight.untyped_storage()._cdata
    assert casts.source_of(half) == casts.source_of(third) == casts.source_of(weight) == source
    assert others[0].data_ptr() != others[1].data_ptr()
    assert casts.source_of(others[0]) != source
