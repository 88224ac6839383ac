"""What VeLoRA keeps of a layer's input, and the weight gradients that it makes of that.

Letters: T tokens (all leading axes), D features, G sub-tokens per token, M sub-token size, O outputs. With
z = (T, G) the projections of the sub-tokens on the unit vector v, the coarse input is x_hat[t, g M + m] = z[t, g] v[m].
It is never built: grad_W = s * (grad_y^T z) (O, G), times v along the last axis, needs M times fewer multiplications
than grad_y^T x_hat and no (T, D) temporary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def sub_tokens(x: Tensor, groups: int, size: int) -> Tensor:
    """x (..., D) as (T, G, M); the last sub-token is filled up with zeros where G does not divide D."""
    missing = groups * size - x.shape[-1]
    rows = x.reshape(-1, x.shape[-1])
    return (F.pad(rows, (0, missing)) if missing else rows).view(-1, groups, size)


def project(x: Tensor, v: Tensor, groups: int) -> Tensor:
    """The projections z (T, G) of the sub-tokens of x (..., D) on v (M,), in the type of v."""
    return sub_tokens(x.to(v.dtype), groups, v.numel()) @ v


class _Linear(torch.autograd.Function):
    """y = x W^T + b, with z saved in place of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Any, v: Tensor, groups: int, scale: float, by_image: bool
    ) -> Tensor:
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        ctx.scale, ctx.by_image, ctx.shape, ctx.dtype = scale, by_image, x.shape, x.dtype
        z = project(x, v, groups) if needs_weight else None
        ctx.save_for_backward(weight if needs_x else None, z, v if needs_weight else None)
        ctx.weight_dtype, ctx.bias_dtype = weight.dtype, None if bias is None else bias.dtype
        dtype = _compute_dtype(x)
        return F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        weight, z, v = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = None
        if needs_x:
            grad_x = (rows @ weight.to(grad.dtype)).view(ctx.shape).to(ctx.dtype)
        if needs_weight:
            if ctx.by_image:
                grad_weight = _by_image(grad.to(z.dtype), z, v, ctx.shape[-1], ctx.scale).to(ctx.weight_dtype)
            else:
                moved = rows.to(z.dtype).t() @ z
                wide = (moved[..., None] * (v * ctx.scale)).flatten(1)
                grad_weight = wide[:, : ctx.shape[-1]].to(ctx.weight_dtype)
        grad_bias = rows.sum(0).to(ctx.bias_dtype) if needs_bias else None
        return grad_x, grad_weight, grad_bias, None, None, None, None


def _by_image(grad: Tensor, z: Tensor, v: Tensor, features: int, scale: float) -> Tensor:
    """The order in which the release rounds in half precision: one product per image, scaled, then summed."""
    grad = grad.reshape(-1, *grad.shape[-2:])
    x_hat = (z[..., None] * v).flatten(1)[:, :features].reshape(*grad.shape[:2], features)
    return ((grad.transpose(1, 2) @ x_hat) * scale).sum(0)


class _ScaleShift(torch.autograd.Function):
    """y = x * w + b over the last axis, with z saved in place of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, v: Tensor, groups: int, factor: float) -> Tensor:
        ctx.groups, ctx.factor, ctx.dtype = groups, factor, x.dtype
        ctx.types = w.dtype, b.dtype
        ctx.save_for_backward(w, project(x, v, groups), v)
        return torch.addcmul(b, x, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        w, z, v = ctx.saved_tensors
        features = grad.shape[-1]
        grad_x = (grad * w).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        pieces = sub_tokens(grad.to(z.dtype), ctx.groups, v.numel())
        moved = torch.einsum("tgm,tg->gm", pieces, z) * (v * ctx.factor)
        grad_b = grad.reshape(-1, features).sum(0)
        return grad_x, moved.flatten()[:features].to(ctx.types[0]), grad_b.to(ctx.types[1]), None, None, None


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    v: Tensor,
    groups: int,
    scale: float,
    *,
    by_image: bool = False,
) -> Tensor:
    """A linear layer, exact but for the gradient of its weight.

    Args:
        x: (..., D).
        weight: (O, D).
        bias: (O,) or None.
        v: (M,), a unit vector in the type in which z is kept; not changed before the backward.
        groups: G, with (G - 1) M < D <= G M or more.
        scale: Factor s on the weight's gradient.
        by_image: Whether the weight's gradient is summed image by image over a rebuilt input, as the release does.

    Returns:
        (..., O), in autocast's type where autocast is on.
    """
    return _Linear.apply(x, weight, bias, v, groups, scale, by_image)  # pyright: ignore[reportReturnType]


def scale_shift(x: Tensor, w: Tensor, b: Tensor, v: Tensor, groups: int, scale: float) -> Tensor:
    """x * w + b over the last axis, exact but for the gradient of w.

    Args:
        x: (..., D).
        w: (D,).
        b: (D,).
        v: (M,), as in `linear`.
        groups: G.
        scale: Factor s on the gradient of w.
    """
    return _ScaleShift.apply(x, w, b, v, groups, scale)  # pyright: ignore[reportReturnType]


def _compute_dtype(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
