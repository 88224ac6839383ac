"""A pair and the GELU behind it as one operation: the same numbers, from the input alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.measure import saved_activation_bytes
from vitune.ops import scale_shift_gelu as module
from vitune.ops.recompute import Recomputing
from vitune.ops.scale_shift import scale_shift
from vitune.ops.scale_shift_gelu import SCALE_SHIFT_GELU, scale_shift_gelu


def leaves(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (shape, shape[-1:], shape[-1:])
    x, scale, shift = (torch.randn(size, generator=generator) for size in sizes)
    return [tensor.requires_grad_() for tensor in (x.to(dtype), scale, shift)]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 7), (3, 7), (7,), (2, 0, 7)])
@pytest.mark.parametrize("piece", [1, 15, 10**6])  # a row, two of them, all at a time
def test_value_and_gradients(shape, piece, dtype, approximate, monkeypatch):
    monkeypatch.setattr(module, "PIECE", piece)
    tensors = leaves(*shape, dtype=dtype)
    y = scale_shift_gelu(*tensors, approximate)
    expected = F.gelu(scale_shift(*tensors), approximate=approximate)
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)  # a vector's rest may round otherwise
    weight = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad((z * weight).sum(), tensors) for z in (y, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_only_the_input_is_kept():
    x, scale, shift = leaves(4, 6, 8)
    kept = saved_activation_bytes(
        nn.Identity(), lambda _: scale_shift_gelu(x * 1, scale, shift).sum(), ignore=[scale, shift]
    )
    assert kept.bytes == x.numel() * 4


def test_torchs_own_checks_of_operations():
    torch.library.opcheck(SCALE_SHIFT_GELU, (*leaves(2, 5, 7), "none"))


def test_its_output_is_made_again_for_a_layer_that_wants_it():
    tensors = leaves(4, 6, 8)
    weight = torch.randn(3, 8, requires_grad=True)

    def loss(_: nn.Module) -> Tensor:
        with Recomputing(lambda operation, *_: operation is SCALE_SHIFT_GELU, {SCALE_SHIFT_GELU}):
            return F.linear(scale_shift_gelu(*tensors), weight).square().sum()

    plain = F.linear(F.gelu(scale_shift(*tensors)), weight).square().sum()
    ours, theirs = (torch.autograd.grad(end, (*tensors, weight)) for end in (loss(nn.Identity()), plain))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    kept = saved_activation_bytes(nn.Identity(), loss, ignore=[*tensors, weight])
    assert kept.bytes == 24 * 3 * 4  # the square's
