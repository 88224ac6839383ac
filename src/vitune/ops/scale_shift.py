"""Scale and shift per channel, y = s x + t, whose backward pass goes over the activations once.

Autograd's own formulas read or write a tensor of the activations' size nine times: for dx = s dy, for the product
x dy, for its sum and for the sum of dy. On a CPU all three gradients are made here from one piece of rows at a time,
small enough to stay in the cache: three readings and writings in all. Elsewhere whole tensors are as good.

Activations of half precision stay so: they are scaled and shifted in the precision of s and t, and rounded once. A
scale of 1.003 would be 1 in bfloat16, and a result in float32 would make all that follows wider than without the pair.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 1 << 17  # numbers of a tensor that are worked on at a time: half a MiB in float32


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor, *, channels_first: bool = False) -> Tensor:
    """s x + t.

    Args:
        x: (..., C), or (B, C, height, width) where channels come first.
        scale: s, (C,).
        shift: t, (C,).
        channels_first: Whether the channels are the second axis.

    Returns:
        Like x.
    """
    if channels_first:
        return _applied(x, scale[:, None, None], shift[:, None, None])
    if torch.compiler.is_compiling() or x.device.type != "cpu" or not torch.is_grad_enabled():
        return _applied(x, scale, shift)
    y = _ScaleShift.apply(x, scale, shift)
    assert isinstance(y, Tensor)
    return y


def _applied(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    y = torch.addcmul(shift, x, scale)
    return y.to(x.dtype) if x.dtype in (torch.bfloat16, torch.float16) else y


class _ScaleShift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, scale)
        ctx.shape, ctx.dtype, ctx.shift_dtype = x.shape, x.dtype, shift.dtype
        return _applied(x, scale, shift)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        channels = scale.shape[0]
        dy = gradient.reshape(-1, channels)
        rows = None if x is None else x.reshape(-1, channels)
        dx = dy.new_empty(dy.shape, dtype=ctx.dtype) if ctx.needs_input_grad[0] else None
        ds, dt = scale.new_zeros(channels), scale.new_zeros(channels)
        count = max(1, PIECE // channels)
        for start in range(0, len(dy), count):
            piece = slice(start, start + count)
            part = dy[piece].to(scale.dtype)
            if dx is not None and dx.dtype == part.dtype:
                torch.mul(part, scale, out=dx[piece])
            elif dx is not None:
                dx[piece] = part * scale
            if rows is not None:
                ds += (part * rows[piece]).sum(0)
            if ctx.needs_input_grad[2]:
                dt += part.sum(0)
        return (
            None if dx is None else dx.view(ctx.shape),
            None if rows is None else ds.to(scale.dtype),
            dt.to(ctx.shift_dtype) if ctx.needs_input_grad[2] else None,
        )
