"""Products with matrices of a few columns, whose gradients are taken the quick way round on a CPU.

The widening matrix of a low-rank update is (D, R) with R of about 8. Autograd takes its gradient as `g^T h`, a (D, N)
by (N, R) product with R columns, at which BLAS libraries are poor: at ViT-B/16's fc1, batch 8 and R = 8 it took 19 ms
in float32 where `h^T g`, the same numbers transposed, took 2.5. The gradient of h is much the same case.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NARROW = 16  # from this many columns on both ways take the same time


def widen(latent: Tensor, up: Tensor, bias: Tensor | None = None) -> Tensor:
    """`latent @ up^T + bias`, as `torch.nn.functional.linear`.

    Args:
        latent: (..., R).
        up: (D, R).
        bias: (D,) or None.

    Returns:
        (..., D).
    """
    quick = up.shape[1] < NARROW and up.device.type == "cpu"
    if not quick or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.linear(latent, up, bias)
    y = _Widen.apply(latent, up, bias)
    assert isinstance(y, Tensor)
    return y


class _Widen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, up: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(latent, up)
        ctx.bias_dtype = None if bias is None else bias.dtype
        return F.linear(latent, up, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        latent, up = ctx.saved_tensors
        flat = gradients[0].reshape(-1, up.shape[0])
        d_latent, d_up = widening_gradients(flat, latent.reshape(-1, up.shape[1]), up)
        d_bias = flat.sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return d_latent.reshape(latent.shape), d_up, d_bias


def widening_gradients(gradient: Tensor, latent: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Those of h and B in `h B^T`, without a product of few columns.

    Args:
        gradient: Of the product, (N, D).
        latent: h, (N, R).
        up: B, (D, R).

    Returns:
        (N, R) and (D, R), each in the precision of what it belongs to.
    """
    dtype = gradient.dtype
    d_latent = (up.to(dtype).t() @ gradient.t()).t()
    d_up = (latent.to(dtype).t() @ gradient).t()
    return d_latent.to(latent.dtype), d_up.to(up.dtype)
