"""Rounding a matrix to few bits, with exact gradients through its mean and standard deviation.

Forward: `w^ = (w - mu) / (sigma + eps)`, `W = level(w^) * sigma + mu`, with mean mu and unbiased standard deviation
sigma of the whole matrix. Backward: straight through the rounding (dq/dw^ = 1), and through mu and sigma, in closed
form. Source: as `vitune.ops.codebook`. The reference adds eps when it divides and not when it multiplies; so do we.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-5


class Code(NamedTuple):
    """A matrix in few bits.

    Attributes:
        index: Numbers of levels, of the matrix's shape, uint8.
        mean: Of the latent weights, a float32 scalar.
        std: Of the latent weights, unbiased, a float32 scalar.
    """

    index: Tensor
    mean: Tensor
    std: Tensor


@torch.no_grad()
def encode(latent: Tensor, thresholds: Tensor) -> Code:
    """Round a matrix.

    Args:
        latent: Any floating-point matrix.
        thresholds: Of the codebook; a value at a threshold belongs below it.
    """
    w = latent.float()
    mean, std = w.mean(), w.std()
    return Code(_cells(_standardised(w, mean, std), thresholds).to(torch.uint8), mean, std)


def decode(code: Code, levels: Tensor) -> Tensor:
    """The matrix that a code stands for, float32."""
    # In this order and with this rounding: so the published files are decoded.
    return levels[code.index.int()] * code.std + code.mean


def latents(code: Code, levels: Tensor) -> Tensor:
    """Latent weights with which training can go on: float32, of the code's mean and std, rounding to its levels.

    Decoded weights will not do: they vary less (at 1 bit by a third), so rounding them again would shrink them.
    """
    decoded = decode(code, levels)
    spread = decoded.std().clamp_min(torch.finfo(torch.float32).tiny)
    return code.mean + code.std * (decoded - decoded.mean()) / spread


def straight_through(latent: Tensor, code: Code, levels: Tensor, thresholds: Tensor) -> Tensor:
    """The decoded matrix, of the latent's shape and type, with the gradient for the latent weights.

    Keeps nothing for the backward but two scalars: what else is needed is made again from the latent weights.

    Args:
        latent: The latent weights.
        code: What they round to.
        levels: Of the codebook.
        thresholds: Of the codebook.
    """
    return _StraightThrough.apply(latent, *code, levels, thresholds)  # type: ignore[return-value]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, latent: Tensor, index: Tensor, mean: Tensor, std: Tensor, levels: Tensor, thresholds: Tensor
    ) -> Tensor:
        ctx.save_for_backward(latent, mean, std, levels, thresholds)
        return decode(Code(index, mean, std), levels).to(latent.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        latent, mean, std, levels, thresholds = ctx.saved_tensors
        gradient = gradients[0].float()
        w_hat = _standardised(latent.float(), mean, std)
        shrink = std / (std + EPS)
        # G . (q - w^ sigma / (sigma + eps)): what the loss gains from a larger sigma.
        by_std = (gradient * (levels[_cells(w_hat, thresholds)] - w_hat * shrink)).sum()
        by_mean = gradient.mean() * (1 - shrink)
        # d sigma / dw = (w - mu) / ((n - 1) sigma); 0 rather than 0 / 0 where all weights are equal.
        slope = by_std * (std + EPS) / ((latent.numel() - 1) * std.clamp_min(torch.finfo(torch.float32).tiny))
        result = torch.addcmul(gradient * shrink + by_mean, w_hat, slope)
        return result.to(latent.dtype), None, None, None, None, None


def _standardised(w: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return (w - mean) / (std + EPS)


def _cells(w_hat: Tensor, thresholds: Tensor) -> Tensor:
    return torch.bucketize(w_hat, thresholds, out_int32=True)
