"""GELU of a scale and shift per channel, y = gelu(s x + t), which keeps x alone and goes over it once each way.

On a CPU both passes work on one piece of rows at a time, small enough to stay in the cache, so that s x + t is never a
tensor in memory: neither in the forward pass nor when the backward pass needs it again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PIECE = 1 << 18  # numbers of a tensor that are worked on at a time: a MiB in float32

_aten = torch.ops.aten


def scale_shift_gelu(x: Tensor, scale: Tensor, shift: Tensor, approximate: str = "none") -> Tensor:
    """gelu(s x + t); half precision is scaled and shifted in the precision of s and t, and rounded once.

    Args:
        x: (..., C).
        scale: s, (C,).
        shift: t, (C,).
        approximate: As of `torch.nn.GELU`.

    Returns:
        Like x.
    """
    return _scale_shift_gelu(x, scale, shift, approximate)


@torch.library.custom_op("vitune::scale_shift_gelu", mutates_args=())
def _scale_shift_gelu(x: Tensor, scale: Tensor, shift: Tensor, approximate: str) -> Tensor:
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    rows, out = x.reshape(-1, x.shape[-1]), result.view(-1, x.shape[-1])
    for piece in _pieces(rows):
        moved = torch.addcmul(shift, rows[piece], scale).to(x.dtype)
        _aten.gelu.out(moved, approximate=approximate, out=out[piece])
    return result


@_scale_shift_gelu.register_fake
def _(x: Tensor, scale: Tensor, shift: Tensor, approximate: str) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, shift, ctx.approximate = inputs
    ctx.save_for_backward(x, scale, shift)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    x, scale, shift = ctx.saved_tensors
    width = x.shape[-1]
    rows, dy = x.reshape(-1, width), gradient.reshape(-1, width)
    dx = torch.empty_like(rows, memory_format=torch.contiguous_format)
    ds, dt = scale.new_zeros(width), scale.new_zeros(width)
    for piece in _pieces(rows):
        part = rows[piece]
        moved = torch.addcmul(shift, part, scale).to(x.dtype)
        d_moved = _aten.gelu_backward(dy[piece], moved, approximate=ctx.approximate).to(scale.dtype)
        if part.dtype == scale.dtype:
            torch.mul(d_moved, scale, out=dx[piece])
        else:
            dx[piece] = d_moved * scale
        ds += (d_moved * part).sum(0)
        dt += d_moved.sum(0)
    return dx.view(x.shape), ds, dt.to(shift.dtype), None


_scale_shift_gelu.register_autograd(_backward, setup_context=_setup)

SCALE_SHIFT_GELU = torch.ops.vitune.scale_shift_gelu.default


def _pieces(rows: Tensor) -> list[slice]:
    count = max(1, PIECE // max(1, rows.shape[1]))
    return [slice(start, start + count) for start in range(0, len(rows), count)]
