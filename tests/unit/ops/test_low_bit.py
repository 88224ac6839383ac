from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vitune.measure import saved_activation_bytes
from vitune.ops.codebook import BITS, Codebook, codebook
from vitune.ops.low_bit import EPS, Code, decode, encode, latents, straight_through


def matrix(rows: int = 16, columns: int = 32, seed: int = 0, scale: float = 0.02) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, columns, generator=generator) + 0.01


def by_autograd(latent: Tensor, book: Codebook) -> Tensor:
    """The definition, with autograd through the mean and the standard deviation."""
    mean, std = latent.mean(), latent.std()
    w_hat = (latent - mean) / (std + EPS)
    q = book.levels.to(latent.dtype)[torch.bucketize(w_hat.detach(), book.thresholds.to(latent.dtype))]
    return (q - w_hat.detach() + w_hat) * std + mean


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scale", [0.0005, 0.02, 3.0])
def test_forward_and_backward_are_those_of_the_definition(bits, scale):
    book = codebook(bits)
    latent = matrix(scale=scale).requires_grad_()
    gradient = matrix(seed=1, scale=1.0)
    ours = straight_through(latent, encode(latent, book.thresholds), *_tables(book))
    ours.backward(gradient)
    exact = matrix(scale=scale).double().requires_grad_()
    expected = by_autograd(exact, book)
    expected.backward(gradient.double())
    assert latent.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6 * scale)
    torch.testing.assert_close(latent.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


def test_plain_straight_through_would_be_another_gradient():
    book = codebook(1)
    latent = matrix().requires_grad_()
    gradient = matrix(seed=1, scale=1.0)
    straight_through(latent, encode(latent, book.thresholds), *_tables(book)).backward(gradient)
    assert latent.grad is not None
    assert (latent.grad - gradient).abs().max() > 1e-2


def _tables(book: Codebook) -> tuple[Tensor, Tensor]:
    return book.levels, book.thresholds


def test_equal_weights_have_a_finite_gradient():
    book = codebook(1)
    latent = torch.full((4, 4), 0.25).requires_grad_()
    weight = straight_through(latent, encode(latent, book.thresholds), *_tables(book))
    weight.backward(torch.randn(4, 4))
    assert torch.equal(weight, torch.full((4, 4), 0.25))
    assert latent.grad is not None
    assert latent.grad.isfinite().all()


def test_keeps_two_numbers_for_the_backward():
    book = codebook(8)
    layer = torch.nn.Linear(64, 32, bias=False)

    def loss(net: torch.nn.Module) -> Tensor:
        weight = layer.weight
        code = encode(weight, book.thresholds)
        return straight_through(weight, code, *_tables(book)).sum()

    saved = saved_activation_bytes(layer, loss, ignore=_tables(book))
    assert saved.bytes == 2 * 4


def test_one_bit_by_hand():
    latent = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    code = encode(latent, codebook(1).thresholds)
    assert code.index.tolist() == [[0, 0], [0, 1]]  # 3 is the mean: a tie goes down
    assert code.mean == 3
    assert code.std.item() == pytest.approx((14 / 3) ** 0.5)  # unbiased
    expected = 3 + 0.67448974 * (14 / 3) ** 0.5 * torch.tensor([[-1.0, -1], [-1, 1]])
    torch.testing.assert_close(decode(code, codebook(1).levels), expected)


@pytest.mark.parametrize("bits", BITS)
def test_training_goes_on_from_a_code(bits):
    book = codebook(bits)
    code = encode(matrix(64, 64), book.thresholds)
    again = encode(latents(code, book.levels), book.thresholds)
    torch.testing.assert_close(again.mean, code.mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(again.std, code.std, rtol=1e-5, atol=0)
    if bits < 8:  # at 8 bits the reference's levels lie too close to each other for that
        assert torch.equal(again.index, code.index)
    error = (decode(again, book.levels) - decode(code, book.levels)).abs().max()
    assert error < 0.02 * code.std


def test_rounding_decoded_weights_again_would_shrink_them():
    book = codebook(1)
    code = encode(matrix(64, 64), book.thresholds)
    again = encode(decode(code, book.levels), book.thresholds)
    assert (again.std / code.std).item() == pytest.approx(0.674, abs=0.01)


def test_half_precision_is_rounded_in_float32():
    book = codebook(4)
    latent = matrix().bfloat16()
    code = encode(latent, book.thresholds)
    assert code.mean.dtype == torch.float32
    assert torch.equal(code.index, encode(latent.float(), book.thresholds).index)
    latent.requires_grad_()
    weight = straight_through(latent, Code(*code), *_tables(book))
    weight.sum().backward()
    assert weight.dtype == torch.bfloat16
    assert latent.grad is not None
    assert latent.grad.dtype == torch.bfloat16
