"""Scale and shift: value, gradients, and what it keeps."""

import pytest
import torch
from torch import nn

from vitune.measure import saved_activation_bytes
from vitune.ops import scale_shift as module
from vitune.ops.scale_shift import scale_shift


def leaves(*shape: int, dtype: torch.dtype = torch.double) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = (shape, shape[-1:], shape[-1:])
    made = [torch.randn(size, generator=generator, dtype=torch.double).to(dtype) for size in sizes]
    return [tensor.requires_grad_() for tensor in made]


@pytest.mark.parametrize("shape", [(2, 5, 7), (3, 7), (7,), (2, 0, 7)])
@pytest.mark.parametrize("piece", [1, 15, 10**6])  # a row, two of them, all at a time
def test_gradients_are_those_of_autograd(shape, piece, monkeypatch):
    monkeypatch.setattr(module, "PIECE", piece)
    x, scale, shift = leaves(*shape)
    y, expected = scale_shift(x, scale, shift), torch.addcmul(shift, x, scale)
    assert torch.equal(y, expected)
    weight = torch.randn_like(y)
    ours = torch.autograd.grad((y * weight).sum(), (x, scale, shift))
    theirs = torch.autograd.grad((expected * weight).sum(), (x, scale, shift))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_that_nobody_asks_for_are_not_made():
    for needed in range(3):
        tensors = [tensor.detach().requires_grad_(i == needed) for i, tensor in enumerate(leaves(2, 5, 7))]
        scale_shift(*tensors).sum().backward()
        assert [tensor.grad is not None for tensor in tensors] == [i == needed for i in range(3)]


def test_only_the_input_is_kept_and_only_for_the_scale():
    x, scale, shift = leaves(4, 6, 8)
    none = nn.Identity()
    kept = saved_activation_bytes(none, lambda _: scale_shift(x * 1, scale, shift).sum(), ignore=[scale])
    assert kept.bytes == x.numel() * 8
    frozen = scale.detach()
    kept = saved_activation_bytes(none, lambda _: scale_shift(x * 1, frozen, shift).sum(), ignore=[frozen])
    assert kept.bytes == 0


def test_channels_may_come_first():
    x = torch.randn(2, 3, 4, 4)
    scale, shift = torch.randn(3), torch.randn(3)
    y = scale_shift(x, scale, shift, channels_first=True)
    torch.testing.assert_close(y, x * scale[:, None, None] + shift[:, None, None])


def test_low_precision_input():
    x, scale, shift = leaves(2, 5, 8, dtype=torch.bfloat16)
    scale, shift = (tensor.detach().float().requires_grad_() for tensor in (scale, shift))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = scale_shift(x, scale, shift)
    y.sum().backward()
    assert (y.dtype, x.grad.dtype, scale.grad.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    torch.testing.assert_close(scale.grad, x.detach().float().sum((0, 1)))
    assert torch.equal(y, torch.addcmul(shift, x, scale).bfloat16())  # rounded once


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_scale_that_bfloat16_lacks_still_acts(channels_first):
    x = torch.full((2, 3, 3, 3), 100.0, dtype=torch.bfloat16)
    scale = torch.full((3,), 1.003).requires_grad_()  # bfloat16 would make it 1
    y = scale_shift(x, scale, torch.zeros(3), channels_first=channels_first)
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, torch.full_like(y, 100.5))  # the neighbour of 100.3


def test_compiles_without_a_break():
    x, scale, shift = leaves(2, 5, 7)
    compiled = torch.compile(scale_shift, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, scale, shift), scale_shift(x, scale, shift))
